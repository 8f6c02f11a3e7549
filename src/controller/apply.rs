//! An approved plan, carried out by the controller that runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::group::{GroupCommand, GroupHandle};
use super::look::ControllerLook;
use crate::control::{ApplyEvent, ApplyRequest};
use crate::error::chain;
use crate::execute::{self, AgentOrder, Direct, Lines, StepOutcome, Tools};
use crate::host::Host;
use crate::machine::Trust;
use crate::name::GroupName;
use crate::reconcile::mend::share;
use crate::reconcile::{self, ApplyError, Approved};
use crate::resource::{self, ContainerSpec, Lifecycle, ResourceId, Spec};

/// Room for events that is kept from the lines of a build.
const EVENTS_SPARED: usize = 32;

/// Directs the groups of this controller.
pub(super) struct Orders {
    shared: Arc<Shared>,
    /// What the groups are to be from now on, where that is not what they are.
    next: Option<Host>,
}

impl Orders {
    /// Asks a group; `None` where nobody serves it any more.
    async fn order(&self, handle: &GroupHandle, order: AgentOrder) -> Option<Result<(), String>> {
        if let Some(next) = &self.next {
            handle.ask(GroupCommand::Configure(Box::new(next.clone()))).await.ok()?;
        }
        let (reply, done) = oneshot::channel();
        handle.ask(GroupCommand::Order(order, reply)).await.ok()?;
        done.await.ok()
    }
}

impl Direct for Orders {
    fn direct<'a>(
        &'a self,
        group: &'a GroupName,
        order: AgentOrder,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let handle = self.shared.handle(group).ok_or("the group is not ready yet")?;
            match self.order(&handle, order).await {
                Some(done) => done,
                // All agents end, and whatever starts one next makes it as it is to be.
                None if self.shared.closing.is_cancelled() => Ok(()),
                None => Err("the group was removed".to_owned()),
            }
        })
    }
}

/// What becomes of an agent that is not made of what was applied; `None` where it is, or where none
/// runs.
fn way_back(handle: &GroupHandle, host: &Host) -> Option<AgentOrder> {
    let Some(Spec::Group(spec)) = host.specs().get(&ResourceId::Group(handle.group.clone())) else {
        return None;
    };
    let agent = handle.agent();
    if *agent.agent_handle()?.container() == ContainerSpec::of(spec, host.specs()) {
        return None;
    }
    Some(match spec.lifecycle {
        Lifecycle::Always => AgentOrder::Replace,
        Lifecycle::OnDemand => AgentOrder::Stop,
    })
}

/// An apply at work: however it ends, rounds do not leave alone for ever what was its own.
struct Busy<'a>(&'a Arc<Shared>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touched().clear();
        self.0.nudge();
    }
}

impl Shared {
    /// What changes the machine, with everything that this controller has for it.
    pub(super) fn executor(
        self: &Arc<Self>,
        next: Option<Host>,
        lines: Option<Lines>,
    ) -> execute::HostChange {
        let parts = self.parts();
        let orders = Orders { shared: Arc::clone(self), next };
        let tools =
            Tools { binary: Some(Arc::clone(&self.binary)), agents: Some(Arc::new(orders)), lines };
        execute::HostChange::new(parts.project.clone(), parts.runtimes.clone(), tools)
    }

    /// Carries an approved plan out, tells how it goes, and goes on with what was applied.
    pub(super) async fn serve_apply(
        self: &Arc<Self>,
        request: ApplyRequest,
        events: &mpsc::Sender<ApplyEvent>,
    ) {
        let _applying = self.applying.lock().await;
        if self.closing.is_cancelled() {
            let why = "the controller is stopping; try again in a moment".to_owned();
            let _ = events.send(ApplyEvent::Error { why }).await;
            return;
        }
        let specs = request.desired.resources.iter();
        let specs: BTreeMap<ResourceId, Spec> =
            specs.map(|(id, wanted)| (id.clone(), wanted.spec.clone())).collect();
        let changing = self.changing.lock().await;
        // Where agents move to another engine, rounds have nothing to look at until they did.
        let (from, to) = (resource::engine(self.host().specs()), resource::engine(&specs));
        let moves = from.is_some() && to.is_some() && from != to;
        {
            // What it builds is of no generation yet. Of all else, only what is just being changed
            // is its own: agents live on while an image is built.
            let mut all = request.plan.steps.iter().map(|step| share(&step.id));
            let first = all.next();
            let images = all.filter(|id| matches!(id, ResourceId::Image(_)));
            *self.touched() = images.chain(first).collect();
        }
        let still = moves.then_some(changing);
        let busy = Busy(self);
        let end = self.apply(request, specs, still, events).await;
        drop(busy);
        let _ = events.send(end).await;
    }

