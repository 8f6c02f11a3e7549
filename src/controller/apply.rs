//! An approved plan, carried out by the controller that runs.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::group::{Ask, Cell};
use super::look::Eyes;
use crate::control::{ApplyEvent, ApplyRequest};
use crate::error::chain;
use crate::execute::{self, AgentOrder, Direct, Lines, Outcome, Tools};
use crate::host::Host;
use crate::name::GroupName;
use crate::reconcile::mend::share;
use crate::reconcile::{self, ApplyError, Approved};
use crate::resource::{ResourceId, Spec};

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
    async fn order(&self, cell: &Cell, order: AgentOrder) -> Option<Result<(), String>> {
        if let Some(next) = &self.next {
            cell.ask(Ask::Configure(next.clone())).await.ok()?;
        }
        let (reply, done) = oneshot::channel();
        cell.ask(Ask::Order(order, reply)).await.ok()?;
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
            let cell = self.shared.cell(group).ok_or("the group is not served yet")?;
            match self.order(&cell, order).await {
                Some(done) => done,
                // All agents end, and whatever starts one next makes it as it is to be.
                None if self.shared.closing.is_cancelled() => Ok(()),
                None => Err("the group is no longer served".to_owned()),
            }
        })
    }
}

impl Shared {
    /// What changes the machine, with everything that this controller has for it.
    pub(super) fn hands(
        self: &Arc<Self>,
        next: Option<Host>,
        lines: Option<Lines>,
    ) -> execute::Machine {
        let parts = self.parts();
        let orders = Orders { shared: Arc::clone(self), next };
        let tools =
            Tools { binary: Some(Arc::clone(&self.binary)), agents: Some(Arc::new(orders)), lines };
        execute::Machine::new(parts.project.clone(), parts.runtimes.clone(), tools)
    }

    /// Carries an approved plan out, tells how it goes, and goes on with what was applied.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        request: ApplyRequest,
        events: &mpsc::Sender<ApplyEvent>,
    ) {
        let _applying = self.applying.lock().await;
        if self.closing.is_cancelled() {
            let why = "the controller is ending: try again in a moment".to_owned();
            let _ = events.send(ApplyEvent::Error { why }).await;
            return;
        }
        {
            let _changing = self.changing.lock().await;
            // What it builds is of no generation yet. Of all else, only what is just being changed
            // is its own: agents live on while an image is built.
            let images = request.plan.steps.iter().map(|step| &step.id);
            let images = images.filter(|id| matches!(id, ResourceId::Image(_)));
            *self.touched() = images.cloned().collect();
        }
        if let Some(first) = request.plan.steps.first() {
            self.touched().insert(share(&first.id));
        }
        let end = self.apply(request, events).await;
        self.touched().clear();
        self.nudge();
        let _ = events.send(end).await;
    }

    async fn apply(
        self: &Arc<Self>,
        request: ApplyRequest,
        events: &mpsc::Sender<ApplyEvent>,
    ) -> ApplyEvent {
        (self.find)().await;
        let ApplyRequest { desired, text, plan, risks } = request;
        let specs = desired.resources.iter();
        let specs = specs.map(|(id, wanted)| (id.clone(), wanted.spec.clone())).collect();
        let host = self.host();
        let next = host.with_generation(plan.generation(), Arc::new(specs));
        let told = events.clone();
        let lines: Lines = Arc::new(move |line: &str| {
            // Rather a line of a build goes missing than what became of a step.
            if told.capacity() > EVENTS_SPARED {
                let _ = told.try_send(ApplyEvent::Line { text: line.to_owned() });
            }
        });
        let hands = self.hands(Some(next), Some(lines));
        let eyes = Eyes::new(self);
        let parts = self.parts();
        let told = events.clone();
        let mut next = plan.steps.iter().skip(1);
        let progress = |id: &ResourceId, outcome: &Outcome| {
            if let Some(next) = next.next() {
                self.touched().insert(share(&next.id));
            }
            let id = id.clone();
            let event = match outcome {
                Outcome::Done => ApplyEvent::Done { id },
                Outcome::Failed(why) => ApplyEvent::Failed { id, why: why.clone() },
                Outcome::HeldBack(by) => ApplyEvent::HeldBack { id, by: by.clone() },
            };
            let _ = told.try_send(event);
        };
        let approved = Approved { desired: &desired, text: &text, plan: &plan, risks };
        let clock = self.clock();
        let applied =
            reconcile::apply(&approved, &eyes, &hands, &parts.store, &*clock, progress).await;
        match applied {
            Ok(applied) => {
                let complete = applied.report.is_complete();
                let _changing = self.changing.lock().await;
                match self.take_up_generation().await {
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
        }
    }

    /// Goes on with what was applied last.
    async fn take_up_generation(self: &Arc<Self>) -> Result<(), String> {
        let store = self.parts().store;
        let applied = store.applied().await.map_err(|error| chain(&error))?;
        let applied = applied.ok_or("what was just applied is not there")?;
        self.remember_endpoints(&applied.specs).await;
        {
            let mut host = self.host.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            *host = host.with_generation(applied.number, Arc::new(applied.specs));
        }
        self.note_edit();
        self.known().attempts.clear();
        self.serve_groups().map_err(|error| chain(&error))
    }

    /// Writes down where sandboxes are made, so that a change of runtime finds them.
    pub(super) async fn remember_endpoints(
        &self,
        specs: &std::collections::BTreeMap<ResourceId, Spec>,
    ) {
        let kinds = specs.values().filter_map(|spec| match spec {
            Spec::Group(group) => Some(group.runtime),
            _ => None,
        });
        let kinds: std::collections::BTreeSet<_> = kinds.collect();
        let (parts, now) = (self.parts(), self.clock().now());
        for endpoint in kinds.into_iter().filter_map(|kind| self.endpoint(kind)) {
            if let Err(error) = parts.store.remember_endpoint(&endpoint, now).await {
                tracing::warn!(%error, "where sandboxes are made is not remembered");
            }
        }
    }
}
