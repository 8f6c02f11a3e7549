//! Users of the host.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A user and a group of the host, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserId {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}
