//! Shows in a chat that an answer is on its way, for as long as a turn is at work for it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;
use crate::delivery;
use crate::host::Answering;
use crate::store::Conversation;

/// How often it is shown anew: services take it away after five seconds and more.
const SHOWN_EVERY: Duration = Duration::from_secs(4);
/// How long a service may take over it.
const SHOWN_MAX: Duration = Duration::from_secs(3);

/// Shows it wherever a turn is answering, until the group has no task any more.
pub(super) async fn show(
    shared: Arc<Shared>,
    mut answering: watch::Receiver<Option<Arc<Answering>>>,
) {
    loop {
        let at = answering.borrow_and_update().clone();
        let to = at.and_then(|at| at.to.clone());
        tokio::select! {
            never = show_at(&shared, to) => match never {},
            changed = answering.changed() => if changed.is_err() { return },
        }
    }
}

/// Shows it at one place again and again. A service that fails is asked again all the same.
async fn show_at(shared: &Shared, to: Option<Conversation>) -> Infallible {
    let Some(to) = to else { return pending().await };
    let (name, address) = (to.channel.clone(), delivery::address(to));
    let mut beat = tokio::time::interval(SHOWN_EVERY);
    loop {
        beat.tick().await;
        let channel = shared.channel(&name).filter(|channel| channel.capabilities().typing);
        if let Some(channel) = channel {
            let _ = tokio::time::timeout(SHOWN_MAX, channel.typing(&address)).await;
        }
    }
}
