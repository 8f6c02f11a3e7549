//! What a person types: lines, and what they ask for.

use std::io::{self, BufRead as _};

use tokio::sync::mpsc;

use super::editor::{Prompt, Typed};
use crate::name::GroupName;

/// What a person is told about the keys.
pub(super) const HELP: &str = "\
  Enter sends; Alt-Enter, or a backslash at the end, begins another line
  Up and Down recall what was typed before; Ctrl-R searches it
  Ctrl-C clears the line; on an empty line it stops the current answer
  /GROUP talks to another group; Tab completes
  Ctrl-D, /exit or /quit ends the conversation
";

/// What a line at the prompt asks for.
pub(super) enum Command<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Leave,
    Turn(GroupName),
    Unknown,
}

/// Where lines come from.
pub(super) enum Lines {
    /// A prompt at a terminal.
    Prompt,
    /// stdin, line by line.
    Stdin(mpsc::Receiver<String>),
}

/// What a person types next; never, where nobody can type.
pub(super) async fn typed(prompt: Option<&mut Prompt>, lines: Option<&mut Lines>) -> Typed {
    match (prompt, lines) {
        (Some(prompt), _) => prompt.typed().await,
        (None, Some(Lines::Stdin(lines))) => lines.recv().await.map_or(Typed::End, Typed::Line),
        (None, _) => std::future::pending().await,
    }
}

/// The lines of stdin, read where waiting for them holds up nothing else.
pub(super) fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
