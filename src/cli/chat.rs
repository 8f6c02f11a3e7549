//! `babybot chat`: talk to a group from the terminal.
//!
//! It joins the controller that runs, or is one for as long as it lasts, with
//! the terminal as its only channel. Either way it talks through the control
//! socket. The reply is the result and goes to stdout; all else goes to stderr.

mod begin;
mod editor;
mod history;
mod link;
mod screen;
mod show;
mod successor;
mod talk;
mod typing;
mod words;

use std::io::{self, IsTerminal as _, Read as _};

use tokio::signal::unix::{SignalKind, signal};

use self::begin::{Begun, begin, group_names};
use self::talk::Talk;
use crate::cli::approve::ApprovalArgs;
use crate::cli::{Context, VerbResult, tell};
use crate::error::{Error, Exit};
use crate::store::MESSAGE_TEXT_MAX;
use crate::unit::Period;

/// Talks to a group from the terminal.
///
/// With MESSAGE, or with a message on stdin, prints the reply on stdout and exits. Without either,
/// at a terminal, it is a conversation. GROUP may be left out where there is a main group, or only
/// one. Ctrl-C stops the current answer; a second Ctrl-C exits at once.
///
/// Uses the last applied generation. Where nothing was applied yet, it applies babybot.toml first,
/// as `babybot apply` would.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// The group to talk to
    pub group: Option<String>,
    /// The message; without it, stdin is read
    pub message: Option<String>,
    /// How long MESSAGE waits for a model, a server or a container engine that is not there
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub wait: Period,
    /// The approval, if this is the first apply.
    #[command(flatten)]
    pub approval: ApprovalArgs,
}

/// Talks.
///
/// # Errors
/// Whatever kept the reply from being given.
pub async fn run(args: &ChatArgs, context: &Context) -> VerbResult {
    let said = what_was_said(args)?;
    // Until a conversation has begun, the end of the process is all that Ctrl-C has to bring about.
    let begun = tokio::select! {
        biased;
        begun = begin(args, said, context) => begun?,
        _ = tokio::signal::ctrl_c() => return Err(Error::new(Exit::Interrupted, "stopped")),
    };
    let Begun { link, own, applied, said } = match begun {
        Ok(begun) => begun,
        Err(exit) => return Ok(exit),
    };
    let listen = |kind| signal(kind).map_err(|error| Error::failed("listen for signals", &error));
    let interrupts = listen(SignalKind::interrupt())?;
    let (mut terminate, mut hangup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let wait = said.as_ref().map(|_| args.wait.as_duration());
    let mut talk = Talk::new(context, link, own, interrupts, wait);
    let outcome = tokio::select! {
        outcome = talk.talk(said, group_names(&applied)) => Some(outcome),
        _ = terminate.recv() => None,
        _ = hangup.recv() => None,
    };
    let (unsent, kept) = talk.close();
    for unsent in unsent {
        tell(&format!("not sent: {unsent}\n"));
    }
    let outcome = outcome.unwrap_or_else(|| {
        let ended = if kept { "ended; your message is kept" } else { "ended" };
        Err(Error::new(Exit::Interrupted, ended))
    });
    talk.end(&outcome).await;
    outcome
}

/// The message, before anything is done; none yet, in a conversation.
fn what_was_said(args: &ChatArgs) -> Result<Option<String>, Error> {
    let text = match &args.message {
        Some(message) => message.clone(),
        None if io::stdin().is_terminal() => return Ok(None),
        None => {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(MESSAGE_TEXT_MAX as u64 + 1)
                .read_to_string(&mut text)
                .map_err(|error| Error::failed("read the message from stdin", &error))?;
            text
        }
    };
    if text.len() > MESSAGE_TEXT_MAX {
        let text = format!("the message is longer than {MESSAGE_TEXT_MAX} bytes");
        return Err(Error::new(Exit::Usage, text)
            .hinted("put the text into a file in the group's folder and ask about the file"));
    }
    Ok(Some(text))
}

/// Refuses an empty message. After the group was found: a message in its place is more telling.
fn refuse_empty(said: Option<&String>) -> Result<(), Error> {
    match said {
        Some(text) if text.trim().is_empty() => {
            Err(Error::new(Exit::Usage, "the message is empty"))
        }
        _ => Ok(()),
    }
}
