//! One group of a running controller: its worker, and whoever wants something of it.
//!
//! One task owns the worker, so that a group never has two agents and never two
//! turns. Everybody else asks through a bounded queue, and is told what happens
//! through a broadcast. When something is to be done is decided here; how, by
//! `host`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::control::{AgentState, Lease, LeasedPlace, LimitHit};
use crate::error::chain;
use crate::execute::AgentOrder;
use crate::host::{Agent, Host, HostError, Worked, Worker};
use crate::name::{GroupName, SandboxId};
use crate::process;
use crate::resource::Lifecycle;
use crate::runtime::Exit;
use crate::runtime::process::MARKER;
use crate::session::{AgentHandle, Progress};

/// Requests to a group that wait for it to look at them.
const ASKS_MAX: usize = 64;
/// Things that happen to a group and that a listener may be behind.
const HAPPENINGS_MAX: usize = 256;
/// Steps of a turn that wait to be passed on.
const PROGRESS_MAX: usize = 64;
/// Limits that struck and are remembered.
const STRIKES_KEPT: usize = 5;
/// The wait after the store failed.
const STORE_WAIT: Duration = Duration::from_secs(5);

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
    /// Stop whatever is not answered.
    Cancel(oneshot::Sender<Result<(), String>>),
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
    Progress(Progress),
    /// A turn came to its end.
    Ended(Worked),
    /// The group waits for something.
    Waits(String),
    /// The group has nothing to do.
    Rests,
}

/// A group as everybody but its own task sees it.
#[derive(Debug)]
pub(super) struct GroupHandle {
    pub(super) group: GroupName,
    asks: mpsc::Sender<GroupCommand>,
    pub(super) group_events: broadcast::Sender<GroupEvent>,
    state: Mutex<State>,
    agent: watch::Receiver<Agent>,
    /// Something may wait in the store.
    work: Notify,
    /// One at a time holds the group or lets it go on.
    pub(super) holding: tokio::sync::Mutex<()>,
    /// One conversation at the terminal at a time, in the order in which they came.
    pub(super) conversation: tokio::sync::Mutex<()>,
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
            Self::Cancel(_) => "Cancel",
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

/// The task of one group.
pub(super) struct GroupActor {
    shared: Arc<Shared>,
    handle: Arc<GroupHandle>,
    worker: Worker,
    agent: watch::Receiver<Agent>,
    inbox: mpsc::Receiver<GroupCommand>,
    /// Whether something may wait in the store.
    pending: bool,
    /// What a plan asked for while the group was at work.
    later: Option<AgentOrder>,
    /// Until when what is under way may go on, once it is to end.
    quit: Option<Until>,
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
        group_events: broadcast::Sender::new(HAPPENINGS_MAX),
        state: Mutex::new(state),
        agent: worker.agent(),
        work: Notify::new(),
        holding: tokio::sync::Mutex::default(),
        conversation: tokio::sync::Mutex::default(),
    });
    let keeper = GroupActor {
        shared: Arc::clone(shared),
        handle: Arc::clone(&handle),
        agent: worker.agent(),
        worker,
        inbox,
        pending: true,
        later: None,
        quit: None,
    };
    let (shared, leaving) = (Arc::clone(shared), Arc::clone(&handle));
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        keeper.run().await;
        shared.let_leave(&leaving);
    });
    Ok(handle)
}

impl GroupActor {
    async fn run(mut self) {
        self.remember_hold().await;
        while !self.is_over() {
            if self.pending && self.quit.is_none() && !self.handle.state().held {
                self.work().await;
            } else {
                self.rest().await;
            }
        }
        self.set_stage(AgentState::Draining);
        let insists = || self.quit.is_some_and(Until::is_past);
        if insists() {
            self.worker.end().await;
        } else {
            let resting = self.worker.rest();
            tokio::select! {
                () = resting => {}
                () = insisted(&mut self.inbox) => {}
            }
            self.worker.end().await;
        }
        self.set_stage(AgentState::Asleep);
    }

    /// Whether it is time to end. Who looks inside is not cut short, unless there is a deadline.
    fn is_over(&self) -> bool {
        match self.quit {
            None => false,
            Some(Until::Over) => self.handle.state().leases == 0,
            Some(Until::At(_)) => true,
        }
    }

