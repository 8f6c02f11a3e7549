//! What a controller says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Role;
use crate::clock::Timestamp;
use crate::name::{ChannelName, GroupName, InstanceId, SandboxId, TurnId};
use crate::resource::{Lifecycle, ResourceId, Risk, RuntimeRef};

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
    pub runtimes: Vec<RuntimeStatus>,
    /// What is wanted and not applied; `None`: the manifest is what was applied.
    pub pending: Option<Pending>,
    /// Each channel that was applied and that others than the owner write through.
    #[serde(default)]
    pub channels: BTreeMap<ChannelName, ChannelStatus>,
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
    pub runtime: RuntimeRef,
    /// Where and in which version, or why it does not answer.
    pub detail: String,
    /// Whether it answered when it was asked last.
    pub answers: bool,
    /// What a reader should know about its walls.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A channel through which others than the owner reach groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its kind, as the manifest calls it.
    pub kind: String,
    /// Where it serves, or why it does not.
    pub detail: String,
    /// Whether it served when it was asked last.
    pub serves: bool,
    /// Posts that wait to be delivered; those that were given up are not among them.
    pub undelivered: usize,
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
    /// A turn waits: for one of the places that `runtime.parallel` gives, or for what it needs.
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
