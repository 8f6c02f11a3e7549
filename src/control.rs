//! The control socket: how other verbs reach the controller that runs.
//!
//! One private socket per instance. A verb that finds a controller joins it
//! instead of doing its work by itself. This room carries values in both
//! directions, keeps the bounds and checks who is at the other end; what is done
//! with them is up to the [`Service`] that the controller hands in.

pub mod client;
pub mod place;
pub mod server;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::clock::Timestamp;
use crate::desired::Desired;
use crate::error::chain;
use crate::name::{GroupName, InstanceId, MessageId, SandboxId, TurnId};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::resource::{Lifecycle, ResourceId, Risk, RuntimeKind, RuntimeRef};
use crate::wire::Bounds;

/// What is spoken over the socket. It grows with every change of a type that travels over it.
pub const PROTOCOL: u32 = 3;
/// Largest value that travels in either direction: what a generation may hold. In bytes.
pub const BODY_MAX: usize = 64 << 20;
/// Largest headers of a request, in bytes.
const HEADERS_MAX: u32 = 16 << 10;
/// What the connection of one client may hold.
const BOUNDS: Bounds = Bounds { streams: 16, window: 256 << 10, headers: HEADERS_MAX };

/// What can go wrong on the way to a controller, or on the way to become one.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The folder that the socket would lie in is no place for it.
    #[error("cannot keep the control socket in {}: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The system takes no socket of such a long path.
    #[error("the path of the control socket is too long: {} has {} bytes, the limit is {limit}", path.display(), path.as_os_str().len())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// What is taken, in bytes.
        limit: usize,
    },
    /// The system refused.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `data/controller.json` is not what it should be.
    #[error("{} is not a valid controller file: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The socket is somebody else's.
    #[error("the controller (pid {pid}) runs as another user")]
    Permission {
        /// The controller, as its file says.
        pid: u32,
    },
    /// Whoever answers is not who may.
    #[error("the socket {} belongs to a process of user {uid}", socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// The user.
        uid: u32,
    },
    /// The controller closed the connection before it said anything.
    #[error("the controller (pid {pid}) closed the connection at once")]
    Closed {
        /// The controller, as its file says.
        pid: u32,
    },
    /// The controller says nothing.
    #[error("the controller (pid {pid}) did not answer within {seconds} s")]
    Silent {
        /// The controller, as its file says.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The controller is of another version, and speaks another language.
    #[error("the controller (pid {pid}) is babybot {version}, and this is {}", env!("CARGO_PKG_VERSION"))]
    Version {
        /// The controller, as its file says.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// The controller does not do what was asked.
    #[error("{0}")]
    Refused(String),
    /// The controller ended, or let go, before it had answered.
    #[error("the controller stopped before it answered")]
    Ended,
    /// The connection broke.
    #[error("the connection to the controller broke: {0}")]
    Broken(String),
    /// What arrived is not what was asked for.
    #[error("the controller sent an unexpected answer: {0}")]
    Malformed(String),
    /// More than is taken.
    #[error("the request is larger than the controller's limit of {BODY_MAX} bytes")]
    TooLarge,
}

impl ControlError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Folder { .. } => "set XDG_RUNTIME_DIR to a folder that is yours alone: \
                                    `mkdir -m 700 ~/.babybot-run && \
                                    export XDG_RUNTIME_DIR=~/.babybot-run`"
                .to_owned(),
            Self::Io { path, source } if source.kind() == io::ErrorKind::InvalidInput => {
                format!("move it away, babybot did not make it: {}", path.display())
            }
            Self::TooLong { .. } => "name a shorter folder in XDG_RUNTIME_DIR, or in TMPDIR where \
                                     there is none"
                .to_owned(),
            Self::Content { path, .. } => {
                format!("if no controller is running, remove it: rm {}", path.display())
            }
            Self::Permission { .. } => "run this as the same user as the controller".to_owned(),
            Self::Closed { .. } => {
                "this happens when another user connects, or too many clients do".to_owned()
            }
            Self::Silent { pid, .. } => {
                format!("try again; if it hangs, run `kill -9 {pid}`: nothing is lost")
            }
            Self::Version { pid, .. } => {
                format!("run `kill {pid}`, which lets it finish, then start it with this version")
            }
            Self::Ended => "run `babybot status` to see if one runs".to_owned(),
            _ => return None,
        };
        Some(hint)
    }
}