    /// Waits for something to do.
    async fn rest(&mut self) {
        let running = self.handle.agent().sandbox().is_some();
        let leases = self.handle.state().leases;
        self.set_stage(if running { AgentState::Idle } else { AgentState::Asleep });
        let idle = if leases == 0 { self.worker.idle_after() } else { Duration::MAX };
        tokio::select! {
            ask = self.inbox.recv() => match ask {
                Some(ask) => self.answer(ask).await,
                None => quit(&mut self.quit, Until::now()),
            },
            () = self.handle.work.notified() => self.pending = true,
            exit = self.worker.ended() => {
                tracing::info!(group = %self.handle.group, %exit, "the agent stopped");
                self.worker.clear_ended();
                self.lose(&exit).await;
                self.shared.nudge();
            }
            () = sleep(idle), if running => {
                tracing::info!(group = %self.handle.group, "the agent was idle and stops");
                self.worker.rest().await;
            }
        }
    }

    /// Tells of an agent that nobody had asked to end. What always runs is told of once it is back.
    async fn lose(&self, exit: &Exit) {
        let how = format!("the agent stopped: {exit}");
        match self.worker.spec().lifecycle {
            Lifecycle::Always => self.handle.state().lost = Some(how),
            Lifecycle::OnDemand => {
                let text = format!("{how}; starts again with the next message");
                self.shared.tell_of_drift(&self.handle.group, text).await;
            }
        }
    }

    /// Does what is asked while nothing is under way.
    async fn answer(&mut self, ask: GroupCommand) {
        match ask {
            // Somebody looks inside: it is done once they have gone.
            GroupCommand::Order(order @ (AgentOrder::Replace | AgentOrder::Stop), reply)
                if self.handle.state().leases > 0 && !self.is_halted().await =>
            {
                self.later = Some(order);
                let _ = reply.send(Ok(()));
            }
            GroupCommand::Order(order, reply) => {
                let done = self.obey(order).await;
                let _ = reply.send(done);
            }
            GroupCommand::Configure(host) => self.worker.adopt_generation(*host),
            GroupCommand::Held => self.heed_hold(),
            GroupCommand::Lease(reply) => {
                // Where nobody waits for it any more, it is given back as it is dropped.
                let _ = reply.send(self.lease().await);
            }
            GroupCommand::Return(marker) => {
                self.handle.give_back(marker);
                if self.handle.state().leases == 0 {
                    self.catch_up().await;
                }
            }
            GroupCommand::Cancel(reply) => {
                let cancelled = self.shared.host().cancel_all(&self.handle.group).await;
                let _ = reply.send(cancelled.map_err(|error| chain(&error)));
            }
            GroupCommand::Quit(until) => quit(&mut self.quit, until),
        }
    }

    async fn obey(&mut self, order: AgentOrder) -> Result<(), String> {
        match order {
            AgentOrder::Start => {}
            AgentOrder::Replace | AgentOrder::Stop => {
                self.set_stage(AgentState::Draining);
                let halted = self.is_halted().await;
                if halted {
                    // It can neither finish nor be told to.
                    self.worker.end().await;
                } else {
                    self.worker.rest().await;
                }
            }
        }
        let held = self.handle.state().held;
        match order {
            AgentOrder::Stop => Ok(()),
            _ if held => Err("the group is paused".to_owned()),
            AgentOrder::Start | AgentOrder::Replace => self.wake().await,
        }
    }

    /// Whether somebody halted its sandbox from outside.
    async fn is_halted(&self) -> bool {
        match self.handle.agent().agent_handle() {
            Some(agent_handle) => {
                agent_handle.is_halted(self.shared.host().instance(), &self.handle.group).await
            }
            None => false,
        }
    }

    async fn wake(&mut self) -> Result<(), String> {
        self.set_stage(AgentState::Starting);
        let woken = self.worker.wake().await.map_err(|error| chain(&error));
        self.set_failure(woken.as_ref().err().cloned());
        woken
    }

    async fn lease(&mut self) -> Result<Leased, String> {
        if self.quit.is_some() {
            return Err("the group is being removed".to_owned());
        }
        self.wake().await?;
        lease_of(&self.handle)
    }

    /// Goes on holding a group that an earlier controller was told to hold.
    async fn remember_hold(&mut self) {
        let group = &self.handle.group;
        // Whoever holds it or lets it go right now does so before or after.
        let holding = self.handle.holding.lock().await;
        match self.shared.parts().store.holds().await {
            Ok(holds) if holds.contains_key(group) => {
                self.handle.state().held = true;
                drop(holding);
                self.heed_hold();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%group, %error, "cannot tell if the group is paused"),
        }
    }

