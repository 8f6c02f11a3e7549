//! `babybot chat`: talk to a group from the terminal.
//!
//! It joins the controller that runs, or is one for as long as it lasts, with
//! the terminal as its only channel. Either way it talks through the control
//! socket. The reply is the result and goes to stdout; all else goes to stderr.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::approve::{self, ApprovalArgs};
use crate::cli::ground::Ground;
use crate::cli::join::{control_error, join, one_line};
use crate::cli::load::{load, stderr_colors};
use crate::cli::preview::{Preview, project_error};
use crate::cli::serve::{self, Own, REST_MAX};
use crate::cli::{self, Context, Outcome, apply, tell};
use crate::clock::{Clock, SystemClock};
use crate::control::client::Client;
use crate::control::{ChatEnd, ChatEvent, ChatRequest, ControlError, PostOutcome};
use crate::error::{Error, Exit};
use crate::manifest::diagnostic::closest;
use crate::name::GroupName;
use crate::observe::{self, Holder, Look as _};
use crate::observed::{Applied, Known};
use crate::project::InstanceLock;
use crate::resource::{GroupSpec, ResourceId, Spec};
use crate::source;
use crate::store::{MESSAGE_TEXT_MAX, Store};
use crate::unit::Period;
use crate::visible;

/// How long whoever makes way for another controller waits for that one.
const SUCCESSOR_MAX: Duration = Duration::from_secs(30);
/// How long a controller that was made way for may take to be there, until nobody comes.
const COMING: Duration = Duration::from_secs(5);
/// How often is looked whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Talks to a group from the terminal.
///
/// With MESSAGE, or with a message on stdin, prints the reply on stdout and ends. Without
/// either, at a terminal, it is a conversation. GROUP may be left out where there is a main
/// group, or only one. Ctrl-C stops the answer under way; a second one ends at once.
///
/// Runs what was applied last; where nothing ever was, it applies babybot.toml first, as
/// `babybot apply` would.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// The group to talk to
    pub group: Option<String>,
    /// What to say; without it, what stdin holds
    pub message: Option<String>,
    /// How long MESSAGE waits for a model, a server or a container engine that is not there
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub wait: Period,
    /// What is approved, should this be the first apply.
    #[command(flatten)]
    pub approval: ApprovalArgs,
}

/// A controller that somebody talks through.
struct Talk {
    context: Context,
    client: Client,
    group: GroupName,
    interrupts: Signal,
    /// The controller, where it is in this process.
    own: Option<Own>,
    /// The posts shown since something was said: where a controller ended before it heard so, the
    /// next one gives them again, and a person sees them once.
    shown: BTreeSet<i64>,
    /// How long one message may wait for something that is not there yet; a conversation waits.
    wait: Option<Duration>,
    /// Since when something is not there that what was said needs.
    away: Option<Instant>,
    /// What was last worth knowing about an answer.
    noted: Option<String>,
}

