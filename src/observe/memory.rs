//! The memory that all groups read.

use super::known;
use crate::observed::{Known, Seen};
use crate::project::Project;
use crate::project::repair::InPlace;

/// Looks at `groups/global/MEMORY.md`.
pub(super) fn see(project: &Project) -> Known<Seen> {
    let look = || match project.place_of(&project.global())? {
        InPlace::Right(folder) => folder.place_of_file("MEMORY.md"),
        other => Ok(other.map(drop)),
    };
    known(look().map(|place| place.map(|()| Seen::GlobalMemory)))
}
