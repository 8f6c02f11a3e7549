//! What a person types: lines, and what they ask for.

use std::io::{self, BufRead as _, IsTerminal as _};

use tokio::sync::mpsc;

use super::editor::{Prompt, Typed};
use super::history::History;
use super::talk::Talk;
use crate::cli::{tell, terminal};
use crate::machine::HostContext;
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

impl Talk {
    /// Opens a prompt where the terminal has the means, else gives the lines of stdin.
    pub(super) fn open_prompt(&mut self) -> Lines {
        let able = io::stdin().is_terminal() && io::stdout().is_terminal() && terminal::redraws();
        if !able {
            return Lines::Stdin(read_lines());
        }
        let mut entries = Vec::new();
        if let Ok(ground) = HostContext::of_project(self.context.project()) {
            let project = &ground.project;
            match History::open(&project.data(), project.owner()) {
                Ok((history, found)) => (self.history, entries) = (Some(history), found),
                Err(error) => {
                    self.context.note(&format!("note: no history of what was typed: {error}\n"));
                }
            }
        }
        let commands = ["/exit", "/help", "/quit"].map(ToOwned::to_owned);
        let groups = self.groups.iter().map(|group| format!("/{group}"));
        let words = commands.into_iter().chain(groups).collect();
        match Prompt::open(entries, words, self.context.color_stdout) {
            Ok(prompt) => {
                self.screen.open(prompt);
                Lines::Prompt
            }
            Err(error) => {
                tracing::debug!(%error, "lines cannot be edited at this terminal");
                Lines::Stdin(read_lines())
            }
        }
    }

    fn prompt(&self) -> String {
        if self.groups.len() > 1 { format!("{}> ", self.group()) } else { "> ".to_owned() }
    }

    /// Has the next line read.
    pub(super) fn prompt_again(&mut self) {
        let text = self.prompt();
        match self.screen.prompt() {
            Some(prompt) => prompt.ask(&text),
            None => tell("> "),
        }
    }

    pub(super) fn command<'a>(&self, line: &'a str) -> Command<'a> {
        let word = line.trim();
        match word {
            "" => return Command::Nothing,
            "exit" | "quit" | "/exit" | "/quit" => return Command::Leave,
            "/help" => return Command::Help,
            _ => {}
        }
        match word.strip_prefix('/') {
            // A path or a sentence is meant for the agent.
            Some(name) if !name.contains(|c: char| c.is_whitespace() || c == '/') => {
                let group = self.groups.iter().find(|group| group.as_str() == name);
                group.map_or(Command::Unknown, |group| Command::Turn(group.clone()))
            }
            _ => Command::Say(line),
        }
    }

    /// Remembers what was typed.
    pub(super) fn remember(&mut self, line: &str) {
        if let Some(history) = self.history.as_mut().filter(|_| !line.trim().is_empty()) {
            history.add(line);
        }
    }
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
fn read_lines() -> mpsc::Receiver<String> {
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
