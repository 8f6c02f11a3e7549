//! What was said and done in one session, as append-only JSON lines.
//!
//! The file is the agent's memory of the conversation across restarts. It is not
//! the truth about a turn under way: that is the host's journal.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::file;
use crate::name::TurnId;

/// Above this size, in bytes, the file becomes the previous one and a new one is begun.
const SIZE_MAX: u64 = 16 << 20;
/// Turns that are remembered; a window holds fewer.
const PAST_MAX: usize = 500;
/// What they hold together, in bytes.
const PAST_SIZE_MAX: usize = 2 << 20;
/// How much of the file's end is read for the history, in bytes.
const TAIL_MAX: u64 = PAST_SIZE_MAX as u64;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    /// A turn begins, or begins again.
    Turn { turn: TurnId, prompt: String },
    /// A message of the conversation, as the model is given it.
    Message { turn: TurnId, message: Value },
    /// A turn ended.
    End { turn: TurnId, how: Ending },
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ending {
    /// With an answer.
    Done,
    /// Without one.
    Failed,
    /// Because the person said stop.
    Cancelled,
}

/// A turn that ended, as the conversation remembers it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PastTurn {
    turn: TurnId,
    /// What the agent was asked.
    prompt: String,
    /// What followed: the model's messages and the tools' results.
    messages: Vec<Value>,
    /// The size of the question as a message, in bytes, and with all that followed.
    question: usize,
    size: usize,
    /// The last message of the model, and its size.
    answer: Option<(usize, usize)>,
}

impl PastTurn {
    fn new(turn: TurnId, prompt: String) -> Self {
        let question = json!({"role": "user", "content": prompt}).to_string().len();
        Self { turn, prompt, messages: Vec::new(), question, size: question, answer: None }
    }

    fn add(&mut self, message: Value) {
        let size = message.to_string().len();
        self.size += size;
        if message["role"] == "assistant" {
            self.answer = Some((self.messages.len(), size));
        }
        self.messages.push(message);
    }

    /// Its messages, if they fit in `room` bytes: question and answer alone where all of them are
    /// more than half of that. And what they take.
    pub(super) fn within(&self, room: usize) -> Option<(Vec<Value>, usize)> {
        let whole = self.size <= room / 2;
        let answer = self.answer.map_or(0, |(_, size)| size);
        let size = if whole { self.size } else { self.question + answer };
        if size > room {
            return None;
        }
        let question = json!({"role": "user", "content": self.prompt});
        let followed = match (whole, self.answer) {
            (true, _) => &self.messages[..],
            (false, Some((at, _))) => &self.messages[at..=at],
            (false, None) => &[],
        };
        Some((std::iter::once(question).chain(followed.iter().cloned()).collect(), size))
    }
}

/// The transcript of one session.
#[derive(Debug)]
pub(super) struct Transcript {
    path: PathBuf,
    /// `None` where there cannot be one: then it lasts as long as the agent.
    file: Option<File>,
    past: Vec<PastTurn>,
    open: Option<PastTurn>,
}

impl Transcript {
    /// Opens the transcript at `path`, or begins one.
    pub(super) fn open(path: PathBuf) -> Self {
        let opened = open(&path).and_then(|mut file| Ok((read_past(&mut file)?, file)));
        let (past, file) = match opened {
            Ok((past, file)) => (past, Some(file)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the transcript cannot be kept");
                (Vec::new(), None)
            }
        };
        Self { path, file, past, open: None }
    }

    /// The turns that ended, oldest first.
    pub(super) fn past(&self) -> &[PastTurn] {
        &self.past
    }

    /// Begins a turn; an earlier attempt at the same turn is forgotten.
    pub(super) fn begin(&mut self, turn: &TurnId, prompt: &str) {
        self.keep_within_bounds();
        self.past.retain(|past| past.turn != *turn);
        self.open = Some(PastTurn::new(turn.clone(), prompt.to_owned()));
        self.write(&Line::Turn { turn: turn.clone(), prompt: prompt.to_owned() });
    }

    /// Lets the oldest go, of the file and of what is remembered of it.
    fn keep_within_bounds(&mut self) {
        let mut room = PAST_SIZE_MAX;
        let newest = self.past.iter().rev().take(PAST_MAX).take_while(|turn| {
            let left = room.checked_sub(turn.size);
            room = left.unwrap_or_default();
            left.is_some()
        });
        let surplus = self.past.len() - newest.count();
        self.past.drain(..surplus);
        if self.file.is_none() {
            return;
        }
        match begin_anew(&self.path) {
            Ok(Some(file)) => self.file = Some(file),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot start the transcript again"),
        }
    }

    /// Adds a message to the turn under way.
    pub(super) fn add(&mut self, turn: &TurnId, message: &Value) {
        if let Some(open) = &mut self.open {
            open.add(message.clone());
        }
        self.write(&Line::Message { turn: turn.clone(), message: message.clone() });
    }

    /// Ends the turn under way.
    pub(super) fn end(&mut self, turn: &TurnId, how: Ending) {
        if let Some(open) = self.open.take()
            && how == Ending::Done
        {
            self.past.push(open);
        }
        self.write(&Line::End { turn: turn.clone(), how });
    }

