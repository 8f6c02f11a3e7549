//! Where an engine is, and what is said where it cannot be reached there.

use std::fmt;
use std::path::Path;

use super::failure::{Failure, Reach};
use crate::resource::RuntimeKind;
use crate::runtime::RuntimeError;

/// How the reason begins where a person named the place.
const NAMED_BY: &str = "named by ";

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
        let hint = self.hint(failure.reach());
        let words = match failure {
            Failure::Unreachable { why, .. } | Failure::Refused(why) => why,
            other => other.words(),
        };
        let place = match self.named_by() {
            Some(by) => format!("{by} names {}", self.url),
            None => self.to_string(),
        };
        let why = format!("{place}: {words}{hint}");
        RuntimeError::Unavailable { runtime: RuntimeKind::Docker, why }
    }

    /// The setting by which a person named it.
    fn named_by(&self) -> Option<&str> {
        self.reason.strip_prefix(NAMED_BY)
    }

    /// The fix where it is not reached like this.
    fn hint(&self, reach: Reach) -> String {
        let podman = self.url.contains("podman");
        let hint = match (reach, podman, self.named_by()) {
            (Reach::Denied, true, _) => "run babybot as the user that the socket belongs to",
            (Reach::Denied, false, _) => {
                "add yourself to the group `docker` and log in again (this is equivalent to root), or use rootless Docker"
            }
            // Starting an engine does not help where the name is mistyped.
            (Reach::Silent, _, Some(by)) => {
                return format!("; correct or unset {by}, or start the engine");
            }
            (Reach::Silent, true, None) => "start it: `systemctl --user start podman.socket`",
            (Reach::Silent, false, None) => {
                "start it: `sudo systemctl start docker`, or Docker Desktop"
            }
            (Reach::Answers, ..) => return String::new(),
        };
        format!("; {hint}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.url, self.reason)
    }
}
