//! How the channels of a controller are: each is asked now and then, and a status shows it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::Notify;

use crate::channel::Channel;
use crate::control::{ChannelStatus, Role};
use crate::controller::Shared;
use crate::error::chain;
use crate::host::Host;
use crate::name::ChannelName;
use crate::resource::{ChannelSpec, ResourceId, Spec, Writers};

/// A channel that has run for so long did not fail at once, and is asked how it is.
const ASKED_AFTER: Duration = Duration::from_millis(500);
/// How often a channel is asked again.
const ASKED_EVERY: Duration = Duration::from_secs(30);
/// How long a channel may take to say how it is.
const ANSWER_MAX: Duration = Duration::from_secs(10);

impl Shared {
    /// Asks a channel that runs how it is, again and again, and has the status made anew when a post
    /// of it has `settled`.
    pub(super) async fn ask_after(
        &self,
        name: &ChannelName,
        channel: &dyn Channel,
        settled: &Notify,
    ) -> Infallible {
        let shown = is_shown(channel.capabilities().writers);
        let mut next = ASKED_AFTER;
        loop {
            let asked = tokio::time::sleep(next);
            tokio::pin!(asked);
            loop {
                tokio::select! {
                    () = &mut asked => break,
                    () = settled.notified(), if shown => self.tell(),
                }
            }
            next = ASKED_EVERY;
            let answer = tokio::time::timeout(ANSWER_MAX, channel.probe()).await;
            self.note_channel(
                name,
                answer.unwrap_or_else(|_| {
                    Err(format!("it does not answer within {} s", ANSWER_MAX.as_secs()))
                }),
            );
        }
    }

    /// Takes note of where a channel serves, or why it does not.
    pub(super) fn note_channel(&self, name: &ChannelName, how: Result<String, String>) {
        if self.known().channels.insert(name.clone(), how.clone()) != Some(how) {
            self.tell();
        }
    }

    /// How each applied channel is that others than the owner write through. A controller that lasts
    /// only as long as a conversation runs none of them.
    pub(in crate::controller) async fn channel_statuses(
        &self,
        host: &Host,
    ) -> BTreeMap<ChannelName, ChannelStatus> {
        let specs = host.specs().iter().filter_map(|(id, spec)| match (id, spec) {
            (ResourceId::Channel(name), Spec::Channel(spec)) => Some((name, spec)),
            _ => None,
        });
        let shown = specs.filter(|_| self.role == Role::Up).filter_map(|(name, spec)| {
            let running = self.channel(name).map(|channel| channel.capabilities().writers);
            is_shown(running.unwrap_or(spec.writers()))
                .then(|| (name.clone(), self.channel_status(name, spec)))
        });
        let mut shown: BTreeMap<ChannelName, ChannelStatus> = shown.collect();
        if shown.is_empty() {
            return shown;
        }
        match host.parts().store.open_posts().await {
            Ok(open) => {
                for (name, posts) in open {
                    if let Some(status) = shown.get_mut(&name) {
                        status.undelivered = posts;
                    }
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "cannot count undelivered posts"),
        }
        shown
    }

    fn channel_status(&self, name: &ChannelName, spec: &ChannelSpec) -> ChannelStatus {
        let (serves, detail) = match self.known().channels.get(name) {
            Some(Ok(detail)) => (true, detail.clone()),
            Some(Err(why)) => (false, why.clone()),
            None => (false, "it is starting".to_owned()),
        };
        ChannelStatus { kind: spec.kind().to_owned(), detail, serves, undelivered: 0 }
    }
}

/// Whether a status shows a channel by itself: not one on which only the owner writes.
fn is_shown(writers: Writers) -> bool {
    writers != Writers::Owner
}