impl From<hyper::Error> for ControlError {
    fn from(error: hyper::Error) -> Self {
        if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
            return Self::Ended;
        }
        let words = chain(&error);
        // A ping that stays unanswered, or an end in mid-sentence, has no name of its own there.
        let cut = ["broken pipe", "connection reset", "stream closed", "not a result of an error"];
        let gone = cut.iter().any(|cut| words.to_lowercase().contains(cut));
        if gone { Self::Ended } else { Self::Broken(words) }
    }
}

/// How a controller answers a greeting. What another version says must still be read as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub protocol: u32,
    /// The version of babybot that runs.
    pub version: String,
    /// The installation that it serves.
    pub instance: InstanceId,
    /// What it is there for.
    pub role: Role,
    /// Its process.
    pub pid: u32,
}

/// What a controller is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// `babybot up`: channels, schedules, watchers, reconciling.
    Up,
    /// `babybot chat` and its like: it lasts as long as they do, and makes way for `up`.
    Short,
}

/// Everything a person may want to know of a running controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The installation.
    pub instance: InstanceId,
    /// The version of babybot that runs.
    pub version: String,
    /// What it is there for.
    pub role: Role,
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    pub since: Timestamp,
    /// The applied generation; `None`: none ever was.
    pub generation: Option<u64>,
    /// Whether it is about to end.
    pub draining: bool,
    /// What sandboxes are made with.
    pub runtime: RuntimeStatus,
    /// What is wanted and not applied; `None`: the manifest is what was applied.
    pub pending: Option<Pending>,
    /// Each group that was applied.
    pub groups: BTreeMap<GroupName, GroupStatus>,
    /// What was found changed from outside and what became of it, newest last; a few of them.
    pub drift: Vec<Drift>,
    /// What is watched less well than it should be, and why.
    pub warnings: Vec<String>,
}

/// What sandboxes are made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// Which runtime.
    pub kind: RuntimeKind,
    /// Where and in which version, or why it does not answer.
    pub detail: String,
    /// Whether it answered when it was asked last.
    pub answers: bool,
    /// What a reader should know about its walls.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A manifest that differs from what was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// How many changes it asks for; 0 where it is not valid.
    pub changes: usize,
    /// The worst of them.
    pub risk: Option<Risk>,
    /// The plan, or what is wrong with the manifest, for a person.
    pub text: String,
    /// Whether it is a manifest at all.
    pub valid: bool,
}

/// A group and its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// What holds of it, and since when.
    pub conditions: BTreeMap<Condition, ConditionStatus>,
    /// What its agent does, in one word.
    pub stage: AgentState,
    /// What it waits for, in words; nothing where it waits for nothing.
    pub waits_for: Option<String>,
    /// When its agent runs.
    pub lifecycle: Lifecycle,
    /// The model that answers.
    pub model: String,
    /// Whether the operator holds it.
    pub held: bool,
    /// Messages that wait for an answer.
    pub messages: usize,
    /// The turn under way, and since when.
    pub turn: Option<(TurnId, Timestamp)>,
    /// The sandbox.
    pub sandbox: Option<SandboxId>,
    /// Limits that struck, newest last; a few of them.
    pub limit_hits: Vec<LimitHit>,
    /// What it stands on that works with less than was asked for.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// What a group's agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// No agent runs, and none is needed.
    Asleep,
    /// It is being started.
    Starting,
    /// It runs and has nothing to do.
    Idle,
    /// It is at work on a turn.
    Working,
    /// A turn waits for one of the places that `runtime.parallel` gives.
    Queued,
    /// It finishes and ends.
    Draining,
}

