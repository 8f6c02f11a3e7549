//! The memory that all groups read: written where it is missing.

use std::io;

use super::owner_like;
use crate::project::Project;
use crate::project::repair::InPlace;

/// What a new global memory holds.
const GLOBAL_MEMORY: &str = "# For every group\n";

/// Writes `groups/global/MEMORY.md` if it is not there. Whatever else is in its place is moved
/// aside.
pub(super) fn write(project: &Project) -> Result<(), String> {
    let path = project.global();
    project.repair_folder(&path).map_err(|error| error.to_string())?;
    let write = || {
        let folder = project.folder(&path)?;
        folder.make_way_for_file("MEMORY.md")?;
        if let InPlace::Right(()) = folder.place_of_file("MEMORY.md")? {
            return Ok(());
        }
        folder.write("MEMORY.md", GLOBAL_MEMORY.as_bytes(), 0o644, owner_like(&folder)?)
    };
    write().map_err(|error: io::Error| format!("{}: {error}", path.display()))
}