/// Talks.
///
/// # Errors
/// Whatever kept the reply from being given.
pub async fn run(args: &ChatArgs, context: &Context) -> Outcome {
    let said = what_was_said(args)?;
    let (client, own, applied) = match begin(args, said.as_ref(), context).await? {
        Ok(begun) => begun,
        Err(exit) => return Ok(exit),
    };
    let group = match choose_group(args.group.as_deref(), &applied) {
        Ok(group) => group,
        Err(error) => {
            if let Some(own) = own {
                own.end(REST_MAX, std::future::pending(), context).await;
            }
            return Err(error);
        }
    };
    refuse_empty(said.as_ref())?;
    // Until here, Ctrl-C ends the process, and that is all there is to end.
    let listen = |kind| signal(kind).map_err(|error| Error::failed("listen for signals", &error));
    let interrupts = listen(SignalKind::interrupt())?;
    let (mut terminate, mut hangup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let mut talk = Talk {
        context: context.clone(),
        client,
        group,
        interrupts,
        own,
        shown: BTreeSet::new(),
        wait: said.as_ref().map(|_| args.wait.as_duration()),
        away: None,
        noted: None,
    };
    let stopped = || Err(Error::new(Exit::Interrupted, "ended: what was said is kept"));
    let outcome = tokio::select! {
        outcome = talk.talk(said.as_deref()) => outcome,
        _ = terminate.recv() => stopped(),
        _ = hangup.recv() => stopped(),
    };
    talk.end(&outcome).await;
    outcome
}

type Begun = (Client, Option<Own>, Applied);

/// Joins the controller that runs, or becomes one.
async fn begin(
    args: &ChatArgs,
    said: Option<&String>,
    context: &Context,
) -> Result<Result<Begun, Exit>, Error> {
    let mut ground = Ground::of_project(context.project())?;
    let (_, client) = join(context).await?;
    let look = ground.look(Holder::Another);
    match (client, look.applied()) {
        (_, Known::Unknown(why)) => {
            Err(Error::new(Exit::Failed, format!("cannot read what was applied: {why}")))
        }
        (Some(client), Known::Is(applied)) => {
            choose_group(args.group.as_deref(), &applied)?;
            Ok(Ok((client, None, applied)))
        }
        (Some(_), Known::Absent) => {
            Err(Error::new(Exit::Failed, "the controller has not applied anything yet"))
        }
        (None, Known::Is(applied)) => {
            choose_group(args.group.as_deref(), &applied)?;
            refuse_empty(said)?;
            let (lock, store, applied) = serve::take_up("chat", &ground)?;
            mention_pending(&applied, &mut ground, context).await;
            let (client, own) =
                serve::serve_shortly(ground, lock, store, applied.clone(), context).await?;
            Ok(Ok((client, Some(own), applied)))
        }
        (None, Known::Absent) => {
            let (ground, lock, store, applied) = match apply_first(args, said, context).await? {
                Ok(ready) => ready,
                Err(exit) => return Ok(Err(exit)),
            };
            let (client, own) =
                serve::serve_shortly(ground, lock, store, applied.clone(), context).await?;
            Ok(Ok((client, Some(own), applied)))
        }
    }
}

/// Becomes ready with a Ctrl-C.
async fn recv(interrupts: &mut Signal) {
    interrupts.recv().await;
}

/// What there is to say before anything is done: nothing yet, in a conversation.
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
            .hinted("put it into a file in the group's folder and ask about the file"));
    }
    Ok(Some(text))
}

/// Refuses to say nothing. After the group was found: a message in its place is more telling.
fn refuse_empty(said: Option<&String>) -> Result<(), Error> {
    match said {
        Some(text) if text.trim().is_empty() => {
            Err(Error::new(Exit::Usage, "the message is empty"))
        }
        _ => Ok(()),
    }
}

/// Applies the manifest on an instance that never was.
async fn apply_first(
    args: &ChatArgs,
    said: Option<&String>,
    context: &Context,
) -> Result<Result<(Ground, InstanceLock, Store, Applied), Exit>, Error> {
    let source = match load(context) {
        Ok(source) => source,
        Err(exit) => return Ok(Err(exit)),
    };
    // A mistyped group is no reason to apply anything.
    let preview = Preview::with(&source, None, context).await?;
    let specs = preview.desired.resources.iter();
    let specs = specs.map(|(id, wanted)| (id.clone(), wanted.spec.clone())).collect();
    choose_group(args.group.as_deref(), &Applied { number: 0, specs })?;
    refuse_empty(said)?;
    context.progress(&preview.text_for_apply(context.stderr_color()));
    preview.refuse_strangers()?;
    let risks = approve::approve(&preview, &args.approval, context)?;
    let project = &preview.ground.project;
    let lock = project.lock("chat", SystemClock.now()).map_err(project_error)?;
    let store = apply::open_store(project, &lock)?;
    match apply::carry_out(&source, &preview, risks, &lock, &store, context).await? {
        Exit::Ok => {}
        exit => return Ok(Err(exit)),
    }
    match preview.ground.look(Holder::Ourselves).applied() {
        Known::Is(applied) => Ok(Ok((preview.ground, lock, store, applied))),
        _ => Err(Error::new(Exit::Failed, "what was just applied is not there")),
    }
}

/// One line where the manifest and what was applied differ.
async fn mention_pending(applied: &Applied, ground: &mut Ground, context: &Context) {
    let running = format!("this runs generation {}", applied.number);
    let source = match source::read(&context.manifest) {
        Ok(source) => source,
        Err(report) => {
            context.note(&report.human(stderr_colors(context)));
            context.note(&format!("note: {} is not valid; {running}\n", report.name));
            return;
        }
    };
    let Ok(desired) = ground.settle(&source.manifest).await else { return };
    let observed = observe::observe(&desired, &ground.look(Holder::Ourselves)).await;
    let pending = crate::plan::plan(&desired, &observed);
    if !pending.is_empty() {
        let count = pending.steps.len();
        let changes = if count == 1 { "1 change is" } else { &format!("{count} changes are") };
        context.note(&format!("note: {changes} not applied (`babybot plan`); {running}\n"));
    }
}

