//! The controller's work: from a stored message to a stored reply.
//!
//! It decides when a turn is run, tried again or given up; a [`Session`] runs
//! it. Everything it needs to know to go on after a crash is in the store, and
//! time, identifiers and every door come in as arguments.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::name::{ChannelName, ChatId, GroupName, InstanceId, ModelName};
use crate::process;
use crate::protocol::{Failure, JournalRound, Place, Welcome};
use crate::resource::{ContainerSpec, GroupSpec, Lifecycle, ModelSpec, ResourceId, Spec};
use crate::route::prompt::{Said, prompt};
use crate::runtime::{RuntimeError, SandboxSpec};
use crate::session::{Audience, Helm, Parts, Progress, Purpose, Session, SessionError, TurnEnd};
use crate::store::{Incoming, Message, MessageSeq, StoreError, TakenUp, Turn, TurnState};

/// How often a turn is tried again.
const RETRIES_MAX: u32 = 5;
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
    #[error("cannot end what an earlier run left behind: {0}")]
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
    specs: Arc<BTreeMap<ResourceId, Spec>>,
    zone: TimeZone,
    retry_first: Duration,
}

/// The work of one group.
#[derive(Debug)]
pub struct Worker {
    host: Host,
    group: GroupName,
    spec: GroupSpec,
    model: (ModelName, ModelSpec),
    session: Option<Session>,
    /// Told whenever a turn begins on a session that can be steered.
    helm: tokio::sync::watch::Sender<Option<Helm>>,
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
        let boot = process::boot_id();
        let left = parts.store.open_sandboxes().await?;
        let known = left.iter().filter_map(|sandbox| sandbox.process_in(&boot)).collect();
        let known: Vec<_> = known;
        for runtime in parts.runtimes.iter() {
            runtime.reap(instance.clone(), known.clone()).await.map_err(HostError::Reap)?;
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
        Ok(Self { parts, instance, specs: Arc::new(specs), zone, retry_first: RETRY_FIRST })
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
        let now = self.parts.clock.now();
        let accepted = self
            .parts
            .store
            .accept(Incoming {
                channel: ChannelName::terminal(),
                chat: terminal_chat(group),
                message_id: self.parts.clock.message_id(),
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

    /// The work of one group.
    ///
    /// # Errors
    /// When the applied generation does not have the group or its model.
    pub fn worker(&self, group: &GroupName) -> Result<Worker, HostError> {
        let id = ResourceId::Group(group.clone());
        let Some(Spec::Group(spec)) = self.specs.get(&id) else {
            return Err(HostError::Unknown(id));
        };
        let id = ResourceId::Model(spec.model.clone());
        let Some(Spec::Model(model)) = self.specs.get(&id) else {
            return Err(HostError::Unknown(id));
        };
        Ok(Worker {
            host: self.clone(),
            group: group.clone(),
            spec: (**spec).clone(),
            model: (spec.model.clone(), model.clone()),
            session: None,
            helm: tokio::sync::watch::Sender::new(None),
        })
    }

    /// The messages as the agent reads them.
    #[must_use]
    pub fn prompt(&self, messages: &[Message]) -> String {
        let said: Vec<Said<'_>> = messages
            .iter()
            .map(|message| Said {
                sender: &message.incoming.sender,
                at: message.incoming.sent_at,
                text: &message.incoming.text,
            })
            .collect();
        prompt(&said, &self.zone)
    }
}

/// The chat of a group at the terminal.
#[must_use]
pub fn terminal_chat(group: &GroupName) -> ChatId {
    ChatId::new(group.as_str()).expect("a group's name is a chat's name")
}

impl Worker {
    /// Steers the turn under way, while there is one.
    #[must_use]
    pub fn helm(&self) -> tokio::sync::watch::Receiver<Option<Helm>> {
        self.helm.subscribe()
    }

    /// Starts the agent if none runs.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn wake(&mut self) -> Result<(), SessionError> {
        if self.session.as_ref().is_some_and(Session::is_ready) {
            return Ok(());
        }
        if let Some(mut useless) = self.session.take() {
            // Never two agents for one group.
            useless.stop().await;
        }
        self.session = Some(Session::start(&self.host.parts, self.purpose()).await?);
        Ok(())
    }

    /// Runs the next turn of the group to its end; `None` if there is nothing to do.
    ///
    /// # Errors
    /// When the store fails; the turn stays where it is and is gone on with later.
    pub async fn work(
        &mut self,
        cancel: &CancellationToken,
        audience: &Audience,
    ) -> Result<Option<Worked>, HostError> {
        let mut retries = 0;
        loop {
            let (store, clock) = (&self.host.parts.store, &self.host.parts.clock);
            let next = store.take_up(&self.group, &clock.turn_id(), clock.now()).await?;
            let Some(TakenUp { turn, messages, journal }) = next else { return Ok(None) };
            let prompt = self.host.prompt(&messages);
            let end = self.attempt(&turn, prompt, journal, cancel, audience).await?;
            self.helm.send_replace(None);
            let (store, now) = (&self.host.parts.store, self.host.parts.clock.now());
            let why = match end {
                TurnEnd::Done => return Ok(Some(Worked::Answered)),
                TurnEnd::Cancelled => {
                    store.cancel_turn(&turn.id, now).await?;
                    return Ok(Some(Worked::Cancelled));
                }
                TurnEnd::Failed { reason: Failure::Busy, message } | TurnEnd::Lost(message)
                    if retries < RETRIES_MAX =>
                {
                    message
                }
                end => return self.give_up(&turn, &end).await.map(Some),
            };
            store.requeue(&turn.id, now).await?;
            let wait = self.host.retry_first * 2_u32.pow(retries);
            retries += 1;
            let _ = audience.try_send(Progress::Retry { why, wait });
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
            Lifecycle::OnDemand => self.spec.limits.idle.as_duration(),
            Lifecycle::Always => Duration::MAX,
        }
    }

    /// Lets the agent finish and end.
    pub async fn rest(&mut self) {
        if let Some(session) = self.session.take() {
            session.drain().await;
        }
    }

    /// Ends the agent at once.
    pub async fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.end().await;
        }
    }

