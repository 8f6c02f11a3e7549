//! What the verbs begin with that only have to reach the controller.

use crate::cli::Context;
use crate::control::client::Client;
use crate::control::{ControlError, GroupStatus, Status};
use crate::error::{Error, Exit};
use crate::machine::project_error;
use crate::manifest::diagnostic::closest;
use crate::name::GroupName;
use crate::project::Project;
use crate::visible;

/// The project that the command line names, and its controller; `None` where none runs.
///
/// # Errors
/// When the project cannot be opened or is a copy, or a controller runs that cannot be reached.
pub async fn join(context: &Context) -> Result<(Project, Option<Client>), Error> {
    let project = Project::open(context.project()).map_err(project_error)?;
    let Some(instance) = project.known_instance().map_err(project_error)? else {
        return Ok((project, None));
    };
    let client = Client::connect(&project.data(), &instance)
        .await
        .map_err(|error| control_error("reach the controller", &error))?;
    Ok((project, client))
}

/// The controller, where nothing can be done without one.
///
/// # Errors
/// As [`join`], and when none runs.
pub async fn controller(context: &Context) -> Result<Client, Error> {
    let (project, client) = join(context).await?;
    match client {
        Some(client) => Ok(client),
        None => match project.lock_holder().map_err(project_error)? {
            Some(holder) => Err(busy(&holder)),
            None => Err(Error::new(Exit::Failed, "no controller is running").hinted(format!(
                "run `babybot up{}`, then try again",
                context.manifest_argument()
            ))),
        },
    }
}

/// What is said where somebody is at work here and has no socket.
#[must_use]
pub fn busy(holder: &str) -> Error {
    Error::new(Exit::Locked, format!("this project is in use by {holder}"))
        .hinted("wait until it is done, then try again")
}

/// What went wrong with the controller, at the front door.
#[must_use]
pub fn control_error(doing: &str, error: &ControlError) -> Error {
    let failed = Error::failed(doing, error);
    match error.hint() {
        Some(hint) => failed.hinted(hint),
        None => failed,
    }
}

/// The group that was named.
///
/// # Errors
/// [`Exit::Usage`] when it is none of those that were applied.
pub fn known_group<'a>(
    named: &str,
    status: &'a Status,
) -> Result<(&'a GroupName, &'a GroupStatus), Error> {
    match status.groups.iter().find(|(name, _)| name.as_str() == named) {
        Some(group) => Ok(group),
        None => Err(unknown_group(named, status.groups.keys())),
    }
}

/// What is said where a group is none of these.
#[must_use]
pub fn unknown_group<'a>(named: &str, groups: impl Iterator<Item = &'a GroupName>) -> Error {
    let names: Vec<&str> = groups.map(GroupName::as_str).collect();
    let hint = match closest(&named.to_lowercase(), names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if names.is_empty() => "run `babybot apply`: no group is applied yet".to_owned(),
        None => format!("use one of: {}", names.join(", ")),
    };
    Error::new(Exit::Usage, format!("there is no group `{}`", visible::line(named))).hinted(hint)
}

/// A string of others on one line, with nothing in it that is not seen.
#[must_use]
pub fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    visible::line(&words.join(" ")).into_owned()
}
