//! The control socket: how other verbs reach the controller that runs.
//!
//! One private socket per instance. A verb that finds a controller joins it
//! instead of doing its work by itself. This room carries values in both
//! directions, keeps the bounds and checks who is at the other end; what is done
//! with them is up to the [`Service`] that the controller hands in.

mod chat;
pub mod client;
mod error;
pub mod place;
pub mod server;
mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use self::chat::{ChatEnd, ChatEvent, ChatRequest, Outcome, Person, PostOutcome, Said};
pub use self::error::ControlError;
pub use self::status::{
    AgentState, ChannelStatus, Condition, ConditionStatus, Drift, GroupStatus, LimitHit, Pending,
    RuntimeStatus, Status,
};
use crate::desired::Desired;
use crate::name::{GroupName, InstanceId, SandboxId, ThreadId};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::resource::{ResourceId, Risk, RuntimeRef};
use crate::wire::Bounds;

/// What is spoken over the socket. It grows with every change of a type that travels over it.
pub const PROTOCOL: u32 = 5;
/// Largest value that travels in either direction: what a generation may hold. In bytes.
pub const BODY_MAX: usize = 64 << 20;
/// Largest headers of a request, in bytes.
const HEADERS_MAX: u32 = 16 << 10;
/// What the connection of one client may hold.
const BOUNDS: Bounds = Bounds { streams: 16, window: 256 << 10, headers: HEADERS_MAX };

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

/// What an operator decides about a post that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostDecision {
    /// It is sent again, as if it had never been tried.
    Retry,
    /// It is given up.
    Drop,
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
    /// Holds a conversation, and tells how it goes; the last event is [`ChatEvent::End`].
    fn chat(&self, request: ChatRequest, events: mpsc::Sender<ChatEvent>) -> BoxFuture<'_, ()>;
    /// Says something in a conversation. When it returns, that is stored.
    fn say(&self, thread: ThreadId, said: Said) -> BoxFuture<'_, Result<(), Refusal>>;
    /// Stops what a conversation asked, and nobody else's.
    fn cancel(&self, thread: ThreadId) -> BoxFuture<'_, Result<(), Refusal>>;
    /// Says what became of a post.
    fn acknowledge(&self, post: i64, outcome: PostOutcome) -> BoxFuture<'_, Result<(), Refusal>>;
    /// Carries out what an operator decided about a post.
    fn decide(&self, post: i64, decision: PostDecision) -> BoxFuture<'_, Result<(), Refusal>>;
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
