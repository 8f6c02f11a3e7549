//! `babybot down`: ends the controller.

use std::time::Duration;

use crate::cli::join::{busy, control_error, join};
use crate::cli::{Context, VerbResult, serve};
use crate::control::client::Client;
use crate::error::{Error, Exit};
use crate::machine::project_error;
use crate::project::Project;
use crate::unit::Period;

/// The most of the wait that is left for ending what does not finish by itself.
const LAST_STEPS_MAX: Duration = Duration::from_secs(10);
/// How much longer is waited before it is said that it takes too long: what ends at the last moment
/// has ended.
const GRACE: Duration = Duration::from_secs(2);
/// How often is looked whether the controller, which serves no more, is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stops the controller: it takes no new work, finishes the current work, and stops its agents.
///
/// Messages that wait for an answer are kept, and the next controller answers them. Ends with 0 when
/// the controller has stopped or none runs, with 1 if it takes longer than --wait.
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    /// How long it may take; unfinished turns continue at the next start
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub wait: Period,
}

/// Ends the controller.
///
/// # Errors
/// When it refuses, or takes too long.
pub async fn run(args: &DownArgs, context: &Context) -> VerbResult {
    let (project, client) = join(context).await?;
    let Some(client) = client else {
        return match project.lock_holder().map_err(project_error)? {
            Some(holder) => Err(busy(&holder)),
            None => {
                context.note("No controller is running.\n");
                tell_of_leftovers(context).await;
                Ok(Exit::Ok)
            }
        };
    };
    let wait = args.wait.as_duration();
    let pid = client.hello().pid;
    context.progress(&format!("Stopping the controller (pid {pid}), up to {}…\n", args.wait));
    tokio::select! {
        ended = tokio::time::timeout(wait + GRACE, end(&client, &project, wait)) => match ended {
            Ok(ended) => ended?,
            Err(_) => {
                let text = format!("the controller (pid {pid}) is still running after {}", args.wait);
                return Err(Error::new(Exit::Failed, text).hinted(format!(
                    "it is still stopping; use a longer --wait, or stop it at once, which loses \
                     nothing: kill -9 {pid}"
                )));
            }
        },
        _ = tokio::signal::ctrl_c() => {
            context.note("The controller is still stopping.\n");
            return Ok(Exit::Interrupted);
        }
    }
    context.progress("Stopped.\n");
    tell_of_leftovers(context).await;
    Ok(Exit::Ok)
}

/// Ends what a controller could not end, or one that was killed, and says what.
async fn tell_of_leftovers(context: &Context) {
    match serve::end_what_is_left(context).await {
        Ok(left) if left.is_empty() => {}
        // Somebody goes on already, and what there is is theirs.
        Err(error) if error.exit() == Exit::Locked => {}
        Ok(left) => context.note(&format!("Removed leftover containers: {}.\n", left.join(", "))),
        Err(error) => {
            context.note(&format!("note: {error}; the next start removes leftover containers\n"))
        }
    }
}

/// Asks for the end and waits for it.
async fn end(client: &Client, project: &Project, wait: Duration) -> Result<(), Error> {
    // So much that an agent that has to be killed is killed within the wait.
    let patience = wait - LAST_STEPS_MAX.min(wait / 4);
    let asked = client.shut_down(patience).await;
    asked.map_err(|error| control_error("stop the controller", &error))?;
    client.wait_gone().await;
    // It serves no more; its lock goes with it.
    while project.lock_holder().map_err(project_error)?.is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
