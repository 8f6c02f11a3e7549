//! `babybot chat`: talk to a group from the terminal.
//!
//! It is a controller for as long as it lasts, with the terminal as its only
//! channel: it takes over what an earlier one left unfinished, answers, and
//! ends its agent. The reply is the result and goes to stdout; all else goes to
//! stderr.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use rustix::process::DumpableBehavior;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::approve::{self, ApprovalArgs};
use crate::cli::load::{load, stderr_colors};
use crate::cli::preview;
use crate::cli::preview::{Preview, project_error};
use crate::cli::{self, Context, Outcome, apply, tell};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Exit, chain};
use crate::gateway::Gateway;
use crate::host::{self, Host, HostError, Worked, Worker};
use crate::manifest::diagnostic::closest;
use crate::name::{ChannelName, GroupName};
use crate::observe::{self, Holder, Look as _};
use crate::observed::{Applied, Known};
use crate::project::{InstanceLock, Project};
use crate::resource::{GroupSpec, Lifecycle, ResourceId, Spec};
use crate::session::{Parts, Progress};
use crate::source;
use crate::store::{MESSAGE_TEXT_MAX, MessageSeq, Post, PostKind, PostState, Store};

/// Steps of a turn that wait to be shown.
const PROGRESS_MAX: usize = 64;

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
    /// What is approved, should this be the first apply.
    #[command(flatten)]
    pub approval: ApprovalArgs,
}

/// A conversation with everything it needs.
struct Chat {
    context: Context,
    host: Host,
    worker: Worker,
    group: GroupName,
    interrupts: Signal,
    /// Held until the conversation ends.
    _lock: InstanceLock,
}

/// Talks.
///
/// # Errors
/// Whatever kept the reply from being given.
pub async fn run(args: &ChatArgs, context: &Context) -> Outcome {
    let said = what_was_said(args)?;
    let project = Project::open(context.project()).map_err(project_error)?;
    project.known_instance().map_err(project_error)?;
    let gateway = Gateway::new(project.root().to_path_buf())
        .map_err(|error| Error::failed("reach models", &error))?;
    let look = observe::Machine::new(
        project.clone(),
        gateway.clone(),
        preview::runtimes(),
        Holder::Another,
    );
    let (lock, store, applied) = match look.applied() {
        Known::Is(_) => {
            let lock = project.lock("chat", SystemClock.now()).map_err(project_error)?;
            let store = apply::open_store(&project, &lock)?;
            // Only now nobody else applies anything.
            let Known::Is(applied) = look.applied() else {
                return Err(Error::new(Exit::Failed, "what was applied cannot be read any more"));
            };
            mention_pending(&look, &applied, context).await;
            (lock, store, applied)
        }
        Known::Absent => match apply_first(args, said.as_ref(), context).await? {
            Ok(ready) => ready,
            Err(exit) => return Ok(exit),
        },
        Known::Unknown(why) => {
            return Err(Error::new(Exit::Failed, format!("cannot read what was applied: {why}")));
        }
    };
    let group = choose_group(args.group.as_deref(), &applied)?;
    refuse_empty(said.as_ref())?;
    let mut chat = Chat::begin(project, gateway, store, applied, group, lock, context).await?;
    let outcome = chat.talk(said).await;
    chat.end(&outcome).await;
    outcome
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
) -> Result<Result<(InstanceLock, Store, Applied), Exit>, Error> {
    let source = match load(context) {
        Ok(source) => source,
        Err(exit) => return Ok(Err(exit)),
    };
    // A mistyped group is no reason to apply anything.
    let preview = Preview::make(&source, context).await?;
    let wanted = Applied {
        number: 0,
        specs: preview
            .desired
            .resources
            .iter()
            .map(|(id, w)| (id.clone(), w.spec.clone()))
            .collect(),
    };
    choose_group(args.group.as_deref(), &wanted)?;
    refuse_empty(said)?;
    context.progress(&preview.text_for_apply(context.stderr_color()));
    preview.refuse_strangers()?;
    let risks = approve::approve(&preview, &args.approval, context)?;
    let lock = preview.project.lock("chat", SystemClock.now()).map_err(project_error)?;
    let store = apply::open_store(&preview.project, &lock)?;
    match apply::carry_out(&source, &preview, risks, &lock, &store, context).await? {
        Exit::Ok => {}
        exit => return Ok(Err(exit)),
    }
    let look = observe::Machine::new(
        preview.project.clone(),
        preview.gateway.clone(),
        preview::runtimes(),
        Holder::Ourselves,
    );
    match look.applied() {
        Known::Is(applied) => Ok(Ok((lock, store, applied))),
        _ => Err(Error::new(Exit::Failed, "what was just applied is not there")),
    }
}

