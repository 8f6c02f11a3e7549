//! Where a conversation is shown, and what is under way there.
//!
//! At a terminal, the answer so far and a line about what is under way stand in a few rows that are
//! drawn over. They are a preview: what they showed is taken away before anything that stays is
//! printed. Elsewhere, stderr gets a few plain lines.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use super::editor::Prompt;
use super::words::{lasting, readable};
use crate::cli::{self, Context, tell, terminal};

/// How long something has to last before a plain line tells of it.
const WORTH_A_LINE: Duration = Duration::from_millis(300);
/// How long it lasts until another line tells of it; doubled each time.
const STILL_FIRST: Duration = Duration::from_secs(15);
/// Plain lines about one message.
const LINES_MAX: usize = 100;
/// What is kept of an answer that is under way, in bytes: its end is shown.
const PREVIEW_MAX: usize = 64 << 10;

/// Where a conversation is shown.
pub(super) struct Screen {
    manner: Manner,
    prompt: Option<Prompt>,
    color: bool,
    /// The rows that are drawn over.
    drawn: Vec<String>,
    /// What is under way, since when.
    doing: Option<(String, Instant)>,
    /// The answer so far.
    preview: String,
    /// When a plain line tells of what is under way.
    told_next: Duration,
    lines: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Rows that are drawn over.
    Redrawn,
    /// Plain lines.
    Lines,
    /// Nothing but what stays.
    Quiet,
}

impl Screen {
    pub(super) fn new(context: &Context) -> Self {
        let manner = match context.quiet {
            0 if terminal::redraws() => Manner::Redrawn,
            0 => Manner::Lines,
            _ => Manner::Quiet,
        };
        Self {
            manner,
            prompt: None,
            color: context.color_stderr,
            drawn: Vec::new(),
            doing: None,
            preview: String::new(),
            told_next: WORTH_A_LINE,
            lines: 0,
        }
    }

    /// From now on a person types below.
    pub(super) fn open(&mut self, prompt: Prompt) {
        self.prompt = Some(prompt);
    }

    /// Leaves the terminal as it was.
    pub(super) fn close(&mut self) {
        self.end_line();
        self.prompt = None;
    }

    pub(super) fn prompt(&mut self) -> Option<&mut Prompt> {
        self.prompt.as_mut()
    }

    /// Something is under way.
    pub(super) fn doing(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.doing.as_ref().is_none_or(|(before, _)| *before != what) {
            self.doing = Some((what, Instant::now()));
            self.told_next = WORTH_A_LINE;
        }
        self.preview.clear();
        self.refresh();
    }

    /// More of the answer, or the beginning of another.
    pub(super) fn text(&mut self, text: &str, fresh: bool) {
        if fresh {
            self.preview.clear();
        }
        self.preview.push_str(&readable(text));
        if let Some(extra) = self.preview.len().checked_sub(PREVIEW_MAX) {
            let from = (extra..).find(|at| self.preview.is_char_boundary(*at)).unwrap_or(extra);
            self.preview.drain(..from);
        }
        self.refresh();
    }

    /// Nothing is under way.
    pub(super) fn end_line(&mut self) {
        self.doing = None;
        self.preview.clear();
        self.lines = 0;
        self.draw(Vec::new());
    }

    /// Shows what is under way as it is by now.
    pub(super) fn refresh(&mut self) {
        match self.manner {
            Manner::Redrawn => {
                let rows = self.rows();
                self.draw(rows);
            }
            Manner::Lines => self.tell_if_due(),
            Manner::Quiet => {}
        }
    }

    fn tell_if_due(&mut self) {
        let Some((what, since)) = &self.doing else { return };
        let time = since.elapsed();
        if time < self.told_next {
            return;
        }
        let line = lasting(what, time);
        self.told_next = if self.told_next < STILL_FIRST { STILL_FIRST } else { time * 2 };
        self.progress(&line);
    }

    /// A line about what is under way, which stays. Bounded, and not wanted with `-q`.
    pub(super) fn progress(&mut self, line: &str) {
        if self.manner == Manner::Quiet || self.lines > LINES_MAX {
            return;
        }
        self.lines += 1;
        let more = if self.lines > LINES_MAX { "further steps are not shown" } else { line };
        self.say(&format!("  {more}\n"));
    }

    /// Text that stays and is not the result.
    pub(super) fn say(&mut self, text: &str) {
        let above = self.taken_away();
        match &self.prompt {
            Some(prompt) => drop(prompt.print(format!("{above}{text}"))),
            None => tell(&format!("{above}{text}")),
        }
        self.refresh();
    }

    /// The result, and a line break. What was previewed of it is taken away.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn result(&mut self, text: &str) -> io::Result<()> {
        self.doing = None;
        self.preview.clear();
        let above = self.taken_away();
        match &self.prompt {
            Some(prompt) => prompt.print(format!("{above}{}\n", readable(text))),
            None => {
                tell(&above);
                // A program is given what is stored; a terminal, nothing that commands it.
                let piped = !io::stdout().is_terminal();
                cli::write(&format!("{}\n", if piped { text.into() } else { readable(text) }))
            }
        }
    }

    /// The rows as they should be by now.
    fn rows(&self) -> Vec<String> {
        let Some((what, since)) = &self.doing else { return Vec::new() };
        let (columns, rows) = terminal::size();
        let columns = columns.saturating_sub(1).max(1);
        if self.preview.trim().is_empty() {
            let line = terminal::cut(&format!("  {}", lasting(what, since.elapsed())), columns);
            return vec![if self.color { format!("\u{1b}[2m{line}\u{1b}[0m") } else { line }];
        }
        // Below it, a line of a few rows may be typed.
        let most = rows.saturating_sub(5).max(1);
        let text = self.preview.trim_start().replace('\t', "    ");
        let lines = textwrap::wrap(&text, columns);
        lines.iter().skip(lines.len().saturating_sub(most)).map(ToString::to_string).collect()
    }

    fn draw(&mut self, rows: Vec<String>) {
        if rows == self.drawn {
            return;
        }
        let mut text = self.taken_away();
        for row in &rows {
            text.push_str(row);
            text.push('\n');
        }
        match &self.prompt {
            // What is printed above a line ends with a line break: one that leads back to it.
            Some(prompt) if rows.is_empty() => drop(prompt.print(format!("{text}\u{1b}[A\n"))),
            Some(prompt) => drop(prompt.print(text)),
            None => tell(&text),
        }
        self.drawn = rows;
    }

    /// What takes the rows that are drawn over away.
    fn taken_away(&mut self) -> String {
        match std::mem::take(&mut self.drawn).len() {
            0 => String::new(),
            rows => format!("\r\u{1b}[{rows}A\u{1b}[J"),
        }
    }
}
