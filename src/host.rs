//! The controller's work: from a stored message to a stored reply.
//!
//! It decides when a turn is run, tried again or given up; a [`Session`](crate::session::Session)
//! runs it. Everything it needs to know to go on after a crash is in the store, and time,
//! identifiers and every door come in as arguments.

mod attempts;
mod inbox;
mod spec;
mod turn;
mod wait;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use thiserror::Error;
use tokio::sync::watch;

pub use self::inbox::{Taken, accept};
pub use self::turn::Worked;
pub use self::wait::Wait;
pub use self::worker::{Agent, Answering, NextHost, Worker};
use crate::name::{GroupName, InstanceId, ModelName};
use crate::resource::{GroupSpec, ModelSpec, ResourceId, RuntimeRef, Spec};
use crate::route::Routes;
use crate::route::prompt::{Said, prompt};
use crate::runtime::RuntimeError;
use crate::session::Parts;
use crate::store::{Message, StoreError, TurnState};

/// The wait before the first retry; it doubles with each.
const RETRY_FIRST: Duration = Duration::from_secs(5);

/// Why the controller cannot work.
#[derive(Debug, Error)]
pub enum HostError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What an earlier controller left behind cannot be ended.
    #[error("cannot stop leftovers of an earlier run: {0}")]
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
    generation: u64,
    specs: Arc<BTreeMap<ResourceId, Spec>>,
    routes: Arc<Routes>,
    zone: TimeZone,
    retry_first: Duration,
    unreaped: Vec<RuntimeRef>,
    /// Grows when what a turn waits for may be there.
    again: Arc<watch::Sender<u64>>,
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
        let left = parts.store.open_sandboxes().await?;
        let mut unreaped = Vec::new();
        for runtime in parts.runtimes.all() {
            match runtime.reap(instance.clone()).await {
                Ok(()) => {}
                // What cannot be reached now is found by the looks that follow.
                Err(error @ RuntimeError::Unavailable { .. }) => {
                    tracing::warn!(%error, "leftovers of an earlier run stay for now");
                    unreaped.push(runtime.reference());
                }
                Err(error) => return Err(HostError::Reap(error)),
            }
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
        Ok(Self {
            parts,
            instance,
            generation: 0,
            routes: Arc::new(Routes::new(&specs)),
            specs: Arc::new(specs),
            zone,
            retry_first: RETRY_FIRST,
            again: Arc::new(watch::Sender::new(0)),
            unreaped,
        })
    }

    /// The same controller with what another generation recorded.
    #[must_use]
    pub fn with_generation(&self, generation: u64, specs: Arc<BTreeMap<ResourceId, Spec>>) -> Self {
        let routes = Arc::new(Routes::new(&specs));
        Self { generation, specs, routes, ..self.clone() }
    }

    /// The runtimes that did not answer when an earlier controller's leftovers were to be ended.
    #[must_use]
    pub fn unreaped(&self) -> &[RuntimeRef] {
        &self.unreaped
    }

    /// What the generation recorded.
    #[must_use]
    pub fn specs(&self) -> &Arc<BTreeMap<ResourceId, Spec>> {
        &self.specs
    }

    /// Which group listens where.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The installation.
    #[must_use]
    pub fn instance(&self) -> &InstanceId {
        &self.instance
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

    /// The environment of a group's tools.
    fn env(&self, group: &GroupName) -> BTreeMap<String, String> {
        match self.specs.get(&ResourceId::Settings(group.clone())) {
            Some(Spec::Settings { env }) => env.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Has turns that wait for what they run in try again at once.
    pub fn try_again(&self) {
        self.again.send_modify(|count| *count += 1);
    }

    /// The work of one group.
    ///
    /// # Errors
    /// When the applied generation does not have the group or its model.
    pub fn worker(&self, group: &GroupName) -> Result<Worker, HostError> {
        Worker::new(self, group)
    }

    /// A group and the model that answers it.
    fn group(&self, group: &GroupName) -> Result<(GroupSpec, (ModelName, ModelSpec)), HostError> {
        let id = ResourceId::Group(group.clone());
        let Some(Spec::Group(spec)) = self.specs.get(&id) else {
            return Err(HostError::Unknown(id));
        };
        let id = ResourceId::Model(spec.model.clone());
        let Some(Spec::Model(model)) = self.specs.get(&id) else {
            return Err(HostError::Unknown(id));
        };
        Ok(((**spec).clone(), (spec.model.clone(), model.clone())))
    }

    /// The messages as the agent reads them.
    #[must_use]
    pub fn prompt(&self, messages: &[Message]) -> String {
        self.prompt_in(messages, &self.zone, usize::MAX)
    }

    /// As [`Host::prompt`], with times of this zone, and within so many bytes.
    #[must_use]
    pub fn prompt_in(&self, messages: &[Message], zone: &TimeZone, room: usize) -> String {
        let said: Vec<Said<'_>> = messages
            .iter()
            .map(|message| Said {
                sender: &message.incoming.sender,
                at: message.incoming.sent_at,
                text: &message.incoming.text,
                quote: inbox::quote(message),
                attachments: inbox::attachments(message),
            })
            .collect();
        prompt(&said, zone, room)
    }
}
