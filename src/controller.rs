//! A controller that runs: the groups of one instance, and the loop that keeps them as applied.
//!
//! It puts the loops together: `host` works on turns, `reconcile` looks and
//! mends, and here is decided when either happens. Everything it is told through
//! the control socket, it is told as [`Service`]. It lasts until somebody ends
//! it; whoever it served goes on with the next one, since all that matters is in
//! the store.

mod apply;
mod channels;
mod chat;
mod edits;
mod folders;
mod group;
pub mod guard;
mod keep;
mod look;
mod service;
mod status;
mod typing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::Registry;
use crate::channel::terminal::Terminal;
use crate::clock::Clock;
use crate::control::{Drift, Pending, Role, RuntimeStatus, Service, Status};
use crate::error::chain;
use crate::execute::BinarySource;
use crate::host::{Host, HostError};
use crate::machine::{Health, HostContext};
use crate::name::{ChannelName, GroupName, ProjectName, ThreadId};
use crate::reconcile::mend::Attempts;
use crate::resource::{self, PARALLEL_DEFAULT, ResourceId, RuntimeRef, Spec};
use crate::session::Parts;

pub use keep::LOOK_EVERY;

use group::{GroupCommand, GroupHandle, Until};

/// Entries of drift that a status shows.
const DRIFT_SHOWN: usize = 8;
/// What an agent that is being ended may take longer than what is under way may.
const ENDING_MAX: Duration = Duration::from_secs(15);
/// How long whoever is in a conversation may take to hear its end.
const PARTING_MAX: Duration = Duration::from_secs(2);

/// Why there is no controller.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// What an earlier run left cannot be taken over.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What a controller is made of.
pub struct Setup {
    /// What it is there for.
    pub role: Role,
    /// The project as the manifest calls it.
    pub name: ProjectName,
    /// The controller's work, with what was applied last.
    pub host: Host,
    /// The machine, as it was looked at.
    pub machine: HostContext,
    /// The kinds of channels there are.
    pub registry: Registry,
    /// The terminal, as the registry opens it.
    pub terminal: Arc<Terminal>,
    /// Where the manifest is.
    pub manifest: PathBuf,
    /// Whether safe changes of the manifest are applied without a word.
    pub follow: bool,
    /// What sandboxes are made with, in words.
    pub runtimes: Vec<RuntimeStatus>,
}

/// A controller that runs.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

/// Hurries the end of a controller.
#[derive(Clone)]
pub struct ShutdownHandle {
    shared: Weak<Shared>,
}

impl ShutdownHandle {
    /// Ends at once what [`Controller::end`] still waits for.
    pub async fn hurry(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.hurried.cancel();
        for handle in shared.groups() {
            let _ = handle.ask(GroupCommand::Quit(Until::now())).await;
        }
    }
}

impl ShutdownHandle {
    /// Whether an apply goes on through it.
    #[must_use]
    pub fn applies(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| !shared.applies.is_empty())
    }

    /// Stops what a conversation asked, before anything else is done.
    pub async fn stop(&self, thread: &ThreadId) {
        if let Some(shared) = self.shared.upgrade() {
            let _ = shared.stop(thread).await;
        }
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle").finish_non_exhaustive()
    }
}

/// What all tasks of a controller share.
struct Shared {
    role: Role,
    name: ProjectName,
    follow: bool,
    host: RwLock<Host>,
    binary: BinarySource,
    manifest: PathBuf,
    health: Health,
    groups: RwLock<BTreeMap<GroupName, Arc<GroupHandle>>>,
    places: Arc<Semaphore>,
    parallel: Mutex<usize>,
    /// One apply at a time.
    applying: tokio::sync::Mutex<()>,
    /// What an apply is at work on, by whom it belongs to: rounds leave it alone.
    touched: Mutex<BTreeSet<ResourceId>>,
    /// An apply neither begins nor ends in the middle of a round.
    changing: tokio::sync::Mutex<()>,
    /// Wakes the loop that looks.
    wake: Notify,
    /// Told whenever the manifest may have been edited.
    edited: Notify,
    known: Mutex<Known>,
    /// Told whenever something that a status shows may have changed.
    status: watch::Sender<Arc<Status>>,
    stale: Notify,
    registry: Registry,
    terminal: Arc<Terminal>,
    channels: Mutex<BTreeMap<ChannelName, channels::Running>>,
    /// Whether a channel that could not be opened is about to be opened again.
    reopens: AtomicBool,
    /// The loops that deliver.
    deliveries: TaskTracker,
    talks: chat::Talks,
    /// How long what is under way may go on, as whoever ended it said.
    patience: Mutex<Option<Duration>>,
    /// Nothing new is begun.
    closing: CancellationToken,
    /// Everything is ended.
    closed: CancellationToken,
    tasks: TaskTracker,
    /// Applies under way.
    applies: TaskTracker,
    /// Somebody does not want to wait for the end any longer.
    hurried: CancellationToken,
    /// Those whom a conversation goes on with.
    conversations: TaskTracker,
}