/// One line where the manifest and what was applied differ.
async fn mention_pending(look: &observe::Machine, applied: &Applied, context: &Context) {
    let running = format!("this runs generation {}", applied.number);
    match source::read(&context.manifest) {
        Ok(source) => {
            let desired =
                crate::desired::Desired::new(&source.manifest, &crate::desired::Setting::default());
            let observed = observe::observe(&desired, look).await;
            let pending = crate::plan::plan(&desired, &observed);
            if !pending.is_empty() {
                let count = pending.steps.len();
                let changes =
                    if count == 1 { "1 change is" } else { &format!("{count} changes are") };
                context.note(&format!("note: {changes} not applied (`babybot plan`); {running}\n"));
            }
        }
        Err(report) => {
            context.note(&report.human(stderr_colors(context)));
            context.note(&format!("note: {} is not valid; {running}\n", report.name));
        }
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

impl Chat {
    /// Becomes the controller of this instance.
    async fn begin(
        project: Project,
        gateway: Gateway,
        store: Store,
        applied: Applied,
        group: GroupName,
        lock: InstanceLock,
        context: &Context,
    ) -> Result<Self, Error> {
        let setup = |error: io::Error| Error::failed("become the controller", &error);
        // Both ends of a link hide from the tools; and what an agent leaves behind comes here.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| setup(error.into()))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| setup(error.into()))?;
        let instance = project.instance(&SystemClock).map_err(project_error)?;
        let zone = zone_of(&applied, &group);
        let parts = Parts {
            project,
            store,
            runtimes: preview::runtimes(),
            gateway,
            clock: Arc::new(SystemClock),
        };
        let lifecycle = lifecycle_of(&applied, &group);
        let host =
            Host::take_over(parts, instance, applied.specs, zone).await.map_err(host_error)?;
        let mut worker = host.worker(&group).map_err(host_error)?;
        if lifecycle == Some(Lifecycle::Always)
            && let Err(error) = worker.wake().await
        {
            // The first message says it to whoever wrote it.
            tracing::info!(%error, "the agent does not start");
        }
        // Until here, Ctrl-C ends the process, and that is all there is to end.
        let interrupts = signal(SignalKind::interrupt()).map_err(setup)?;
        Ok(Self { context: context.clone(), host, worker, group, interrupts, _lock: lock })
    }

    async fn talk(&mut self, said: Option<String>) -> Outcome {
        match said {
            Some(message) => self.say(&message).await,
            None => self.converse().await,
        }
    }

    /// Lets the agent rest; at once where somebody asked for it.
    async fn end(&mut self, outcome: &Outcome) {
        let stopped = matches!(outcome, Err(error) if error.exit() == Exit::Interrupted);
        if !stopped {
            tokio::select! {
                () = self.worker.rest() => return,
                _ = self.interrupts.recv() => {}
            }
        }
        self.worker.end().await;
    }

    /// Says one thing and gives the reply.
    async fn say(&mut self, message: &str) -> Outcome {
        // What was left unfinished is answered before, so that each has a reply of its own.
        let mut worked = self.answer_all(None).await?;
        if worked != Some(Worked::Cancelled) {
            let said = self.host.accept(&self.group, "owner", message).await.map_err(host_error)?;
            worked = self.answer_all(Some(said)).await?;
        }
        match worked {
            Some(Worked::Answered) => Ok(Exit::Ok),
            Some(Worked::Cancelled) => {
                // What somebody stopped is not done after all by the next who comes.
                self.host.cancel_all(&self.group).await.map_err(host_error)?;
                Err(Error::new(Exit::Interrupted, "stopped"))
            }
            // The notice was delivered, and says why.
            Some(Worked::GivenUp(_)) => Ok(Exit::Failed),
            None => Err(Error::new(Exit::Failed, "the message got no answer")),
        }
    }

    /// A conversation, line by line, until its end.
    async fn converse(&mut self) -> Outcome {
        self.answer_all(None).await?;
        tell(&format!("Talking to {}. Ctrl-D or `exit` ends.\n", self.group));
        let mut lines = read_lines();
        let idle = self.worker.idle_after();
        loop {
            tell("> ");
            let line = tokio::select! {
                line = lines.recv() => line,
                _ = self.interrupts.recv() => {
                    tell("\n");
                    return Ok(Exit::Interrupted);
                }
                () = tokio::time::sleep(idle) => {
                    // An agent with nothing to do rests; the conversation goes on.
                    self.worker.rest().await;
                    continue;
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
            let said = self.host.accept(&self.group, "owner", &line).await.map_err(host_error)?;
            if self.answer_all(Some(said)).await? == Some(Worked::Cancelled) {
                tell("stopped\n");
            }
        }
    }

    /// Works until nothing waits, and gives every reply; the one to `said` is the result. Returns
    /// how the last turn came out.
    async fn answer_all(&mut self, said: Option<MessageSeq>) -> Result<Option<Worked>, Error> {
        let mut last = None;
        loop {
            self.deliver(said).await?;
            match self.work().await? {
                None => return Ok(last),
                Some(Worked::Cancelled) => return Ok(Some(Worked::Cancelled)),
                worked => last = worked,
            }
        }
    }

    /// Runs the next turn, showing how it goes and listening for Ctrl-C.
    async fn work(&mut self) -> Result<Option<Worked>, Error> {
        let (audience, mut progress) = mpsc::channel(PROGRESS_MAX);
        let cancel = CancellationToken::new();
        let mut work = std::pin::pin!(self.worker.work(&cancel, &audience));
        loop {
            tokio::select! {
                worked = &mut work => match worked.map_err(host_error)? {
                    // It came when there was nothing left to stop: as if at the prompt.
                    None if cancel.is_cancelled() => {
                        return Err(Error::new(Exit::Interrupted, "stopped"));
                    }
                    worked => return Ok(worked),
                },
                Some(step) = progress.recv() => show(&step, &self.context),
                _ = self.interrupts.recv() => {
                    if cancel.is_cancelled() {
                        // What was stopped does not come back at the next start.
                        self.host.cancel_all(&self.group).await.map_err(host_error)?;
                        return Err(Error::new(Exit::Interrupted, "stopped at once"));
                    }
                    tell("\nstopping; Ctrl-C again to stop at once\n");
                    cancel.cancel();
                }
            }
        }
    }

    /// Gives what waits for this terminal: stored before, marked after.
    async fn deliver(&self, said: Option<MessageSeq>) -> Result<(), Error> {
        let store = &self.host.parts().store;
        let failed = |error| apply::store_error("deliver the reply", &error);
        let chat = host::terminal_chat(&self.group);
        for post in store.due_in(&ChannelName::terminal(), &chat).await.map_err(failed)? {
            let uncertain = post.state == PostState::Uncertain;
            let post = store.sending(post.id).await.map_err(failed)?;
            let asked = match &post.turn {
                Some(turn) => store.turn_messages(turn).await.map_err(failed)?,
                None => Vec::new(),
            };
            let ours = asked.iter().any(|message| Some(message.seq) == said);
            let handed = match asked.first().filter(|_| !ours) {
                Some(first) => hand_over_earlier(&post, &first.incoming.text, uncertain),
                None => hand_over(&post),
            };
            if let Err(error) = handed {
                store.undelivered(post.id, &error.to_string()).await.map_err(failed)?;
                return Err(Error::failed("write the reply to stdout", &error)
                    .hinted("it is kept, and the next `babybot chat` gives it"));
            }
            store.delivered(post.id, SystemClock.now()).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Gives the reply to what was just said: the result, and so on stdout.
fn hand_over(post: &Post) -> io::Result<()> {
    let text = readable(&post.text);
    match post.kind {
        PostKind::Notice => tell(&format!("{text}\n")),
        PostKind::Reply | PostKind::Message => cli::write(&format!("{text}\n"))?,
    }
    Ok(())
}

/// Gives a reply to something that was said before.
fn hand_over_earlier(post: &Post, asked: &str, uncertain: bool) -> io::Result<()> {
    /// What is shown of the message that is answered, in characters.
    const ASKED_MAX: usize = 60;
    let asked = readable(asked.lines().next().unwrap_or_default());
    let short: String = asked.chars().take(ASKED_MAX).collect();
    let cut = if short.len() < asked.len() { "…" } else { "" };
    let again = if uncertain { " (perhaps shown before)" } else { "" };
    let text = readable(&post.text);
    tell(&format!("an answer from before{again}, to “{short}{cut}”: {text}\n"));
    Ok(())
}

/// A model's text without what would command the terminal.
fn readable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn show(progress: &Progress, context: &Context) {
    match progress {
        Progress::Tool { name, arguments } => {
            let arguments: String = readable(arguments).chars().take(200).collect();
            context.progress(&format!("  · {name} {arguments}\n"));
        }
        Progress::Retry { why, wait } => {
            let seconds = Duration::as_secs(wait);
            tell(&format!("  {}; trying again in {seconds} s\n", readable(why)));
        }
        Progress::Struck(limit) => tell(&format!("  {limit} struck\n")),
        Progress::ToolEnded | Progress::Text(_) => {}
    }
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

fn group_spec<'a>(applied: &'a Applied, group: &GroupName) -> Option<&'a GroupSpec> {
    match applied.specs.get(&ResourceId::Group(group.clone())) {
        Some(Spec::Group(spec)) => Some(spec),
        _ => None,
    }
}

fn lifecycle_of(applied: &Applied, group: &GroupName) -> Option<Lifecycle> {
    group_spec(applied, group).map(|spec| spec.lifecycle)
}

/// The time zone of a group's prompts.
fn zone_of(applied: &Applied, group: &GroupName) -> TimeZone {
    let named = group_spec(applied, group).and_then(|spec| spec.timezone.as_deref());
    named.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(TimeZone::system)
}

fn host_error(error: HostError) -> Error {
    let failed = Error::new(Exit::Failed, chain(&error));
    match &error {
        HostError::Store(store) => match store.hint() {
            Some(hint) => failed.hinted(hint),
            None => failed,
        },
        _ => failed,
    }
}
