//! The manifest of a project, read anew while something else is applied.

use std::path::Path;

use super::{Environment, HostContext};
use crate::desired::Desired;
use crate::error::Error;
use crate::manifest::render::Colors;
use crate::source;

/// Why it is not known what the manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is no manifest: its problems, for a person.
    Invalid(String),
    /// What it asks for depends on something that cannot be told for now.
    Unsettled(String),
}

/// Reads the manifest anew, and says what it asks for of this project. The text is for history.
///
/// # Errors
/// Why that is not known.
pub async fn read(manifest: &Path, project: &Path) -> Result<(Desired, String), Unread> {
    let invalid = |report: source::Report| Unread::Invalid(report.human(Colors::Plain));
    let unsettled = |error: Error| Unread::Unsettled(error.to_string());
    let (manifest, project) = (manifest.to_owned(), project.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let source = source::read(&manifest).map_err(invalid)?;
        Ok((source, HostContext::of_project(&project).map_err(unsettled)?))
    });
    let (source, mut ground) =
        read.await.map_err(|error| Unread::Unsettled(error.to_string()))??;
    let resolved = ground.resolve(&source.manifest, Environment::Applied).await;
    let desired = resolved.map_err(unsettled)?;
    Ok((desired, source.text))
}
