//! From a message to its one reply.

use std::collections::BTreeSet;

use babybot::name::{ChatId, MessageId, SenderId, ThreadId};
use babybot::protocol::{Event, JournalCall, JournalRound};
use babybot::store::{
    Backlog, Cancelled, Conversation, Incoming, JOURNAL_CALLS_MAX, JOURNAL_ENTRY_SIZE_MAX,
    JOURNAL_ROUNDS_MAX, JOURNALS_KEPT, MESSAGE_TEXT_MAX, MessageSeq, PER_MESSAGE_STATEMENTS,
    REPLY_TEXT_MAX, Store, StoreError, Turn, TurnSource, TurnState,
};
use serde_json::json;

use super::{at, context, folder, group, message, open, running, turn_id};

#[tokio::test]
async fn a_message_that_is_delivered_again_changes_nothing() {
    let (_folder, path) = folder();
    let store = open(&path);
    let first = store.accept(message("m1", "one")).await.unwrap();
    let again = store.accept(context("m1", "another text")).await.unwrap();
    let elsewhere = Incoming { chat: ChatId::new("work").unwrap(), ..message("m1", "one") };
    let other = store.accept(elsewhere).await.unwrap();
    assert!(first.fresh && !again.fresh && other.fresh);
    assert_eq!(first.seq, again.seq);
    assert_ne!(first.seq, other.seq);
    let waiting = store.waiting(&group("family")).await.unwrap();
    assert_eq!(waiting[0].incoming, message("m1", "one"));
    assert_eq!(waiting.len(), 2);
}

#[tokio::test]
async fn a_turn_takes_what_asks_and_what_came_along() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    store.accept(context("m1", "aside")).await.unwrap();
    assert_eq!(store.take_up(&family, &turn_id(1), at(3)).await.unwrap(), None);
    assert!(store.backlog().await.unwrap().is_empty());

    store.accept(message("m2", "question")).await.unwrap();
    store.accept(context("m3", "remark")).await.unwrap();
    assert_eq!(store.backlog().await.unwrap()[&family].waiting, 1);
    let taken = store.take_up(&family, &turn_id(1), at(4)).await.unwrap().unwrap();
    assert_eq!((taken.messages.len(), chat_of(&taken.turn)), (3, "home"));
    let texts: Vec<String> = store
        .turn_messages(&turn_id(1))
        .await
        .unwrap()
        .into_iter()
        .map(|message| message.incoming.text)
        .collect();
    assert_eq!(texts, ["aside", "question", "remark"]);
    let turn = store.turn(&turn_id(1)).await.unwrap();
    assert_eq!((turn.state, turn.attempts, turn.created_at), (TurnState::Running, 1, at(4)));
    assert_eq!(turn.source, TurnSource::Message);
    assert_eq!(turn.session.as_str(), "tg.home");
    let backlog = store.backlog().await.unwrap();
    assert_eq!(backlog[&family], Backlog { waiting: 0, turn: Some((turn_id(1), at(4))) });
}

#[tokio::test]
async fn what_asks_in_another_chat_is_answered_by_the_next_turn() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    let elsewhere = Incoming { chat: ChatId::new("work").unwrap(), ..message("m1", "first") };
    store.accept(elsewhere).await.unwrap();
    store.accept(message("m2", "second")).await.unwrap();
    for (number, chat) in [(1, "work"), (2, "home")] {
        let turn = turn_id(number);
        let taken = store.take_up(&family, &turn, at(3)).await.unwrap().unwrap();
        assert_eq!((taken.messages.len(), chat_of(&taken.turn)), (1, chat));
        store.finish_turn(&turn, "answer", at(5)).await.unwrap();
        assert_eq!(store.posts_of(&turn).await.unwrap()[0].to.chat.as_str(), chat);
    }
}