    async fn attempt(
        &mut self,
        turn: &Turn,
        prompt: String,
        journal: Vec<JournalRound>,
        cancel: &CancellationToken,
        audience: &Audience,
    ) -> Result<TurnEnd, HostError> {
        if let Some(missing) = self.missing_folder() {
            let message = format!("{missing} is not there; `babybot apply` makes it");
            return Ok(TurnEnd::Failed { reason: Failure::Agent, message });
        }
        match self.wake().await {
            Ok(()) => {}
            Err(SessionError::Store(error)) => return Err(error.into()),
            Err(error) => return Ok(TurnEnd::Lost(chain(&error))),
        }
        let Some(session) = self.session.as_mut() else {
            return Ok(TurnEnd::Lost("the agent did not start".to_owned()));
        };
        self.helm.send_replace(Some(session.helm()));
        Ok(session.run(turn.id.clone(), prompt, journal, cancel, audience).await)
    }

    /// A folder of the group that cannot be entered.
    fn missing_folder(&self) -> Option<String> {
        let project = &self.host.parts.project;
        let folders = project.folders(&self.group);
        let missing = folders.iter().find(|path| project.folder(path).is_err())?;
        Some(missing.strip_prefix(project.root()).unwrap_or(missing).display().to_string())
    }

    async fn give_up(&self, turn: &Turn, end: &TurnEnd) -> Result<Worked, HostError> {
        let limits = &self.spec.limits;
        let why = match end {
            TurnEnd::TimedOut => format!("it took longer than {} (limits.turn)", limits.turn),
            TurnEnd::DiskFull => {
                format!("groups/{} holds more than {} (limits.disk)", self.group, limits.disk)
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

    /// What the group's agent is started as.
    fn purpose(&self) -> Purpose {
        let Host { parts, instance, specs, .. } = &self.host;
        let project = &parts.project;
        let env = match specs.get(&ResourceId::Settings(self.group.clone())) {
            Some(Spec::Settings { env }) => env.clone(),
            _ => BTreeMap::new(),
        };
        // A tool that asks for the time is told the group's.
        let zone = self.spec.timezone.iter().map(|zone| ("TZ".to_owned(), zone.clone()));
        Purpose {
            sandbox: SandboxSpec {
                instance: instance.clone(),
                group: self.group.clone(),
                incarnation: parts.clock.incarnation(),
                generation: 0,
                container: ContainerSpec::of(&self.spec, specs),
                mounts: Vec::new(),
                workdir: project.group(&self.group),
                home: project.session(&self.group),
                lock: project.agent_lock(&self.group),
                user: project.owner(),
                env: zone.collect(),
            },
            welcome: Welcome {
                group: self.group.clone(),
                assistant: self.spec.assistant.clone(),
                model: self.model.1.wire_name().to_owned(),
                context: self.model.1.context(),
                output: self.spec.limits.output,
                places: self.places(),
                env,
            },
            model: self.model.clone(),
            limits: self.spec.limits,
        }
    }

    /// Where the guest paths of a container are on this machine.
    fn places(&self) -> Vec<Place> {
        let project = &self.host.parts.project;
        let place = |guest: &str, host: PathBuf| Place {
            guest: guest.to_owned(),
            host: host.to_string_lossy().into_owned(),
        };
        vec![
            place("/workspace/group", project.group(&self.group)),
            place("/workspace/global", project.global()),
            place("/workspace/ipc", project.mailbox(&self.group)),
            place("/home/agent", project.session(&self.group)),
        ]
    }
}
