//! The settings file of a group: written over the one that is there.

use std::collections::BTreeMap;
use std::io;

use super::owner_like;
use crate::name::GroupName;
use crate::project::{Project, SettingsFile};

/// Writes a group's settings file over the one that is there. Whatever else is in its place is
/// moved aside.
pub(super) fn write(
    project: &Project,
    group: &GroupName,
    env: BTreeMap<String, String>,
) -> Result<(), String> {
    let path = project.session(group);
    let write = || {
        let mut text = serde_json::to_vec_pretty(&SettingsFile { env })?;
        text.push(b'\n');
        let home = project.folder(&path)?;
        let owner = owner_like(&home)?;
        home.make_way_for_folder(".ollama")?;
        let folder = home.child_or_make(".ollama", owner)?;
        folder.make_way_for_file("settings.json")?;
        folder.write("settings.json", &text, 0o600, owner)
    };
    write().map_err(|error: io::Error| {
        format!("{}: {error}", path.join(".ollama/settings.json").display())
    })
}