#[tokio::test]
async fn a_group_has_one_turn_at_a_time() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.accept(message("m2", "meanwhile")).await.unwrap();
    let taken = store.take_up(&group("family"), &turn_id(2), at(12)).await.unwrap().unwrap();
    assert_eq!(taken.turn.id, turn);
    assert_eq!(store.waiting(&group("family")).await.unwrap().len(), 1);

    let other = Incoming { group: group("other"), ..message("m3", "hello") };
    store.accept(other).await.unwrap();
    store.take_up(&group("other"), &turn_id(3), at(12)).await.unwrap().unwrap();
    let open: Vec<_> = store.unfinished(None).await.unwrap().into_iter().map(|t| t.id).collect();
    assert_eq!(open, [turn.clone(), turn_id(3)]);
    assert_eq!(store.unfinished(Some(&group("family"))).await.unwrap()[0].id, turn);

    store.finish_turn(&turn, "done", at(13)).await.unwrap();
    let next = store.take_up(&group("family"), &turn_id(2), at(14)).await.unwrap();
    assert_eq!(next.unwrap().messages.len(), 1);
    // The database itself holds to it, whatever the code does.
    let raw = rusqlite::Connection::open(&path).unwrap();
    let second = raw.execute(
        "INSERT INTO turns (id, grp, state, channel, chat, created_at)
         VALUES ('x', 'family', 'queued', 'tg', 'home', 1)",
        [],
    );
    assert!(second.is_err());
}

#[tokio::test]
async fn a_turn_opened_by_many_at_once_is_opened_once() {
    let (_folder, path) = folder();
    let store = open(&path);
    store.accept(message("m1", "hello")).await.unwrap();
    let attempts = (1..=20).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            store.take_up(&group("family"), &turn_id(number), at(3)).await.unwrap()
        })
    });
    let taken = futures_util::future::join_all(attempts).await;
    let ids = taken.into_iter().map(|taken| taken.unwrap().unwrap().turn.id);
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn messages_that_steer_belong_to_the_turn_or_wait_again() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let steer = store.accept(message("m2", "also this")).await.unwrap().seq;
    let late = store.accept(message("m3", "and that")).await.unwrap().seq;
    let foreign = Incoming { group: group("other"), ..message("m4", "not yours") };
    let foreign = store.accept(foreign).await.unwrap().seq;
    let work = ChatId::new("work").unwrap();
    let elsewhere = Incoming { chat: work.clone(), ..message("m5", "answer me here") };
    let elsewhere = store.accept(elsewhere).await.unwrap().seq;
    let aside = Incoming { chat: work, ..context("m6", "an aside") };
    let aside = store.accept(aside).await.unwrap().seq;
    let all = [steer, late, foreign, elsewhere, aside, MessageSeq(999)];
    // Context of another chat is no part of it either.
    assert_eq!(store.attach(&turn, &all).await.unwrap(), 2);
    assert_eq!(store.attach(&turn, &all).await.unwrap(), 0);
    assert_eq!(store.detach(&turn, &[late, foreign]).await.unwrap(), 1);
    assert_eq!(store.turn_messages(&turn).await.unwrap().len(), 2);
    store.finish_turn(&turn, "done", at(12)).await.unwrap();

    let refused = store.attach(&turn, &[late]).await.unwrap_err();
    assert!(matches!(refused, StoreError::TurnState { state: TurnState::Done, .. }), "{refused}");
    // One that turns out to be late only now is not lost either.
    assert_eq!(store.detach(&turn, &[steer]).await.unwrap(), 1);
    let waiting = store.waiting(&group("family")).await.unwrap();
    let waiting: Vec<_> = waiting.into_iter().map(|message| message.seq).collect();
    assert_eq!(waiting, [steer, late, elsewhere]);
}

