//! The host's end of a link, as a test plays it: orders go out, reports come in, and the model
//! says what the test says.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use babybot::link::server;
use babybot::name::{GroupName, SessionName, TurnId};
use babybot::protocol::{Disk, Event, Hello, JournalRound, Order, PROTOCOL, TurnOrder, Welcome};
use babybot::unit::ByteSize;
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::support::workshop::PATIENCE;

/// What an agent is told about itself where a test does not care.
pub(super) fn welcome() -> Welcome {
    Welcome {
        group: GroupName::new("family").unwrap(),
        assistant: "Baby".into(),
        model: "first:1b".into(),
        context: 4096,
        output: ByteSize::bytes(10 << 20),
        disk: Disk { limit: ByteSize::bytes(1 << 30), folders: Vec::new() },
        places: Vec::new(),
        env: BTreeMap::from([("GREETING".into(), "hello there".into())]),
        tools: babybot::request::tools(false),
    }
}

/// A model's answer in words.
pub(super) fn says(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

/// A model's call of a tool.
pub(super) fn calls(tool: &str, arguments: Value) -> Value {
    let call = json!({"function": {"name": tool, "arguments": arguments}});
    json!({"role": "assistant", "content": "", "tool_calls": [call]})
}

/// A model's call of the shell.
pub(super) fn shell(command: &str) -> Value {
    calls("bb_shell", json!({ "command": command }))
}

/// A running agent and its host.
pub(super) struct Played {
    child: Child,
    served: JoinHandle<()>,
    log: JoinHandle<String>,
    orders: mpsc::UnboundedSender<Order>,
    answers: mpsc::UnboundedSender<Value>,
    events: mpsc::UnboundedReceiver<(TurnId, Event)>,
    asked: mpsc::UnboundedReceiver<Value>,
    turns: u32,
}

struct Host {
    welcome: Welcome,
    orders: Mutex<Option<mpsc::UnboundedReceiver<Order>>>,
    answers: Mutex<mpsc::UnboundedReceiver<Value>>,
    events: mpsc::UnboundedSender<(TurnId, Event)>,
    asked: mpsc::UnboundedSender<Value>,
}

impl Played {
    /// Starts an agent and serves it over its stdin and stdout.
    pub(super) fn start(mut command: Command, welcome: Welcome) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let io = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut log = String::new();
            let _ = stderr.read_to_string(&mut log).await;
            log
        });
        let (orders, ordered) = mpsc::unbounded_channel();
        let (answers, answered) = mpsc::unbounded_channel();
        let (reports, events) = mpsc::unbounded_channel();
        let (requests, asked) = mpsc::unbounded_channel();
        let host = Host {
            welcome,
            orders: Mutex::new(Some(ordered)),
            answers: Mutex::new(answered),
            events: reports,
            asked: requests,
        };
        let served = tokio::spawn(async move {
            let _ = server::serve(io, routes(host)).await;
        });
        Self { child, served, log, orders, answers, events, asked, turns: 0 }
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// Orders a turn.
    pub(super) async fn turn(&mut self, prompt: &str) -> TurnId {
        self.turns += 1;
        let turn = TurnId::new(format!("{:032x}", self.turns)).unwrap();
        self.order_turn(&turn, "terminal.family", prompt, Vec::new());
        turn
    }

    /// Orders a turn of a session, with what an earlier attempt left.
    pub(super) fn order_turn(
        &self,
        turn: &TurnId,
        session: &str,
        prompt: &str,
        journal: Vec<JournalRound>,
    ) {
        let (turn, session) = (turn.clone(), SessionName::new(session).unwrap());
        self.order(Order::Turn(TurnOrder { turn, session, prompt: prompt.into(), journal }));
    }

    /// What the model is asked next.
    pub(super) async fn asked(&mut self) -> Value {
        tokio::time::timeout(PATIENCE, self.asked.recv()).await.unwrap().unwrap()
    }

    /// What the model says to the next it is asked.
    pub(super) fn answer(&self, message: Value) {
        self.answers.send(message).unwrap();
    }

    /// The next report but previews, which must be of this turn.
    pub(super) async fn event(&mut self, turn: &TurnId) -> Event {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            let (of, event) = next.expect("the agent reports nothing").expect("the link ended");
            assert_eq!(of, *turn);
            if !matches!(event, Event::Text { .. }) {
                return event;
            }
        }
    }

    /// The result of the next call.
    pub(super) async fn result(&mut self, turn: &TurnId) -> String {
        loop {
            match self.event(turn).await {
                Event::CallEnded { result, .. } => return result,
                Event::Round { .. } | Event::CallBegan { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// A turn in which the model makes one call, with all that is reported of it.
    pub(super) async fn call(&mut self, call: Value) -> Vec<Event> {
        let turn = self.turn("do it").await;
        self.answer(call);
        self.answer(says("done"));
        let mut events = Vec::new();
        loop {
            match self.event(&turn).await {
                Event::Done { .. } => break,
                Event::Failed { message, .. } => panic!("{message}"),
                event => events.push(event),
            }
        }
        while self.asked.try_recv().is_ok() {}
        events
    }

    /// Runs a command as a turn of its own, and gives its result.
    pub(super) async fn run(&mut self, command: &str) -> String {
        result_of(&self.call(shell(command)).await)
    }

    /// Has the agent run a command, and does not wait for it.
    pub(super) async fn begin_running(&mut self, command: &str) {
        self.turn("do it").await;
        self.answer(shell(command));
    }

    /// Ends the link as a host does that dies.
    pub(super) fn let_go(&self) {
        self.served.abort();
    }

    /// Sends the agent a signal.
    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// How it ends.
    pub(super) async fn end(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it does not end").unwrap()
    }

    /// All that the agent wrote to its log; it must have ended.
    pub(super) async fn log(&mut self) -> String {
        tokio::time::timeout(PATIENCE, &mut self.log).await.unwrap().unwrap()
    }
}

/// The result among what was reported of a call.
pub(super) fn result_of(events: &[Event]) -> String {
    let result = events.iter().find_map(|event| match event {
        Event::CallEnded { result, .. } => Some(result.clone()),
        _ => None,
    });
    result.expect("the call ended")
}

fn routes(host: Host) -> Router {
    Router::new()
        .route("/hello", post(hello))
        .route("/turns", get(turns))
        .route("/turns/{turn}/events", post(report))
        .route("/api/chat", post(chat))
        .route("/", get(|| async { "Ollama is running" }))
        .with_state(Arc::new(host))
}

async fn hello(State(host): State<Arc<Host>>, Json(hello): Json<Hello>) -> Json<Welcome> {
    assert_eq!(hello.protocol, PROTOCOL);
    Json(host.welcome.clone())
}

async fn turns(State(host): State<Arc<Host>>) -> Body {
    let orders = host.orders.lock().await.take().unwrap();
    let lines = futures_util::stream::unfold(orders, |mut orders| async move {
        let order = orders.recv().await?;
        Some((format!("{}\n", serde_json::to_string(&order).unwrap()), orders))
    });
    Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>))
}

async fn report(
    State(host): State<Arc<Host>>,
    Path(turn): Path<TurnId>,
    body: Bytes,
) -> StatusCode {
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let _ = host.events.send((turn.clone(), serde_json::from_slice(line).unwrap()));
    }
    StatusCode::NO_CONTENT
}

async fn chat(State(host): State<Arc<Host>>, Json(asked): Json<Value>) -> String {
    let _ = host.asked.send(asked);
    let message = host.answers.lock().await.recv().await;
    format!("{}\n", json!({"message": message, "done": true, "done_reason": "stop"}))
}
