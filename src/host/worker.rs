//! What works for one group: its agent, and what it is made from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::attempts::Attempts;
use super::{Host, HostError};
use crate::name::{GroupName, ModelName, SandboxId, TurnId};
use crate::process;
use crate::project::Project;
use crate::project::view::ViewSource;
use crate::resource::{ContainerSpec, GroupSpec, Lifecycle, ModelSpec, ResourceId};
use crate::runtime::Exit;
use crate::session::{AgentHandle, Session, SessionError, SteerHandle};
use crate::store::Conversation;

/// Files that a controller has open besides those of agents, with some to spare.
const FILES_OF_CONTROLLER: u64 = 40;
/// Files that a controller has open for an agent.
const FILES_OF_AGENT: u64 = 4;

/// The work of one group.
#[derive(Debug)]
pub struct Worker {
    pub(super) host: Host,
    pub(super) group: GroupName,
    pub(super) spec: GroupSpec,
    pub(super) model: (ModelName, ModelSpec),
    pub(super) session: Option<Session>,
    /// What the main group's copy of the project was made from.
    shown: Option<ViewSource>,
    /// Told whenever a turn begins on a session that can be steered.
    pub(super) steer_handle: watch::Sender<Option<SteerHandle>>,
    /// The turn under way.
    pub(super) answering: watch::Sender<Option<Arc<Answering>>>,
    /// What the turn that is worked on has behind it.
    pub(super) attempts: Attempts,
    /// What to be from the next attempt on.
    pub(super) next: NextHost,
    /// Told whenever an agent starts, so that it can be ended whatever this is at, and is taken for
    /// nobody else's from its first moment.
    pub(super) agent: watch::Sender<Agent>,
}

/// The turn that a group is at work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answering {
    /// The turn.
    pub turn: TurnId,
    /// Whom it answers, where it answers somebody.
    pub to: Option<Conversation>,
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
    pub(super) async fn is_there(&self) {
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
    /// A worker without an agent.
    pub(super) fn new(host: &Host, group: &GroupName) -> Result<Self, HostError> {
        let (spec, model) = host.group(group)?;
        Ok(Self {
            host: host.clone(),
            group: group.clone(),
            spec,
            model,
            session: None,
            shown: None,
            steer_handle: watch::Sender::new(None),
            answering: watch::Sender::new(None),
            attempts: Attempts::default(),
            next: NextHost::default(),
            agent: watch::Sender::new(Agent::None),
        })
    }

    /// Steers the turn under way, while there is one.
    #[must_use]
    pub fn steer_handle(&self) -> watch::Receiver<Option<SteerHandle>> {
        self.steer_handle.subscribe()
    }

    /// The turn under way, while there is one.
    #[must_use]
    pub fn answering(&self) -> watch::Receiver<Option<Arc<Answering>>> {
        self.answering.subscribe()
    }

    /// Reaches the agent, while there is one, from another task.
    #[must_use]
    pub fn agent(&self) -> watch::Receiver<Agent> {
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
        let before = self.reach();
        let unchanged = (&spec, &model) == (&self.spec, &self.model)
            && host.env(&self.group) == self.host.env(&self.group);
        (self.host, self.spec, self.model) = (host, spec, model);
        let reach = self.reach();
        if unchanged && reach == before {
            return Ok(());
        }
        let (welcome, model, limits) = (self.welcome(), self.model.clone(), self.spec.limits);
        if let Some(session) = &mut self.session {
            session.reconfigure(&self.host.parts.gateway, welcome, model, (limits, reach));
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
    pub async fn ended(&self) -> Exit {
        match &self.session {
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
}
