//! The controller's work: from a stored message to a stored reply.
//!
//! It decides when a turn is run, tried again or given up; a [`Session`] runs
//! it. Everything it needs to know to go on after a crash is in the store, and
//! time, identifiers and every door come in as arguments.

mod wait;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::wait::{Missing, Waited, Waits, What};
use crate::name::{
    ChannelName, ChatId, GroupName, InstanceId, MessageId, ModelName, SandboxId, SessionName,
};
use crate::process;
use crate::project::Project;
use crate::project::view::ViewSource;
use crate::protocol::{Disk, Failure, JournalRound, PathMapping, TurnOrder, Welcome};
use crate::resource::{
    self, ContainerSpec, GroupSpec, Lifecycle, ModelSpec, ResourceId, RuntimeKind, Spec,
};
use crate::route::prompt::{Said, prompt, room};
use crate::runtime::{Access, Exit, HOME, Mount, RuntimeError, SandboxSpec, WORKDIR};
use crate::session::{
    AgentHandle, Parts, Progress, ProgressSender, Session, SessionError, SessionSpec, SteerHandle,
    TurnEnd,
};
use crate::store::{Incoming, Message, MessageSeq, StoreError, TakenUp, Turn, TurnState};
use crate::zone;

/// Files that a controller has open besides those of agents, with some to spare.
const FILES_OF_CONTROLLER: u64 = 40;
/// Files that a controller has open for an agent.
const FILES_OF_AGENT: u64 = 4;
/// How often a turn is tried again.
const RETRIES_MAX: u32 = 5;
/// How often an agent that was lost in the middle of a turn is replaced without a wait.
const LOST_AT_ONCE: u32 = 1;
/// The wait before the first retry; it doubles with each.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest reason that a chat is told, in characters: an agent's words have no bound.
const REASON_MAX: usize = 2_000;

/// Why the controller cannot work.
#[derive(Debug, Error)]
pub enum HostError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What an earlier controller left behind cannot be ended.
    #[error("cannot stop leftovers of an earlier run: {0}")]
    Reap(#[source] RuntimeError),
    /// The applied generation does not have this.
    #[error("the applied generation has no {0}")]
    Unknown(ResourceId),
}

/// A controller.
#[derive(Clone, Debug)]
pub struct Host {
    parts: Parts,
    instance: InstanceId,
    generation: u64,
    specs: Arc<BTreeMap<ResourceId, Spec>>,
    zone: TimeZone,
    retry_first: Duration,
    unreaped: Vec<RuntimeKind>,
    /// Told when what a turn waits for may be there.
    again: Arc<Notify>,
}

/// The work of one group.
#[derive(Debug)]
pub struct Worker {
    host: Host,
    group: GroupName,
    spec: GroupSpec,
    model: (ModelName, ModelSpec),
    session: Option<Session>,
    /// What the main group's copy of the project was made from.
    shown: Option<ViewSource>,
    /// Told whenever a turn begins on a session that can be steered.
    steer_handle: tokio::sync::watch::Sender<Option<SteerHandle>>,
    /// What to be from the next attempt on.
    next: NextHost,
    /// Told whenever an agent starts, so that it can be ended whatever this is at, and is taken for
    /// nobody else's from its first moment.
    agent: tokio::sync::watch::Sender<Agent>,
}

/// What a worker is to be next: put there whatever it is at, and taken up before anything else is
/// begun.
#[derive(Clone, Debug, Default)]
pub struct NextHost(Arc<(Mutex<Option<Host>>, Notify)>);

impl NextHost {
    fn slot(&self) -> MutexGuard<'_, Option<Host>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the worker go on with what another generation says.
    pub fn put(&self, host: Host) {
        *self.slot() = Some(host);
        self.0.1.notify_one();
    }

    /// Becomes ready when something was put there.
    async fn is_there(&self) {
        self.0.1.notified().await;
    }
}

