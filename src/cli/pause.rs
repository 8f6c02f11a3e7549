//! `babybot pause`: holds a group.

use crate::cli::join::{control_error, controller, known_group};
use crate::cli::{Context, VerbResult, print};
use crate::error::Exit;

/// Holds a group: its messages wait until `babybot resume`.
///
/// A turn under way is finished first; what arrives meanwhile is stored and waits.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// The group to hold
    pub group: String,
}

/// Holds a group.
///
/// # Errors
/// When no controller runs, or it has no such group.
pub async fn run(args: &PauseArgs, context: &Context) -> VerbResult {
    let client = controller(context).await?;
    let failed = |error| control_error("pause the group", &error);
    let status = client.status().await.map_err(failed)?;
    let (group, known) = known_group(&args.group, &status)?;
    // Only the controller knows for sure: what it tells of itself may be a moment old.
    if !client.hold(group, true).await.map_err(failed)? {
        print(&format!("{group} is already paused.\n"))?;
        return Ok(Exit::Ok);
    }
    let first = if known.turn.is_some() { "It finishes its turn; then its" } else { "Its" };
    let manifest = context.manifest_argument();
    print(&format!(
        "{group} is paused. {first} messages wait until you run `babybot resume {group}{manifest}`.\n"
    ))?;
    Ok(Exit::Ok)
}
