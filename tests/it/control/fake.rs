//! A controller that plays scenarios, and the places it is served at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use babybot::clock::{Clock as _, SystemClock, Timestamp};
use babybot::control::client::Client;
use babybot::control::place::{self, Bases, ControlSocket};
use babybot::control::{
    AgentState, ApplyEvent, ApplyRequest, ChannelStatus, ChatEnd, ChatEvent, ChatRequest,
    Condition, ConditionStatus, ControlError, Drift, GroupStatus, Lease, LeasedPlace, LimitHit,
    Outcome, Pending, PostDecision, PostOutcome, Refusal, Role, RuntimeStatus, Said, Service,
    Status, server,
};
use babybot::desired::Desired;
use babybot::name::{ChannelName, GroupName, InstanceId, MessageId, SandboxId, ThreadId, TurnId};
use babybot::observed::{Controller, Known, Observed};
use babybot::resource::{Lifecycle, ResourceId, Risk, RuntimeRef};
use futures_util::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How the fake behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    /// It does what is asked.
    Well,
    /// It does nothing that is asked.
    Refusing,
    /// It begins, and never ends.
    Silent,
    /// It begins, and then lets go.
    Half,
    /// It says very much.
    Wordy,
}

pub(super) struct Fake {
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) stop: CancellationToken,
    /// Told whenever something that never ends was dropped.
    pub(super) dropped: Arc<Notify>,
    heard: watch::Sender<Vec<String>>,
    held: Mutex<BTreeMap<GroupName, bool>>,
    play: Play,
}

/// Rings when it is dropped.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Fake {
    pub(super) fn new(instance: InstanceId, play: Play) -> Self {
        Self {
            status: watch::Sender::new(Arc::new(status(instance))),
            stop: CancellationToken::new(),
            dropped: Arc::default(),
            heard: watch::Sender::new(Vec::new()),
            held: Mutex::default(),
            play,
        }
    }

    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.borrow().clone()
    }

    /// Waits until this was asked.
    pub(super) async fn heard_of(&self, what: &str) {
        let mut heard = self.heard.subscribe();
        heard.wait_for(|heard| heard.iter().any(|heard| heard == what)).await.unwrap();
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }

    fn hear(&self, what: String) {
        self.heard.send_modify(|heard| heard.push(what));
    }

    async fn for_ever(&self) {
        let _bell = Bell(self.dropped.clone());
        std::future::pending::<()>().await;
    }

    fn answer(&self, what: String) -> BoxFuture<'_, Result<(), Refusal>> {
        self.hear(what);
        let refused = self.play == Play::Refusing;
        Box::pin(async move { if refused { Err(refusal()) } else { Ok(()) } })
    }
}

fn refusal() -> Refusal {
    Refusal { why: "not now".to_owned() }
}

