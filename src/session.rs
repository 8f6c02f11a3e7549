//! One running agent: its sandbox, its link, and the turn it is at work on.
//!
//! A session composes doors: it serves the link's routes, puts what the agent
//! reports into the store before it says so, and lets the gateway answer the
//! rest. It runs one turn at a time, ends it when it must, and decides nothing
//! about what is run next. What an agent says is believed only about itself.
//!
//! Here are the agent's life and the turn loop. What the agent asks is answered in
//! `routes`, a turn under way is given more in `steer`, what all of them share is in
//! `state`, and how full its folder is in `disk`; `log` and `usage` keep what comes by
//! the way.

mod disk;
mod handle;
mod log;
mod requests;
mod routes;
mod state;
mod steer;
mod usage;

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::handle::AgentHandle;
pub use self::state::Reach;
pub use self::steer::SteerHandle;

use self::disk::{MEASURE_EVERY, Quota};
use self::handle::MountedFolder;
use self::log::keep_log;
use self::routes::routes;
use self::state::{InFlight, Shared, TurnStage};
use self::usage::keep_usage;
use crate::clock::Clock;
use crate::gateway::{Caller, Gateway};
use crate::link::server;
use crate::name::{GroupName, Incarnation, ModelName, TurnId};
use crate::process::{self, Process};
use crate::project::Project;
use crate::protocol::{Event, FILE_MAX, Failure, Limit, Order, TurnOrder, Welcome};
use crate::resource::{Limits, ModelSpec};
use crate::runtime::{Access, Exit, RuntimeError, Runtimes, SandboxSpec};
use crate::store::{self, Store, StoreError};
use crate::unit::ByteSize;

/// How long an agent may take from its start to its first request.
const GREETING_MAX: Duration = Duration::from_secs(15);
/// How long an agent may take to obey a cancellation.
const CANCEL_MAX: Duration = Duration::from_secs(5);
/// How long an agent that was told to drain may take.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long an agent may go on once it cannot be told anything any more.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// How long an agent that is being stopped may take.
const STOP_MAX: Duration = Duration::from_secs(3);
/// Reports that wait to be looked at.
const EVENTS_MAX: usize = 64;

/// Why a session could not be had.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The sandbox could not be started.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent ended or stayed silent before its first request.
    #[error("the agent did not answer: {0}")]
    Silent(String),
}

/// What a session is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where everything is.
    pub project: Project,
    /// Where everything is kept.
    pub store: Store,
    /// What sandboxes are made with.
    pub runtimes: Runtimes,
    /// The way to the model.
    pub gateway: Gateway,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What one session is for.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    /// The sandbox.
    pub sandbox: SandboxSpec,
    /// What the agent is told.
    pub welcome: Welcome,
    /// Whom the gateway serves, but for the reports of usage.
    pub model: (ModelName, ModelSpec),
    /// What the group may use.
    pub limits: Limits,
    /// Where it may send.
    pub reach: Reach,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// Its reply is stored.
    Done,
    /// The agent gave up.
    Failed {
        /// Why.
        reason: Failure,
        /// The reason in words.
        message: String,
    },
    /// It was cancelled, and nothing of it is left running.
    Cancelled,
    /// It took longer than `limits.turn`.
    TimedOut,
    /// The group's folders went on to grow over `limits.disk`, or cannot be measured.
    DiskFull,
    /// The agent was ended for want of memory.
    OutOfMemory,
    /// The agent ended in the middle.
    Lost(String),
}

/// What a person may be shown of a turn under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The agent is being started.
    Waking,
    /// The model is asked.
    Thinking,
    /// A tool runs.
    Tool {
        /// Its name.
        name: String,
        /// Its arguments, as JSON.
        arguments: String,
    },
    /// A tool ended.
    ToolEnded,
    /// A limit struck: its path in the manifest.
    Struck(&'static str),
    /// More of the answer; never counted as sent.
    Text {
        /// What was added.
        text: String,
        /// Whether it begins an answer, and takes the place of what was shown before.
        fresh: bool,
    },
    /// Something worth knowing about the answer.
    Note(String),
    /// It waits for something that is not there yet: what that is, with what helps.
    Waits(String),
    /// It waits no longer.
    Back,
    /// The group's folders were measured, or could not be, for this reason.
    Measured(Option<String>),
    /// Another attempt follows.
    Retry {
        /// What went wrong.
        why: String,
        /// How long until then.
        wait: Duration,
    },
}

/// Where [`Progress`] goes. What nobody takes in time is dropped.
pub type ProgressSender = mpsc::Sender<Progress>;

