//! A group at work: a turn under way, and what is asked meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::tz::TimeZone;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::actor::GroupActor;
use super::lease::lease_of;
use super::lost::Lost;
use super::{GroupCommand, GroupEvent, Until, quit};
use crate::control::AgentState;
use crate::controller::{Shared, typing};
use crate::error::chain;
use crate::execute::AgentOrder;
use crate::host::{Answering, HostError, Worked};
use crate::name::GroupName;
use crate::session::{AgentHandle, Progress, SteerHandle};
use crate::store::MessageSeq;

/// Steps of a turn that wait to be passed on.
const PROGRESS_MAX: usize = 64;

impl GroupActor {
    /// Runs a turn, and answers what is asked meanwhile. `None`: it was broken off.
    pub(super) async fn turn(&mut self) -> Option<Result<Option<Worked>, HostError>> {
        let (audience, mut progress) = mpsc::channel(PROGRESS_MAX);
        let cancel = CancellationToken::new();
        let shared = Arc::clone(&self.shared);
        let handle = Arc::clone(&self.handle);
        shared.set_stage(&handle, AgentState::Working);
        let Self { worker, inbox, agent, later, lookers, quit: ending, pending, .. } = self;
        let (next, zone, room) = (worker.next(), worker.zone(), worker.room());
        let (answering, mut steer_handle) = (worker.answering(), worker.steer_handle());
        let showing = typing::show(Arc::clone(&shared), worker.answering());
        let _showing = AbortOnDropHandle::new(tokio::spawn(showing));
        let mut work = std::pin::pin!(worker.work(&cancel, &audience));
        let tell = |step: Progress| {
            shared.take_note(&handle, &step);
            let of = answering.borrow().clone();
            let _ = handle.group_events.send(GroupEvent::Progress { of, step });
        };
        // Messages on their way to the turn: one look at a time.
        let mut steering: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let mut steer_again = false;
        let mut lost = Lost::of(&agent.borrow_and_update());
        let mut orders: FuturesUnordered<BoxFuture<'_, Judged>> = FuturesUnordered::new();
        loop {
            if steer_again && steering.is_empty() {
                steer_again = false;
                let (at, reached) = (answering.borrow().clone(), steer_handle.borrow().clone());
                if let (Some(at), Some(reached)) = (at, reached) {
                    steering.push(Box::pin(shared.steer(
                        &handle.group,
                        (at, reached),
                        (&zone, room),
                    )));
                }
            }
            let until = *ending;
            tokio::select! {
                biased;
                worked = &mut work => {
                    // Cut short, it could leave a message with a turn that never heard of it.
                    while steering.next().await.is_some() {}
                    while let Ok(step) = progress.try_recv() {
                        tell(step);
                    }
                    while let Some((order, _, reply)) = orders.next().await {
                        *later = Some(order);
                        let _ = reply.send(Ok(()));
                    }
                    return Some(worked);
                }
                step = progress.recv() => if let Some(step) = step {
                    lost.take_note(&step);
                    tell(step);
                },
                changed = agent.changed() => if changed.is_ok() {
                    let present = agent.borrow_and_update().clone();
                    if present.agent_handle().is_some() {
                        for reply in lookers.drain(..) {
                            drop(reply.send(lease_of(&handle)));
                        }
                    }
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
                    Some(GroupCommand::Cancelled(turn)) => {
                        if answering.borrow().as_ref().is_some_and(|at| at.turn == turn) {
                            cancel.cancel();
                        }
                    }
                    Some(GroupCommand::Lease(reply)) => {
                        let is_there = agent.borrow().agent_handle().is_some();
                        match is_there {
                            true => drop(reply.send(lease_of(&handle))),
                            false => lookers.push(reply),
                        }
                    }
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
                () = handle.work.notified() => {
                    *pending = true;
                    steer_again = true;
                }
                // What came while the agent was being started is told as well.
                changed = steer_handle.changed() => steer_again |= changed.is_ok(),
                Some(()) = steering.next(), if !steering.is_empty() => {}
                () = past(until) => {
                    while steering.next().await.is_some() {}
                    return None;
                }
            }
        }
    }
}

/// What a plan asks for in the middle of a turn, with the agent where somebody halted it.
type Judged = (AgentOrder, Option<AgentHandle>, oneshot::Sender<Result<(), String>>);

async fn past(until: Option<Until>) {
    match until {
        Some(Until::At(at)) => tokio::time::sleep_until(at).await,
        Some(Until::Over) | None => std::future::pending().await,
    }
}

impl Shared {
    /// Gives a turn under way what waits in the conversation that it answers, and in no other.
    async fn steer(
        &self,
        group: &GroupName,
        (at, steer_handle): (Arc<Answering>, SteerHandle),
        (zone, room): (&TimeZone, usize),
    ) {
        let Some(conversation) = &at.to else { return };
        let host = self.host();
        let waiting = host.parts().store.waiting_in(group, conversation).await;
        let steered = match waiting {
            Ok(messages) if messages.is_empty() => return,
            Ok(messages) => {
                let seqs: Vec<MessageSeq> = messages.iter().map(|message| message.seq).collect();
                steer_handle.steer(seqs, host.prompt_in(&messages, zone, room)).await
            }
            Err(error) => Err(error),
        };
        // What was not given to it waits for a turn of its own.
        if let Err(error) = steered {
            tracing::warn!(%group, error = chain(&error), "cannot steer a turn");
        }
    }
}
