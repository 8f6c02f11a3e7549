//! The folders of a group: made where they are missing, and given to whom they belong.

use std::io;

use crate::name::GroupName;
use crate::project::{Folder, Project};
use crate::resource::UserId;

/// Makes those folders of a group that are not there or not usable, and gives all of them to
/// `owner`, with `groups/global` where the group keeps that. Whatever else is in their place is moved
/// aside.
pub(super) fn make(
    project: &Project,
    group: &GroupName,
    owner: Option<UserId>,
    global: bool,
) -> Result<(), String> {
    project.prepare().map_err(|error| error.to_string())?;
    let [own, session, mailbox] = project.folders(group);
    project.repair_folder(&own).map_err(|error| error.to_string())?;
    for folder in [session, mailbox] {
        project.repair_private(&folder).map_err(|error| error.to_string())?;
    }
    let global = global.then(|| project.global());
    for path in project.folders(group).into_iter().chain(global) {
        let given = project.folder(&path).and_then(|folder| match owner {
            Some(owner) => folder.give_all(owner),
            None => give_back(project, &folder),
        });
        given.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Gives a folder that was given to the agents of another runtime back to the project's owner,
/// as whom agents run where nobody has to be given anything.
fn give_back(project: &Project, folder: &Folder) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = project.owner().unwrap_or((0, 0));
    match folder.owner()? {
        present if present.uid == uid => Ok(()),
        _ => folder.give_all(UserId { uid, gid }),
    }
}
