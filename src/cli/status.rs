//! `babybot status`: how each group is, and what it waits for.

mod offline;
mod page;
mod table;

use std::borrow::Cow;
use std::io;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use self::offline::Left;
use self::page::Page;
use crate::cli::join::{control_error, join};
use crate::cli::{self, Context, VerbResult, print, zone};
use crate::clock::{Clock as _, SystemClock};
use crate::control::client::Client;
use crate::control::{ControlError, Status};
use crate::error::{Error, Exit};
use crate::machine::project_error;
use crate::name::GroupName;
use crate::resource::InstanceSpec;
use crate::visible;

/// Shows what runs: each group, its state, and what it waits for.
///
/// Without a controller it shows what was applied. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Show it again whenever something changes, until the controller stops
    #[arg(long)]
    pub watch: bool,
    /// How to show it: for a person, or as JSON, one line each time with --watch
    #[arg(long, value_enum, default_value_t = StatusFormat::Human)]
    pub format: StatusFormat,
}

/// How `status` shows what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StatusFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Shows what runs.
///
/// # Errors
/// When a controller runs that does not answer, or what was applied cannot be read.
pub async fn run(args: &StatusArgs, context: &Context) -> VerbResult {
    let (project, client) = join(context).await?;
    let left = Left::read(&project.database());
    // A controller is asked also where the store cannot be read.
    let applied = left.as_ref().ok().and_then(Option::as_ref).map(Left::applied);
    let instance = left.as_ref().ok().and_then(Option::as_ref).and_then(Left::instance).cloned();
    let page = Page::new(context, zone::of(applied), instance.as_ref());
    match client {
        Some(client) if args.watch => tokio::select! {
            watched = watch(&client, args, page, instance.as_ref(), context) => watched,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        },
        Some(client) => {
            let status = client.status().await.map_err(unanswered)?;
            let text = match args.format {
                StatusFormat::Human => page.text(&status),
                StatusFormat::Json => pretty(&document(&status, instance.as_ref())),
            };
            print(&seen(&text, args.format))?;
            Ok(Exit::Ok)
        }
        None => {
            let holder = project.lock_holder().map_err(project_error)?;
            let left = left?;
            let text = match args.format {
                StatusFormat::Human => offline::page(holder.as_deref(), left.as_ref(), context),
                StatusFormat::Json if args.watch => {
                    format!("{}\n", offline::document(left.as_ref()))
                }
                StatusFormat::Json => pretty(&offline::document(left.as_ref())),
            };
            print(&seen(&text, args.format))?;
            Ok(Exit::Ok)
        }
    }
}

/// The page with nothing in it that is not seen.
fn seen(text: &str, format: StatusFormat) -> Cow<'_, str> {
    match format {
        StatusFormat::Human => visible::page(text),
        StatusFormat::Json => visible::json(text),
    }
}

fn unanswered(error: ControlError) -> Error {
    control_error("ask the controller", &error)
}

/// Shows what runs whenever it changes.
async fn watch(
    client: &Client,
    args: &StatusArgs,
    mut page: Page,
    instance: Option<&InstanceSpec>,
    context: &Context,
) -> VerbResult {
    let mut changes = client.watch_status().await.map_err(unanswered)?;
    let mut first = true;
    while let Some(status) = changes.next().await {
        let status = match status {
            Ok(status) => status,
            Err(ControlError::Ended) => break,
            Err(error) => return Err(unanswered(error)),
        };
        page.now = SystemClock.now();
        let text = match args.format {
            StatusFormat::Json => format!("{}\n", document(&status, instance)),
            StatusFormat::Human => {
                // At a terminal it takes the place of what was there; elsewhere it follows.
                let between = match (io::IsTerminal::is_terminal(&io::stdout()), first) {
                    (true, _) => "\u{1b}[H\u{1b}[2J",
                    (false, true) => "",
                    (false, false) => "\n",
                };
                format!("{between}{}", page.text(&status))
            }
        };
        first = false;
        match cli::write(&seen(&text, args.format)) {
            Ok(()) => {}
            // Nobody watches any more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(error) => return Err(Error::failed("write to stdout", &error)),
        }
    }
    context.note("The controller stopped.\n");
    Ok(Exit::Ok)
}

/// What is said of a group that is paused.
fn paused(group: &GroupName, manifest: &str) -> String {
    format!("paused; run `babybot resume {group}{manifest}`")
}

fn pretty(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{text}\n")
}

/// The same shape with a controller.
fn document(status: &Status, instance: Option<&InstanceSpec>) -> Value {
    json!({
        "controller": {
            "instance": status.instance,
            "version": status.version,
            "role": status.role,
            "pid": status.pid,
            "since": status.since,
            "draining": status.draining,
            "runtimes": status.runtimes,
        },
        "generation": status.generation,
        "environment": instance.map(|instance| &instance.environment),
        "pending": status.pending,
        "channels": status.channels,
        "groups": status.groups,
        "drift": status.drift,
        "warnings": status.warnings,
    })
}
