//! Agents that the test plays: what an agent may say, and what it may not.

use std::io::Write;
use std::pin::Pin;
use std::sync::Mutex;

use babybot::link::LinkError;
use babybot::link::client::{self, Link};
use babybot::name::TurnId;
use babybot::protocol::{Event, Failure, Hello, Limit, Order, PROTOCOL};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::support::workshop::{Puppet, Puppets};

type Orders = Pin<Box<dyn Stream<Item = Result<Order, LinkError>> + Send>>;

/// An agent after its greeting.
pub(super) struct Greeted {
    pub(super) link: Link,
    orders: Orders,
    exit: oneshot::Sender<Exit>,
    _log: tokio::io::DuplexStream,
}

fn hello(protocol: u32) -> Hello {
    Hello { version: "9.9.9".into(), protocol, capabilities: Vec::new() }
}

pub(super) async fn greet(puppet: Puppet) -> Greeted {
    let Puppet { io, log, exit } = puppet;
    let (link, connection) = client::connect(io).await.unwrap();
    tokio::spawn(connection);
    let welcome = link.hello(&hello(PROTOCOL)).await.unwrap();
    assert_eq!(welcome.group.as_str(), "family");
    let orders: Orders = Box::pin(link.orders().await.unwrap());
    Greeted { link, orders, exit, _log: log }
}

impl Greeted {
    pub(super) async fn order(&mut self) -> Order {
        tokio::time::timeout(PATIENCE, self.orders.next()).await.unwrap().unwrap().unwrap()
    }

