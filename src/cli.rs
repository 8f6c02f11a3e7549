//! The front: verbs, what they print, and how they end.
//!
//! One file per verb holds its arguments, its help and its function. Nothing
//! below this room prints. stdout carries the result, stderr everything else.

pub mod explain;
pub mod init;
pub mod load;
pub mod schema;
pub mod validate;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};

/// What every verb is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// `--manifest`, as typed.
    pub manifest: PathBuf,
    /// Whether stdout takes colour.
    pub color_stdout: bool,
    /// Whether stderr takes colour.
    pub color_stderr: bool,
}

impl Context {
    /// The project root: the folder the manifest stands in.
    #[must_use]
    pub fn project(&self) -> &Path {
        match self.manifest.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }
}

/// Writes the result of a verb to stdout. A reader that went away is not an error.
///
/// # Errors
/// When stdout cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed("write to stdout", &error))
        }
        _ => Ok(()),
    }
}

/// Writes progress or a diagnostic to stderr, where failing to is nobody's business.
pub fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Reports an error that ends a verb.
pub fn report(error: &Error) {
    let mut text = format!("babybot: {error}\n");
    if let Some(hint) = error.hint() {
        text.push_str(&format!("  help: {hint}\n"));
    }
    tell(&text);
}

/// Whether a person sits at both ends.
#[must_use]
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// How a verb ends when nothing went wrong.
pub type Outcome = Result<Exit, Error>;