    fn heed_hold(&mut self) {
        self.pending |= !self.handle.state().held;
        self.wait_for_hold();
        self.shared.nudge();
    }

    /// Runs one turn, if there is one.
    async fn work(&mut self) {
        let Some(place) = self.place().await else { return };
        let ended = self.turn().await;
        // Before its place is another's, and before anybody hears of the end: whoever looks then
        // must not find it at work any more.
        self.set_stage(AgentState::Idle);
        self.handle.state().away = None;
        self.wait_for_hold();
        drop(place);
        match ended {
            Some(Ok(Some(worked))) => {
                let failure = match &worked {
                    Worked::GivenUp(why) => Some(why.clone()),
                    _ => None,
                };
                self.set_failure(failure);
                let _ = self.handle.group_events.send(GroupEvent::Ended(worked));
            }
            Some(Ok(None)) => {
                self.pending = false;
                let _ = self.handle.group_events.send(GroupEvent::Rests);
            }
            Some(Err(error)) => {
                tracing::error!(group = %self.handle.group, error = chain(&error), "a turn waits");
                let why = chain(&error);
                self.set_failure(Some(why.clone()));
                let retry = Progress::Retry { why, wait: STORE_WAIT };
                let _ = self.handle.group_events.send(GroupEvent::Progress(retry));
                self.pause(STORE_WAIT).await;
            }
            // It ends before its time, and the next controller goes on with the turn.
            None => self.worker.end().await,
        }
        self.catch_up().await;
    }