/// Two people in one thread, one person in two threads: each is a conversation of its own.
#[tokio::test]
async fn a_turn_answers_one_person_in_one_thread_and_takes_no_context_of_another_chat() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    let thread = |name: &str| Some(ThreadId::new(name).unwrap());
    let from = |name: &str| Some(SenderId::new(name).unwrap());
    let one = |id: &str| Incoming { thread: thread("one"), ..message(id, id) };
    store.accept(one("ada-1")).await.unwrap();
    store.accept(Incoming { sender_id: from("bob"), ..one("bob-1") }).await.unwrap();
    store.accept(Incoming { thread: thread("two"), ..message("ada-two", "x") }).await.unwrap();
    store.accept(one("ada-2")).await.unwrap();
    let work = ChatId::new("work").unwrap();
    store.accept(Incoming { chat: work, ..context("aside", "not yours") }).await.unwrap();
    let mut told: Vec<Vec<String>> = Vec::new();
    for number in 1..=4 {
        let Some(taken) = store.take_up(&family, &turn_id(number), at(3)).await.unwrap() else {
            break;
        };
        told.push(taken.messages.iter().map(|m| m.incoming.message_id.to_string()).collect());
        let late = store.accept(one("ada-1")).await.unwrap();
        assert_eq!(store.attach(&taken.turn.id, &[late.seq]).await.unwrap(), 0);
        store.finish_turn(&taken.turn.id, "x", at(4)).await.unwrap();
    }
    let expected: [Vec<String>; 3] =
        [vec!["ada-1".into(), "ada-2".into()], vec!["bob-1".into()], vec!["ada-two".into()]];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn who_stops_what_they_asked_stops_nobody_else() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    let bob = Incoming { sender_id: Some(SenderId::new("bob").unwrap()), ..message("b1", "b") };
    let of = |incoming: &Incoming| Conversation {
        channel: incoming.channel.clone(),
        chat: incoming.chat.clone(),
        thread: incoming.thread.clone(),
        sender: incoming.sender_id.clone(),
    };
    let fate = async |id: &str| {
        let id = MessageId::new(id).unwrap();
        store.fate(&bob.channel, &bob.chat, &id).await.unwrap().unwrap().turn
    };
    let turn = running(&store, 1).await;
    store.accept(bob.clone()).await.unwrap();
    let stopped = store.cancel_conversation(&family, &of(&bob), &turn_id(2), at(5)).await.unwrap();
    assert_eq!(stopped, Cancelled { turn: None, waiting: true });
    assert_eq!(fate("b1").await, Some(TurnState::Cancelled));
    assert_eq!(fate("for 1").await, Some(TurnState::Running));

    store.accept(message("a2", "more")).await.unwrap();
    store
        .accept(Incoming { message_id: MessageId::new("b2").unwrap(), ..bob.clone() })
        .await
        .unwrap();
    let ada = of(&message("a2", "more"));
    let stopped = store.cancel_conversation(&family, &ada, &turn_id(3), at(6)).await.unwrap();
    assert_eq!(stopped, Cancelled { turn: Some(turn.clone()), waiting: true });
    for id in ["for 1", "a2"] {
        assert_eq!(fate(id).await, Some(TurnState::Cancelled), "{id}");
    }
    assert_eq!(fate("b2").await, None);
    assert!(store.finish_turn(&turn, "too late", at(7)).await.is_err());
    let nothing = store.cancel_conversation(&family, &ada, &turn_id(4), at(8)).await.unwrap();
    assert_eq!(nothing, Cancelled::default());
    assert_eq!(
        store.take_up(&family, &turn_id(5), at(9)).await.unwrap().unwrap().messages.len(),
        1
    );
}

#[tokio::test]
async fn what_a_channel_says_of_a_message_changes_it_until_a_turn_has_it() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    let (tg, home) = (message("x", "x").channel, message("x", "x").chat);
    let id = |id: &str| MessageId::new(id).unwrap();
    store.accept(message("m1", "frist")).await.unwrap();
    store.accept(message("m2", "oops")).await.unwrap();
    assert!(store.edit_message(&tg, &home, &id("m1"), "first").await.unwrap());
    assert!(store.delete_message(&tg, &home, &id("m2")).await.unwrap());
    assert!(!store.delete_message(&tg, &home, &id("m2")).await.unwrap());
    let moved = ChatId::new("moved").unwrap();
    assert!(store.move_chat(&tg, &home, &moved).await.unwrap());
    let taken = store.take_up(&family, &turn_id(1), at(3)).await.unwrap().unwrap();
    assert_eq!((taken.messages.len(), chat_of(&taken.turn)), (1, "moved"));
    assert_eq!(taken.messages[0].incoming.text, "first");
    assert!(!store.edit_message(&tg, &moved, &id("m1"), "other").await.unwrap());
}

fn chat_of(turn: &Turn) -> &str {
    turn.destination.conversation().unwrap().chat.as_str()
}

#[tokio::test]
async fn exactly_one_reply_is_stored_for_a_turn() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let finishes = (0..20).map(|number| {
        let (store, turn) = (store.clone(), turn.clone());
        tokio::spawn(async move {
            store.finish_turn(&turn, &format!("reply {number}"), at(20)).await.unwrap()
        })
    });
    let ids: Vec<_> =
        futures_util::future::join_all(finishes).await.into_iter().map(|id| id.unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let again = store.finish_turn(&turn, "later", at(30)).await.unwrap();
    assert_eq!(again, ids[0]);
    let posts = store.posts_of(&turn).await.unwrap();
    assert_eq!(posts.len(), 1);
    assert!(posts[0].text.starts_with("reply "));
    let turn = store.turn(&turn).await.unwrap();
    assert_eq!((turn.state, turn.ended_at), (TurnState::Done, Some(at(20))));
}

