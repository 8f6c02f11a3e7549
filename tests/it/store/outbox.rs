//! Replies on their way out: at least once, and never for ever.

use babybot::name::ChatId;
use babybot::store::{
    NewPost, OUTBOX_ATTEMPTS_MAX, OUTBOX_DUE_MAX, PostKind, PostState, Store, StoreError, Unsettled,
};

use super::{at, channel, context, folder, group, message, open, running, turn_id};

fn post(text: &str) -> NewPost {
    NewPost {
        turn: None,
        channel: channel("tg"),
        chat: ChatId::new("home").unwrap(),
        text: text.to_owned(),
    }
}

#[tokio::test]
async fn a_reply_is_due_until_it_is_delivered() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let reply = store.finish_turn(&turn, "hello", at(12)).await.unwrap();
    let remark = store.post(NewPost { channel: channel("other"), ..post("x") }, at(13)).await;
    let remark = remark.unwrap();

    let due = store.due(&channel("tg")).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].id, due[0].kind, due[0].text.as_str()), (reply, PostKind::Reply, "hello"));
    let early = store.delivered(reply, at(14)).await.unwrap_err();
    assert!(matches!(early, StoreError::PostTransition { .. }), "{early}");

    assert_eq!(store.sending(reply).await.unwrap().attempts, 1);
    assert!(store.due(&channel("tg")).await.unwrap().is_empty());
    assert!(store.sending(reply).await.is_err());
    store.delivered(reply, at(14)).await.unwrap();
    store.delivered(reply, at(15)).await.unwrap();
    let sent = &store.posts_of(&turn).await.unwrap()[0];
    assert_eq!((sent.state, sent.delivered_at), (PostState::Delivered, Some(at(14))));
    assert!(store.due(&channel("tg")).await.unwrap().is_empty());
    let reader = Store::read_only(&path).unwrap().unwrap();
    let left: Vec<_> = reader.outbox(10).unwrap().into_iter().map(|post| post.id).collect();
    assert_eq!(left, [remark]);
}

/// Whoever waits for an answer sees the message, its turn or the reply, whenever they look.
#[tokio::test]
async fn what_is_not_settled_of_a_chat_is_seen_in_one_look() {
    let (_folder, path) = folder();
    let store = open(&path);
    let (tg, home, family) = (channel("tg"), ChatId::new("home").unwrap(), group("family"));
    let look = async || {
        let Unsettled { due, open } = store.unsettled(&tg, &home, &family).await.unwrap();
        (due.into_iter().map(|post| post.text).collect::<Vec<_>>(), open)
    };
    store.accept(context("m1", "aside")).await.unwrap();
    assert_eq!(look().await, (vec![], false));
    store.accept(message("m2", "question")).await.unwrap();
    assert_eq!(look().await, (vec![], true));
    let turn = turn_id(1);
    store.open_turn(&family, &turn, at(3)).await.unwrap();
    assert_eq!(look().await, (vec![], true));
    store.begin_turn(&turn, at(4)).await.unwrap();
    assert_eq!(look().await, (vec![], true));
    let reply = store.finish_turn(&turn, "answer", at(5)).await.unwrap();
    assert_eq!(look().await, (vec!["answer".to_owned()], false));
    let elsewhere = NewPost { chat: ChatId::new("work").unwrap(), ..post("for others") };
    store.post(elsewhere, at(6)).await.unwrap();
    assert_eq!(look().await, (vec!["answer".to_owned()], false));
    store.sending(reply).await.unwrap();
    assert_eq!(look().await, (vec![], false));
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
    let due: Vec<_> = store.due(&channel("tg")).await.unwrap();
    assert_eq!(due.iter().map(|post| post.id).collect::<Vec<_>>(), [id, quiet]);
    store.sending(id).await.unwrap();

    let recovered = store.recover_outbox().await.unwrap();
    assert_eq!((recovered[0].state, recovered[0].interruptions), (PostState::Failed, 2));
    assert!(recovered[0].failure.as_deref().unwrap().contains("may have been delivered"));
    assert_eq!(store.due(&channel("tg")).await.unwrap().len(), 1);
    let reader = Store::read_only(&path).unwrap().unwrap();
    let shown = reader.outbox(10).unwrap();
    assert!(shown.iter().any(|post| post.id == id && post.state == PostState::Failed));
}

#[tokio::test]
async fn what_the_channel_refuses_is_tried_a_bounded_number_of_times() {
    let (_folder, path) = folder();
    let store = open(&path);
    let id = store.post(post("hello"), at(1)).await.unwrap();
    for attempt in 1..=OUTBOX_ATTEMPTS_MAX {
        assert_eq!(store.sending(id).await.unwrap().attempts, attempt);
        let refused = store.undelivered(id, "chat not found").await.unwrap();
        let last = attempt == OUTBOX_ATTEMPTS_MAX;
        assert_eq!(refused.state, if last { PostState::Failed } else { PostState::Pending });
        assert_eq!(refused.failure.as_deref(), Some("chat not found"));
    }
    assert!(store.sending(id).await.is_err());
    assert!(store.due(&channel("tg")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_full_outbox_is_handed_out_in_portions() {
    let (_folder, path) = folder();
    let store = open(&path);
    for number in 0..=OUTBOX_DUE_MAX {
        store.post(post(&number.to_string()), at(1)).await.unwrap();
    }
    let due = store.due(&channel("tg")).await.unwrap();
    assert_eq!(due.len(), OUTBOX_DUE_MAX as usize);
    assert_eq!(due[0].text, "0");
    let foreign = NewPost { turn: Some(turn_id(9)), ..post("x") };
    let refused = store.post(foreign, at(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::UnknownTurn { .. }), "{refused}");
}
