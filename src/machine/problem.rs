//! What a person is told of a project that cannot be used.

use std::io;
use std::path::Path;

use crate::error::{Error, Exit};
use crate::plan::render;
use crate::project::ProjectError;

/// A project's error at the front door.
#[must_use]
pub fn project_error(error: ProjectError) -> Error {
    match &error {
        ProjectError::Locked { .. } => Error::new(Exit::Locked, error.to_string())
            .hinted("wait until it has finished, or stop it"),
        ProjectError::Moved { folder, .. } => {
            Error::new(Exit::Refused, error.to_string()).hinted(ways_on(folder))
        }
        ProjectError::Original { folder, .. } => Error::new(Exit::Refused, error.to_string())
            .hinted(format!(
                "run `babybot apply --new-instance` for a copy with an identity of its own, or \
                 remove {} first",
                folder.display()
            )),
        ProjectError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Error::failed("use this project", &error)
                .hinted("run babybot as the user that the project folder belongs to")
        }
        ProjectError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
            Error::failed("use this project", &error)
                .hinted("move it away: babybot did not make it like this")
        }
        _ => Error::failed("use this project", &error),
    }
}

/// How to go on with a project that is not where it was first applied.
fn ways_on(folder: &Path) -> String {
    let here = std::env::current_dir().is_ok_and(|here| here == folder);
    let manifest = if here {
        String::new()
    } else {
        render::manifest_argument(&folder.join("babybot.toml").display().to_string())
    };
    format!(
        "if it is the same project, moved or restored, run `babybot apply --reclaim{manifest}`: it \
         keeps its containers and images, so the original must not run any more\n        if it is a \
         copy, run `babybot apply --new-instance{manifest}`: it gets an identity of its own, and \
         the original keeps its containers and images"
    )
}
