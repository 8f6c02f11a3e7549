//! The task of one group: what it does, and when.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::lease::{Leased, lease_of};
use super::{GroupCommand, GroupEvent, GroupHandle, Until, quit};
use crate::control::AgentState;
use crate::controller::Shared;
use crate::error::chain;
use crate::execute::AgentOrder;
use crate::host::{Agent, Wait, Worked, Worker};
use crate::resource::Lifecycle;
use crate::runtime::Exit;
use crate::session::Progress;

/// The wait after the store failed.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// The task of one group.
pub(super) struct GroupActor {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Arc<GroupHandle>,
    pub(super) worker: Worker,
    pub(super) agent: watch::Receiver<Agent>,
    pub(super) inbox: mpsc::Receiver<GroupCommand>,
    /// Whether something may wait in the store.
    pub(super) pending: bool,
    /// What the next attempt at the turn waits for. Nothing is held meanwhile.
    pub(super) wait: Option<Wait>,
    /// What a plan asked for while the group was at work.
    pub(super) later: Option<AgentOrder>,
    /// Who wants to look inside an agent that is not there yet, while the group is at work. Each is
    /// a connection, and of those there is a bound.
    pub(super) lookers: Vec<oneshot::Sender<Result<Leased, String>>>,
    /// Until when what is under way may go on, once it is to end.
    pub(super) quit: Option<Until>,
}

impl GroupActor {
    pub(super) fn new(
        shared: &Arc<Shared>,
        handle: &Arc<GroupHandle>,
        worker: Worker,
        inbox: mpsc::Receiver<GroupCommand>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            handle: Arc::clone(handle),
            agent: worker.agent(),
            worker,
            inbox,
            pending: true,
            wait: None,
            later: None,
            lookers: Vec::new(),
            quit: None,
        }
    }

    pub(super) async fn run(mut self) {
        self.remember_hold().await;
        while !self.is_over() {
            let may_work = self.quit.is_none() && !self.handle.state().held;
            if self.pending && self.wait.is_none() && may_work {
                self.work().await;
                for reply in std::mem::take(&mut self.lookers) {
                    let _ = reply.send(self.lease().await);
                }
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
        let Self { worker, wait, inbox, handle, .. } = self;
        tokio::select! {
            ask = inbox.recv() => match ask {
                Some(ask) => self.answer(ask).await,
                None => quit(&mut self.quit, Until::now()),
            },
            () = handle.work.notified() => self.pending = true,
            () = waited(worker, wait.as_mut()) => self.end_wait(),
            exit = worker.ended() => {
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
            GroupCommand::Configure(host) => {
                self.worker.adopt_generation(*host);
                // What it waits for may not be needed any more.
                self.end_wait();
            }
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
            GroupCommand::Cancelled(_) => {
                // What waited may have been it; if not, it waits again.
                self.wait = None;
                self.handle.state().away = None;
                self.set_failure(None);
                self.wait_for_hold();
                let _ = self.handle.group_events.send(GroupEvent::Ended);
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

    /// Makes an attempt at the next turn, if there is one.
    async fn work(&mut self) {
        let Some(place) = self.place().await else { return };
        let ended = self.turn().await;
        // Before its place is another's, and before anybody hears of the end: whoever looks then
        // must not find it at work any more.
        self.set_stage(AgentState::Idle);
        drop(place);
        match ended {
            Some(Ok(Some(Worked::Waits(wait)))) => self.wait = Some(wait),
            Some(Ok(Some(worked))) => {
                self.forget_trouble();
                self.set_failure(match worked {
                    Worked::GivenUp(why) => Some(why),
                    _ => None,
                });
                let _ = self.handle.group_events.send(GroupEvent::Ended);
            }
            Some(Ok(None)) => {
                self.forget_trouble();
                self.pending = false;
                let _ = self.handle.group_events.send(GroupEvent::Ended);
            }
            Some(Err(error)) => {
                tracing::error!(group = %self.handle.group, error = chain(&error), "a turn waits");
                let why = chain(&error);
                self.set_failure(Some(why.clone()));
                let step = Progress::Retry { why, wait: STORE_WAIT };
                let _ = self.handle.group_events.send(GroupEvent::Progress { of: None, step });
                self.wait = Some(self.worker.pause(STORE_WAIT));
            }
            // It ends before its time, and the next controller goes on with the turn.
            None => self.worker.end().await,
        }
        self.catch_up().await;
    }

    /// Goes on with the turn that waited.
    fn end_wait(&mut self) {
        let Some(wait) = self.wait.take() else { return };
        self.worker.end_wait(&wait);
        self.handle.state().waits_for = None;
        if wait.ends_with_news() {
            self.handle.state().away = None;
            let step = Progress::Back;
            let _ = self.handle.group_events.send(GroupEvent::Progress { of: None, step });
        }
        self.pending = true;
    }

    /// What a turn waited for is not waited for any more.
    fn forget_trouble(&self) {
        self.handle.state().away = None;
        self.wait_for_hold();
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

    /// Waits for one, and answers what is asked meanwhile.
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
        let resume = || format!("`babybot resume {}` (paused)", self.handle.group);
        self.set_waiting(held.then(resume));
    }

    fn set_failure(&self, failure: Option<String>) {
        self.handle.state().failure = failure;
        self.shared.tell();
    }
}

/// Becomes ready when a wait is over; never, where there is none.
async fn waited(worker: &Worker, wait: Option<&mut Wait>) {
    match wait {
        Some(wait) => worker.waited(wait).await,
        None => std::future::pending().await,
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

async fn sleep(time: Duration) {
    // A time that never comes is more than a timer takes.
    match time {
        Duration::MAX => std::future::pending().await,
        time => tokio::time::sleep(time).await,
    }
}