    pub(super) async fn turn(&mut self) -> TurnId {
        match self.order().await {
            Order::Turn(order) => order.turn,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn answer(&self, turn: &TurnId, text: &str, steers: u32) {
        self.link.report(turn, &[Event::Done { text: text.into(), steers }]).await.unwrap();
    }
}

pub(super) async fn stage() -> (Workshop, mpsc::UnboundedReceiver<Puppet>) {
    let (runtime, puppets) = Puppets::new();
    (Plan::scripted("").runtime(runtime).build().await, puppets)
}

fn refused(outcome: Result<impl Sized, LinkError>, words: &str) {
    match outcome {
        Err(LinkError::Refused { message, .. }) => assert!(message.contains(words), "{message}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test]
async fn a_greeting_comes_first_and_once() {
    let (shop, mut puppets) = stage().await;
    let mut worker = shop.worker();
    let agent = async {
        let puppet = puppets.recv().await.unwrap();
        let (link, connection) = client::connect(puppet.io).await.unwrap();
        tokio::spawn(connection);
        refused(link.orders().await.map(drop), "greet first");
        let Err(LinkError::Refused { message, status, .. }) = link.hello(&hello(77)).await else {
            panic!("another language was accepted");
        };
        for word in [
            "9.9.9",
            "protocol 77",
            env!("CARGO_PKG_VERSION"),
            &format!("protocol {PROTOCOL}"),
            "image",
        ] {
            assert!(message.contains(word), "{word} in {message}");
        }
        assert_eq!(status, 409);
        link.hello(&hello(PROTOCOL)).await.unwrap();
        refused(link.hello(&hello(PROTOCOL)).await, "greeted before");
        let orders = link.orders().await.unwrap();
        refused(link.orders().await.map(drop), "one reader");
        let unknown = TurnId::new("a".repeat(32)).unwrap();
        let text = Event::Text { text: "psst".into(), fresh: true };
        refused(link.report(&unknown, &[text]).await, "not running");
        (link, orders, puppet.log, puppet.exit)
    };
    let (woken, _agent) = tokio::join!(worker.wake(), agent);
    woken.unwrap();
}

#[tokio::test]
async fn a_steer_that_came_too_late_waits_for_the_next_turn() {
    let (shop, mut puppets) = stage().await;
    shop.say("first").await;
    let worker = shop.worker();
    let helms = worker.steer_handle();
    let working = shop.working(worker, &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let steer_handle = helms.borrow().clone().unwrap();
    shop.say("in time").await;
    assert!(shop.steer(&steer_handle).await);
    shop.say("too late").await;
    assert!(shop.steer(&steer_handle).await);
    assert!(matches!(agent.order().await, Order::Steer { .. }));
    agent.answer(&turn, "to both", 1).await;
    let (worker, worked) = finished(working).await;
    assert_eq!(worked, Worked::Answered);
    let waiting = shop.store.waiting(&shop.group).await.unwrap();
    let waiting: Vec<&str> = waiting.iter().map(|message| &*message.incoming.text).collect();
    assert_eq!(waiting, ["too late"]);
    // The turn is over, and takes nothing more.
    assert!(!shop.steer(&steer_handle).await);

    let working = shop.working(worker, &CancellationToken::new());
    let Order::Steer { prompt, .. } = agent.order().await else { panic!("not the late steer") };
    assert!(prompt.contains("too late"));
    let turn = agent.turn().await;
    agent.answer(&turn, "to the third", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
}

#[tokio::test]
async fn a_steer_of_which_a_part_is_taken_elsewhere_is_not_given_at_all() {
    let (shop, mut puppets) = stage().await;
    shop.say("first").await;
    let worker = shop.worker();
    let helms = worker.steer_handle();
    let working = shop.working(worker, &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let own = shop.store.turn_messages(&turn).await.unwrap()[0].seq;
    shop.say("second").await;
    let new = shop.store.waiting(&shop.group).await.unwrap()[0].seq;
    let steer_handle = helms.borrow().clone().unwrap();
    assert!(!steer_handle.steer(vec![new, own], "both".into()).await.unwrap());
    assert_eq!(shop.store.waiting(&shop.group).await.unwrap()[0].seq, new);
    assert_eq!(shop.store.turn_messages(&turn).await.unwrap().len(), 1);
    agent.answer(&turn, "to the first", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
}

#[tokio::test]
async fn the_first_word_about_the_end_of_a_turn_counts() {
    let (shop, mut puppets) = stage().await;
    shop.say("hello").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let failed = Event::Failed { reason: Failure::Answer, message: "x".repeat(100_000) };
    let done = Event::Done { text: "after all".into(), steers: 0 };
    refused(agent.link.report(&turn, &[failed, done]).await, "not running");
    let (_, worked) = finished(working).await;
    let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
    // However much an agent says, the chat is told a bearable part of it.
    assert_eq!(why.len(), 2_000);
    assert_eq!(shop.posts().await[0].0, PostKind::Notice);
}

/// A sandbox carries the mark of what was killed in it for want of memory to its end.
#[tokio::test]
async fn an_agent_whose_tool_once_lacked_memory_did_not_end_for_that_reason() {
    let (shop, mut puppets) = stage().await;
    shop.say("in the morning").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    agent.link.report(&turn, &[Event::Struck { limit: Limit::Memory }]).await.unwrap();
    agent.answer(&turn, "without it", 0).await;
    let (worker, _) = finished(working).await;

    shop.say("later").await;
    let working = shop.working(worker, &CancellationToken::new());
    let turn = agent.turn().await;
    agent.exit.send(Exit::OutOfMemory).unwrap();
    let next = tokio::time::timeout(PATIENCE, puppets.recv()).await.expect("it was given up");
    let mut next = greet(next.unwrap()).await;
    assert_eq!(next.turn().await, turn);
    // Of this one no tool was killed.
    next.exit.send(Exit::OutOfMemory).unwrap();
    let (_, worked) = finished(working).await;
    let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
    assert!(why.starts_with("it needed more memory than"), "{why}");
}

#[tokio::test]
async fn a_report_that_cannot_be_read_changes_nothing() {
    let (shop, mut puppets) = stage().await;
    shop.say("hello").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let path = format!("/turns/{turn}/events");
    for wrong in [json!("do"), json!({"type": "done"}), json!({"type": "won", "text": ""})] {
        let answer = agent.link.post_json(&path, &wrong).await.unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{wrong}");
    }
    // A result of a call that was never begun is not taken either.
    let ended = Event::CallEnded { round: 0, index: 0, result: "forged".into() };
    refused(agent.link.report(&turn, &[ended]).await, "no record of what comes before");
    agent.answer(&turn, "hi", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    assert_eq!(shop.store.journal_of(&turn).await.unwrap(), []);
}

#[tokio::test]
async fn an_answer_that_is_stored_while_the_agent_is_being_stopped_counts() {
    let (shop, mut puppets) = stage().await;
    shop.say("hello").await;
    let cancel = CancellationToken::new();
    let working = shop.working(shop.worker(), &cancel);
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    cancel.cancel();
    assert_eq!(agent.order().await, Order::Cancel { turn: turn.clone() });
    agent.answer(&turn, "just in time", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    assert_eq!(shop.posts().await, [(PostKind::Reply, "just in time".to_owned())]);
}

#[tokio::test]
async fn an_agent_that_reads_no_orders_cannot_hold_up_its_end() {
    let (shop, mut puppets) = stage().await;
    shop.say("hello").await;
    let worker = shop.worker();
    let helms = worker.steer_handle();
    let cancel = CancellationToken::new();
    let working = shop.working(worker, &cancel);
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    agent.turn().await;
    // Orders are not read any more: windows and queue fill up, then steers are not taken.
    let steer_handle = helms.borrow().clone().unwrap();
    let text = "x".repeat(60_000);
    let mut given = 0;
    loop {
        shop.say(&text).await;
        if !shop.steer(&steer_handle).await {
            break;
        }
        given += 1;
        assert!(given < 1_000, "orders pile up without bound");
    }
    assert_eq!(shop.store.waiting(&shop.group).await.unwrap().len(), 1);
    cancel.cancel();
    pass(Duration::from_secs(9)).await;
    assert_eq!(finished(working).await.1, Worked::Cancelled);
}

#[tokio::test]
async fn orders_arrive_while_an_answer_of_the_model_is_not_read() {
    let (runtime, mut puppets) = Puppets::new();
    let mut fake = FakeOllama::start().await;
    let shop = Plan::with(&fake).runtime(runtime).build().await;
    let big: Vec<Vec<u8>> = (0..64)
        .map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "y".repeat(32 << 10)).into())
        .collect();
    fake.answer("/api/chat", Reply::stream(big));
    shop.say("hello").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let ask = json!({"model": "qwen3:8b", "messages": [{"role": "user", "content": "hi"}]});
    let unread = agent.link.post_json("/api/chat", &ask).await.unwrap();
    fake.received().await;
    agent.answer(&turn, "hi", 0).await;
    let (worker, _) = finished(working).await;
    shop.say("again").await;
    let working = shop.working(worker, &CancellationToken::new());
    let turn = agent.turn().await;
    agent.answer(&turn, "hi again", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    drop(unread);
}

/// Lets time pass at once, and then go on as usual: what other threads do takes real time.
pub(super) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

/// Puts something between an agent and its link that can stop moving bytes.
fn gated(puppet: Puppet) -> (Puppet, Arc<tokio::sync::Notify>) {
    let (inner, outer) = tokio::io::duplex(64 << 10);
    let (mut link, mut outer, close) = (puppet.io, outer, Arc::new(tokio::sync::Notify::new()));
    let closed = close.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut link, &mut outer) => {}
            // Both ends stay open, and nothing comes through.
            () = closed.notified() => std::future::pending().await,
        }
    });
    (Puppet { io: inner, ..puppet }, close)
}

#[tokio::test]
async fn a_link_that_is_dead_ends_the_turn_long_before_its_limit() {
    let (mut shop, mut puppets) = stage().await;
    shop.say("hello").await;
    let cancel = CancellationToken::new();
    let working = shop.working(shop.worker(), &cancel);
    let (puppet, close) = gated(puppets.recv().await.unwrap());
    let mut agent = greet(puppet).await;
    agent.turn().await;
    close.notify_one();
    pass(Duration::from_secs(25)).await;
    let why = loop {
        let step = tokio::time::timeout(PATIENCE, shop.progress.recv()).await.unwrap().unwrap();
        if let babybot::session::Progress::Retry { why, .. } = step {
            break why;
        }
    };
    assert_eq!(why, "its connection closed");
    working.abort();
}

/// What is logged on this thread.
#[derive(Clone, Default)]
pub(super) struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    /// Takes what is logged until the guard is dropped.
    pub(super) fn take() -> (Self, tracing::subscriber::DefaultGuard) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn an_agents_log_is_bounded_and_commands_no_terminal() {
    let (logged, _guard) = Logged::take();
    let (shop, mut puppets) = stage().await;
    let mut worker = shop.worker();
    let agent = async {
        let mut puppet = puppets.recv().await.unwrap();
        puppet.log.write_all(b"\x1b]0;owned\x07\x1b[2Jplain \xc2\x9b31m\rwords\n").await.unwrap();
        let flood = "flood ".repeat(100) + "\n";
        for _ in 0..1_000 {
            puppet.log.write_all(flood.as_bytes()).await.unwrap();
        }
        puppet.log.write_all("z".repeat(10_000).as_bytes()).await.unwrap();
        greet(puppet).await
    };
    let (woken, agent) = tokio::join!(worker.wake(), agent);
    woken.unwrap();
    drop(agent);
    until(|| logged.text().contains("too much")).await;
    let text = logged.text();
    assert!(text.contains("]0;owned[2Jplain 31mwords"), "{}", &text[..500]);
    assert!(!text.contains(['\x1b', '\x07', '\r', '\u{9b}']));
    assert!((32 << 10..128 << 10).contains(&text.len()), "{}", text.len());
}

#[tokio::test]
async fn a_message_of_an_agent_that_is_lost_with_its_controller_goes_out_once() {
    let (runtime, mut puppets) = Puppets::new();
    let mut fake = FakeOllama::start().await;
    let shop = Plan::with(&fake).runtime(runtime).build().await;
    shop.say("work").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let (tool, arguments) = ("bb_send_message", json!({"text": "Halfway."}));
    let function = json!({"index": 0, "name": tool, "arguments": arguments});
    let calls = json!([{"id": "call_0", "function": function}]);
    let message = json!({"role": "assistant", "content": "", "tool_calls": calls});
    let began = Event::CallBegan { round: 0, index: 0, tool: tool.into(), arguments };
    agent.link.report(&turn, &[Event::Round { round: 0, message }, began]).await.unwrap();
    let payload = json!({"name": "send", "text": "Halfway."});
    let request = json!({"id": format!("{turn}-0-0"), "type": "command", "payload": payload});
    for _ in 0..2 {
        let answer = agent.link.request(&request).await.unwrap();
        assert_eq!((&answer["id"], &answer["type"]), (&request["id"], &json!("response")));
    }
    working.abort();
    let _ = working.await;
    drop(agent);

    // Both are others now, and this agent is a real one.
    let shop = shop.reopened(Plan::with(&fake)).await;
    fake.answer("/api/chat", says("Done."));
    let mut worker = shop.worker();
    assert_eq!(shop.work(&mut worker).await, Worked::Answered);
    worker.rest().await;
    assert_eq!(told(&fake.received().await).last().unwrap(), "tool: sent");
    let posts = shop.posts().await;
    let posts: Vec<_> = posts.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
    assert_eq!(posts, [(PostKind::Message, "Halfway."), (PostKind::Reply, "Done.")]);
}

#[tokio::test]
async fn what_an_agent_asks_for_without_a_turn_or_for_others_is_refused() {
    let (shop, mut puppets) = stage().await;
    let mut worker = shop.worker();
    let (woken, agent) =
        tokio::join!(worker.wake(), async { greet(puppets.recv().await.unwrap()).await });
    woken.unwrap();
    let mut agent = agent;
    let send = |id: &str, to: &Value| json!({"id": id, "type": "command", "payload": {"name": "send", "text": "x", "to": to}});
    let refused = async |agent: &Greeted, request: Value, code: &str| {
        let answer = agent.link.request(&request).await.unwrap();
        assert_eq!((&answer["type"], &answer["payload"]["code"]), (&json!("error"), &json!(code)));
    };
    refused(&agent, send("early", &json!(null)), "no-destination").await;
    shop.say("hello").await;
    let working = shop.working(worker, &CancellationToken::new());
    let turn = agent.turn().await;
    refused(&agent, send("other", &json!("main")), "not-permitted").await;
    refused(&agent, json!({"id": "x"}), "invalid").await;
    agent.answer(&turn, "hi", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    assert_eq!(shop.posts().await.len(), 1);
}
