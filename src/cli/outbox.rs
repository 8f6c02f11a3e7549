//! `babybot outbox`: replies that were not delivered, and what becomes of them.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::join::{control_error, join, one_line};
use crate::cli::{Context, VerbResult, apply, print, print_json, zone};
use crate::clock::{Clock as _, SystemClock};
use crate::control::PostDecision;
use crate::error::{Error, Exit};
use crate::machine::project_error;
use crate::project::Project;
use crate::store::{OutboxId, Post, Store, StoreError};

/// How much of a reply a line shows, in characters.
const TEXT_SHOWN: usize = 60;

/// Shows replies that were not delivered, sends one again, or gives one up.
#[derive(Debug, clap::Args)]
pub struct OutboxArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: OutboxCommand,
}

/// What to do with the outbox.
#[derive(Debug, clap::Subcommand)]
pub enum OutboxCommand {
    /// Shows the replies that are not delivered: waiting, being sent, uncertain or failed
    ///
    /// Newest first. With --format json, each line is an object.
    List {
        /// How many to show
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
        lines: u32,
        /// How to print them: for a person, or one JSON object a line
        #[arg(long, value_enum, default_value_t = OutboxFormat::Human)]
        format: OutboxFormat,
    },
    /// Sends a reply again at once, as if it had never been tried
    Retry {
        /// Its number, as `list` shows it
        id: i64,
    },
    /// Gives a reply up: it is not sent
    Drop {
        /// Its number, as `list` shows it
        id: i64,
    },
}

/// How `outbox list` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutboxFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Shows or changes the outbox.
///
/// # Errors
/// When the store cannot be read or written, or the controller refuses.
pub async fn run(args: &OutboxArgs, context: &Context) -> VerbResult {
    match args.command {
        OutboxCommand::List { lines, format } => list(lines, format, context),
        OutboxCommand::Retry { id } => {
            decide(id, PostDecision::Retry, context).await?;
            print(&format!("Reply {id} is sent again.\n"))?;
            Ok(Exit::Ok)
        }
        OutboxCommand::Drop { id } => {
            decide(id, PostDecision::Drop, context).await?;
            print(&format!("Reply {id} is given up.\n"))?;
            Ok(Exit::Ok)
        }
    }
}

fn list(lines: u32, format: OutboxFormat, context: &Context) -> VerbResult {
    let project = Project::open(context.project()).map_err(project_error)?;
    let read = |error| apply::store_error("read the outbox", &error);
    let Some(reader) = Store::read_only(&project.database()).map_err(read)? else {
        context.note("Nothing has been applied yet.\n");
        return Ok(Exit::Ok);
    };
    let posts = reader.outbox(None, lines).map_err(read)?;
    match format {
        OutboxFormat::Human if posts.is_empty() => context.note("Every reply is delivered.\n"),
        OutboxFormat::Human => {
            let zone = zone::of(reader.applied().map_err(read)?.as_ref());
            print(&posts.iter().map(|post| line(post, &zone)).collect::<String>())?;
        }
        OutboxFormat::Json => {
            let lines = posts.iter().map(|post| format!("{}\n", object(post)));
            print_json(&lines.collect::<String>())?;
        }
    }
    Ok(Exit::Ok)
}

fn line(post: &Post, zone: &TimeZone) -> String {
    let (at, to) = (post.created_at.local_named(zone), &post.to);
    let mut how = post.state.word().to_owned();
    if post.attempts > 0 {
        let plural = if post.attempts == 1 { "" } else { "s" };
        how.push_str(&format!(" after {} attempt{plural}", post.attempts));
    }
    if let Some(next) = post.next_attempt {
        how.push_str(&format!(", next at {}", next.local_named(zone)));
    }
    if let Some(why) = &post.failure {
        how.push_str(&format!(": {}", one_line(why)));
    }
    let text = one_line(&post.text);
    let shown: String = text.chars().take(TEXT_SHOWN).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{}  {at}  {}:{}  {how}\n    {shown}{more}\n", post.id, to.channel, to.chat)
}

fn object(post: &Post) -> Value {
    json!({
        "id": post.id.0, "at": post.created_at, "kind": post.kind.word(),
        "channel": post.to.channel, "chat": post.to.chat, "thread": post.to.thread,
        "state": post.state.word(), "attempts": post.attempts, "failure": post.failure,
        "next_attempt": post.next_attempt, "text": post.text,
    })
}

/// Has the controller decide, or does so under the lock where none runs.
async fn decide(id: i64, decision: PostDecision, context: &Context) -> Result<(), Error> {
    let doing = match decision {
        PostDecision::Retry => "send the reply again",
        PostDecision::Drop => "give the reply up",
    };
    let (project, client) = join(context).await?;
    if let Some(client) = client {
        return client.decide(id, decision).await.map_err(|error| control_error(doing, &error));
    }
    let lock = project.lock("outbox", SystemClock.now()).map_err(project_error)?;
    let store = apply::open_store(&project, &lock)?;
    let decided = match decision {
        PostDecision::Retry => store.retry_post(OutboxId(id)).await,
        PostDecision::Drop => store.drop_post(OutboxId(id)).await,
    };
    store.close().await;
    decided.map_err(|error| match error {
        StoreError::UnknownPost { .. } | StoreError::PostTransition { .. } => {
            Error::failed(doing, &error).hinted("run `babybot outbox list` to see the numbers")
        }
        error => apply::store_error(doing, &error),
    })
}
