//! The transcripts of an agent, one for each session.
//!
//! Only a few are in memory at a time; the files are the agent's memory.

use std::path::{Path, PathBuf};

use super::transcript::Transcript;
use crate::name::{ChannelName, SessionName};

/// Sessions in memory; the one that was longest without a turn goes first.
const LOADED_MAX: usize = 4;

/// The transcripts, by session.
#[derive(Debug)]
pub(super) struct Transcripts {
    folder: PathBuf,
    /// The last one that had a turn is the last.
    loaded: Vec<(SessionName, Transcript)>,
}

impl Transcripts {
    /// The transcripts in an agent's home.
    pub(super) fn new(home: &Path) -> Self {
        Self { folder: home.join(".ollama"), loaded: Vec::new() }
    }

    /// The transcript of a session.
    pub(super) fn of(&mut self, session: &SessionName) -> &mut Transcript {
        let known = self.loaded.iter().position(|(name, _)| name == session);
        let loaded = match known {
            Some(at) => self.loaded.remove(at),
            None => (session.clone(), Transcript::open(self.path(session))),
        };
        let surplus = (self.loaded.len() + 1).saturating_sub(LOADED_MAX);
        self.loaded.drain(..surplus);
        &mut self.loaded.push_mut(loaded).1
    }

    fn path(&self, session: &SessionName) -> PathBuf {
        // Where the transcript of the terminal was before there were sessions.
        if session.channel() == ChannelName::terminal().as_str() {
            return self.folder.join("transcript.jsonl");
        }
        self.folder.join("sessions").join(format!("{session}.jsonl"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcript::Ending;
    use super::*;
    use crate::name::{ChatId, TurnId};

    fn session(channel: &str, chat: &str) -> SessionName {
        let channel = ChannelName::new(channel).unwrap();
        SessionName::of_chat(&channel, &ChatId::new(chat).unwrap())
    }

    fn turn(transcripts: &mut Transcripts, session: &SessionName, number: usize) {
        let turn = TurnId::new(format!("{number:032x}")).unwrap();
        let transcript = transcripts.of(session);
        transcript.begin(&turn, "hello");
        transcript.end(&turn, Ending::Done);
    }

    #[test]
    fn sessions_know_nothing_of_each_other_and_outlive_being_put_away() {
        let home = tempfile::tempdir().unwrap();
        let mut transcripts = Transcripts::new(home.path());
        let chats: Vec<SessionName> =
            ["kitchen", "-100 200", "../../up", "d", "e"].map(|chat| session("api", chat)).into();
        for (number, chat) in chats.iter().enumerate() {
            turn(&mut transcripts, chat, number);
        }
        turn(&mut transcripts, &chats[0], 9);
        assert_eq!(transcripts.loaded.len(), LOADED_MAX);
        let past = |transcripts: &mut Transcripts, chat| transcripts.of(chat).past().len();
        let counts: Vec<usize> = chats.iter().map(|chat| past(&mut transcripts, chat)).collect();
        assert_eq!(counts, [2, 1, 1, 1, 1]);
        let files = std::fs::read_dir(home.path().join(".ollama/sessions")).unwrap();
        assert_eq!(files.count(), chats.len());
    }

    #[test]
    fn the_terminal_goes_on_with_the_transcript_from_before_there_were_sessions() {
        let home = tempfile::tempdir().unwrap();
        let terminal = session("terminal", "home");
        turn(&mut Transcripts::new(home.path()), &terminal, 1);
        assert!(home.path().join(".ollama/transcript.jsonl").is_file());
        assert_eq!(Transcripts::new(home.path()).of(&terminal).past().len(), 1);
    }
}
