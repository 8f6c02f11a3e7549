//! The folders of a group.

use std::collections::BTreeSet;
use std::path::Path;

use crate::name::GroupName;
use crate::observed::{Known, Seen};
use crate::project::Project;
use crate::project::repair::InPlace;
use crate::resource::Spec;

/// Looks whether the folders of a group are there and belong to whom they are given.
pub(super) fn see(project: &Project, group: &GroupName, spec: &Spec) -> Known<Seen> {
    let owner = spec.owner();
    let relative =
        |path: &Path| path.strip_prefix(project.root()).unwrap_or(path).display().to_string();
    let folders = project.folders(group);
    let (mut missing, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    let mut wrong = None;
    for path in &folders {
        match project.place_of(path) {
            Ok(InPlace::Right(folder)) => match (owner, folder.owner()) {
                (None, _) => {}
                (Some(owner), Ok(found)) if owner == found => {}
                (Some(_), Ok(_)) => {
                    foreign.insert(relative(path));
                }
                (Some(_), Err(error)) => return Known::Unknown(error.to_string()),
            },
            Ok(InPlace::Empty) => {
                missing.insert(relative(path));
            }
            Ok(InPlace::Wrong(why)) => {
                wrong.get_or_insert(format!("{}: {why}", relative(path)));
            }
            Err(error) => return Known::Unknown(format!("{}: {error}", relative(path))),
        }
    }
    if let Some(why) = wrong {
        return Known::Is(Seen::Wrong { why });
    }
    // Made anew, it is whoever's who made it, and the main group keeps what is in it.
    let global = project.global();
    if let (Spec::MainFolder(owner), Ok(InPlace::Right(folder))) = (spec, project.place_of(&global))
        && folder.owner().is_ok_and(|found| found != *owner)
    {
        foreign.insert(relative(&global));
    }
    if missing.len() == folders.len() {
        Known::Absent
    } else {
        Known::Is(Seen::Folder { missing, foreign })
    }
}