/// What rounds of looking found out.
struct Known {
    runtimes: Vec<RuntimeStatus>,
    pending: Option<Pending>,
    /// Why it is not known what the manifest asks for.
    unread: Option<String>,
    drift: VecDeque<Drift>,
    warnings: Vec<String>,
    /// What is wrong with a resource, and is not put right yet.
    troubles: BTreeMap<ResourceId, String>,
    attempts: BTreeMap<ResourceId, Attempts>,
    /// What a resource waits for.
    waiting: BTreeMap<ResourceId, String>,
    /// What works with less than was asked for.
    limited: Vec<(ResourceId, String)>,
    /// Where a channel serves, or why it does not.
    channels: BTreeMap<ChannelName, Result<String, String>>,
    /// How often a group came to rest.
    rests: u64,
}

impl Known {
    /// How a runtime is, where it was asked.
    fn runtime(&self, reference: &RuntimeRef) -> Option<&RuntimeStatus> {
        self.runtimes.iter().find(|status| status.runtime == *reference)
    }

    /// Whether a group that comes to rest may be what something waits for, as far as is known.
    fn is_unsettled(&self) -> bool {
        !(self.waiting.is_empty() && self.troubles.is_empty() && self.warnings.is_empty())
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("role", &self.role).finish_non_exhaustive()
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("role", &self.shared.role).finish_non_exhaustive()
    }
}

impl Controller {
    /// Starts to serve the groups that were applied. The instance's lock must be held.
    ///
    /// # Errors
    /// When what was applied cannot be served.
    pub fn start(setup: Setup) -> Result<Self, ControllerError> {
        let Setup { role, name, host, machine, registry, terminal, manifest, follow, runtimes } =
            setup;
        let since = host.parts().clock.now();
        let status = status::first(&host, role, since, &runtimes);
        let parallel = parallel(host.specs());
        let shared = Arc::new(Shared {
            role,
            name,
            follow,
            host: RwLock::new(host),
            binary: machine.binary(),
            manifest,
            health: Health::new(machine),
            groups: RwLock::default(),
            places: Arc::new(Semaphore::new(parallel)),
            parallel: Mutex::new(parallel),
            applying: tokio::sync::Mutex::default(),
            touched: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            edited: Notify::new(),
            known: Mutex::new(Known {
                runtimes,
                pending: None,
                unread: None,
                drift: VecDeque::new(),
                warnings: Vec::new(),
                troubles: BTreeMap::new(),
                attempts: BTreeMap::new(),
                waiting: BTreeMap::new(),
                limited: Vec::new(),
                channels: BTreeMap::new(),
                rests: 0,
            }),
            status: watch::Sender::new(Arc::new(status)),
            stale: Notify::new(),
            registry,
            terminal,
            channels: Mutex::default(),
            reopens: AtomicBool::new(false),
            deliveries: TaskTracker::new(),
            talks: chat::Talks::default(),
            patience: Mutex::default(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            applies: TaskTracker::new(),
            hurried: CancellationToken::new(),
            conversations: TaskTracker::new(),
        });
        shared.serve_groups()?;
        tokio::spawn(status::keep(Arc::clone(&shared)));
        // One that does not last mends nothing: its groups are whoever is talked to.
        if role == Role::Up {
            tokio::spawn(keep::keep(Arc::clone(&shared)));
            shared.note_edit();
            tokio::spawn(edits::keep(Arc::clone(&shared)));
        }
        Ok(Self { shared })
    }

    /// What is served to whoever joins.
    #[must_use]
    pub fn service(&self) -> Arc<dyn Service> {
        Arc::new(service::Served(Arc::clone(&self.shared)))
    }

    /// Becomes ready when somebody asked it to end, with the patience that they have.
    pub async fn asked_to_end(&self) -> Option<Duration> {
        self.shared.closing.cancelled().await;
        *self.shared.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A way to hurry its end, which keeps nothing of it.
    #[must_use]
    pub fn shutdown(&self) -> ShutdownHandle {
        ShutdownHandle { shared: Arc::downgrade(&self.shared) }
    }

    /// Lets what is under way finish within `patience`, ends all agents, and ends.
    pub async fn end(&self, patience: Duration) {
        self.shared.close(patience).await;
    }
}

impl Shared {
    fn host(&self) -> Host {
        self.host.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn parts(&self) -> Parts {
        self.host().parts().clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.host.read().unwrap_or_else(PoisonError::into_inner).parts().clock)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<ChannelName, channels::Running>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touched(&self) -> MutexGuard<'_, BTreeSet<ResourceId>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, group: &GroupName) -> Option<Arc<GroupHandle>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(group).cloned()
    }

    fn groups(&self) -> Vec<Arc<GroupHandle>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Has the loop look soon.
    fn nudge(&self) {
        self.wake.notify_one();
        self.tell();
    }

    /// Takes note that a group came to rest: the loop looks, if that may be what something waits
    /// for, or the group is not as it should be by then.
    fn note_rest(&self, well: bool) {
        let unsettled = {
            let mut known = self.known();
            known.rests += 1;
            known.is_unsettled()
        };
        if !well || unsettled {
            self.wake.notify_one();
        }
        self.tell();
    }

    /// Has the status made anew.
    fn tell(&self) {
        self.stale.notify_one();
    }

    fn set_stage(&self, handle: &GroupHandle, stage: crate::control::AgentState) {
        {
            let mut state = handle.state();
            if state.stage == stage {
                return;
            }
            state.stage = stage;
            state.since = self.clock().now();
        }
        self.tell();
    }

    /// Serves what the applied generation has, and nothing else.
    fn serve_groups(self: &Arc<Self>) -> Result<(), HostError> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever ends everything ends those that are here by then.
        if self.closing.is_cancelled() {
            return Ok(());
        }
        let host = self.host();
        self.set_parallel(parallel(host.specs()));
        let wanted = host.specs().keys().filter_map(|id| match id {
            ResourceId::Group(group) => Some(group.clone()),
            _ => None,
        });
        let wanted: BTreeSet<GroupName> = wanted.collect();
        // Whoever is at work finishes first, and stays known until it has left.
        for (_, leaving) in groups.iter().filter(|(name, _)| !wanted.contains(*name)) {
            let leaving = Arc::clone(leaving);
            tokio::spawn(async move { leaving.ask(GroupCommand::Quit(Until::Over)).await });
        }
        for name in wanted {
            match groups.get(&name) {
                Some(handle) => {
                    let (handle, host) = (Arc::clone(handle), host.clone());
                    tokio::spawn(async move {
                        handle.ask(GroupCommand::Configure(Box::new(host))).await
                    });
                }
                None => {
                    let handle = group::start(self, &host, &name)?;
                    groups.insert(name, handle);
                }
            }
        }
        drop(groups);
        self.serve_channels();
        self.nudge();
        Ok(())
    }

    /// Forgets a group that has ended. If it came back meanwhile, another takes its place.
    fn let_leave(self: &Arc<Self>, leaving: &Arc<GroupHandle>) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if self.closing.is_cancelled() {
            return;
        }
        if groups.get(&leaving.group).is_some_and(|handle| Arc::ptr_eq(handle, leaving)) {
            groups.remove(&leaving.group);
        }
        drop(groups);
        if let Err(error) = self.serve_groups() {
            tracing::error!(error = chain(&error), "cannot serve a group");
        }
    }