    /// A transcript that cannot be written is a loss, but no reason not to answer.
    fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            file.write_all(&bytes)
        });
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "the transcript is incomplete");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    file::open_with(path, File::options().create(true).read(true).append(true))
}

/// Makes a file that is too large the previous one, and gives the new one.
fn begin_anew(path: &Path) -> io::Result<Option<File>> {
    if fs::metadata(path)?.len() <= SIZE_MAX {
        return Ok(None);
    }
    fs::rename(path, path.with_extension("previous.jsonl"))?;
    open(path).map(Some)
}

/// Reads the turns at the end of the file and mends a last line that was cut.
fn read_past(file: &mut File) -> io::Result<Vec<PastTurn>> {
    let size = file.metadata()?.len();
    let start = size.saturating_sub(TAIL_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    if bytes.last().is_some_and(|last| *last != b'\n') {
        file.write_all(b"\n")?;
    }
    let mut lines = bytes.split(|byte| *byte == b'\n');
    if start > 0 {
        // The first line began before what was read.
        lines.next();
    }
    // What is not a line of ours, such as one cut by a crash, is passed over.
    Ok(replay(lines.filter_map(|line| serde_json::from_slice(line).ok())))
}

fn replay(lines: impl Iterator<Item = Line>) -> Vec<PastTurn> {
    let mut past: Vec<PastTurn> = Vec::new();
    let mut open: Option<PastTurn> = None;
    for line in lines {
        match line {
            Line::Turn { turn, prompt } => {
                past.retain(|ended| ended.turn != turn);
                open = Some(PastTurn::new(turn, prompt));
            }
            Line::Message { turn, message } => {
                if let Some(open) = open.as_mut().filter(|open| open.turn == turn) {
                    open.add(message);
                }
            }
            Line::End { turn, how } => {
                if let Some(ended) = open.take_if(|open| open.turn == turn)
                    && how == Ending::Done
                {
                    past.push(ended);
                }
            }
        }
    }
    past
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(digit: char) -> TurnId {
        TurnId::new(digit.to_string().repeat(32)).unwrap()
    }

    #[test]
    fn a_conversation_goes_on_after_a_restart_and_a_cut_line_costs_only_itself() {
        let home = tempfile::tempdir().unwrap();
        let mut transcript = Transcript::open(home.path().join("transcript.jsonl"));
        transcript.begin(&turn('a'), "hello");
        transcript.add(&turn('a'), &json!({"role": "assistant", "content": "hi"}));
        transcript.end(&turn('a'), Ending::Done);
        transcript.begin(&turn('b'), "cut");
        transcript.file.as_mut().unwrap().write_all(b"{\"type\":\"mess").unwrap();
        drop(transcript);

        let mut transcript = Transcript::open(home.path().join("transcript.jsonl"));
        assert_eq!(transcript.past().len(), 1);
        assert_eq!(transcript.past()[0].prompt, "hello");
        transcript.begin(&turn('b'), "again");
        transcript.end(&turn('b'), Ending::Done);
        let reopened = Transcript::open(home.path().join("transcript.jsonl"));
        assert_eq!(reopened.past(), transcript.past());
        assert_eq!(reopened.past()[1].prompt, "again");
    }

    #[test]
    fn a_turn_that_was_tried_twice_is_remembered_once() {
        let home = tempfile::tempdir().unwrap();
        let mut transcript = Transcript::open(home.path().join("transcript.jsonl"));
        for attempt in ["first", "second"] {
            transcript.begin(&turn('a'), attempt);
            transcript.end(&turn('a'), Ending::Done);
        }
        let reopened = Transcript::open(home.path().join("transcript.jsonl"));
        assert_eq!(reopened.past().len(), 1);
        assert_eq!(reopened.past()[0].prompt, "second");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let home = tempfile::tempdir().unwrap();
        let mut transcript = Transcript::open(home.path().join("transcript.jsonl"));
        let text = "x".repeat(PAST_SIZE_MAX / 3);
        for digit in ['a', 'b', 'c', 'd'] {
            transcript.begin(&turn(digit), &digit.to_string());
            transcript.add(&turn(digit), &json!({"role": "tool", "content": text}));
            transcript.end(&turn(digit), Ending::Done);
        }
        transcript.begin(&turn('e'), "now");
        let prompts = transcript.past().iter().map(|turn| &*turn.prompt);
        assert_eq!(prompts.collect::<Vec<_>>(), ["c", "d"]);
    }

    #[test]
    fn a_turn_without_an_answer_is_not_part_of_the_conversation() {
        let home = tempfile::tempdir().unwrap();
        let mut transcript = Transcript::open(home.path().join("transcript.jsonl"));
        transcript.begin(&turn('a'), "stop me");
        transcript.end(&turn('a'), Ending::Cancelled);
        assert!(transcript.past().is_empty());
        assert!(Transcript::open(home.path().join("transcript.jsonl")).past().is_empty());
    }

    #[test]
    fn what_cannot_be_a_transcript_is_no_reason_not_to_answer() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let mut transcript = Transcript::open(path);
        transcript.begin(&turn('a'), "hello");
        transcript.end(&turn('a'), Ending::Done);
        assert_eq!(transcript.past()[0].prompt, "hello");
    }
}
