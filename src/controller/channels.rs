//! The channels of a controller: each is run, and what is stored for it is delivered.

mod health;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::channel::{
    Channel, InboundEvent, Inbox, NotAccepted, Opening, Outgoing, PostNumber, Receipt,
};
use crate::control::Role;
use crate::delivery::{self, Delivery, RETRY_FIRST};
use crate::error::chain;
use crate::host::HostError;
use crate::name::{ChannelName, ChatId, MessageId};
use crate::resource::{ChannelSpec, ResourceId, Spec, Writers};
use crate::secret;
use crate::store::{OutboxId, StoreError};

/// The wait before a channel that failed is run again.
const RUN_AGAIN: Duration = Duration::from_secs(5);
/// The wait before a channel that could not be opened is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

/// A channel that runs.
#[derive(Debug)]
pub(super) struct Running {
    spec: ChannelSpec,
    channel: Arc<dyn Channel>,
    /// Told when somebody may be there who was not.
    reachable: Arc<Notify>,
    /// Nothing comes in any more.
    deaf: CancellationToken,
    /// Nothing goes out any more.
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.deaf.cancel();
        self.stop.cancel();
    }
}

impl Shared {
    /// Runs the channels that were applied, and the terminal, which is always there. A controller
    /// that lasts only as long as a conversation has no other.
    pub(super) fn serve_channels(self: &Arc<Self>) {
        let terminal = ChannelName::terminal();
        let mut wanted = BTreeMap::from([(terminal.clone(), ChannelSpec::Terminal)]);
        for (id, spec) in self.host().specs().iter() {
            if let (ResourceId::Channel(name), Spec::Channel(spec)) = (id, spec)
                && (self.role == Role::Up || *name == terminal)
            {
                wanted.insert(name.clone(), spec.clone());
            }
        }
        let mut unopened = false;
        let mut running = self.channels();
        // Whoever ends everything ends those that are here by then.
        if self.closing.is_cancelled() {
            return;
        }
        running.retain(|name, channel| wanted.get(name) == Some(&channel.spec));
        self.known().channels.retain(|name, _| running.contains_key(name));
        for (name, spec) in wanted {
            if running.contains_key(&name) {
                continue;
            }
            let opening = Opening { name: &name, spec: &spec, secrets: &secret::resolve };
            match self.registry.open(&opening) {
                Ok(channel) => drop(running.insert(name.clone(), self.run(&name, spec, channel))),
                Err(why) => {
                    tracing::warn!(channel = %name, %why, "a channel cannot be opened");
                    self.note_channel(&name, Err(why));
                    unopened = true;
                }
            }
        }
        drop(running);
        if unopened && !self.reopens.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(OPEN_AGAIN) => {}
                    () = shared.closing.cancelled() => return,
                }
                shared.reopens.store(false, Ordering::Relaxed);
                shared.serve_channels();
            });
        }
    }

    fn run(
        self: &Arc<Self>,
        name: &ChannelName,
        spec: ChannelSpec,
        channel: Arc<dyn Channel>,
    ) -> Running {
        let settled = Arc::new(Notify::new());
        let running = Running {
            spec,
            channel: Arc::clone(&channel),
            reachable: Arc::default(),
            deaf: self.closing.child_token(),
            stop: CancellationToken::new(),
        };
        let delivery = Delivery {
            name: name.clone(),
            channel: Arc::clone(&channel),
            store: self.parts().store,
            clock: self.clock(),
            reachable: Arc::clone(&running.reachable),
            settled: Arc::clone(&settled),
            retry_first: RETRY_FIRST,
        };
        self.deliveries.spawn(delivery.run(running.stop.clone()));
        let hub = Hub {
            writers: channel.capabilities().writers,
            name: name.clone(),
            shared: Arc::clone(self),
        };
        let deaf = running.deaf.clone();
        tokio::spawn(async move {
            loop {
                let ended = tokio::select! {
                    ended = channel.run(&hub, deaf.clone()) => ended,
                    never = hub.shared.ask_after(&hub.name, &*channel, &settled) => match never {},
                };
                let Err(why) = ended else { return };
                tracing::warn!(channel = %hub.name, %why, "a channel takes nothing in for now");
                hub.shared.note_channel(&hub.name, Err(why));
                tokio::select! {
                    () = tokio::time::sleep(RUN_AGAIN) => {}
                    () = deaf.cancelled() => return,
                }
            }
        });
        running
    }

    /// A channel that runs.
    pub(super) fn channel(&self, name: &ChannelName) -> Option<Arc<dyn Channel>> {
        self.channels().get(name).map(|running| Arc::clone(&running.channel))
    }

    /// Has a channel look for whom it could not reach.
    pub(super) fn look_for_takers(&self, name: &ChannelName) {
        if let Some(channel) = self.channels().get(name) {
            channel.reachable.notify_one();
        }
    }

    /// Lets what is being sent end within a moment, and ends all deliveries.
    pub(super) async fn end_channels(&self) {
        self.channels().clear();
        self.deliveries.close();
        self.deliveries.wait().await;
    }
}

/// Where a channel of this controller hands over to.
struct Hub {
    name: ChannelName,
    writers: Writers,
    shared: Arc<Shared>,
}

impl Inbox for Hub {
    fn accept(&self, event: InboundEvent) -> BoxFuture<'_, Result<Receipt, NotAccepted>> {
        Box::pin(async move {
            let (host, writers) = (self.shared.host(), self.writers);
            // Whoever hands over may go away right now: what is stored is answered all the same.
            let accepted = tokio::spawn(async move { host.accept(event, writers).await }).await;
            let taken = match accepted {
                Ok(Ok(taken)) => taken,
                Ok(Err(HostError::Store(error @ StoreError::TooLarge { .. }))) => {
                    return Err(NotAccepted::Refused(error.to_string()));
                }
                Ok(Err(error)) => return Err(NotAccepted::Failed(chain(&error))),
                Err(error) => return Err(NotAccepted::Failed(error.to_string())),
            };
            if let Some(handle) = taken.group.as_ref().and_then(|group| self.shared.handle(group)) {
                handle.nudge();
            }
            self.shared.tell();
            Ok(taken.receipt)
        })
    }

    fn posts<'a>(
        &'a self,
        chat: &'a ChatId,
        after: Option<PostNumber>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Outgoing>, String>> {
        Box::pin(async move {
            let store = self.shared.parts().store;
            let after = OutboxId(after.unwrap_or_default());
            let posts = store.posts(&self.name, chat, after, limit).await;
            let posts = posts.map_err(|error| chain(&error))?;
            Ok(posts.into_iter().map(|(post, answers)| delivery::outgoing(post, answers)).collect())
        })
    }

    fn answer<'a>(
        &'a self,
        chat: &'a ChatId,
        message: &'a MessageId,
    ) -> BoxFuture<'a, Result<Option<Outgoing>, String>> {
        Box::pin(async move {
            let store = self.shared.parts().store;
            let found = store.answer_to(&self.name, chat, message).await;
            let found = found.map_err(|error| chain(&error))?;
            Ok(found.map(|(post, answers)| delivery::outgoing(post, answers)))
        })
    }

    fn hears(&self, chat: &ChatId) -> bool {
        self.shared.host().routes().group(&self.name, chat).is_some()
    }
}