/// What can hold of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Condition {
    /// A message would be answered now.
    Ready,
    /// Something is on its way to what it should be.
    Progressing,
    /// Something is wrong and stays so for now.
    Degraded,
    /// The world differs from what was applied.
    Drifted,
    /// It finishes and ends.
    Draining,
    /// The manifest asks for something that was not applied.
    PendingChanges,
}

/// Whether a condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionStatus {
    /// Whether it does.
    pub holds: bool,
    /// Since when it has been so.
    pub since: Timestamp,
    /// Why, in words; may be empty.
    pub reason: String,
}

/// A limit that struck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitHit {
    /// Its path in the manifest.
    pub limit: String,
    /// When.
    pub at: Timestamp,
}

/// Something that was changed from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// When it was seen.
    pub at: Timestamp,
    /// What.
    pub id: ResourceId,
    /// How it was found, and what was done, in words.
    pub text: String,
    /// Whether it was put right.
    pub mended: bool,
}

/// A plan that a human approved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// What the manifest asks for.
    pub desired: Desired,
    /// The manifest's text, for history.
    pub text: String,
    /// The plan that was approved.
    pub plan: Plan,
    /// The risks that were approved.
    pub risks: Vec<Risk>,
}

/// How an apply goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ApplyEvent {
    /// A line of what a step is doing, such as an image's build.
    Line {
        /// The line.
        text: String,
    },
    /// A step was done.
    Done {
        /// Which one.
        id: ResourceId,
    },
    /// A step failed.
    Failed {
        /// Which one.
        id: ResourceId,
        /// Why.
        why: String,
    },
    /// A step was not begun, because another failed.
    HeldBack {
        /// Which one.
        id: ResourceId,
        /// The one that failed.
        by: ResourceId,
    },
    /// The end: this is the generation, and this is left to do.
    Applied {
        /// The generation that now holds.
        generation: u64,
        /// Whether every step was done.
        complete: bool,
        /// What is left to do.
        left: Box<Plan>,
    },
    /// Nothing was done: the plan is another by now.
    Stale {
        /// The plan now.
        plan: Box<Plan>,
    },
    /// Nothing, or not all, was done.
    Error {
        /// Why.
        why: String,
    },
}

/// A person talks to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The group.
    pub group: GroupName,
    /// What is said; `None`: nothing yet, only what was left over is wanted.
    pub text: Option<String>,
    /// By which what is said is known, however often it is said.
    pub id: MessageId,
    /// What was said before, to a controller that handed over: by this it is followed.
    pub said: Option<i64>,
}

/// How a conversation goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ChatEvent {
    /// What was said is stored.
    Stored {
        /// By which another controller knows it.
        seq: i64,
    },
    /// It waits for others.
    Queued {
        /// The groups that are at work; the group itself, where that has another conversation.
        behind: Vec<GroupName>,
    },
    /// The agent is being started.
    Waking,
    /// The model is asked.
    Thinking,
    /// More of the answer: a preview of a reply, which never counts as shown.
    Text {
        /// What was added.
        text: String,
        /// Whether it begins an answer, and takes the place of what was shown before.
        fresh: bool,
    },
    /// It waits for this.
    Waits {
        /// In words.
        what: String,
    },
    /// Something that it needs is not there yet. It goes on once that is.
    Away {
        /// In words, with what helps.
        why: String,
    },
    /// What was away is there again.
    Back,
    /// A tool runs.
    Tool {
        /// Its name.
        name: String,
        /// Its arguments, as JSON.
        arguments: String,
    },
    /// Something worth knowing about the answer.
    Note {
        /// In words.
        text: String,
    },
    /// A limit struck.
    Struck {
        /// Its path in the manifest.
        limit: String,
    },
    /// Another attempt follows.
    Retry {
        /// What went wrong.
        why: String,
        /// How long until then.
        wait: Duration,
    },
    /// Something to be shown. It counts as shown once it was acknowledged.
    Post {
        /// By which it is acknowledged.
        id: i64,
        /// Whether it is a reply, and not a notice that there is none.
        reply: bool,
        /// The text.
        text: String,
        /// Whether it may have been shown before.
        uncertain: bool,
        /// What it answers, where that is not what was just said.
        earlier: Option<String>,
    },
    /// What was said is answered, or never will be.
    End {
        /// How.
        end: ChatEnd,
    },
}