    /// Waits, and answers what is asked meanwhile.
    async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.quit.is_none() && !self.handle.state().held {
            tokio::select! {
                ask = self.inbox.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => quit(&mut self.quit, Until::now()),
                },
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// A place among those that `runtime.parallel` lets work at once, in the order of asking.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.shared.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Some(place);
        }
        let place = self.queue(places).await;
        self.wait_for_hold();
        place
    }

    async fn queue(&mut self, places: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        self.set_stage(AgentState::Queued);
        self.set_waiting(Some("a free place (runtime.parallel)".to_owned()));
        let mut waiting = std::pin::pin!(places.acquire_owned());
        loop {
            tokio::select! {
                place = &mut waiting => return place.ok(),
                ask = self.inbox.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => quit(&mut self.quit, Until::now()),
                }
            }
            if self.quit.is_some() || self.handle.state().held {
                return None;
            }
            self.set_stage(AgentState::Queued);
        }
    }

    /// Runs a turn, and answers what is asked meanwhile. `None`: it was broken off.
    async fn turn(&mut self) -> Option<Result<Option<Worked>, HostError>> {
        let (audience, mut progress) = mpsc::channel(PROGRESS_MAX);
        let cancel = CancellationToken::new();
        let shared = Arc::clone(&self.shared);
        let handle = Arc::clone(&self.handle);
        shared.set_stage(&handle, AgentState::Working);
        let Self { worker, inbox, agent, later, quit: ending, pending, .. } = self;
        let next = worker.next();
        let mut work = std::pin::pin!(worker.work(&cancel, &audience));
        let mut cancelled: Vec<oneshot::Sender<Result<(), String>>> = Vec::new();
        let mut lost = Lost::of(&agent.borrow_and_update());
        let mut orders: FuturesUnordered<BoxFuture<'_, Judged>> = FuturesUnordered::new();
        loop {
            let until = *ending;
            tokio::select! {
                biased;
                worked = &mut work => {
                    while let Ok(step) = progress.try_recv() {
                        shared.take_note(&handle, &step);
                        let _ = handle.group_events.send(GroupEvent::Progress(step));
                    }
                    while let Some((order, _, reply)) = orders.next().await {
                        *later = Some(order);
                        let _ = reply.send(Ok(()));
                    }
                    if !cancelled.is_empty() {
                        let rest = shared.host().cancel_all(&handle.group).await;
                        let rest = rest.map_err(|error| chain(&error));
                        cancelled.drain(..).for_each(|reply| drop(reply.send(rest.clone())));
                    }
                    return Some(worked);
                }
                step = progress.recv() => if let Some(step) = step {
                    shared.take_note(&handle, &step);
                    lost.take_note(&step);
                    let _ = handle.group_events.send(GroupEvent::Progress(step));
                },
                changed = agent.changed() => if changed.is_ok() {
                    let present = agent.borrow_and_update().clone();
                    if let Some(text) = lost.replaced(&present) {
                        shared.tell_of_drift(&handle.group, text).await;
                    }
                },
                ask = inbox.recv() => match ask {
                    None => quit(ending, Until::now()),
                    Some(GroupCommand::Quit(until)) => quit(ending, until),
                    Some(GroupCommand::Configure(host)) => next.put(*host),
                    Some(GroupCommand::Return(marker)) => handle.give_back(marker),
                    Some(GroupCommand::Held) => *pending |= !handle.state().held,
                    Some(GroupCommand::Cancel(reply)) => {
                        cancel.cancel();
                        cancelled.push(reply);
                    }
                    Some(GroupCommand::Lease(reply)) => drop(reply.send(lease_of(&handle))),
                    Some(GroupCommand::Order(order, reply)) => {
                        let held = agent.borrow().agent_handle().cloned();
                        let (shared, handle) = (&shared, &handle);
                        // Beside the turn: an engine may take its time to say.
                        orders.push(Box::pin(async move {
                            let halted = match (order, &held) {
                                (AgentOrder::Replace | AgentOrder::Stop, Some(agent_handle)) => {
                                    agent_handle.is_halted(shared.host().instance(), &handle.group).await
                                }
                                _ => false,
                            };
                            (order, held.filter(|_| halted), reply)
                        }));
                    }
                },
                Some((order, halted, reply)) = orders.next(), if !orders.is_empty() => {
                    let done = match halted {
                        // It cannot finish. The turn goes on in the next.
                        Some(agent_handle) => {
                            lost.expected = true;
                            agent_handle.stop(Duration::ZERO).await.map_err(|error| error.to_string())
                        }
                        None => {
                            *later = Some(order);
                            Ok(())
                        }
                    };
                    let _ = reply.send(done);
                }
                () = past(until) => {
                    // What was stopped does not come back at the next start.
                    if !cancelled.is_empty() {
                        let _ = shared.host().cancel_all(&handle.group).await;
                    }
                    return None;
                }
            }
        }
    }

    /// Does what was put off while a turn was under way.
    async fn catch_up(&mut self) {
        self.worker.take_up_next();
        let well = self.later.is_none() && self.worker.is_as_applied();
        let looked_into = self.handle.state().leases > 0;
        if !looked_into
            && let Some(order) = self.later.take()
            && self.quit.is_none()
            && order != AgentOrder::Start
            && let Err(error) = self.obey(order).await
        {
            tracing::warn!(group = %self.handle.group, %error, "cannot replace the agent");
        }
        self.shared.note_rest(well);
    }

    fn set_stage(&self, stage: AgentState) {
        self.shared.set_stage(&self.handle, stage);
    }

    fn set_waiting(&self, what: Option<String>) {
        if let Some(what) = &what {
            let _ = self.handle.group_events.send(GroupEvent::Waits(what.clone()));
        }
        self.handle.state().waits_for = what;
        self.shared.tell();
    }

    /// Waits for the operator, where they hold it, and otherwise for nothing.
    fn wait_for_hold(&self) {
        let held = self.handle.state().held;
        self.set_waiting(held.then(|| "`babybot resume`: it is paused".to_owned()));
    }

    fn set_failure(&self, failure: Option<String>) {
        self.handle.state().failure = failure;
        self.shared.tell();
    }
}

/// What a plan asks for in the middle of a turn, with the agent where somebody halted it.
type Judged = (AgentOrder, Option<AgentHandle>, oneshot::Sender<Result<(), String>>);

/// The agents that a turn loses, so that each is told of once another is in its place.
#[derive(Default)]
struct Lost {
    why: Option<String>,
    sandbox: Option<SandboxId>,
    /// Whoever ends this one tells of it.
    expected: bool,
}

impl Lost {
    fn of(agent: &Agent) -> Self {
        Self { sandbox: agent.sandbox(), ..Self::default() }
    }

    fn take_note(&mut self, step: &Progress) {
        if let Progress::Retry { why, .. } = step {
            self.why = Some(why.clone());
        }
    }

