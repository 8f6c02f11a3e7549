//! What is stored to be sent, sent: one loop for each channel.
//!
//! Posts of one thread of a chat go out one after the other, in the order in which they were stored;
//! those of others do not wait for them. A post is marked before it is handed to its channel and
//! after, so that one that was cut off in between is known to be uncertain and is sent once more. What
//! the channel cannot take is tried again later, and parked with the reason after
//! [`OUTBOX_ATTEMPTS_MAX`](crate::store::OUTBOX_ATTEMPTS_MAX) attempts. *It knows no kind of channel.*

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::channel::{Address, Channel, Outgoing, SendOutcome};
use crate::clock::{Clock, Timestamp, reached};
use crate::error::chain;
use crate::name::{ChannelName, ChatId, MessageId, ThreadId};
use crate::store::{Conversation, Due, OutboxId, Post, PostKind, PostState, Store, StoreError};
use crate::unit::Period;

/// The wait before a second attempt where a channel names none; each further one is longer.
pub const RETRY_FIRST: Duration = Duration::from_secs(5);
/// How much longer each further wait is: five attempts are spread over an hour and more.
const RETRY_FACTOR: u32 = 8;
/// The longest wait that a service is granted.
const RETRY_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a channel may take over one post.
const SEND_MAX: Duration = Duration::from_secs(120);
/// Posts of a channel that are under way at once.
const SENDS_MAX: usize = 32;
/// The wait after the store failed.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// How long what is under way may take once the loop is to end.
const LAST_MAX: Duration = Duration::from_secs(2);
/// How long a reason may be that is kept, in characters.
const REASON_MAX: usize = 2_000;

/// What sends the posts of one channel.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What the manifest calls the channel.
    pub name: ChannelName,
    /// The channel.
    pub channel: Arc<dyn Channel>,
    /// Where posts are kept.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Told when somebody may be there who was not.
    pub reachable: Arc<Notify>,
    /// Told whenever it is recorded what became of a post.
    pub settled: Arc<Notify>,
    /// See [`RETRY_FIRST`].
    pub retry_first: Duration,
}

/// A thread of a chat: one post of it is under way at a time.
type Lane = (ChatId, Option<ThreadId>);

type Sends = FuturesUnordered<BoxFuture<'static, (Lane, Result<(), StoreError>)>>;

impl Delivery {
    /// Sends until `stop`. What is under way by then may end within a moment.
    pub async fn run(self, stop: CancellationToken) {
        let mut posted = self.store.posted();
        let mut sends = Sends::new();
        let mut under_way: BTreeMap<Lane, OutboxId> = BTreeMap::new();
        loop {
            posted.mark_unchanged();
            let pause = match self.begin(&mut sends, &mut under_way).await {
                Ok(pause) => pause,
                Err(error) => {
                    let channel = &self.name;
                    tracing::error!(%channel, error = chain(&error), "cannot read the outbox");
                    Some(STORE_WAIT)
                }
            };
            tokio::select! {
                Some((lane, sent)) = sends.next() => {
                    under_way.remove(&lane);
                    if let Err(error) = sent {
                        let channel = &self.name;
                        tracing::error!(%channel, error = chain(&error), "cannot record a delivery");
                        tokio::time::sleep(STORE_WAIT).await;
                    }
                    self.settled.notify_one();
                }
                _ = posted.changed() => {}
                () = self.reachable.notified() => {}
                () = reached(pause.map(|pause| Instant::now() + pause)) => {}
                () = stop.cancelled() => break,
            }
        }
        let rest = async {
            while let Some((lane, _)) = sends.next().await {
                under_way.remove(&lane);
            }
        };
        let _ = tokio::time::timeout(LAST_MAX, rest).await;
        for post in under_way.into_values() {
            let _ = self.store.interrupted(post).await;
        }
    }

    /// Begins to send what is due; gives how long nothing more is.
    async fn begin(
        &self,
        sends: &mut Sends,
        under_way: &mut BTreeMap<Lane, OutboxId>,
    ) -> Result<Option<Duration>, StoreError> {
        let mut due = self.store.due(&self.name).await?;
        due.sort_unstable_by_key(|due| due.id);
        let now = self.clock.now();
        let mut next: Option<Timestamp> = None;
        for Due { id, to, state, next_attempt } in due {
            let lane = (to.chat.clone(), to.thread.clone());
            if under_way.contains_key(&lane) || state == PostState::Sending {
                continue;
            }
            if let Some(at) = next_attempt.filter(|at| *at > now) {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            if !self.channel.is_reachable(&address(to)) {
                continue;
            }
            if under_way.len() >= SENDS_MAX {
                break;
            }
            under_way.insert(lane.clone(), id);
            let delivery = self.clone();
            sends.push(Box::pin(async move { (lane, delivery.send(id).await) }));
        }
        Ok(next.map(|at| Duration::from_millis(at.0.abs_diff(now.0))))
    }

    /// Hands one post to the channel, and records what became of it.
    async fn send(self, id: OutboxId) -> Result<(), StoreError> {
        let (post, answers) = self.store.sending(id).await?;
        let attempts = post.attempts;
        let outgoing = outgoing(post, answers);
        let sent = tokio::time::timeout(SEND_MAX, self.channel.send(&outgoing)).await;
        let sent = sent.unwrap_or_else(|_| SendOutcome::Unknown {
            why: format!("the service did not answer within {} s", SEND_MAX.as_secs()),
        });
        let (channel, now) = (&self.name, self.clock.now());
        match sent {
            SendOutcome::Sent { service_id } => self.store.delivered(id, service_id, now).await,
            SendOutcome::Retry { after, why } => {
                let wait = after.unwrap_or_else(|| self.pause(attempts)).min(RETRY_MAX);
                let wait =
                    Period::milliseconds(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                tracing::info!(%channel, post = %id, %why, %wait, "a post was not taken");
                self.store.undelivered(id, &cut(&why), now.after(wait)).await.map(drop)
            }
            SendOutcome::Refused { why } => {
                tracing::warn!(%channel, post = %id, %why, "a post was refused and is parked");
                self.store.park(id, &cut(&why)).await.map(drop)
            }
            SendOutcome::Nobody => self.store.withdrawn(id).await,
            SendOutcome::Unknown { why } => {
                tracing::warn!(%channel, post = %id, %why, "a post may have been sent");
                self.store.interrupted(id).await
            }
        }
    }

    /// The wait after so many attempts.
    fn pause(&self, attempts: u32) -> Duration {
        self.retry_first.saturating_mul(RETRY_FACTOR.saturating_pow(attempts.saturating_sub(1)))
    }
}

/// A post as its channel is given it.
#[must_use]
pub fn outgoing(post: Post, answers: Vec<MessageId>) -> Outgoing {
    Outgoing {
        number: post.id.0,
        to: address(post.to),
        notice: post.kind == PostKind::Notice,
        uncertain: post.interruptions > 0,
        text: post.text,
        answers,
    }
}

/// A conversation as its channel is given it.
#[must_use]
pub fn address(to: Conversation) -> Address {
    Address { chat: to.chat, thread: to.thread, recipient: to.sender }
}

fn cut(why: &str) -> String {
    why.chars().take(REASON_MAX).collect()
}
