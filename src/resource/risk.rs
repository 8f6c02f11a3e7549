//! How much a change may hurt.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a change may hurt. The order is the order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Nothing is interrupted or lost.
    Safe,
    /// Something running is interrupted.
    Disruptive,
    /// Something that exists is taken away.
    Destructive,
    /// An agent can reach more, or more can reach the agent.
    Privileged,
}

impl Risk {
    /// All risks, mildest first.
    pub const ALL: [Self; 4] = [Self::Safe, Self::Disruptive, Self::Destructive, Self::Privileged];

    /// The word used in plans and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Disruptive => "disruptive",
            Self::Destructive => "destructive",
            Self::Privileged => "privileged",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