impl Service for Fake {
    fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    fn observe(&self, _desired: Desired) -> BoxFuture<'_, Result<Observed, Refusal>> {
        self.hear("observe".to_owned());
        Box::pin(async {
            match self.play {
                Play::Refusing => return Err(refusal()),
                Play::Silent => self.for_ever().await,
                _ => {}
            }
            Ok(observed())
        })
    }

    fn apply(&self, request: ApplyRequest, events: mpsc::Sender<ApplyEvent>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.hear(format!("apply {:?}", request.risks[0]).to_lowercase());
            let play: Vec<ApplyEvent> = match self.play {
                Play::Well | Play::Refusing => applied(),
                Play::Half => applied().into_iter().take(1).collect(),
                Play::Silent => return self.for_ever().await,
                Play::Wordy => vec![
                    ApplyEvent::Line { text: "x".repeat(20 << 20) },
                    ApplyEvent::Line { text: "x".repeat(64 << 20) },
                ],
            };
            for event in play {
                events.send(event).await.unwrap();
            }
        })
    }

    fn chat(&self, request: ChatRequest, events: mpsc::Sender<ChatEvent>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.hear(format!("chat {}", request.thread));
            let play = answered();
            let enough = if self.play == Play::Well { play.len() } else { 1 };
            for event in play.into_iter().take(enough) {
                events.send(event).await.unwrap();
            }
            if self.play == Play::Silent {
                self.for_ever().await;
            }
        })
    }

    fn acknowledge(&self, post: i64, outcome: PostOutcome) -> BoxFuture<'_, Result<(), Refusal>> {
        self.answer(format!("{post} {outcome:?}"))
    }

    fn say(&self, thread: ThreadId, said: Said) -> BoxFuture<'_, Result<(), Refusal>> {
        self.answer(format!("say {} in {thread}", said.text))
    }

    fn cancel(&self, thread: ThreadId) -> BoxFuture<'_, Result<(), Refusal>> {
        self.answer(format!("cancel {thread}"))
    }

    fn decide(&self, post: i64, decision: PostDecision) -> BoxFuture<'_, Result<(), Refusal>> {
        self.answer(format!("{decision:?} {post}"))
    }

    fn hold(&self, group: GroupName, held: bool) -> BoxFuture<'_, Result<bool, Refusal>> {
        // What it tells of itself is never up to date.
        let before = self.held.lock().unwrap().insert(group.clone(), held);
        let told = self.answer(format!("{group} {}", if held { "held" } else { "let go" }));
        Box::pin(async move { told.await.map(|()| before.unwrap_or_default() != held) })
    }

    fn lease(
        &self,
        group: GroupName,
        granted: mpsc::Sender<Result<Lease, Refusal>>,
    ) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.hear(format!("lease {group}"));
            match self.play {
                Play::Half => return,
                Play::Refusing => granted.send(Err(refusal())).await.unwrap(),
                _ => granted.send(Ok(lease())).await.unwrap(),
            }
            drop(granted);
            self.for_ever().await;
        })
    }

    fn shut_down(&self, patience: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        if self.play == Play::Well {
            self.stop.cancel();
        }
        self.answer(format!("shut down within {patience:?}"))
    }
}

/// Folders for a project's data and for sockets.
pub(super) struct Rooms(tempfile::TempDir);

impl Rooms {
    pub(super) fn new() -> Self {
        let rooms = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(rooms.data()).unwrap();
        rooms
    }

    pub(super) fn root(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(super) fn bases(&self) -> Bases {
        Bases { runtime: None, temporary: self.root() }
    }

    pub(super) fn open(
        &self,
        instance: &InstanceId,
    ) -> Result<(UnixListener, ControlSocket), ControlError> {
        self.open_in(instance, &self.bases())
    }

    pub(super) fn open_in(
        &self,
        instance: &InstanceId,
        bases: &Bases,
    ) -> Result<(UnixListener, ControlSocket), ControlError> {
        place::open(&self.data(), instance, Role::Up, SystemClock.now(), None, bases)
    }

    pub(super) fn open_at(
        &self,
        instance: &InstanceId,
        since: Timestamp,
    ) -> Result<(UnixListener, ControlSocket), ControlError> {
        place::open(&self.data(), instance, Role::Up, since, None, &self.bases())
    }
}

/// For a server whose socket is never lost.
pub(super) fn never_renewed() -> mpsc::Receiver<UnixListener> {
    mpsc::channel(1).1
}

/// A fake that is served.
pub(super) struct House {
    pub(super) fake: Arc<Fake>,
    pub(super) instance: InstanceId,
    rooms: Rooms,
    socket: PathBuf,
    serving: JoinHandle<()>,
}

impl House {
    pub(super) async fn open(play: Play) -> Self {
        let (rooms, instance) = (Rooms::new(), SystemClock.instance_id());
        let (listener, place) = rooms.open(&instance).unwrap();
        let fake = Arc::new(Fake::new(instance.clone(), play));
        let socket = place.notice().socket.clone();
        let serving = server::serve(listener, never_renewed(), fake.clone(), fake.stop.clone());
        let serving = tokio::spawn(async move {
            let _place = place;
            serving.await;
        });
        Self { fake, instance, rooms, socket, serving }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.rooms.data()
    }

    pub(super) fn socket(&self) -> &PathBuf {
        &self.socket
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(&self.data(), &self.instance).await.unwrap().unwrap()
    }

    /// Ends in good order. The folders are given back, to be looked at.
    pub(super) async fn end(self) -> Rooms {
        self.fake.stop.cancel();
        super::within(self.serving).await.unwrap();
        self.rooms
    }

