//! Where an engine is, and what is said where it cannot be reached there.

use std::fmt;
use std::path::Path;

use super::failure::{Failure, Reach};
use crate::resource::RuntimeKind;
use crate::runtime::RuntimeError;

/// A place where an engine may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix:///path`, or `tcp://` to this machine.
    pub url: String,
    /// Why it is tried, in words.
    pub reason: String,
}

impl Endpoint {
    /// The path of its socket; `None`: it is none.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.url.strip_prefix("unix://").map(Path::new)
    }

    /// The failure to reach it, with what helps.
    pub(super) fn unavailable(&self, failure: Failure) -> RuntimeError {
        let hint = hint(failure.reach(), &self.url);
        let words = match failure {
            Failure::Unreachable { why, .. } | Failure::Refused(why) => why,
            other => other.words(),
        };
        let why = format!("{} ({}): {words}{hint}", self.url, self.reason);
        RuntimeError::Unavailable { runtime: RuntimeKind::Docker, why }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.url, self.reason)
    }
}

/// What helps where an engine is not reached like this.
fn hint(reach: Reach, url: &str) -> &'static str {
    match (reach, url.contains("podman")) {
        (Reach::Denied, true) => "; run babybot as the user that the socket belongs to",
        (Reach::Denied, false) => {
            "; add yourself to the group `docker` and log in again (this is equivalent to root), or use rootless Docker"
        }
        (Reach::Silent, true) => "; start it: `systemctl --user start podman.socket`",
        (Reach::Silent, false) => "; start it: `sudo systemctl start docker`, or Docker Desktop",
        (Reach::Answers, _) => "",
    }
}