    /// What there is to tell once this is the turn's agent.
    fn replaced(&mut self, agent: &Agent) -> Option<String> {
        let sandbox = agent.sandbox()?;
        let before = self.sandbox.replace(sandbox.clone());
        let why = self.why.take()?;
        let expected = std::mem::take(&mut self.expected);
        let another = before.is_some_and(|before| before != sandbox);
        (another && !expected).then(|| format!("{why}: replaced"))
    }
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

async fn past(until: Option<Until>) {
    match until {
        Some(Until::At(at)) => tokio::time::sleep_until(at).await,
        Some(Until::Over) | None => std::future::pending().await,
    }
}

/// Becomes ready when somebody does not want to wait any longer.
async fn insisted(inbox: &mut mpsc::Receiver<GroupCommand>) {
    loop {
        match inbox.recv().await {
            Some(GroupCommand::Quit(until)) if until.is_past() => return,
            Some(_) => {}
            None => return std::future::pending().await,
        }
    }
}

/// A lease that is given back when it is dropped, wherever it is by then.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) lease: Lease,
    handle: Arc<GroupHandle>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        let (handle, marker) = (Arc::clone(&self.handle), self.lease.place.marker.clone());
        tokio::spawn(async move {
            if handle.ask(GroupCommand::Return(marker.clone())).await.is_err() {
                // The group is served no more; what was started under the lease may still run.
                handle.give_back(marker);
            }
        });
    }
}

/// A lease of the agent that runs.
fn lease_of(handle: &Arc<GroupHandle>) -> Result<Leased, String> {
    let agent_handle = handle.agent().agent_handle().cloned();
    let agent_handle = agent_handle.ok_or("the agent is starting or stopping")?;
    let number = {
        let mut state = handle.state();
        state.leases += 1;
        state.leased += 1;
        state.leased
    };
    let place = agent_handle.place().clone();
    let place = LeasedPlace {
        // All that is marked as the agent's is ended with it, and this is too.
        marker: format!("{}/lease-{number}/", place.marker),
        workdir: place.workdir,
        home: place.home,
        user: place.user,
        env: place.env,
    };
    let sandbox = agent_handle.sandbox().clone();
    let lease = Lease { runtime: agent_handle.runtime(), sandbox, place };
    Ok(Leased { lease, handle: Arc::clone(handle) })
}

async fn sleep(time: Duration) {
    // A time that never comes is more than a timer takes.
    match time {
        Duration::MAX => std::future::pending().await,
        time => tokio::time::sleep(time).await,
    }
}

impl Shared {
    /// Takes note of what a turn reports of limits.
    fn take_note(&self, handle: &GroupHandle, progress: &Progress) {
        match progress {
            Progress::Struck(limit) => {
                let at = self.clock().now();
                tracing::info!(group = %handle.group, limit, "a limit was reached");
                let mut state = handle.state();
                state.limit_hits.push(LimitHit { limit: (*limit).to_owned(), at });
                let extra = state.limit_hits.len().saturating_sub(STRIKES_KEPT);
                state.limit_hits.drain(..extra);
            }
            Progress::Retry { why, wait } => {
                tracing::info!(group = %handle.group, why, wait = wait.as_secs(), "trying a turn again");
                {
                    let mut state = handle.state();
                    state.failure = Some(why.clone());
                    state.waits_for = Some(format!("another attempt, in {} s", wait.as_secs()));
                }
                // Whatever keeps it from starting may be something to mend.
                self.wake.notify_one();
            }
            Progress::Waits(why) => {
                tracing::info!(group = %handle.group, why, "a turn waits");
                {
                    let mut state = handle.state();
                    state.away = Some(why.clone());
                    state.failure = Some(why.clone());
                    state.waits_for = Some(why.clone());
                }
                // Whatever is not there may be something to repair.
                self.wake.notify_one();
            }
            Progress::Back | Progress::Tool { .. } | Progress::Text { .. } => {
                let mut state = handle.state();
                state.away = None;
                // Told only of what changed: a text comes in many pieces.
                if state.failure.take().is_none() & state.waits_for.take().is_none() {
                    return;
                }
            }
            Progress::Measured(why) => {
                let mut state = handle.state();
                if state.unmeasured == *why {
                    return;
                }
                state.unmeasured.clone_from(why);
            }
            Progress::Waking | Progress::Thinking | Progress::ToolEnded | Progress::Note(_) => {
                return;
            }
        }
        self.tell();
    }
}