/// The group that was named, or the main one, or the only one.
fn choose_group(named: Option<&str>, applied: &Applied) -> Result<GroupName, Error> {
    let groups: Vec<(&GroupName, &GroupSpec)> = applied
        .specs
        .iter()
        .filter_map(|(id, spec)| match (id, spec) {
            (ResourceId::Group(name), Spec::Group(spec)) => Some((name, &**spec)),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    let usage = |message: String, hint: String| Error::new(Exit::Usage, message).hinted(hint);
    if groups.is_empty() {
        return Err(Error::new(Exit::Failed, "no group was applied")
            .hinted("`babybot plan` shows what is in the way"));
    }
    let default = match (groups.iter().find(|(_, spec)| spec.main), groups.as_slice()) {
        (Some((main, _)), _) => Some(*main),
        (None, [(only, _)]) => Some(*only),
        (None, _) => None,
    };
    let Some(named) = named else {
        return default.cloned().ok_or_else(|| {
            let hint = format!("name one of: {}", names.join(", "));
            usage("which group? None of them is main".to_owned(), hint)
        });
    };
    if let Some((name, _)) = groups.iter().find(|(name, _)| name.as_str() == named) {
        return Ok((*name).clone());
    }
    let meant = closest(&named.to_lowercase(), names.iter().copied());
    let hint = match (meant, default) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some(default)) => format!(
            "there are: {}; to say it to {default}: babybot chat {default} {named:?}",
            names.join(", ")
        ),
        (None, None) => format!("there are: {}", names.join(", ")),
    };
    Err(usage(format!("there is no group `{named}`"), hint))
}

impl Talk {
    /// Lets a controller of this process end: at once where somebody asked for it.
    async fn end(mut self, outcome: &Outcome) {
        let Some(own) = self.own.take() else { return };
        // What waits for something that is not there is no work to finish.
        let stopped = self.away.is_some()
            || matches!(outcome, Err(error) if error.exit() == Exit::Interrupted);
        let patience = if stopped { Duration::ZERO } else { REST_MAX };
        own.end(patience, recv(&mut self.interrupts), &self.context).await;
    }

    /// Says one thing, or has a conversation.
    async fn talk(&mut self, said: Option<&str>) -> Outcome {
        match said {
            Some(message) => self.say(message).await,
            None => self.converse().await,
        }
    }

    /// Says one thing and gives the reply.
    async fn say(&mut self, message: &str) -> Outcome {
        match self.ask(Some(message)).await? {
            ChatEnd::Answered => Ok(Exit::Ok),
            // The notice was shown, and says why.
            ChatEnd::GivenUp => Ok(Exit::Failed),
            ChatEnd::Cancelled => Err(Error::new(Exit::Interrupted, "stopped")),
            ChatEnd::Nothing => Err(Error::new(Exit::Failed, "the message got no answer")),
            ChatEnd::HandedOver => Err(handed_over()),
            ChatEnd::Failed { why } => Err(Error::new(Exit::Failed, why)),
        }
    }

    /// A conversation, line by line, until its end.
    async fn converse(&mut self) -> Outcome {
        self.ask(None).await?;
        tell(&format!("Talking to {}. Ctrl-D or `exit` ends.\n", self.group));
        let mut lines = read_lines();
        loop {
            tell("> ");
            let line = tokio::select! {
                line = lines.recv() => line,
                _ = self.interrupts.recv() => {
                    tell("\n");
                    return Ok(Exit::Interrupted);
                }
            };
            let Some(line) = line else {
                tell("\n");
                return Ok(Exit::Ok);
            };
            match line.trim() {
                "" => continue,
                "exit" | "quit" | "/exit" | "/quit" => return Ok(Exit::Ok),
                _ => {}
            }
            match self.ask(Some(&line)).await? {
                ChatEnd::Cancelled => tell("stopped\n"),
                ChatEnd::HandedOver => return Err(handed_over()),
                ChatEnd::Failed { why } => return Err(Error::new(Exit::Failed, why)),
                ChatEnd::Answered | ChatEnd::GivenUp | ChatEnd::Nothing => {}
            }
        }
    }

