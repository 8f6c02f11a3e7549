//! The settings file of a group.

use std::collections::BTreeMap;
use std::io;

use super::known;
use crate::name::GroupName;
use crate::observed::{Known, Seen};
use crate::project::repair::InPlace;
use crate::project::{Folder, Project, SettingsFile};
use crate::walk;

/// What is read of a settings file, in bytes.
const SETTINGS_MAX: u64 = 256 << 10;

/// Looks at `data/sessions/<group>/.ollama/settings.json`.
pub(super) fn see(project: &Project, group: &GroupName) -> Known<Seen> {
    let look = || {
        let home = match project.place_of(&project.session(group))? {
            InPlace::Right(home) => home,
            // Of which the folder's own look tells.
            InPlace::Wrong(why) => return Ok(InPlace::Wrong(format!("its folder: {why}"))),
            InPlace::Empty => return Ok(InPlace::Empty),
        };
        let folder = match home.place_of_folder(".ollama")? {
            InPlace::Right(folder) => folder,
            InPlace::Wrong(why) => return Ok(InPlace::Wrong(format!(".ollama: {why}"))),
            InPlace::Empty => return Ok(InPlace::Empty),
        };
        match folder.place_of_file("settings.json")? {
            InPlace::Right(()) => settings_in(&folder),
            other => Ok(other.map(|()| None)),
        }
    };
    known(look().map(|place| place.map(|env| Seen::Settings { env })))
}

/// What the settings file says; nothing where it is not one of ours.
fn settings_in(folder: &Folder) -> io::Result<InPlace<Option<BTreeMap<String, String>>>> {
    match folder.read("settings.json", SETTINGS_MAX) {
        Ok(Some(bytes)) => {
            let file = serde_json::from_slice::<SettingsFile>(&bytes).ok();
            Ok(InPlace::Right(file.map(|file| file.env)))
        }
        Ok(None) => Ok(InPlace::Empty),
        // Too large, or something else since it was looked at.
        Err(error) if walk::is_in_the_files(&error) => Ok(InPlace::Right(None)),
        Err(error) => Err(error),
    }
}