/// What a worker has of an agent.
#[derive(Clone, Debug, Default)]
pub enum Agent {
    /// None.
    #[default]
    None,
    /// One that does not answer yet.
    Starting,
    /// One that answers.
    Held(Arc<AgentHandle>),
}

impl Agent {
    /// Reaches it, where it answers.
    #[must_use]
    pub fn agent_handle(&self) -> Option<&AgentHandle> {
        match self {
            Self::Held(agent_handle) => Some(agent_handle),
            Self::None | Self::Starting => None,
        }
    }

    /// Its sandbox, where it answers.
    #[must_use]
    pub fn sandbox(&self) -> Option<SandboxId> {
        self.agent_handle().map(|agent_handle| agent_handle.sandbox().clone())
    }
}

/// How a turn of a group came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worked {
    /// Its reply is in the outbox.
    Answered,
    /// It was cancelled.
    Cancelled,
    /// It was given up; the outbox has a notice.
    GivenUp(String),
}

/// How one attempt at a turn came out.
enum Attempt {
    /// It ended.
    Ended(TurnEnd),
    /// Something that it needs is not there.
    Missing(Missing),
}

impl Host {
    /// Takes over an instance: ends what an earlier controller left running
    /// and puts back what it left unfinished. The instance's lock must be held.
    ///
    /// # Errors
    /// When something left behind cannot be ended, or the store fails.
    pub async fn take_over(
        parts: Parts,
        instance: InstanceId,
        specs: BTreeMap<ResourceId, Spec>,
        zone: TimeZone,
    ) -> Result<Self, HostError> {
        let left = parts.store.open_sandboxes().await?;
        let mut unreaped = Vec::new();
        for runtime in parts.runtimes.all() {
            match runtime.reap(instance.clone()).await {
                Ok(()) => {}
                // What cannot be reached now is found by the looks that follow.
                Err(error @ RuntimeError::Unavailable { .. }) => {
                    tracing::warn!(%error, "leftovers of an earlier run stay for now");
                    unreaped.push(runtime.reference().kind);
                }
                Err(error) => return Err(HostError::Reap(error)),
            }
        }
        let now = parts.clock.now();
        for sandbox in left {
            parts.store.sandbox_ended(&sandbox.incarnation, now).await?;
        }
        for turn in parts.store.unfinished(None).await? {
            if turn.state == TurnState::Running {
                parts.store.requeue(&turn.id, now).await?;
            }
        }
        parts.store.recover_outbox().await?;
        parts.store.forget_journals().await?;
        Ok(Self {
            parts,
            instance,
            generation: 0,
            specs: Arc::new(specs),
            zone,
            retry_first: RETRY_FIRST,
            again: Arc::default(),
            unreaped,
        })
    }

    /// The same controller with what another generation recorded.
    #[must_use]
    pub fn with_generation(&self, generation: u64, specs: Arc<BTreeMap<ResourceId, Spec>>) -> Self {
        Self { generation, specs, ..self.clone() }
    }

    /// The runtimes that did not answer when an earlier controller's leftovers were to be ended.
    #[must_use]
    pub fn unreaped(&self) -> &[RuntimeKind] {
        &self.unreaped
    }

