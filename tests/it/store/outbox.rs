//! Replies on their way out: at least once, and never for ever.

use babybot::name::{ChatId, MessageId, ThreadId};
use babybot::store::{
    Conversation, NewPost, OUTBOX_ATTEMPTS_MAX, OutboxId, PostKind, PostState, Store, StoreError,
};

use super::{at, channel, folder, message, open, running, turn_id};

fn to(chat: &str, thread: Option<&str>) -> Conversation {
    Conversation {
        channel: channel("tg"),
        chat: ChatId::new(chat).unwrap(),
        thread: thread.map(|thread| ThreadId::new(thread).unwrap()),
        sender: None,
    }
}

fn post(text: &str) -> NewPost {
    NewPost { turn: None, to: to("home", None), text: text.to_owned() }
}

async fn due(store: &Store) -> Vec<OutboxId> {
    let mut due: Vec<_> =
        store.due(&channel("tg")).await.unwrap().into_iter().map(|due| due.id).collect();
    due.sort_unstable();
    due
}

#[tokio::test]
async fn a_reply_is_due_until_it_is_delivered_and_names_what_it_answers() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let more = store.accept(message("m2", "and this")).await.unwrap().seq;
    assert_eq!(store.attach(&turn, &[more]).await.unwrap(), 1);
    let reply = store.finish_turn(&turn, "hello", at(12)).await.unwrap().unwrap();
    let other = Conversation { channel: channel("other"), ..to("home", None) };
    let remark = store.post(NewPost { to: other, ..post("x") }, at(13)).await.unwrap();

    assert_eq!(due(&store).await, [reply]);
    let early = store.delivered(reply, None, at(14)).await.unwrap_err();
    assert!(matches!(early, StoreError::PostTransition { .. }), "{early}");

    let (sent, answers) = store.sending(reply).await.unwrap();
    assert_eq!((sent.attempts, sent.kind, sent.text.as_str()), (1, PostKind::Reply, "hello"));
    assert_eq!(answers.iter().map(MessageId::as_str).collect::<Vec<_>>(), ["for 1", "m2"]);
    assert_eq!(store.due(&channel("tg")).await.unwrap()[0].state, PostState::Sending);
    assert!(store.sending(reply).await.is_err());
    let known = Some(MessageId::new("77").unwrap());
    store.delivered(reply, known.clone(), at(14)).await.unwrap();
    store.delivered(reply, None, at(15)).await.unwrap();
    let sent = &store.posts_of(&turn).await.unwrap()[0];
    assert_eq!((sent.state, sent.delivered_at), (PostState::Delivered, Some(at(14))));
    assert_eq!(sent.service_id, known);
    assert_eq!(due(&store).await, []);
    let home = ChatId::new("home").unwrap();
    let history = store.posts(&channel("tg"), &home, OutboxId(0), 10).await.unwrap();
    assert_eq!((history.len(), history[0].0.id, history[0].1.len()), (1, reply, 2));
    assert!(store.posts(&channel("tg"), &home, reply, 10).await.unwrap().is_empty());
    let reader = Store::read_only(&path).unwrap().unwrap();
    let left: Vec<_> = reader.outbox(None, 10).unwrap().into_iter().map(|post| post.id).collect();
    assert_eq!(left, [remark]);
}

#[tokio::test]
async fn the_first_of_each_thread_is_due_and_the_others_wait_for_it() {
    let (_folder, path) = folder();
    let store = open(&path);
    let mut ids = Vec::new();
    for (chat, thread) in
        [("home", None), ("home", None), ("home", Some("a")), ("work", None), ("home", Some("a"))]
    {
        let post = NewPost { to: to(chat, thread), ..post("x") };
        ids.push(store.post(post, at(1)).await.unwrap());
    }
    assert_eq!(due(&store).await, [ids[0], ids[2], ids[3]]);
    store.sending(ids[0]).await.unwrap();
    assert_eq!(due(&store).await, [ids[0], ids[2], ids[3]], "nothing overtakes what is sent");
    store.delivered(ids[0], None, at(2)).await.unwrap();
    assert_eq!(due(&store).await, [ids[1], ids[2], ids[3]]);
}

#[tokio::test]
async fn sending_cut_off_by_a_crash_is_repeated_once_and_then_shown() {
    let (_folder, path) = folder();
    let store = open(&path);
    let id = store.post(post("hello"), at(1)).await.unwrap();
    let quiet = store.post(post("not sent yet"), at(1)).await.unwrap();
    store.sending(id).await.unwrap();
    store.close().await;

    let store = open(&path);
    let recovered = store.recover_outbox().await.unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!((recovered[0].id, recovered[0].state), (id, PostState::Uncertain));
    assert!(store.recover_outbox().await.unwrap().is_empty());
    assert_eq!(due(&store).await, [id]);
    store.sending(id).await.unwrap();

    let recovered = store.recover_outbox().await.unwrap();
    assert_eq!((recovered[0].state, recovered[0].interruptions), (PostState::Failed, 2));
    assert!(recovered[0].failure.as_deref().unwrap().contains("may have been delivered"));
    assert_eq!(due(&store).await, [quiet]);
    let reader = Store::read_only(&path).unwrap().unwrap();
    let shown = reader.outbox(Some(PostState::Failed), 10).unwrap();
    assert_eq!(shown.iter().map(|post| post.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn what_the_channel_cannot_take_is_tried_a_bounded_number_of_times_and_later() {
    let (_folder, path) = folder();
    let store = open(&path);
    let id = store.post(post("hello"), at(1)).await.unwrap();
    // Nobody was there to take it: that is no attempt.
    store.sending(id).await.unwrap();
    store.withdrawn(id).await.unwrap();
    for attempt in 1..=OUTBOX_ATTEMPTS_MAX {
        assert_eq!(store.sending(id).await.unwrap().0.attempts, attempt);
        let refused = store.undelivered(id, "busy", at(100)).await.unwrap();
        let last = attempt == OUTBOX_ATTEMPTS_MAX;
        assert_eq!(refused.state, if last { PostState::Failed } else { PostState::Pending });
        assert_eq!(refused.next_attempt, (!last).then_some(at(100)));
        assert_eq!(refused.failure.as_deref(), Some("busy"));
    }
    assert!(store.sending(id).await.is_err());
    assert_eq!(due(&store).await, []);
}

#[tokio::test]
async fn the_operator_sends_again_or_gives_up() {
    let (_folder, path) = folder();
    let store = open(&path);
    let id = store.post(post("hello"), at(1)).await.unwrap();
    let mut posted = store.posted();
    store.sending(id).await.unwrap();
    assert!(store.drop_post(id).await.is_err(), "it is being sent");
    store.park(id, "chat not found").await.unwrap();
    assert_eq!(due(&store).await, []);
    posted.mark_unchanged();
    store.retry_post(id).await.unwrap();
    assert!(posted.has_changed().unwrap(), "whoever sends is told");
    assert_eq!(due(&store).await, [id]);
    store.drop_post(id).await.unwrap();
    let reader = Store::read_only(&path).unwrap().unwrap();
    let failed = &reader.outbox(None, 10).unwrap()[0];
    assert_eq!(failed.failure.as_deref(), Some("dropped by the operator"));
    let missing = store.retry_post(OutboxId(99)).await.unwrap_err();
    assert!(matches!(missing, StoreError::UnknownPost { .. }), "{missing}");
    let foreign = NewPost { turn: Some(turn_id(9)), ..post("x") };
    let refused = store.post(foreign, at(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::UnknownTurn { .. }), "{refused}");
}