    fn set_parallel(&self, wanted: usize) {
        let mut present = self.parallel.lock().unwrap_or_else(PoisonError::into_inner);
        match wanted.checked_sub(*present) {
            Some(more) => self.places.add_permits(more),
            // Those that are taken are given back first.
            None => {
                let (places, fewer) = (Arc::clone(&self.places), *present - wanted);
                let fewer = u32::try_from(fewer).unwrap_or(u32::MAX);
                tokio::spawn(async move {
                    if let Ok(taken) = places.acquire_many_owned(fewer).await {
                        taken.forget();
                    }
                });
            }
        }
        *present = wanted;
    }

    /// Ends everything, what is under way within `patience`.
    async fn close(&self, patience: Duration) {
        self.closing.cancel();
        self.tell();
        let until = Instant::now() + patience;
        for handle in self.groups() {
            let _ = handle.ask(GroupCommand::Quit(Until::At(until))).await;
        }
        let until = self.end_applies(until).await;
        self.tasks.close();
        let ended = tokio::time::timeout_at(until + ENDING_MAX, self.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("an agent does not stop; the next start stops it");
        }
        self.closed.cancel();
        // Whoever talks is given the last replies, and says that it has them.
        self.conversations.close();
        let _ = tokio::time::timeout(PARTING_MAX, self.conversations.wait()).await;
        self.end_channels().await;
    }
}

impl Shared {
    /// Lets an apply under way come to its end; gives until when the rest may take. Where this is
    /// one of a conversation, whoever applies through it does not know that it may end, and has as
    /// long as it takes.
    async fn end_applies(&self, until: Instant) -> Instant {
        self.applies.close();
        let late = async {
            match self.role {
                Role::Up => tokio::time::sleep_until(until).await,
                Role::Short => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.applies.wait() => {}
            () = late => tracing::warn!("an apply did not finish in time; the next apply does the rest"),
            () = self.hurried.cancelled() => {}
        }
        until.max(Instant::now())
    }
}

/// How many agents are at work at once.
fn parallel(specs: &BTreeMap<ResourceId, Spec>) -> usize {
    let said = resource::instance(specs).map(|instance| instance.parallel);
    said.unwrap_or(PARALLEL_DEFAULT).max(1) as usize
}