    async fn apply(
        self: &Arc<Self>,
        request: ApplyRequest,
        specs: BTreeMap<ResourceId, Spec>,
        still: Option<tokio::sync::MutexGuard<'_, ()>>,
        events: &mpsc::Sender<ApplyEvent>,
    ) -> ApplyEvent {
        let ApplyRequest { desired, text, plan, risks } = request;
        self.health.turn_to(&specs, Trust::Recent).await;
        self.remember_engine(&specs).await;
        let host = self.host();
        let next = host.with_generation(plan.generation(), Arc::new(specs));
        let told = events.clone();
        let lines: Lines = Arc::new(move |line: &str| {
            // Rather a line of a build goes missing than what became of a step.
            if told.capacity() > EVENTS_SPARED {
                let _ = told.try_send(ApplyEvent::Line { text: line.to_owned() });
            }
        });
        let executor = self.executor(Some(next), Some(lines));
        let eyes = ControllerLook::new(self);
        let parts = self.parts();
        let told = events.clone();
        let mut next = plan.steps.iter().skip(1);
        let progress = |id: &ResourceId, outcome: &StepOutcome| {
            if let Some(next) = next.next() {
                self.touched().insert(share(&next.id));
            }
            let id = id.clone();
            let event = match outcome {
                StepOutcome::Done => ApplyEvent::Done { id },
                StepOutcome::Failed(why) => ApplyEvent::Failed { id, why: why.clone() },
                StepOutcome::HeldBack(by) => ApplyEvent::HeldBack { id, by: by.clone() },
            };
            let _ = told.try_send(event);
        };
        let approved = Approved { desired: &desired, text: &text, plan: &plan, risks };
        let clock = self.clock();
        let applied =
            reconcile::apply(&approved, &eyes, &executor, &parts.store, &*clock, progress).await;
        let _changing = match still {
            Some(still) => still,
            None => self.changing.lock().await,
        };
        let end = match applied {
            Ok(applied) => {
                let complete = applied.report.is_complete();
                let (generation, whole) = (applied.generation, complete);
                tracing::info!(generation, whole, "a plan was carried out");
                match self.take_up_generation(applied.generation, applied.specs) {
                    Ok(()) => ApplyEvent::Applied {
                        generation: applied.generation,
                        complete,
                        left: Box::new(applied.left),
                    },
                    Err(why) => ApplyEvent::Error { why },
                }
            }
            Err(ApplyError::Stale(plan)) => ApplyEvent::Stale { plan },
            Err(ApplyError::Refused(findings)) => {
                let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                ApplyEvent::Error { why: format!("the plan is refused: {}", lines.join("; ")) }
            }
            Err(error @ ApplyError::Store(_)) => ApplyEvent::Error { why: chain(&error) },
        };
        // Nothing may have come of it.
        self.health.turn_to(self.host().specs(), Trust::Recent).await;
        if !matches!(end, ApplyEvent::Applied { .. }) {
            self.go_back().await;
        }
        end
    }

    /// Has every group go on as it was applied last: a plan that was not recorded may have given
    /// some of them another spec, and agents that are made of it.
    async fn go_back(self: &Arc<Self>) {
        if let Err(error) = self.serve_groups() {
            tracing::error!(error = chain(&error), "cannot serve a group");
        }
        let host = self.host();
        let back = self.groups().into_iter().filter_map(|handle| {
            let order = way_back(&handle, &host)?;
            let orders = Orders { shared: Arc::clone(self), next: Some(host.clone()) };
            Some(async move {
                tracing::warn!(group = %handle.group, "the agent goes back to what was applied");
                if let Some(Err(error)) = orders.order(&handle, order).await {
                    tracing::warn!(group = %handle.group, error, "cannot replace the agent");
                }
            })
        });
        futures_util::future::join_all(back).await;
    }

    /// Goes on with the generation that was just recorded.
    fn take_up_generation(
        self: &Arc<Self>,
        number: u64,
        specs: BTreeMap<ResourceId, Spec>,
    ) -> Result<(), String> {
        {
            let mut host = self.host.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            *host = host.with_generation(number, Arc::new(specs));
        }
        self.note_edit();
        self.known().attempts.clear();
        self.serve_groups().map_err(|error| chain(&error))
    }

    /// Writes down where sandboxes are made, before they are, so that a change of engine or runtime
    /// finds them.
    async fn remember_engine(&self, specs: &BTreeMap<ResourceId, Spec>) {
        let Some(engine) = resource::engine(specs) else { return };
        let (store, now) = (self.parts().store, self.clock().now());
        if let Err(error) = store.remember_endpoint(&engine, now).await {
            tracing::warn!(%error, "cannot record which engine runs the containers");
        }
    }
}