    /// Says something, or nothing, and shows what comes until it is over; through another
    /// controller, where this one makes way.
    async fn ask(&mut self, text: Option<&str>) -> Result<ChatEnd, Error> {
        self.shown.clear();
        self.away = None;
        let mut request = ChatRequest {
            group: self.group.clone(),
            text: text.map(ToOwned::to_owned),
            id: SystemClock.message_id(),
            said: None,
        };
        loop {
            let (end, said) = self.follow(&request).await?;
            let over = matches!(end, ChatEnd::HandedOver) && (said.is_some() || text.is_some());
            if !over || !self.join_successor().await? {
                return Ok(end);
            }
            if said.is_some() {
                request = ChatRequest { said, text: None, ..request };
            }
        }
    }

    /// Follows one request to its end; gives the number of what was said, once it is stored.
    async fn follow(&mut self, request: &ChatRequest) -> Result<(ChatEnd, Option<i64>), Error> {
        let mut said = request.said;
        let failed = |error: ControlError| control_error("talk through the controller", &error);
        let events = match self.client.chat(request).await {
            Err(ControlError::Ended | ControlError::Broken(_)) => {
                return Ok((ChatEnd::HandedOver, said));
            }
            events => events.map_err(failed)?,
        };
        let mut events = std::pin::pin!(events);
        let mut stopping = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(ChatEvent::End { end })) => {
                        return match (stopping, end) {
                            // It came when there was nothing left to stop: as if at the prompt.
                            (true, ChatEnd::Answered | ChatEnd::GivenUp | ChatEnd::Nothing) => {
                                Err(Error::new(Exit::Interrupted, "stopped"))
                            }
                            (_, end) => Ok((end, said)),
                        };
                    }
                    Some(Ok(ChatEvent::Stored { seq })) => said = Some(seq),
                    Some(Ok(ChatEvent::Away { why })) => self.wait_for(&why),
                    Some(Ok(event)) => {
                        self.away = None;
                        self.show(event).await?;
                    }
                    // A controller that ended or was killed: whatever was stored is gone on with.
                    Some(Err(ControlError::Ended | ControlError::Broken(_))) => {
                        return Ok((ChatEnd::HandedOver, said));
                    }
                    Some(Err(error)) => return Err(failed(error)),
                    None => return Ok((ChatEnd::HandedOver, said)),
                },
                () = past(self.given_up_at()) => return Err(waited_enough(self.wait, said)),
                _ = self.interrupts.recv() => {
                    if stopping {
                        // What was stopped does not come back at the next start.
                        if let Some(own) = &self.own {
                            own.spur.stop(&self.group).await;
                        }
                        return Err(Error::new(Exit::Interrupted, "stopped at once"));
                    }
                    tell("\nstopping; Ctrl-C again to stop at once\n");
                    stopping = true;
                    let (client, group) = (self.client.clone(), self.group.clone());
                    tokio::spawn(async move { client.cancel(&group).await });
                }
            }
        }
    }

    async fn show(&mut self, event: ChatEvent) -> Result<(), Error> {
        match event {
            ChatEvent::Tool { name, arguments } => {
                let arguments: String = readable(&arguments).chars().take(200).collect();
                self.context.progress(&format!("  · {name} {arguments}\n"));
            }
            ChatEvent::Retry { why, wait } if wait.is_zero() => {
                tell(&format!("  {}; trying again\n", readable(&why)));
            }
            ChatEvent::Retry { why, wait } => {
                tell(&format!("  {}; trying again in {} s\n", readable(&why), wait.as_secs()));
            }
            ChatEvent::Struck { limit } => tell(&format!("  {} struck\n", one_line(&limit))),
            ChatEvent::Note { text } => {
                // In a conversation, once.
                if self.noted.as_ref() != Some(&text) {
                    tell(&format!("  {}\n", one_line(&text)));
                    self.noted = Some(text);
                }
            }
            ChatEvent::Waits { what } => {
                self.context.progress(&format!("  waiting for {}\n", one_line(&what)));
            }
            ChatEvent::Post { id, reply, text, uncertain, earlier } => {
                let handed = match earlier {
                    _ if self.shown.contains(&id) => Ok(()),
                    Some(asked) => {
                        hand_over_earlier(&text, &asked, uncertain);
                        Ok(())
                    }
                    None => hand_over(reply, &text),
                };
                let outcome = match &handed {
                    Ok(()) => {
                        self.shown.insert(id);
                        PostOutcome::Shown
                    }
                    Err(error) => PostOutcome::NotShown { why: error.to_string() },
                };
                let told = self.client.acknowledge(id, &outcome).await;
                if let Err(error) = handed {
                    return Err(Error::failed("write the reply to stdout", &error)
                        .hinted("it is kept, and the next `babybot chat` gives it"));
                }
                if let Err(error) = told {
                    tracing::debug!(%error, "that a reply was shown is not recorded");
                }
            }
            ChatEvent::Stored { .. }
            | ChatEvent::Away { .. }
            | ChatEvent::Back
            | ChatEvent::End { .. } => {}
        }
        Ok(())
    }

    /// Says what is not there yet.
    fn wait_for(&mut self, why: &str) {
        tell(&format!("  {}; your message is kept and answered when it is\n", one_line(why)));
        self.away.get_or_insert_with(Instant::now);
    }

    /// When one message has waited long enough for what is not there.
    fn given_up_at(&self) -> Option<Instant> {
        Some(self.away? + self.wait?)
    }

    /// Waits for the controller that takes over, and joins it. Says whether there is one.
    async fn join_successor(&mut self) -> Result<bool, Error> {
        // Its own controller makes way: its lock has to go first.
        let asked = self.own.is_some();
        if let Some(own) = self.own.take() {
            own.end(REST_MAX, recv(&mut self.interrupts), &self.context).await;
        }
        let ground = Ground::of_project(self.context.project())?;
        let until = Instant::now() + SUCCESSOR_MAX;
        // Whoever asked it to needs a moment to take over.
        let free = Instant::now() + if asked { COMING } else { Duration::ZERO };
        while Instant::now() < until {
            // While one goes and another comes, what there is may close at once.
            let found = join(&self.context).await;
            match found.unwrap_or_else(|_| (ground.project.clone(), None)) {
                (_, Some(client)) if !client.status().await.is_ok_and(|now| now.draining) => {
                    self.client = client;
                    return Ok(true);
                }
                // Nobody took over: then it is for whoever waits.
                (project, None)
                    if Instant::now() >= free
                        && project.lock_holder().map_err(project_error)?.is_none()
                        && self.become_successor().await? =>
                {
                    return Ok(true);
                }
                _ => {}
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.interrupts.recv() => {
                    return Err(Error::new(Exit::Interrupted, "stopped"));
                }
            }
        }
        Ok(false)
    }
}

