//! The line that a person types: edited, recalled and completed, while answers appear above it.
//!
//! rustyline blocks while it reads, so it has a thread of its own. Another thread hands it the text
//! to be printed above the line, so that nobody waits for a person who is typing.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as blocking};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::config::Configurer as _;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event,
    EventContext, EventHandler, ExternalPrinter as _, Helper, KeyEvent, Modifiers, Movement,
    RepeatCount,
};
use tokio::sync::mpsc;

use super::history::ENTRIES_MAX;
use crate::cli;

/// What a person typed and nobody has looked at yet.
const TYPED_MAX: usize = 16;
/// Ends what rustyline began: bracketed paste.
const PASTE_OFF: &str = "\u{1b}[?2004l";

/// What a person does at the prompt.
#[derive(Debug)]
pub(super) enum Typed {
    /// Enters a message or a command.
    Line(String),
    /// Presses Ctrl-C on an empty line.
    Interrupt,
    /// Sends the signal of Ctrl-C from elsewhere.
    Signal,
    /// Presses Ctrl-D, or the terminal went away.
    End,
}

/// A prompt at a terminal. Dropped, it leaves the terminal as it was.
pub(super) struct Prompt {
    typed: mpsc::Receiver<Typed>,
    /// Has the next line read, at this prompt.
    next: blocking::Sender<String>,
    above: blocking::Sender<String>,
    before: Termios,
    /// Whether a line was asked for and has not ended yet.
    reading: Arc<AtomicBool>,
}

impl Prompt {
    /// Takes the terminal. `words` complete a line that begins with `/`.
    pub(super) fn open(
        history: Vec<String>,
        words: Vec<String>,
        color: bool,
    ) -> rustyline::Result<Self> {
        let before = tcgetattr(io::stdin()).map_err(io::Error::from)?;
        let (typing, typed) = mpsc::channel(TYPED_MAX);
        let mut editor = editor(history, words, color, &typing)?;
        let mut printer = editor.create_external_printer()?;
        let (above, texts) = blocking::channel::<String>();
        std::thread::spawn(move || {
            while let Ok(text) = texts.recv() {
                if printer.print(text).is_err() {
                    break;
                }
            }
        });
        let (next, prompts) = blocking::channel();
        let reading = Arc::new(AtomicBool::new(false));
        let reads = Arc::clone(&reading);
        std::thread::spawn(move || read(&mut editor, &prompts, &typing, &reads));
        Ok(Self { typed, next, above, before, reading })
    }

    /// Has the next line read, unless one is being read already: a line that nobody asked for would
    /// take the terminal again after the end.
    pub(super) fn ask(&self, prompt: &str) {
        if !self.reading.swap(true, Ordering::SeqCst) {
            // Where nobody reads any more, the end was typed.
            let _ = self.next.send(prompt.to_owned());
        }
    }

    /// What a person does next.
    pub(super) async fn typed(&mut self) -> Typed {
        self.typed.recv().await.unwrap_or(Typed::End)
    }

    /// Prints above the line that is being typed. The text ends with a line break.
    pub(super) fn print(&self, text: String) -> io::Result<()> {
        self.above.send(text).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if self.reading.load(Ordering::SeqCst) {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
            let _ = cli::write(&format!("{PASTE_OFF}\r\n"));
        }
    }
}

/// Reads lines until the end of input, each when it is asked for.
fn read(
    editor: &mut Editor<Words, MemHistory>,
    prompts: &blocking::Receiver<String>,
    typing: &mpsc::Sender<Typed>,
    reading: &AtomicBool,
) {
    while let Ok(prompt) = prompts.recv() {
        let line = editor.readline(&prompt);
        reading.store(false, Ordering::SeqCst);
        let typed = match line {
            Ok(line) => {
                if !line.trim().is_empty() {
                    let _ = editor.add_history_entry(&line);
                }
                Typed::Line(line)
            }
            Err(ReadlineError::Interrupted) => Typed::Interrupt,
            Err(_) => Typed::End,
        };
        if typing.blocking_send(typed).is_err() {
            return;
        }
    }
}

fn editor(
    history: Vec<String>,
    words: Vec<String>,
    color: bool,
    typing: &mpsc::Sender<Typed>,
) -> rustyline::Result<Editor<Words, MemHistory>> {
    let color = if color { ColorMode::Enabled } else { ColorMode::Disabled };
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .color_mode(color)
        .auto_add_history(false)
        .build();
    let mut editor = Editor::with_history(config, MemHistory::new())?;
    editor.set_max_history_size(ENTRIES_MAX)?;
    for entry in history {
        editor.add_history_entry(entry)?;
    }
    editor.set_helper(Some(Words(words)));
    let interrupt = Box::new(Interrupt(typing.clone()));
    editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(interrupt));
    let enter = KeyEvent::new('\r', Modifiers::ALT);
    editor.bind_sequence(enter, EventHandler::Simple(Cmd::Newline));
    Ok(editor)
}

/// Ctrl-C: clears the line first.
struct Interrupt(mpsc::Sender<Typed>);

impl ConditionalEventHandler for Interrupt {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, line: &EventContext<'_>) -> Option<Cmd> {
        if !line.line().is_empty() {
            return Some(Cmd::Kill(Movement::WholeBuffer));
        }
        let _ = self.0.try_send(Typed::Interrupt);
        Some(Cmd::Noop)
    }
}

/// The words that complete a line: commands and groups.
struct Words(Vec<String>);

impl Helper for Words {}
impl Highlighter for Words {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}
impl Hinter for Words {
    type Hint = String;
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((0, completions(&line[..position], &self.0)))
    }
}

impl Validator for Words {
    fn validate(&self, line: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        if line.input().ends_with('\\') {
            return Ok(ValidationResult::Incomplete);
        }
        Ok(ValidationResult::Valid(None))
    }
}

fn completions(typed: &str, words: &[String]) -> Vec<String> {
    if !typed.starts_with('/') {
        return Vec::new();
    }
    words.iter().filter(|word| word.starts_with(typed)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::completions;

    #[test]
    fn only_a_line_that_begins_with_a_slash_is_completed() {
        let words = ["/help", "/home", "/work"].map(String::from);
        assert_eq!(completions("/ho", &words), ["/home"]);
        assert_eq!(completions("/h", &words), ["/help", "/home"]);
        assert!(completions("ho", &words).is_empty());
        assert!(completions("", &words).is_empty());
    }
}
