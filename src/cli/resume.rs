//! `babybot resume`: lets a group go on that was held.

use crate::cli::join::{control_error, controller, known_group};
use crate::cli::{Context, VerbResult, print};
use crate::error::Exit;

/// Lets a group go on that `babybot pause` held: it answers what waits.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The group to let go on
    pub group: String,
}

/// Lets a group go on.
///
/// # Errors
/// When no controller runs, or it has no such group.
pub async fn run(args: &ResumeArgs, context: &Context) -> VerbResult {
    let client = controller(context).await?;
    let failed = |error| control_error("resume the group", &error);
    let status = client.status().await.map_err(failed)?;
    let (group, known) = known_group(&args.group, &status)?;
    if !client.hold(group, false).await.map_err(failed)? {
        print(&format!("{group} is not paused.\n"))?;
        return Ok(Exit::Ok);
    }
    let waiting = match known.messages {
        0 => "No messages waiting.".to_owned(),
        1 => "1 message waiting.".to_owned(),
        count => format!("{count} messages waiting."),
    };
    print(&format!("{group} resumed. {waiting}\n"))?;
    Ok(Exit::Ok)
}
