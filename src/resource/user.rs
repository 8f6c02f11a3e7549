//! Users of the host.

use std::fmt;
use std::ops::RangeInclusive;

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

/// The users of groups, where each has one of its own; the group of each has its number. An image
/// has a name for all of them, so that it is the same whichever groups there are.
pub const GROUP_USERS: RangeInclusive<u32> = 10_001..=11_000;