#[test]
fn a_turn_moves_only_forward_or_back_to_the_queue() {
    use TurnState::{Cancelled, Done, Failed, Queued, Running};
    let legal = [
        (Queued, Running),
        (Queued, Failed),
        (Queued, Cancelled),
        (Running, Queued),
        (Running, Done),
        (Running, Failed),
        (Running, Cancelled),
    ];
    for from in TurnState::ALL {
        for to in TurnState::ALL {
            assert_eq!(from.may_become(to), legal.contains(&(from, to)), "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn a_turn_is_retried_and_then_given_up() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.requeue(&turn, at(13)).await.unwrap();
    store.requeue(&turn, at(13)).await.unwrap();
    let early = store.finish_turn(&turn, "no agent has it", at(13)).await.unwrap_err();
    assert!(matches!(early, StoreError::Transition { from: TurnState::Queued, .. }), "{early}");
    let begun = store.take_up(&group("family"), &turn_id(2), at(14)).await.unwrap().unwrap().turn;
    assert_eq!((begun.attempts, begun.started_at), (2, Some(at(14))));

    let told = store.fail_turn_telling(&turn, "model gone", "Sorry.", at(15)).await.unwrap();
    let again = store.fail_turn_telling(&turn, "other", "Other.", at(16)).await.unwrap();
    assert_eq!(told, again);
    let failed = store.turn(&turn).await.unwrap();
    assert_eq!(failed.state, TurnState::Failed);
    assert_eq!((failed.failure.as_deref(), failed.ended_at), (Some("model gone"), Some(at(15))));
    let late = store.finish_turn(&turn, "a reply after all", at(17)).await.unwrap_err();
    assert!(matches!(late, StoreError::Transition { .. }), "{late}");
    let posts = store.posts_of(&turn).await.unwrap();
    assert_eq!((posts.len(), posts[0].text.as_str()), (1, "Sorry."));
}

#[tokio::test]
async fn a_cancelled_turn_stays_cancelled() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.cancel_turn(&turn, at(12)).await.unwrap();
    store.cancel_turn(&turn, at(13)).await.unwrap();
    assert!(store.requeue(&turn, at(14)).await.is_err());
    assert!(store.finish_turn(&turn, "x", at(14)).await.is_err());
    assert_eq!(store.turn(&turn).await.unwrap().ended_at, Some(at(12)));
    let missing = store.cancel_turn(&turn_id(7), at(1)).await.unwrap_err();
    assert!(matches!(missing, StoreError::UnknownTurn { .. }), "{missing}");
}

fn round(round: u32) -> Event {
    Event::Round { round, message: json!({ "role": "assistant", "n": round }) }
}

fn began(round: u32, index: u32) -> Event {
    let arguments = json!({ "command": format!("{round}.{index}") });
    Event::CallBegan { round, index, tool: "bb_shell".to_owned(), arguments }
}

fn ended(round: u32, index: u32, result: &str) -> Event {
    Event::CallEnded { round, index, result: result.to_owned() }
}

fn call(index: u32, result: Option<&str>) -> JournalCall {
    let result = result.map(str::to_owned);
    JournalCall { index, tool: "bb_shell".to_owned(), result }
}

fn journal_round(number: u32, calls: Vec<JournalCall>) -> JournalRound {
    let message = json!({ "role": "assistant", "n": number });
    JournalRound { round: number, message, calls }
}

#[tokio::test]
async fn the_journal_takes_every_event_once() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    let events = [
        round(0),
        began(0, 0),
        Event::Text { text: "preview".to_owned(), fresh: true },
        began(0, 1),
        ended(0, 1, "second"),
        round(1),
    ];
    for _ in 0..3 {
        store.journal(&turn, &events, at(12)).await.unwrap();
    }
    store.journal(&turn, &[ended(0, 1, "another result")], at(13)).await.unwrap();
    let expected =
        [journal_round(0, vec![call(0, None), call(1, Some("second"))]), journal_round(1, vec![])];
    assert_eq!(store.journal_of(&turn).await.unwrap(), expected);
    let reader = Store::read_only(&path).unwrap().unwrap();
    assert_eq!(reader.journal_of(&turn).unwrap(), expected);
}

#[tokio::test]
async fn the_journal_refuses_what_contradicts_it_and_keeps_none_of_the_batch() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.journal(&turn, &[round(0), began(0, 0)], at(12)).await.unwrap();
    let before = store.journal_of(&turn).await.unwrap();

    let other_round = Event::Round { round: 0, message: json!({ "role": "assistant" }) };
    let other_call = Event::CallBegan {
        round: 0,
        index: 0,
        tool: "bb_shell".to_owned(),
        arguments: json!({ "command": "rm" }),
    };
    for contradiction in [other_round, other_call] {
        let refused = store.journal(&turn, &[round(1), contradiction], at(13)).await.unwrap_err();
        assert!(matches!(refused, StoreError::JournalDiffers { round: 0, .. }), "{refused}");
    }
    for gap in [began(5, 0), ended(0, 3, "of nothing")] {
        let refused = store.journal(&turn, &[round(1), gap], at(13)).await.unwrap_err();
        assert!(matches!(refused, StoreError::JournalGap { .. }), "{refused}");
    }
    let large = "x".repeat(JOURNAL_ENTRY_SIZE_MAX + 1);
    for excess in [ended(0, 0, &large), round(JOURNAL_ROUNDS_MAX), began(0, JOURNAL_CALLS_MAX)] {
        let refused = store.journal(&turn, &[round(1), excess], at(13)).await.unwrap_err();
        let named = matches!(refused, StoreError::TooLarge { .. } | StoreError::TooMany { .. });
        assert!(named, "{refused}");
    }
    assert_eq!(store.journal_of(&turn).await.unwrap(), before);
}

