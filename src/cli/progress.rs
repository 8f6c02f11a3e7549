//! How the build of an image goes: one moving line at a terminal, and nothing elsewhere until it
//! fails.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cli::join::one_line;
use crate::cli::{Context, tell, terminal};

/// The last lines of a build that are kept, to be shown if it fails.
const LINES_KEPT: usize = 40;
/// What is kept of one line, in characters.
const LINE_MAX: usize = 500;

/// A build that is under way.
#[derive(Debug)]
pub struct Build {
    manner: Manner,
    state: Mutex<State>,
}

/// How the lines of the engine are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Each, as it comes.
    Every,
    /// The last one, in place.
    Moving,
    /// None.
    Silent,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<String>,
    /// Whether a line is on the screen that is to be drawn over.
    drawn: bool,
}

impl Build {
    /// Shows a build as this terminal and command line ask for.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        let manner = match context.quiet {
            0 if context.verbose > 0 => Manner::Every,
            0 if terminal::redraws() => Manner::Moving,
            _ => Manner::Silent,
        };
        Self { manner, state: Mutex::default() }
    }

    /// Takes a line of the engine.
    pub fn line(&self, line: &str) {
        let line: String = one_line(line).chars().take(LINE_MAX).collect();
        if self.manner == Manner::Every {
            tell(&format!("    {line}\n"));
            return;
        }
        let mut state = self.state();
        if self.manner == Manner::Moving {
            let (columns, _) = terminal::size();
            let shown = terminal::cut(&format!("    {line}"), columns.saturating_sub(1));
            tell(&format!("\r\u{1b}[K{shown}"));
            state.drawn = true;
        }
        state.kept.push_back(line);
        if state.kept.len() > LINES_KEPT {
            state.kept.pop_front();
        }
    }

    /// Takes the moving line away; where the build failed, shows the last lines of the engine.
    pub fn end(&self, failed: bool) {
        let mut state = self.state();
        if std::mem::take(&mut state.drawn) {
            tell("\r\u{1b}[K");
        }
        let kept = std::mem::take(&mut state.kept);
        if failed {
            kept.iter().for_each(|line| tell(&format!("    {line}\n")));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.end(false);
    }
}
