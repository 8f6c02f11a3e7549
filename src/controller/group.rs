//! One group of a running controller: its worker, and whoever wants something of it.
//!
//! One task owns the worker, so that a group never has two agents and never two
//! turns. Everybody else asks through a bounded queue, and is told what happens
//! through a broadcast. When something is to be done is decided here; how, by
//! `host`.

mod actor;
mod lease;
mod lost;
mod notes;
mod turn;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::actor::GroupActor;
pub(super) use self::lease::Leased;
use super::Shared;
use crate::control::{AgentState, LimitHit};
use crate::execute::AgentOrder;
use crate::host::{Agent, Answering, Host, HostError};
use crate::name::{GroupName, TurnId};
use crate::process;
use crate::runtime::process::MARKER;
use crate::session::Progress;

/// Requests to a group that wait for it to look at them.
const ASKS_MAX: usize = 64;
/// Things that happen to a group and that a listener may be behind.
const GROUP_EVENTS_MAX: usize = 256;

/// What is asked of a group.
pub(super) enum GroupCommand {
    /// What a plan asks for.
    Order(AgentOrder, oneshot::Sender<Result<(), String>>),
    /// Go on with what another generation says.
    Configure(Box<Host>),
    /// Somebody holds the group, or lets it go on.
    Held,
    /// Keep an agent running, and say which.
    Lease(oneshot::Sender<Result<Leased, String>>),
    /// A lease ended: the mark of what was started under it.
    Return(String),
    /// This turn was cancelled in the store: stop what is left of it.
    Cancelled(TurnId),
    /// Finish what is under way, end the agent, and end.
    Quit(Until),
}

/// Until when what is under way may go on, once a group is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Until {
    /// This moment.
    At(Instant),
    /// As long as it takes.
    Over,
}

/// What happens to a group.
#[derive(Clone, Debug)]
pub(super) enum GroupEvent {
    /// A turn goes on.
    Progress {
        /// Which one.
        of: Option<Arc<Answering>>,
        /// How.
        step: Progress,
    },
    /// A turn came to its end, or what waited for one was cancelled.
    Ended,
    /// The group waits for something.
    Waits(String),
}

/// A group as everybody but its own task sees it.
#[derive(Debug)]
pub(super) struct GroupHandle {
    pub(super) group: GroupName,
    asks: mpsc::Sender<GroupCommand>,
    pub(super) group_events: broadcast::Sender<GroupEvent>,
    state: Mutex<State>,
    agent: watch::Receiver<Agent>,
    answering: watch::Receiver<Option<Arc<Answering>>>,
    /// Something may wait in the store.
    work: Notify,
    /// One at a time holds the group or lets it go on.
    pub(super) holding: tokio::sync::Mutex<()>,
}

/// What is known of a group.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) stage: AgentState,
    pub(super) waits_for: Option<String>,
    /// What a turn needs that is not there yet.
    pub(super) away: Option<String>,
    pub(super) held: bool,
    pub(super) leases: u32,
    /// Leases there ever were.
    leased: u64,
    pub(super) since: crate::clock::Timestamp,
    /// How the agent ended that nobody had asked to.
    pub(super) lost: Option<String>,
    pub(super) limit_hits: Vec<LimitHit>,
    pub(super) failure: Option<String>,
    /// Why it is not known how full its folders are.
    pub(super) unmeasured: Option<String>,
}

impl std::fmt::Debug for GroupCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Order(..) => "Order",
            Self::Configure(_) => "Configure",
            Self::Held => "Held",
            Self::Lease(_) => "Lease",
            Self::Return(_) => "Return",
            Self::Cancelled(_) => "Cancelled",
            Self::Quit(_) => "Quit",
        })
    }
}

impl GroupHandle {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a plan has to wait for it.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state();
        state.leases > 0 || matches!(state.stage, AgentState::Working | AgentState::Starting)
    }

    /// Its agent as it is right now.
    pub(super) fn agent(&self) -> Agent {
        self.agent.borrow().clone()
    }

    /// The turn under way.
    pub(super) fn answering(&self) -> Option<Arc<Answering>> {
        self.answering.borrow().clone()
    }

    /// Asks, and waits only for room to ask.
    pub(super) async fn ask(&self, ask: GroupCommand) -> Result<(), String> {
        self.asks.send(ask).await.map_err(|_| "the group was removed".to_owned())
    }

    /// Takes a lease back, and ends what was started under it and is left on this machine.
    fn give_back(&self, marker: String) {
        let mut state = self.state();
        state.leases = state.leases.saturating_sub(1);
        drop(state);
        tokio::task::spawn_blocking(move || process::kill_marked(MARKER, &marker));
    }

    /// Whether nobody serves it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.asks.is_closed()
    }

    /// Says that something may wait in the store.
    pub(super) fn nudge(&self) {
        self.work.notify_one();
    }
}

/// Starts the task of a group.
pub(super) fn start(
    shared: &Arc<Shared>,
    host: &Host,
    group: &GroupName,
) -> Result<Arc<GroupHandle>, HostError> {
    let worker = host.worker(group)?;
    let (asks, inbox) = mpsc::channel(ASKS_MAX);
    let state = State {
        stage: AgentState::Asleep,
        waits_for: None,
        away: None,
        held: false,
        leases: 0,
        leased: 0,
        since: shared.clock().now(),
        lost: None,
        limit_hits: Vec::new(),
        failure: None,
        unmeasured: None,
    };
    let handle = Arc::new(GroupHandle {
        group: group.clone(),
        asks,
        group_events: broadcast::Sender::new(GROUP_EVENTS_MAX),
        state: Mutex::new(state),
        agent: worker.agent(),
        answering: worker.answering(),
        work: Notify::new(),
        holding: tokio::sync::Mutex::default(),
    });
    let actor = GroupActor::new(shared, &handle, worker, inbox);
    let (shared, leaving) = (Arc::clone(shared), Arc::clone(&handle));
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        actor.run().await;
        shared.let_leave(&leaving);
    });
    Ok(handle)
}

impl Until {
    /// Not a moment longer.
    pub(super) fn now() -> Self {
        Self::At(Instant::now())
    }

    fn is_past(self) -> bool {
        matches!(self, Self::At(at) if at <= Instant::now())
    }
}

/// Has a group end. Who has less patience has their way.
fn quit(ending: &mut Option<Until>, until: Until) {
    *ending = Some(ending.map_or(until, |before| before.min(until)));
}
