//! What a controller does for whoever joins it through the control socket.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use super::group::{GroupCommand, GroupHandle};
use super::look::ControllerLook;
use crate::control::{
    ApplyEvent, ApplyRequest, ChatEvent, ChatRequest, Lease, PostDecision, PostOutcome, Refusal,
    Said, Service, Status,
};
use crate::desired::Desired;
use crate::error::chain;
use crate::name::{GroupName, ThreadId};
use crate::observe;
use crate::observed::Observed;
use crate::store::OutboxId;

/// How long a status may take to say what was just done.
const TOLD_MAX: Duration = Duration::from_secs(1);

impl Shared {
    fn served(&self, group: &GroupName) -> Result<Arc<GroupHandle>, Refusal> {
        let unknown = || Refusal { why: format!("there is no group {group}") };
        self.handle(group).ok_or_else(unknown)
    }
}

fn refused(why: String) -> Refusal {
    Refusal { why }
}

/// The service of a controller: its shared state behind one more pointer, so that tasks it starts
/// can hold on to it.
pub(super) struct Served(pub(super) Arc<Shared>);

impl Service for Served {
    fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.0.status.subscribe()
    }

    fn observe(&self, desired: Desired) -> BoxFuture<'_, Result<Observed, Refusal>> {
        Box::pin(async move {
            let eyes = ControllerLook::toward(&self.0, &desired);
            Ok(observe::observe(&desired, &eyes).await)
        })
    }

    fn apply(&self, request: ApplyRequest, events: mpsc::Sender<ApplyEvent>) -> BoxFuture<'_, ()> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            // What was approved is carried out, whether or not somebody goes on listening.
            let applies = shared.applies.clone();
            let work = applies.spawn(async move { shared.serve_apply(request, &events).await });
            let _ = work.await;
        })
    }

    fn chat(&self, request: ChatRequest, events: mpsc::Sender<ChatEvent>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.converse(request, &events).await })
    }

    fn say(&self, thread: ThreadId, said: Said) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move { self.0.say(&thread, said).await.map_err(refused) })
    }

    fn cancel(&self, thread: ThreadId) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move { self.0.stop(&thread).await.map_err(refused) })
    }

    fn acknowledge(&self, post: i64, outcome: PostOutcome) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move { self.0.talks.acknowledge(post, outcome).map_err(refused) })
    }

    fn decide(&self, post: i64, decision: PostDecision) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let (store, post) = (self.0.parts().store, OutboxId(post));
            let decided = match decision {
                PostDecision::Retry => store.retry_post(post).await,
                PostDecision::Drop => store.drop_post(post).await,
            };
            decided.map_err(|error| refused(chain(&error)))
        })
    }

    fn hold(&self, group: GroupName, held: bool) -> BoxFuture<'_, Result<bool, Refusal>> {
        Box::pin(async move {
            let handle = self.0.served(&group)?;
            // One after the other, so that the store and the group end up with the same.
            let holding = handle.holding.lock().await;
            let (store, now) = (self.0.parts().store, self.0.clock().now());
            // Stored first: a controller that dies forgets no hold that somebody was told of.
            let stored =
                if held { store.hold(&group, now).await } else { store.let_go(&group).await };
            stored.map_err(|error| refused(chain(&error)))?;
            // At once, whatever the group is at: whoever asks next is told what holds by now.
            let before = std::mem::replace(&mut handle.state().held, held);
            if before != held {
                tracing::info!(%group, "{}", if held { "group paused" } else { "group resumed" });
            }
            self.0.tell();
            drop(holding);
            handle.ask(GroupCommand::Held).await.map_err(refused)?;
            // Whoever looks next finds it so.
            let mut status = self.0.status.subscribe();
            let told = status.wait_for(|status| {
                status.groups.get(&group).is_none_or(|group| group.held == held)
            });
            let _ = tokio::time::timeout(TOLD_MAX, told).await;
            Ok(before != held)
        })
    }

    fn lease(
        &self,
        group: GroupName,
        granted: mpsc::Sender<Result<Lease, Refusal>>,
    ) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let leased = async {
                let handle = self.0.served(&group)?;
                let (reply, lease) = oneshot::channel();
                handle.ask(GroupCommand::Lease(reply)).await.map_err(refused)?;
                let lease = lease.await;
                let lease = lease.map_err(|_| refused("the group was removed".into()))?;
                lease.map_err(refused)
            };
            match leased.await {
                Ok(leased) => {
                    if granted.send(Ok(leased.lease.clone())).await.is_ok() {
                        // Until whoever holds it goes away, or the controller ends.
                        tokio::select! {
                            () = granted.closed() => {}
                            () = self.0.closing.cancelled() => {}
                        }
                    }
                    drop(leased);
                }
                Err(refusal) => drop(granted.send(Err(refusal)).await),
            }
        })
    }

    fn shut_down(&self, patience: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            *self.0.patience.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                Some(patience);
            self.0.closing.cancel();
            self.0.tell();
            Ok(())
        })
    }
}