#[tokio::test]
async fn what_a_turn_may_leave_in_the_journal_is_bounded() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.journal(&turn, &[round(0)], at(12)).await.unwrap();
    let result = "x".repeat(JOURNAL_ENTRY_SIZE_MAX);
    let mut kept = 0;
    let refused = loop {
        let events = [began(0, kept), ended(0, kept, &result)];
        match store.journal(&turn, &events, at(13)).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::TooLarge { .. }), "{refused}");
    assert_eq!(kept, 63);
    assert_eq!(store.journal_of(&turn).await.unwrap()[0].calls.len(), 63);
}

#[tokio::test]
async fn only_a_running_turn_has_events() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.journal(&turn, &[round(0)], at(12)).await.unwrap();
    store.requeue(&turn, at(13)).await.unwrap();
    let refused = store.journal(&turn, &[round(1)], at(14)).await.unwrap_err();
    assert!(matches!(refused, StoreError::TurnState { .. }), "{refused}");
    store.take_up(&group("family"), &turn_id(2), at(15)).await.unwrap();
    store.journal(&turn, &[round(1)], at(16)).await.unwrap();
    assert_eq!(store.journal_of(&turn).await.unwrap().len(), 2);
    store.finish_turn(&turn, "done", at(17)).await.unwrap();
    assert!(store.journal(&turn, &[round(0)], at(18)).await.is_err());
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let (_folder, path) = folder();
    let store = open(&path);
    store.accept(message("fits", &"x".repeat(MESSAGE_TEXT_MAX))).await.unwrap();
    let refused = store.accept(message("m", &"x".repeat(MESSAGE_TEXT_MAX + 1))).await.unwrap_err();
    assert_eq!(refused.to_string(), "the text of a message has 65537 bytes; the limit is 65536");
    let sender = Incoming { sender: "x".repeat(2_000), ..message("m", "x") };
    assert!(matches!(store.accept(sender).await, Err(StoreError::TooLarge { .. })));
    let turn = running(&store, 1).await;
    let refused = store.finish_turn(&turn, &"x".repeat(REPLY_TEXT_MAX + 1), at(1)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.turn(&turn).await.unwrap().state, TurnState::Running);
    store.finish_turn(&turn, &"x".repeat(REPLY_TEXT_MAX), at(2)).await.unwrap();
}