/// A running agent.
pub struct Session {
    shared: Arc<Shared>,
    agent_handle: AgentHandle,
    limits: Limits,
    /// What `limits.disk` was when the agent started: it cannot let go of the bound on one file.
    file_max: ByteSize,
    ended: watch::Receiver<Option<Exit>>,
    /// Whether a tool was killed for want of memory.
    struck: bool,
    /// Dropped with the session, which ends the link and so the agent.
    _link: DropGuard,
}

/// Cancels the link's task when the session is dropped, and lets go of the way to the model, which
/// reports to a task that holds on to the session.
struct DropGuard(CancellationToken, Arc<Shared>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.cancel();
        self.1.close_gateway();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("group", &self.shared.group)
            .field("sandbox", self.agent_handle.sandbox())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Starts an agent and waits until it listens.
    ///
    /// # Errors
    /// Why there is none. Nothing of it is left running.
    pub async fn start(parts: &Parts, session_spec: SessionSpec) -> Result<Self, SessionError> {
        let SessionSpec { sandbox: spec, welcome, model, limits, reach } = session_spec;
        let (group, incarnation) = (spec.group.clone(), spec.incarnation.clone());
        let mut place = spec.place();
        place.env.extend(welcome.env.clone());
        place.env.insert(FILE_MAX.to_owned(), limits.disk.as_bytes().to_string());
        let runtime = parts.runtimes.get(&spec.container.reference())?;
        let container = spec.container.clone();
        let folders = spec.mounts.iter().map(|mount| MountedFolder::new(&mount.source)).collect();
        let writable = spec.mounts.iter().filter(|mount| mount.access == Access::Write);
        let writable = writable.map(|mount| mount.source.clone()).collect();
        let quota = Quota::new(writable, limits.disk);
        let shared = Shared::new(welcome, parts.store.clone(), Arc::clone(&parts.clock), quota);
        shared.extend(reach);
        let shared = Arc::new(shared);
        let sandbox = runtime.launch(spec).await?;
        record_start(parts, &group, &incarnation, sandbox.process).await?;
        answer_by(&shared, &parts.gateway, model);
        let router = routes(Arc::clone(&shared));
        let stop = CancellationToken::new();
        tokio::spawn(serve(sandbox.link, router, stop.clone(), group.clone()));
        tokio::spawn(keep_log(sandbox.log, group));
        let ended = watch_exit(Arc::clone(&shared), incarnation, sandbox.exit);
        let guard = DropGuard(stop, Arc::clone(&shared));
        let agent_handle = AgentHandle { runtime, sandbox: sandbox.id, container, place, folders };
        let file_max = limits.disk;
        let session =
            Self { shared, agent_handle, limits, file_max, ended, struck: false, _link: guard };
        session.wait_ready().await
    }

    async fn wait_ready(mut self) -> Result<Self, SessionError> {
        let mut ready = self.shared.ready.subscribe();
        let silent = tokio::select! {
            _ = ready.wait_for(|ready| *ready) => return Ok(self),
            exit = ended(&mut self.ended) => format!("it stopped: {exit}"),
            () = tokio::time::sleep(GREETING_MAX) => {
                format!("it did not report within {} s", GREETING_MAX.as_secs())
            }
        };
        self.stop().await;
        Err(SessionError::Silent(silent))
    }

    /// Whether the agent runs, can be told something, may write what the group may, and is not at
    /// work on a turn that nobody follows any more.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ended.borrow().is_none()
            && self.limits.disk <= self.file_max
            && !self.shared.orders.is_closed()
            && self.shared.in_flight().is_none()
    }

    /// A way to reach it from another task.
    #[must_use]
    pub fn agent_handle(&self) -> AgentHandle {
        self.agent_handle.clone()
    }

    /// Becomes ready when the agent has ended.
    pub async fn ended(&self) -> Exit {
        ended(&mut self.ended.clone()).await
    }

    /// Tells the agent what it is from the next turn on, and has another model answer it.
    /// Says whether the agent can still be told anything.
    pub fn reconfigure(
        &mut self,
        gateway: &Gateway,
        welcome: Welcome,
        model: (ModelName, ModelSpec),
        (limits, reach): (Limits, Reach),
    ) -> bool {
        self.shared.extend(reach);
        answer_by(&self.shared, gateway, model);
        self.limits = limits;
        self.shared.quota.allow(limits.disk);
        self.file_max = self.file_max.min(limits.disk);
        self.agent_handle.place.env = welcome.env.clone();
        self.shared.welcome(welcome.clone());
        self.shared.orders.try_send(Order::Settle(Box::new(welcome))).is_ok()
    }

    /// Runs a turn to its end. `cancel` ends it early.
    pub async fn run(
        &mut self,
        order: TurnOrder,
        cancel: &CancellationToken,
        progress: &ProgressSender,
    ) -> TurnEnd {
        let turn = order.turn.clone();
        let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
        let (steers, stage) = (VecDeque::new(), TurnStage::Open);
        *self.shared.account() = Some(turn.clone());
        let ending = CancellationToken::new();
        let id = turn.clone();
        *self.shared.in_flight() =
            Some(InFlight { id, events, steers, stage, ending: ending.clone() });
        let _ = progress.try_send(Progress::Thinking);
        let end = if self.shared.orders.try_send(Order::Turn(order)).is_ok() {
            self.run_to_end(&turn, &mut inbox, (cancel, &ending), progress).await
        } else {
            // It left so many orders unread that it is not worth waiting for.
            self.stop().await;
            TurnEnd::Lost("the agent does not accept requests".to_owned())
        };
        // A report that waits for room here holds up the end no longer.
        drop(inbox);
        self.shared.strained.store(self.struck, Ordering::Relaxed);
        // An answer was measured once more.
        tell_measured(&self.shared.quota, progress);
        self.conclude(end).await
    }

    /// Ends the turn for the routes. An answer that was stored meanwhile counts.
    async fn conclude(&self, end: TurnEnd) -> TurnEnd {
        let _turn_lock = self.shared.turn_lock.lock().await;
        match self.shared.in_flight().take().map(|turn| turn.stage) {
            Some(TurnStage::Answered) => TurnEnd::Done,
            _ => end,
        }
    }

    /// Follows a turn's events until one of them, or something else, ends it.
    async fn run_to_end(
        &mut self,
        turn: &TurnId,
        events: &mut mpsc::Receiver<Event>,
        (cancel, settled): (&CancellationToken, &CancellationToken),
        progress: &ProgressSender,
    ) -> TurnEnd {
        let overtime = Instant::now() + self.limits.turn.as_duration();
        // On its own, so that folders that take long to measure hold up nothing else.
        let quota = self.shared.quota.clone();
        let tell = || tell_measured(&quota, progress);
        let mut full = pin!(quota.outgrown(MEASURE_EVERY, tell));
        // Once the turn is to end, how it will have ended, and until when the agent may obey.
        let mut ending: Option<(TurnEnd, Instant)> = None;
        loop {
            let until = ending.as_ref().map_or(overtime, |(_, until)| *until);
            let wanted = tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => match self.look(event, progress) {
                        Some(end) => return reconciled_end(end, ending),
                        None => continue,
                    },
                    None => return TurnEnd::Lost("the session was closed".to_owned()),
                },
                exit = ended(&mut self.ended) => {
                    let end = match exit {
                        Exit::OutOfMemory => TurnEnd::OutOfMemory,
                        exit => TurnEnd::Lost(format!("the agent stopped: {exit}")),
                    };
                    return reconciled_end(end, ending);
                }
                () = cancel.cancelled(), if ending.is_none() => TurnEnd::Cancelled,
                () = self.shared.orders.closed(), if ending.is_none() => {
                    TurnEnd::Lost("its connection closed".to_owned())
                }
                () = &mut full, if ending.is_none() => TurnEnd::DiskFull,
                () = tokio::time::sleep_until(until) => match ending {
                    None => TurnEnd::TimedOut,
                    Some((end, _)) => {
                        tracing::warn!(%turn, "the agent does not respond and is stopped");
                        self.stop().await;
                        return end;
                    }
                },
            };
            if ending.is_none() {
                // Where it cannot be told, it will not obey, and the deadline ends it.
                let _ = self.shared.orders.try_send(Order::Cancel { turn: turn.clone() });
                settled.cancel();
                let patience =
                    if matches!(wanted, TurnEnd::Lost(_)) { FAREWELL_MAX } else { CANCEL_MAX };
                ending = Some((wanted, Instant::now() + patience));
            }
        }
    }

    /// Takes note of an event; gives how the turn ended, if it did.
    fn look(&mut self, event: Event, progress: &ProgressSender) -> Option<TurnEnd> {
        match event {
            Event::Done { .. } => Some(TurnEnd::Done),
            Event::Failed { reason, message } => Some(TurnEnd::Failed { reason, message }),
            Event::Text { text, fresh } => {
                let _ = progress.try_send(Progress::Text { text, fresh });
                None
            }
            Event::CallBegan { tool, arguments, .. } => {
                let arguments = arguments.to_string();
                let _ = progress.try_send(Progress::Tool { name: tool, arguments });
                None
            }
            Event::CallEnded { .. } => {
                let _ = progress.try_send(Progress::ToolEnded);
                None
            }
            Event::Struck { limit } => {
                self.struck |= limit == Limit::Memory;
                let _ = progress.try_send(Progress::Struck(limit.path()));
                None
            }
            Event::Toolless => {
                let model = self.shared.told().model;
                let text = format!("the model {model} cannot use tools and answers without them");
                let _ = progress.try_send(Progress::Note(text));
                None
            }
            Event::Round { .. } => None,
        }
    }

    /// Lets the agent finish and end by itself; by force where it does not.
    pub async fn drain(mut self) {
        let _ = self.shared.orders.try_send(Order::Drain);
        if tokio::time::timeout(DRAIN_MAX, ended(&mut self.ended)).await.is_err() {
            self.stop().await;
        }
    }

    /// Ends the agent at once, by force.
    pub async fn end(mut self) {
        self.stop_within(Duration::ZERO).await;
    }

    /// Ends the agent, by force where it does not end by itself.
    pub async fn stop(&mut self) {
        self.stop_within(STOP_MAX).await;
    }

    async fn stop_within(&mut self, grace: Duration) {
        if let Err(error) = self.agent_handle.stop(grace).await {
            tracing::warn!(%error, "the agent cannot be stopped");
        }
        let _ = tokio::time::timeout(STOP_MAX, ended(&mut self.ended)).await;
    }
}