impl Talk {
    /// Becomes the controller that nobody else became. Says whether it did.
    async fn become_successor(&mut self) -> Result<bool, Error> {
        let ground = Ground::of_project(self.context.project())?;
        let (lock, store, applied) = match serve::take_up("chat", &ground) {
            Ok(taken) => taken,
            Err(error) if error.exit() == Exit::Locked => return Ok(false),
            Err(error) => return Err(error),
        };
        let (client, own) =
            serve::serve_shortly(ground, lock, store, applied, &self.context).await?;
        (self.client, self.own) = (client, Some(own));
        Ok(true)
    }
}

/// Becomes ready at this moment, or never.
async fn past(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The end of a wait for what is not there. `said` is the message, once it is stored.
fn waited_enough(wait: Option<Duration>, said: Option<i64>) -> Error {
    let seconds = wait.unwrap_or_default().as_secs();
    match said {
        Some(_) => {
            Error::new(Exit::Failed, format!("no answer within {seconds} s; your message is kept"))
                .hinted("the next `babybot chat` or `babybot up` answers it")
        }
        None => Error::new(
            Exit::Failed,
            format!("no answer within {seconds} s; your message was not sent"),
        ),
    }
}

fn handed_over() -> Error {
    Error::new(Exit::Failed, "the controller ended before it answered")
        .hinted("what was said is stored: the next `babybot chat` or `babybot up` answers it")
}

/// Gives the reply to what was just said: the result, and so on stdout.
fn hand_over(reply: bool, text: &str) -> io::Result<()> {
    let text = readable(text);
    if reply {
        return cli::write(&format!("{text}\n"));
    }
    tell(&format!("{text}\n"));
    Ok(())
}

/// Gives a reply to something that was said before.
fn hand_over_earlier(text: &str, asked: &str, uncertain: bool) {
    /// What is shown of the message that is answered, in characters.
    const ASKED_MAX: usize = 60;
    let asked = readable(asked.lines().next().unwrap_or_default());
    let short: String = asked.chars().take(ASKED_MAX).collect();
    let cut = if short.len() < asked.len() { "…" } else { "" };
    let again = if uncertain { " (perhaps shown before)" } else { "" };
    let text = readable(text);
    tell(&format!("an answer from before{again}, to “{short}{cut}”: {text}\n"));
}

/// A model's text with nothing in it that is not seen.
fn readable(text: &str) -> String {
    visible::lines(text).into_owned()
}

/// The lines of stdin, read where waiting for them holds up nothing else.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