    /// What the generation recorded.
    #[must_use]
    pub fn specs(&self) -> &Arc<BTreeMap<ResourceId, Spec>> {
        &self.specs
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The installation.
    #[must_use]
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The same controller with another wait before the first retry.
    #[must_use]
    pub fn retrying_after(self, retry_first: Duration) -> Self {
        Self { retry_first, ..self }
    }

    /// The doors this controller works with.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The environment of a group's tools.
    fn env(&self, group: &GroupName) -> BTreeMap<String, String> {
        match self.specs.get(&ResourceId::Settings(group.clone())) {
            Some(Spec::Settings { env }) => env.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Stores a message that was typed at the terminal.
    ///
    /// # Errors
    /// When it is too large, or the store fails.
    pub async fn accept(
        &self,
        group: &GroupName,
        sender: &str,
        text: &str,
    ) -> Result<MessageSeq, HostError> {
        let id = self.parts.clock.message_id();
        self.accept_as(group, sender, text, id).await
    }

    /// Stores a message that was typed at the terminal, once, however often it is handed over under
    /// this identifier.
    ///
    /// # Errors
    /// As [`Host::accept`].
    pub async fn accept_as(
        &self,
        group: &GroupName,
        sender: &str,
        text: &str,
        id: MessageId,
    ) -> Result<MessageSeq, HostError> {
        let now = self.parts.clock.now();
        let accepted = self
            .parts
            .store
            .accept(Incoming {
                channel: ChannelName::terminal(),
                chat: terminal_chat(group),
                message_id: id,
                group: group.clone(),
                sender: sender.to_owned(),
                text: text.to_owned(),
                sent_at: now,
                received_at: now,
                // What is typed at `babybot chat` is meant for the agent.
                wakes: true,
            })
            .await?;
        Ok(accepted.seq)
    }

    /// Cancels whatever of a group is not answered: the turn that is not over, and what waits for
    /// one. An agent may still be at work: what it reports from now on is refused.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn cancel_all(&self, group: &GroupName) -> Result<(), HostError> {
        let (store, clock) = (&self.parts.store, &self.parts.clock);
        while let Some(next) = store.take_up(group, &clock.turn_id(), clock.now()).await? {
            store.cancel_turn(&next.turn.id, clock.now()).await?;
        }
        Ok(())
    }

    /// Has turns that wait for what they run in try again at once.
    pub fn try_again(&self) {
        self.again.notify_waiters();
    }

    /// The work of one group.
    ///
    /// # Errors
    /// When the applied generation does not have the group or its model.
    pub fn worker(&self, group: &GroupName) -> Result<Worker, HostError> {
        let (spec, model) = self.group(group)?;
        Ok(Worker {
            host: self.clone(),
            group: group.clone(),
            spec,
            model,
            session: None,
            shown: None,
            steer_handle: tokio::sync::watch::Sender::new(None),
            next: NextHost::default(),
            agent: tokio::sync::watch::Sender::new(Agent::None),
        })
    }

    /// A group and the model that answers it.
    fn group(&self, group: &GroupName) -> Result<(GroupSpec, (ModelName, ModelSpec)), HostError> {
        let id = ResourceId::Group(group.clone());
        let Some(Spec::Group(spec)) = self.specs.get(&id) else {
            return Err(HostError::Unknown(id));
        };
        let id = ResourceId::Model(spec.model.clone());
        let Some(Spec::Model(model)) = self.specs.get(&id) else {
            return Err(HostError::Unknown(id));
        };
        Ok(((**spec).clone(), (spec.model.clone(), model.clone())))
    }

    /// The messages as the agent reads them.
    #[must_use]
    pub fn prompt(&self, messages: &[Message]) -> String {
        self.prompt_in(messages, &self.zone, usize::MAX)
    }

    fn prompt_in(&self, messages: &[Message], zone: &TimeZone, room: usize) -> String {
        let said: Vec<Said<'_>> = messages
            .iter()
            .map(|message| Said {
                sender: &message.incoming.sender,
                at: message.incoming.sent_at,
                text: &message.incoming.text,
            })
            .collect();
        prompt(&said, zone, room)
    }
}

/// The chat of a group at the terminal.
#[must_use]
pub fn terminal_chat(group: &GroupName) -> ChatId {
    ChatId::new(group.as_str()).expect("a group's name is a chat's name")
}

/// Makes the copy of a project anew, unless the project is as it was before.
fn refreshed_view(project: &Project, before: Option<ViewSource>) -> std::io::Result<ViewSource> {
    let found = project.view_source();
    if before.as_ref() != found.as_ref().ok() {
        // A sandbox takes no folder that is not there: rather an empty one.
        project.refresh_view(found.as_ref().unwrap_or(&ViewSource::default()))?;
    }
    found
}

impl Host {
    /// Whether not all agents may keep a link at once: then none keeps it longer than it works.
    fn is_short_of_files(&self) -> bool {
        let groups = self.specs.keys().filter(|id| matches!(id, ResourceId::Group(_))).count();
        process::open_files_max() < FILES_OF_CONTROLLER + FILES_OF_AGENT * groups as u64
    }
}

impl Worker {
    /// Steers the turn under way, while there is one.
    #[must_use]
    pub fn steer_handle(&self) -> tokio::sync::watch::Receiver<Option<SteerHandle>> {
        self.steer_handle.subscribe()
    }

    /// Reaches the agent, while there is one, from another task.
    #[must_use]
    pub fn agent(&self) -> tokio::sync::watch::Receiver<Agent> {
        self.agent.subscribe()
    }

    /// A way to have it go on with another generation, whatever it is at.
    #[must_use]
    pub fn next(&self) -> NextHost {
        self.next.clone()
    }

    /// Goes on with the generation that was put there for it, if one was.
    pub fn take_up_next(&mut self) {
        let next = self.next.slot().take();
        if let Some(host) = next {
            self.adopt_generation(host);
        }
    }

    /// Goes on with another generation.
    pub fn adopt_generation(&mut self, host: Host) {
        if let Err(error) = self.configure(host) {
            tracing::warn!(group = %self.group, %error, "it stays as it was");
        }
    }

    /// What the generation says of the group.
    #[must_use]
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// Goes on with what another generation says. An agent that runs is told; what it was made of
    /// stays until somebody replaces it.
    ///
    /// # Errors
    /// When that generation does not have the group or its model; then nothing has changed.
    fn configure(&mut self, host: Host) -> Result<(), HostError> {
        let (spec, model) = host.group(&self.group)?;
        let unchanged = (&spec, &model) == (&self.spec, &self.model)
            && host.env(&self.group) == self.host.env(&self.group);
        (self.host, self.spec, self.model) = (host, spec, model);
        if unchanged {
            return Ok(());
        }
        let (welcome, model, limits) = (self.welcome(), self.model.clone(), self.spec.limits);
        if let Some(session) = &mut self.session {
            session.reconfigure(&self.host.parts.gateway, welcome, model, limits);
            self.agent.send_replace(Agent::Held(Arc::new(session.agent_handle())));
        }
        Ok(())
    }

    /// Whether the agent runs, and in what the generation says.
    #[must_use]
    pub fn is_as_applied(&self) -> bool {
        let made_of =
            self.session.as_ref().map(|session| session.agent_handle().container().clone());
        made_of == Some(ContainerSpec::of(&self.spec, &self.host.specs))
    }

    /// Becomes ready when the agent ends; never, where none runs.
    pub async fn ended(&mut self) -> Exit {
        match &mut self.session {
            Some(session) => session.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Gives up an agent that has ended.
    pub fn clear_ended(&mut self) {
        self.session = None;
        self.agent.send_replace(Agent::None);
    }

    /// Starts the agent if none runs.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn wake(&mut self) -> Result<(), SessionError> {
        // One that was given folders that are not those any more would go on in the old ones.
        let ready = self.session.as_ref().is_some_and(|session| {
            session.is_ready() && session.agent_handle().displaced().is_empty()
        });
        if self.spec.main {
            self.show_project(ready).await;
        }
        if ready {
            return Ok(());
        }
        if let Some(mut useless) = self.session.take() {
            // Never two agents for one group.
            useless.stop().await;
        }
        self.agent.send_replace(Agent::Starting);
        let started = Session::start(&self.host.parts, self.session_spec()).await;
        let held = started
            .as_ref()
            .map_or(Agent::None, |session| Agent::Held(Arc::new(session.agent_handle())));
        self.agent.send_replace(held);
        self.session = Some(started?);
        Ok(())
    }

    /// Makes the main group's copy of the project what the project is; for an agent that runs, only
    /// if that was edited. An agent can do without.
    async fn show_project(&mut self, runs: bool) {
        let project = self.host.parts.project.clone();
        let before = self.shown.take().filter(|_| runs);
        let work = tokio::task::spawn_blocking(move || refreshed_view(&project, before));
        match work.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(shown) => self.shown = Some(shown),
            Err(error) => {
                let group = &self.group;
                tracing::warn!(%group, %error, "the agent's copy of the project is not up to date");
            }
        }
    }

    /// Runs the next turn of the group to its end; `None` if there is nothing to do.
    ///
    /// # Errors
    /// When the store fails; the turn stays where it is and is gone on with later.
    pub async fn work(
        &mut self,
        cancel: &CancellationToken,
        progress: &ProgressSender,
    ) -> Result<Option<Worked>, HostError> {
        let (mut retries, mut lost, mut waits) = (0, 0, Waits::default());
        // What whoever listens was told last that the turn waits for.
        let mut told: Option<String> = None;
        loop {
            self.take_up_next();
            let (store, clock) = (&self.host.parts.store, &self.host.parts.clock);
            let next = store.take_up(&self.group, &clock.turn_id(), clock.now()).await?;
            let Some(TakenUp { turn, messages, journal }) = next else { return Ok(None) };
            let room = room(self.model.1.context());
            let prompt = self.host.prompt_in(&messages, &self.zone(), room);
            let attempt = self.attempt(&turn, prompt, journal, cancel, progress).await?;
            self.steer_handle.send_replace(None);
            let (store, now) = (&self.host.parts.store, self.host.parts.clock.now());
            let end = match attempt {
                Attempt::Ended(end) => end,
                Attempt::Missing(missing) => {
                    store.requeue(&turn.id, now).await?;
                    let tell = || {
                        let news = told.as_ref() != Some(&missing.why);
                        if news {
                            told = Some(missing.why.clone());
                            let _ = progress.try_send(Progress::Waits(missing.why.clone()));
                        }
                    };
                    match self.wait(&missing, &mut waits, cancel, tell).await {
                        Some(Waited::Over) => {
                            if missing.what != What::Loading {
                                told = None;
                                let _ = progress.try_send(Progress::Back);
                            }
                            continue;
                        }
                        Some(Waited::Cancelled) => TurnEnd::Cancelled,
                        None => TurnEnd::Failed { reason: Failure::Busy, message: missing.why },
                    }
                }
            };
            let (store, now) = (&self.host.parts.store, self.host.parts.clock.now());
            let (why, wait) = match end {
                TurnEnd::Done => return Ok(Some(Worked::Answered)),
                TurnEnd::Cancelled => {
                    store.cancel_turn(&turn.id, now).await?;
                    return Ok(Some(Worked::Cancelled));
                }
                // It goes on in another one, with all that it had done.
                TurnEnd::Lost(message) if lost < LOST_AT_ONCE => {
                    lost += 1;
                    (message, Duration::ZERO)
                }
                TurnEnd::Failed { reason: Failure::Busy, message } | TurnEnd::Lost(message)
                    if retries < RETRIES_MAX =>
                {
                    let wait = self.host.retry_first * 2_u32.pow(retries);
                    retries += 1;
                    (message, wait)
                }
                end => return self.give_up(&turn, &end, progress).await.map(Some),
            };
            store.requeue(&turn.id, now).await?;
            let _ = progress.try_send(Progress::Retry { why, wait });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = cancel.cancelled() => {
                    store.cancel_turn(&turn.id, self.host.parts.clock.now()).await?;
                    return Ok(Some(Worked::Cancelled));
                }
            }
        }
    }

    /// How long the agent may have nothing to do before it rests: for ever, where it always runs.
    #[must_use]
    pub fn idle_after(&self) -> Duration {
        match self.spec.lifecycle {
            Lifecycle::OnDemand if self.host.is_short_of_files() => Duration::ZERO,
            Lifecycle::OnDemand => self.spec.limits.idle.as_duration(),
            Lifecycle::Always => Duration::MAX,
        }
    }

    /// Lets the agent finish and end.
    pub async fn rest(&mut self) {
        if let Some(session) = self.session.take() {
            session.drain().await;
        }
        self.agent.send_replace(Agent::None);
    }

    /// Ends the agent at once.
    pub async fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.end().await;
        }
        self.agent.send_replace(Agent::None);
    }

    async fn attempt(
        &mut self,
        turn: &Turn,
        prompt: String,
        journal: Vec<JournalRound>,
        cancel: &CancellationToken,
        progress: &ProgressSender,
    ) -> Result<Attempt, HostError> {
        if let Some(why) = self.closed_folder() {
            return Ok(Attempt::Missing(Missing { what: What::Folder, why }));
        }
        let lost = |why: String| Ok(Attempt::Ended(TurnEnd::Lost(why)));
        if !self.session.as_ref().is_some_and(Session::is_ready) {
            let _ = progress.try_send(Progress::Waking);
        }
        match self.wake().await {
            Ok(()) => {}
            Err(SessionError::Store(error)) => return Err(error.into()),
            Err(SessionError::Runtime(error)) => {
                if let Some(missing) = Host::missing_for_agent(&error) {
                    return Ok(Attempt::Missing(missing));
                }
                let message = error.to_string();
                return match error {
                    RuntimeError::Refused(_) | RuntimeError::Unsupported { .. } => {
                        let reason = Failure::Agent;
                        Ok(Attempt::Ended(TurnEnd::Failed { reason, message }))
                    }
                    _ => lost(message),
                };
            }
            Err(error @ SessionError::Silent(_)) => return lost(error.to_string()),
        }
        let Some(session) = self.session.as_mut() else {
            return lost("the agent did not start".to_owned());
        };
        self.steer_handle.send_replace(Some(session.steer_handle()));
        let remembers = SessionName::of_chat(&turn.channel, &turn.chat);
        let order = TurnOrder { turn: turn.id.clone(), session: remembers, prompt, journal };
        let end = session.run(order, cancel, progress).await;
        Ok(match end {
            TurnEnd::Failed { reason: Failure::Absent, message } => {
                Attempt::Missing(Missing { what: What::Model, why: message })
            }
            TurnEnd::Failed { reason: Failure::Loading, .. } => {
                let why = format!("the model {} is not loaded yet", self.model.1.wire_name());
                Attempt::Missing(Missing { what: What::Loading, why })
            }
            end => Attempt::Ended(end),
        })
    }

    /// Why a folder of the group cannot be entered.
    fn closed_folder(&self) -> Option<String> {
        let project = &self.host.parts.project;
        let folders = project.folders(&self.group);
        folders.iter().find_map(|path| {
            let error = project.folder(path).err()?;
            let path = path.strip_prefix(project.root()).unwrap_or(path).display();
            Some(match error.kind() {
                ErrorKind::NotFound => format!("{path} is not there; `babybot apply` makes it"),
                ErrorKind::NotADirectory => {
                    format!("{path} is not a folder; `babybot apply` repairs it")
                }
                ErrorKind::PermissionDenied => {
                    format!("{path} may not be entered; `babybot apply` repairs it")
                }
                _ => format!("{path} cannot be opened: {error}"),
            })
        })
    }

    async fn give_up(
        &self,
        turn: &Turn,
        end: &TurnEnd,
        progress: &ProgressSender,
    ) -> Result<Worked, HostError> {
        let limits = &self.spec.limits;
        let struck = match end {
            TurnEnd::TimedOut => Some("limits.turn"),
            TurnEnd::DiskFull => Some("limits.disk"),
            TurnEnd::OutOfMemory => Some("limits.memory"),
            _ => None,
        };
        if let Some(limit) = struck {
            let _ = progress.try_send(Progress::Struck(limit));
        }
        let why = match end {
            TurnEnd::TimedOut => format!("it took longer than {} (limits.turn)", limits.turn),
            TurnEnd::DiskFull => {
                format!("the folders of {} use more than {} (limits.disk)", self.group, limits.disk)
            }
            TurnEnd::OutOfMemory => {
                format!("it needed more memory than {} (limits.memory)", limits.memory)
            }
            TurnEnd::Failed { message, .. } | TurnEnd::Lost(message) => message.clone(),
            TurnEnd::Done | TurnEnd::Cancelled => String::new(),
        };
        let why: String = why.chars().take(REASON_MAX).collect();
        let stop = if why.ends_with(['.', '?', '!']) { "" } else { "." };
        let notice = format!("I could not answer: {why}{stop}");
        let (store, now) = (&self.host.parts.store, self.host.parts.clock.now());
        store.fail_turn_telling(&turn.id, &why, &notice, now).await?;
        Ok(Worked::GivenUp(why))
    }

    /// The time zone of the group's prompts.
    fn zone(&self) -> TimeZone {
        let instance = resource::instance(&self.host.specs);
        let named = instance.and_then(|instance| instance.timezone.as_deref());
        named.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(|| self.host.zone.clone())
    }

    /// What the group's agent is started as.
    fn session_spec(&self) -> SessionSpec {
        let Host { parts, instance, specs, generation, .. } = &self.host;
        let project = &parts.project;
        let container = ContainerSpec::of(&self.spec, specs);
        let user = match container.runtime {
            RuntimeKind::None => project.owner(),
            RuntimeKind::Docker => container.user.map(|user| (user.uid, user.gid)),
        };
        SessionSpec {
            sandbox: SandboxSpec {
                instance: instance.clone(),
                group: self.group.clone(),
                incarnation: parts.clock.incarnation(),
                generation: *generation,
                mounts: self.mounts(),
                user,
                env: BTreeMap::new(),
                container,
            },
            welcome: self.welcome(),
            model: self.model.clone(),
            limits: self.spec.limits,
        }
    }

    /// What the agent is told about itself.
    fn welcome(&self) -> Welcome {
        // A tool has the clock of the messages.
        let now = self.host.parts.clock.now().into();
        let mut env = self.host.env(&self.group);
        env.insert("TZ".to_owned(), zone::variable(&self.zone(), now));
        Welcome {
            group: self.group.clone(),
            assistant: resource::instance(&self.host.specs)
                .map_or_else(String::new, |instance| instance.assistant.clone()),
            model: self.model.1.wire_name().to_owned(),
            context: self.model.1.context(),
            output: self.spec.limits.output,
            disk: Disk { limit: self.spec.limits.disk, folders: self.written() },
            places: match self.spec.runtime {
                RuntimeKind::None => self.places(),
                RuntimeKind::Docker => Vec::new(),
            },
            env,
        }
    }

    /// The host's folders in a container.
    fn mounts(&self) -> Vec<Mount> {
        let project = &self.host.parts.project;
        let mount = |source: PathBuf, target: &str, access: Access| Mount {
            source,
            target: target.to_owned(),
            access,
        };
        // The main group keeps what all are told.
        let global = if self.spec.main { Access::Write } else { Access::Read };
        let mut mounts = vec![
            mount(project.group(&self.group), WORKDIR, Access::Write),
            mount(project.global(), "/workspace/global", global),
            mount(project.mailbox(&self.group), "/workspace/ipc", Access::Write),
            mount(project.session(&self.group), HOME, Access::Write),
        ];
        if self.spec.main {
            mounts.push(mount(project.view(), "/workspace/project", Access::Read));
        }
        mounts
    }

    /// The folders that the agent writes, as they are called where it runs.
    fn written(&self) -> Vec<String> {
        let written = self.mounts().into_iter().filter(|mount| mount.access == Access::Write);
        let called = written.map(|mount| match self.spec.runtime {
            RuntimeKind::None => mount.source.to_string_lossy().into_owned(),
            RuntimeKind::Docker => mount.target,
        });
        called.collect()
    }

    /// Where the guest paths of a container are on this machine.
    fn places(&self) -> Vec<PathMapping> {
        let places = self.mounts().into_iter().map(|mount| PathMapping {
            guest: mount.target,
            host: mount.source.to_string_lossy().into_owned(),
        });
        places.collect()
    }
}
