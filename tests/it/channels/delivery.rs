//! What delivery makes of the words of a channel.

use std::sync::Arc;
use std::time::Duration;

use babybot::channel::SendOutcome;
use babybot::clock::{Clock as _, SystemClock};
use babybot::delivery::Delivery;
use babybot::name::ThreadId;
use babybot::store::{
    Conversation, NewPost, OUTBOX_ATTEMPTS_MAX, OutboxId, Post, PostState, Store,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::memory::{Memory, busy};
use crate::support::workshop::PATIENCE;

struct Line {
    channel: Arc<Memory>,
    store: Store,
    path: std::path::PathBuf,
    reachable: Arc<Notify>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Line {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("babybot.db");
        let store = Store::open(&path).unwrap();
        let (channel, reachable, stop) =
            (Memory::new(), Arc::new(Notify::new()), CancellationToken::new());
        let delivery = Delivery {
            name: Memory::name(),
            channel: channel.clone(),
            store: store.clone(),
            clock: Arc::new(SystemClock),
            reachable: reachable.clone(),
            settled: Arc::default(),
            retry_first: Duration::from_millis(1),
        };
        let running = tokio::spawn(delivery.run(stop.clone()));
        Self { channel, store, path, reachable, stop, running, _folder: folder }
    }

    async fn post(&self, thread: Option<&str>, text: &str) -> OutboxId {
        let to = Conversation {
            channel: Memory::name(),
            chat: "kitchen".parse().unwrap(),
            thread: thread.map(|thread| ThreadId::new(thread).unwrap()),
            sender: None,
        };
        let post = NewPost { turn: None, to, text: text.to_owned() };
        self.store.post(post, SystemClock.now()).await.unwrap()
    }

    /// Waits until a post is in this state.
    async fn settled(&self, id: OutboxId, state: PostState) -> Post {
        let reader = Store::read_only(&self.path).unwrap().unwrap();
        let wait = async {
            loop {
                let found = reader.outbox(Some(state), 100).unwrap();
                if let Some(post) = found.into_iter().find(|post| post.id == id) {
                    return post;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it never came to that")
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn posts_of_a_thread_go_out_in_order_and_those_of_others_do_not_wait() {
    let line = Line::open();
    line.channel.will_say([busy(Some(Duration::from_secs(3600)))]);
    line.post(Some("slow"), "held up").await;
    assert_eq!(line.channel.next().await.text, "held up");
    line.post(Some("slow"), "behind it").await;
    for text in ["one", "two", "three"] {
        line.post(Some("quick"), text).await;
    }
    for text in ["one", "two", "three"] {
        assert_eq!(line.channel.next().await.text, text);
    }
    assert!(line.channel.is_quiet(), "what waits for the service is not overtaken");
    line.end().await;
}

#[tokio::test]
async fn what_a_service_cannot_take_is_sent_again_and_parked_in_the_end() {
    let line = Line::open();
    line.channel.will_say([busy(Some(Duration::from_millis(1))), busy(None)]);
    let id = line.post(None, "at last").await;
    let sent = line.settled(id, PostState::Delivered).await;
    assert_eq!((sent.attempts, sent.service_id.unwrap().to_string()), (3, format!("service-{id}")));

    line.channel.will_say((0..OUTBOX_ATTEMPTS_MAX).map(|_| busy(Some(Duration::ZERO))));
    let never = line.post(None, "never").await;
    let parked = line.settled(never, PostState::Failed).await;
    assert_eq!((parked.attempts, parked.failure.as_deref()), (OUTBOX_ATTEMPTS_MAX, Some("busy")));
    // What is parked holds nothing up, and goes out once the operator says so.
    let next = line.post(None, "next").await;
    line.settled(next, PostState::Delivered).await;
    line.store.retry_post(never).await.unwrap();
    line.settled(never, PostState::Delivered).await;
    line.end().await;
}

#[tokio::test]
async fn what_is_refused_is_parked_at_once_with_the_reason() {
    let line = Line::open();
    line.channel.will_say([SendOutcome::Refused { why: "chat not found".to_owned() }]);
    let id = line.post(None, "hello").await;
    let parked = line.settled(id, PostState::Failed).await;
    assert_eq!((parked.attempts, parked.failure.as_deref()), (1, Some("chat not found")));
    line.end().await;
}

#[tokio::test]
async fn what_may_have_been_sent_is_sent_once_more_and_said_to_be_uncertain() {
    let line = Line::open();
    let lost = || SendOutcome::Unknown { why: "no answer".to_owned() };
    line.channel.will_say([lost()]);
    let id = line.post(None, "hello").await;
    assert!(!line.channel.next().await.uncertain);
    let again = line.channel.next().await;
    assert!(again.uncertain);
    assert_eq!((again.number, again.key()), (id.0, format!("babybot-{id}")));
    line.settled(id, PostState::Delivered).await;

    line.channel.will_say([lost(), lost()]);
    let id = line.post(None, "hello").await;
    let parked = line.settled(id, PostState::Failed).await;
    assert!(parked.failure.unwrap().contains("may have been delivered"));
    line.end().await;
}

#[tokio::test]
async fn a_post_waits_for_somebody_to_take_it_and_that_is_no_attempt() {
    let line = Line::open();
    line.channel.is_there(false);
    let id = line.post(None, "hello").await;
    let other = line.post(Some("other"), "hello").await;
    line.settled(other, PostState::Pending).await;
    assert!(line.channel.is_quiet());
    line.channel.will_say([SendOutcome::Nobody]);
    line.channel.is_there(true);
    line.reachable.notify_one();
    assert_eq!(line.settled(id, PostState::Delivered).await.attempts, 1);
    assert_eq!(line.settled(other, PostState::Delivered).await.attempts, 1);
    line.end().await;
}