#[tokio::test]
async fn nothing_that_runs_for_each_message_reads_a_whole_table() {
    let (_folder, path) = folder();
    let store = open(&path);
    let accepts = (0..3_000).map(|number| {
        let incoming = message(&format!("m{number}"), "hello");
        let group = group(&format!("g{}", number % 50));
        store.accept(Incoming { group, wakes: number % 3 == 0, ..incoming })
    });
    futures_util::future::try_join_all(accepts).await.unwrap();
    for number in 0..50 {
        let turn = turn_id(number);
        store.take_up(&group(&format!("g{number}")), &turn, at(3)).await.unwrap().unwrap();
        store.finish_turn(&turn, "done", at(5)).await.unwrap();
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    // Both with what the planner knows by itself and with figures about the tables.
    for _ in 0..2 {
        for statement in PER_MESSAGE_STATEMENTS {
            for step in plan(&raw, statement) {
                // Nor does it sort what it found: an index has the order already.
                let fine = !step.starts_with("SCAN") && !step.contains("TEMP B-TREE");
                assert!(fine, "{statement}\nruns as: {step}");
            }
        }
        raw.execute_batch("ANALYZE").unwrap();
    }
    let scan = plan(&raw, "SELECT * FROM messages WHERE text = 'x'");
    assert!(scan[0].starts_with("SCAN"), "a scan is told apart: {scan:?}");
}

fn plan(raw: &rusqlite::Connection, statement: &str) -> Vec<String> {
    let mut explained = raw.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    // The parameters stay empty: nothing is run.
    let mut rows = explained.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}

#[tokio::test]
async fn a_turn_is_taken_up_with_all_it_is_run_from_and_again_after_it_was_broken_off() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    assert_eq!(store.take_up(&family, &turn_id(1), at(1)).await.unwrap(), None);
    store.accept(message("a", "one")).await.unwrap();
    let first = store.take_up(&family, &turn_id(1), at(2)).await.unwrap().unwrap();
    assert_eq!((first.turn.state, first.turn.attempts), (TurnState::Running, 1));
    assert_eq!(first.messages.len(), 1);
    assert!(first.journal.is_empty());
    let round = Event::Round { round: 0, message: serde_json::json!({"role": "assistant"}) };
    store.journal(&turn_id(1), &[round], at(3)).await.unwrap();
    // What came meanwhile waits: the turn that was begun goes on with what it had.
    store.accept(message("b", "two")).await.unwrap();
    let again = store.take_up(&family, &turn_id(2), at(4)).await.unwrap().unwrap();
    assert_eq!((again.turn.id, again.turn.attempts), (turn_id(1), 2));
    assert_eq!((again.messages.len(), again.journal.len()), (1, 1));
    store.finish_turn(&turn_id(1), "done", at(5)).await.unwrap();
    let next = store.take_up(&family, &turn_id(2), at(6)).await.unwrap().unwrap();
    assert_eq!((next.turn.id, next.messages[0].incoming.text.as_str()), (turn_id(2), "two"));
}

#[tokio::test]
async fn old_journals_are_forgotten_and_what_was_said_is_not() {
    let (_folder, path) = folder();
    let store = open(&path);
    let family = group("family");
    let turns = u128::from(JOURNALS_KEPT) + 3;
    for number in 1..=turns {
        let id = turn_id(number);
        store.accept(message(&number.to_string(), "hello")).await.unwrap();
        let moment = at(i64::try_from(number).unwrap());
        store.take_up(&family, &id, moment).await.unwrap().unwrap();
        let round = Event::Round { round: 0, message: json!({"role": "assistant"}) };
        let call = json!({"command": "true"});
        let began =
            Event::CallBegan { round: 0, index: 0, tool: "bb_shell".to_owned(), arguments: call };
        store.journal(&id, &[round, began], moment).await.unwrap();
        if number < turns {
            store.finish_turn(&id, "hi", moment).await.unwrap();
        }
    }
    // Two turns that are over are beyond the newest; each had a round and a call.
    assert_eq!(store.forget_journals().await.unwrap(), 4);
    assert!(store.journal_of(&turn_id(2)).await.unwrap().is_empty());
    assert_eq!(store.journal_of(&turn_id(3)).await.unwrap().len(), 1);
    assert_eq!(store.journal_of(&turn_id(turns)).await.unwrap().len(), 1, "it is not over");
    assert_eq!(store.turn_messages(&turn_id(1)).await.unwrap().len(), 1);
    assert_eq!(store.posts_of(&turn_id(1)).await.unwrap().len(), 1);
}