/// Has another model answer a session's agent from now on.
fn answer_by(shared: &Arc<Shared>, gateway: &Gateway, (name, spec): (ModelName, ModelSpec)) {
    let usage = keep_usage(Arc::clone(shared));
    shared.open_gateway(gateway, Caller { group: shared.group.clone(), name, spec, usage });
}

/// Tells whether it is known how full the folders are.
fn tell_measured(quota: &Quota, progress: &ProgressSender) {
    let why = quota.unknown().map(|why| format!("disk use is unknown: {why}"));
    let _ = progress.try_send(Progress::Measured(why));
}

/// How a turn ended that was told to: an answer that came all the same counts.
fn reconciled_end(end: TurnEnd, ending: Option<(TurnEnd, Instant)>) -> TurnEnd {
    match (end, ending) {
        (TurnEnd::Done, _) => TurnEnd::Done,
        // How the agent ended says more than that its link did.
        (lost @ (TurnEnd::Lost(_) | TurnEnd::OutOfMemory), Some((TurnEnd::Lost(_), _))) => lost,
        (_, Some((wanted, _))) => wanted,
        (TurnEnd::Failed { reason: Failure::Cancelled, .. }, None) => TurnEnd::Cancelled,
        (end, None) => end,
    }
}

/// Waits for the agent's end.
async fn ended(exit: &mut watch::Receiver<Option<Exit>>) -> Exit {
    match exit.wait_for(Option::is_some).await {
        Ok(exit) => exit.clone().unwrap_or_else(|| Exit::Lost("unknown".to_owned())),
        Err(_) => Exit::Lost("nobody watches it".to_owned()),
    }
}