/// How what was said came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum ChatEnd {
    /// With a reply.
    Answered,
    /// It was cancelled.
    Cancelled,
    /// It was given up, and a notice says why.
    GivenUp,
    /// Nothing was said, and nothing is left over.
    Nothing,
    /// The controller makes way for another, which goes on with it: join that one.
    HandedOver,
    /// The controller failed.
    Failed {
        /// Why.
        why: String,
    },
}

/// What became of a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum PostOutcome {
    /// It was shown.
    Shown,
    /// It could not be shown.
    NotShown {
        /// Why.
        why: String,
    },
}

/// A sandbox that is kept running while somebody looks inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What it is made with.
    pub runtime: RuntimeRef,
    /// As its runtime calls it.
    pub sandbox: SandboxId,
    /// What a command is started with where sandboxes are processes of this machine.
    pub place: LeasedPlace,
}

/// What the tools of a sandbox are started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedPlace {
    /// By which all that is started under this lease is known, and ended with it.
    pub marker: String,
    /// Their working directory.
    pub workdir: PathBuf,
    /// Their home.
    pub home: PathBuf,
    /// User and group they run as, where that is not the controller's own.
    pub user: Option<(u32, u32)>,
    /// Their further environment.
    pub env: BTreeMap<String, String>,
}

/// Why the controller does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In words.
    pub why: String,
}

/// What a controller does for whoever joins it. Every method may be called at any time, several at
/// once. A future that is dropped is a client that went away.
pub trait Service: Send + Sync + 'static {
    /// Everything there is to know, now and whenever it changes.
    fn status(&self) -> watch::Receiver<Arc<Status>>;
    /// Looks at everything that matters to a manifest and to what was applied.
    fn observe(&self, desired: Desired) -> BoxFuture<'_, Result<Observed, Refusal>>;
    /// Carries out an approved plan; the last event says how it ended.
    fn apply(&self, request: ApplyRequest, events: mpsc::Sender<ApplyEvent>) -> BoxFuture<'_, ()>;
    /// Takes what is said, and tells how it goes; the last event is [`ChatEvent::End`].
    fn chat(&self, request: ChatRequest, events: mpsc::Sender<ChatEvent>) -> BoxFuture<'_, ()>;
    /// Says what became of a post.
    fn acknowledge(&self, post: i64, outcome: PostOutcome) -> BoxFuture<'_, Result<(), Refusal>>;
    /// Stops whatever of a group is not answered.
    fn cancel(&self, group: GroupName) -> BoxFuture<'_, Result<(), Refusal>>;
    /// Holds a group, or lets it go on; says whether it was not so before.
    fn hold(&self, group: GroupName, held: bool) -> BoxFuture<'_, Result<bool, Refusal>>;
    /// Starts a group's agent if need be, sends what it is, and keeps it until the future is dropped.
    fn lease(
        &self,
        group: GroupName,
        granted: mpsc::Sender<Result<Lease, Refusal>>,
    ) -> BoxFuture<'_, ()>;
    /// Finishes what is under way within `patience`, ends all agents, and ends.
    fn shut_down(&self, patience: Duration) -> BoxFuture<'_, Result<(), Refusal>>;
}
