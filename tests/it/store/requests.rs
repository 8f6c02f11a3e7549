//! Requests of agents: each happens once, and there are not too many.

use babybot::name::{ChatId, RequestId, TurnId};
use babybot::store::{
    Conversation, NewSend, PostKind, SENDS_OF_HOUR_MAX, SENDS_OF_TURN_MAX, SendOnce, Store,
};

use super::{at, channel, folder, group, open, running};

fn send(turn: &TurnId, id: &str) -> NewSend {
    NewSend {
        id: RequestId::new(id).unwrap(),
        group: group("family"),
        turn: turn.clone(),
        to: None,
        text: "halfway".into(),
    }
}

async fn sent(store: &Store, turn: &TurnId) -> Vec<(PostKind, String)> {
    let posts = store.posts_of(turn).await.unwrap();
    posts.into_iter().map(|post| (post.kind, post.text)).collect()
}

#[tokio::test]
async fn a_request_that_comes_again_changes_nothing_also_after_a_restart() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let first = store.send_once(send(&turn, "a-1"), at(20)).await.unwrap();
    assert!(matches!(first, SendOnce::Sent(_)));
    // Whatever it says now.
    let again = NewSend { text: "again".into(), ..send(&turn, "a-1") };
    assert_eq!(store.send_once(again, at(21)).await.unwrap(), first);
    store.close().await;
    let store = open(&path);
    assert_eq!(store.send_once(send(&turn, "a-1"), at(22)).await.unwrap(), first);
    assert_eq!(sent(&store, &turn).await, [(PostKind::Message, "halfway".to_owned())]);

    // Another group's is another.
    let other = NewSend { group: group("main"), ..send(&turn, "a-1") };
    assert_ne!(store.send_once(other, at(23)).await.unwrap(), first);
    // It is part of the turn, and not its reply.
    store.finish_turn(&turn, "done", at(24)).await.unwrap();
    let kinds: Vec<_> = sent(&store, &turn).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [PostKind::Message, PostKind::Message, PostKind::Reply]);
}

#[tokio::test]
async fn a_message_goes_where_the_reply_goes_or_where_it_is_told_to() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.send_once(send(&turn, "own"), at(20)).await.unwrap();
    let (channel, chat) = (channel("other"), ChatId::new("there").unwrap());
    let elsewhere = Some(Conversation { channel, chat, thread: None, sender: None });
    store.send_once(NewSend { to: elsewhere, ..send(&turn, "to") }, at(21)).await.unwrap();
    store.finish_turn(&turn, "done", at(22)).await.unwrap();
    let posts = store.posts_of(&turn).await.unwrap();
    assert_eq!(posts[0].to, posts[2].to);
    assert_eq!((posts[1].to.channel.as_str(), posts[1].to.chat.as_str()), ("other", "there"));
}

#[tokio::test]
async fn more_than_a_turn_or_a_group_may_send_is_refused_and_stays_refused() {
    const HOUR: i64 = 60 * 60 * 1000;
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let ask = async |turn: &TurnId, id: &str, moment| {
        store.send_once(send(turn, id), at(moment)).await.unwrap()
    };
    for number in 0..SENDS_OF_TURN_MAX {
        assert!(matches!(ask(&turn, &format!("1-{number}"), 20).await, SendOnce::Sent(_)));
    }
    assert_eq!(ask(&turn, "more", 20).await, SendOnce::TooMany);
    assert!(matches!(ask(&turn, "1-0", 20).await, SendOnce::Sent(_)), "it was sent before");
    store.finish_turn(&turn, "done", at(20)).await.unwrap();
    for number in 2..=u128::from(SENDS_OF_HOUR_MAX / SENDS_OF_TURN_MAX) {
        let turn = running(&store, number).await;
        for send in 0..SENDS_OF_TURN_MAX {
            assert!(matches!(ask(&turn, &format!("{number}-{send}"), 20).await, SendOnce::Sent(_)));
        }
        store.finish_turn(&turn, "done", at(20)).await.unwrap();
    }
    let turn = running(&store, 99).await;
    assert_eq!(ask(&turn, "over", 30).await, SendOnce::TooMany);
    assert!(matches!(ask(&turn, "later", 31 + HOUR).await, SendOnce::Sent(_)));
    assert_eq!(ask(&turn, "over", 32 + HOUR).await, SendOnce::TooMany, "the answer stays");
}