async fn record_start(
    parts: &Parts,
    group: &GroupName,
    incarnation: &Incarnation,
    process: Option<Process>,
) -> Result<(), StoreError> {
    let Some(process) = process else { return Ok(()) };
    parts
        .store
        .sandbox_started(store::Sandbox {
            group: group.clone(),
            incarnation: incarnation.clone(),
            pid: process.pid.unsigned_abs(),
            start_time: process.start_time,
            boot_id: process::boot_id(),
            started_at: parts.clock.now(),
        })
        .await
}

fn watch_exit(
    shared: Arc<Shared>,
    incarnation: Incarnation,
    exit: futures_util::future::BoxFuture<'static, Exit>,
) -> watch::Receiver<Option<Exit>> {
    let (tell, ended) = watch::channel(None);
    tokio::spawn(async move {
        let exit = match exit.await {
            // The mark may be that of a tool, and the end have another reason. Where it has not, the
            // next agent's end will say so.
            Exit::OutOfMemory if shared.strained.load(Ordering::Relaxed) => Exit::Signal(9),
            exit => exit,
        };
        if let Err(error) = shared.store.sandbox_ended(&incarnation, shared.clock.now()).await {
            tracing::warn!(%error, "cannot record that an agent stopped");
        }
        tell.send_replace(Some(exit));
    });
    ended
}

async fn serve(
    link: Box<dyn crate::runtime::Duplex>,
    router: Router,
    stop: CancellationToken,
    group: GroupName,
) {
    tokio::select! {
        outcome = server::serve(link, router) => {
            if let Err(error) = outcome {
                tracing::debug!(%group, %error, "the link ended");
            }
        }
        () = stop.cancelled() => {}
    }
}
