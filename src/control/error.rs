//! What can go wrong on the way to a controller, and what helps.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::BODY_MAX;
use crate::error::chain;

/// What can go wrong on the way to a controller, or on the way to become one.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The folder that the socket would lie in is no place for it.
    #[error("cannot keep the control socket in {}: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The system takes no socket of such a long path.
    #[error("the path of the control socket is too long: {} has {} bytes, the limit is {limit}", path.display(), path.as_os_str().len())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// What is taken, in bytes.
        limit: usize,
    },
    /// The system refused.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `data/controller.json` is not what it should be.
    #[error("{} is not a valid controller file: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The socket is somebody else's.
    #[error("the controller (pid {pid}) runs as another user")]
    Permission {
        /// The controller, as its file says.
        pid: u32,
    },
    /// Whoever answers is not who may.
    #[error("the socket {} belongs to a process of user {uid}", socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// The user.
        uid: u32,
    },
    /// The controller closed the connection before it said anything.
    #[error("the controller (pid {pid}) closed the connection at once")]
    Closed {
        /// The controller, as its file says.
        pid: u32,
    },
    /// The controller says nothing.
    #[error("the controller (pid {pid}) did not answer within {seconds} s")]
    Silent {
        /// The controller, as its file says.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The controller is of another version, and speaks another language.
    #[error("the controller (pid {pid}) is babybot {version}, and this is {}", env!("CARGO_PKG_VERSION"))]
    Version {
        /// The controller, as its file says.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// The controller does not do what was asked.
    #[error("{0}")]
    Refused(String),
    /// The controller ended, or let go, before it had answered.
    #[error("the controller stopped before it answered")]
    Ended,
    /// The connection broke.
    #[error("the connection to the controller broke: {0}")]
    Broken(String),
    /// What arrived is not what was asked for.
    #[error("the controller sent an unexpected answer: {0}")]
    Malformed(String),
    /// More than is taken.
    #[error("the request is larger than the controller's limit of {BODY_MAX} bytes")]
    TooLarge,
}

impl ControlError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Folder { .. } => "set XDG_RUNTIME_DIR to a folder that is yours alone: \
                                    `mkdir -m 700 ~/.babybot-run && \
                                    export XDG_RUNTIME_DIR=~/.babybot-run`"
                .to_owned(),
            Self::Io { path, source } if source.kind() == io::ErrorKind::InvalidInput => {
                format!("move it away, babybot did not make it: {}", path.display())
            }
            Self::TooLong { .. } => "name a shorter folder in XDG_RUNTIME_DIR, or in TMPDIR where \
                                     there is none"
                .to_owned(),
            Self::Content { path, .. } => {
                format!("if no controller is running, remove it: rm {}", path.display())
            }
            Self::Permission { .. } => "run this as the same user as the controller".to_owned(),
            Self::Closed { .. } => {
                "this happens when another user connects, or too many clients do".to_owned()
            }
            Self::Silent { pid, .. } => {
                format!("try again; if it hangs, run `kill -9 {pid}`: nothing is lost")
            }
            Self::Version { pid, .. } => {
                format!("run `kill {pid}`, which lets it finish, then start it with this version")
            }
            Self::Ended => "run `babybot status` to see if one runs".to_owned(),
            _ => return None,
        };
        Some(hint)
    }
}

impl From<hyper::Error> for ControlError {
    fn from(error: hyper::Error) -> Self {
        if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
            return Self::Ended;
        }
        let words = chain(&error);
        // A ping that stays unanswered, or an end in mid-sentence, has no name of its own there.
        let cut = ["broken pipe", "connection reset", "stream closed", "not a result of an error"];
        let gone = cut.iter().any(|cut| words.to_lowercase().contains(cut));
        if gone { Self::Ended } else { Self::Broken(words) }
    }
}