    pub(super) fn kill(&self) {
        self.serving.abort();
    }
}

pub(super) fn observed() -> Observed {
    Observed {
        controller: Controller::Running,
        applied: Known::Absent,
        looks: [(ResourceId::GlobalMemory, Known::Unknown("why".to_owned()))].into(),
        agents: [].into(),
    }
}

pub(super) fn applied() -> Vec<ApplyEvent> {
    vec![
        ApplyEvent::Done { id: ResourceId::GlobalMemory },
        ApplyEvent::Line { text: "Step 1/4".to_owned() },
        ApplyEvent::Applied { generation: 3, complete: true, left: Box::default() },
    ]
}

pub(super) fn answered() -> Vec<ChatEvent> {
    let one: MessageId = "one".parse().unwrap();
    vec![
        ChatEvent::Joined,
        ChatEvent::Post {
            id: 7,
            reply: true,
            text: "you said hi".to_owned(),
            uncertain: false,
            answers: vec![one.clone()],
            late: None,
        },
        ChatEvent::Over { messages: vec![one], outcome: Outcome::Answered },
        ChatEvent::End { end: ChatEnd::HandedOver },
    ]
}

pub(super) fn lease() -> Lease {
    let sandbox = SandboxId::new("process-1-1").unwrap();
    Lease { runtime: RuntimeRef::NONE, sandbox, place: LeasedPlace::default() }
}

/// A status with something of everything.
fn status(instance: InstanceId) -> Status {
    let now = SystemClock.now();
    let ago = |seconds: i64| Timestamp(now.0 - seconds * 1000);
    let condition = |which: Condition, reason: &str| {
        (which, ConditionStatus { holds: true, since: ago(90), reason: reason.to_owned() })
    };
    let group = |stage: AgentState| GroupStatus {
        conditions: [condition(Condition::Ready, "")].into(),
        stage,
        waits_for: None,
        lifecycle: Lifecycle::OnDemand,
        model: "rehearsal".to_owned(),
        held: false,
        messages: 0,
        turn: None,
        sandbox: None,
        limit_hits: Vec::new(),
        remarks: Vec::new(),
    };
    let mut away = ConditionStatus { holds: false, since: ago(5), reason: "unseen".to_owned() };
    away.holds = false;
    let family = GroupStatus {
        conditions: [
            condition(Condition::Degraded, "the image\n cannot be built"),
            condition(Condition::PendingChanges, "1 change is not applied"),
            (Condition::Ready, away),
        ]
        .into(),
        waits_for: Some("one of the 5 places of runtime.parallel".to_owned()),
        lifecycle: Lifecycle::Always,
        model: "local".to_owned(),
        messages: 12,
        turn: Some((TurnId::new("a".repeat(32)).unwrap(), ago(200))),
        sandbox: Some(SandboxId::new("0123456789abcdef0123456789abcdef").unwrap()),
        limit_hits: vec![LimitHit { limit: "limits.memory".to_owned(), at: ago(7_300) }],
        remarks: vec!["model/local cannot use tools".to_owned()],
        ..group(AgentState::Queued)
    };
    Status {
        instance,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: Role::Up,
        pid: 4242,
        since: ago(100_000),
        generation: Some(7),
        draining: false,
        runtimes: vec![RuntimeStatus {
            runtime: RuntimeRef::docker(None),
            detail: "27.1 at /var/run/docker.sock".to_owned(),
            answers: true,
            warnings: Vec::new(),
        }],
        pending: Some(Pending {
            changes: 2,
            risk: Some(Risk::Privileged),
            text: "a plan".to_owned(),
            valid: true,
        }),
        channels: [(
            ChannelName::new("api").unwrap(),
            ChannelStatus {
                kind: "webhook".to_owned(),
                detail: "listens on 127.0.0.1:8787".to_owned(),
                serves: true,
                undelivered: 2,
            },
        )]
        .into(),
        groups: [
            (GroupName::new("family").unwrap(), family),
            (super::home(), group(AgentState::Asleep)),
        ]
        .into(),
        drift: vec![Drift {
            at: ago(30),
            id: ResourceId::Container(super::home()),
            text: "it was killed; another was started".to_owned(),
            mended: true,
        }],
        warnings: vec!["groups/ is looked at every 30 s only: no watch is left".to_owned()],
    }
}
