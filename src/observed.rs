//! What was found on the machine, and how sure that is.
//!
//! A look ends in one of three ways, and the third is the reason for this
//! room: a failed look says nothing about the world, least of all that
//! something is missing from it. Knows nothing of how one looks.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::name::{GroupName, SandboxId};
use crate::resource::{ResourceId, Spec};

/// The outcome of a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known<T> {
    /// It is there, like this.
    Is(T),
    /// It is certainly not there.
    Absent,
    /// The look failed or was partial, and this is why.
    Unknown(String),
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Whether a controller serves this instance.
    pub controller: Controller,
    /// The last generation that was applied; `Absent`: none ever was.
    pub applied: Known<Applied>,
    /// What the world shows of each resource, by the resource.
    ///
    /// One that is not listed was not looked at and counts as unknown. The
    /// exception are containers, for which the look is a search: a container
    /// that is not listed was not found, and a search that failed lists those
    /// it was for as unknown.
    pub looks: BTreeMap<ResourceId, Known<Seen>>,
    /// What a running controller knows of its agents; empty where none runs.
    pub agents: BTreeMap<GroupName, AgentSeen>,
}

/// What a controller knows of a group's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSeen {
    /// The sandbox that it holds the link of; `None`: none is meant to run right now.
    pub sandbox: Option<SandboxId>,
    /// Whether it is just being started: a sandbox that nobody knows may become its own.
    #[serde(default)]
    pub starting: bool,
    /// Whether it is at work on a turn, or a person looks inside.
    pub busy: bool,
    /// Whether the operator holds the group.
    pub held: bool,
}

/// Whether a controller serves this instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Controller {
    /// One does: agents that run are its own.
    Running,
    /// None does: an agent that runs is a leftover.
    Absent,
    /// It cannot be told, and this is why.
    Unknown(String),
}

/// A generation that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its number, from 1.
    pub number: u64,
    /// What it recorded.
    pub specs: BTreeMap<ResourceId, Spec>,
}

/// What the world shows of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// `groups/global/MEMORY.md` is there and a regular file.
    GlobalMemory,
    /// At least one of a group's folders is there.
    Folder {
        /// Those that are not, relative to the project; empty where all are there.
        missing: BTreeSet<String>,
        /// Those that do not belong to whom they are given, relative to the project; empty where
        /// nobody asked.
        foreign: BTreeSet<String>,
    },
    /// A group's settings file is there, and is a file.
    Settings {
        /// The environment in it; `None` if it is edited, too large, or somebody else's.
        env: Option<BTreeMap<String, String>>,
    },
    /// Something else is in its place, or it cannot be used as it is: known, and to be repaired.
    Wrong {
        /// What is wrong, in words.
        why: String,
    },
    /// The model's server answered.
    Model(Availability),
    /// The engine has the image.
    Image,
    /// Sandboxes that carry a group's name, ours or not; never none.
    Container {
        /// Each of them.
        sandboxes: Vec<SandboxSeen>,
    },
}

/// One sandbox, as its runtime shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSeen {
    /// As its runtime calls it.
    pub id: SandboxId,
    /// Its name, as a person would look for it.
    pub name: String,
    /// Whether it is this instance's, or a stranger that has the name that ours would have.
    pub owner: Owner,
    /// What it does.
    pub state: SandboxState,
    /// The digest of the [`crate::resource::ContainerSpec`] that it was made from, where it says so.
    pub digest: Option<String>,
    /// What was changed of it from outside since it was made, in words.
    pub edits: Vec<String>,
    /// How many processes it has, where that is known.
    pub processes: Option<u32>,
}

/// Whose a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// This instance's.
    Ours,
    /// Somebody else's: it is left alone.
    Stranger,
}

/// What a sandbox does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// It was made and not started yet.
    Created,
    /// It runs.
    Running,
    /// It was halted from outside.
    Paused,
    /// It ended, or is about to be gone.
    Ended,
}

/// Whether a server has a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// It has.
    Present,
    /// It has, and the model can do less than agents may ask of it.
    Limited {
        /// Whether it can call tools.
        tools: bool,
        /// The context it has at most, in tokens, where that is less than was asked for.
        context_max: Option<u64>,
    },
    /// It answers and has not.
    Missing,
    /// It has, but would have it answered elsewhere, which the gateway refuses.
    Elsewhere,
}
