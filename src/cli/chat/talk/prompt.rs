//! The prompt of a conversation, and what a line at it asks for.

use std::io::{self, IsTerminal as _};

use super::Talk;
use crate::cli::chat::editor::Prompt;
use crate::cli::chat::history::History;
use crate::cli::chat::typing::{Command, Lines, read_lines};
use crate::cli::{tell, terminal};
use crate::machine::HostContext;

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
