//! What was found on the machine, and how sure that is.
//!
//! A look ends in one of three ways, and the third is the reason for this
//! room: a failed look says nothing about the world, least of all that
//! something is missing from it. Knows nothing of how one looks.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::resource::{ResourceId, Spec};

/// The outcome of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// It is there, like this.
    Is(T),
    /// It is certainly not there.
    Absent,
    /// The look failed or was partial, and this is why.
    Unknown(String),
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Whether a controller serves this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controller {
    /// One does: agents that run are its own.
    Running,
    /// None does: an agent that runs is a leftover.
    Absent,
    /// It cannot be told, and this is why.
    Unknown(String),
}

/// A generation that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number, from 1.
    pub number: u64,
    /// What it recorded.
    pub specs: BTreeMap<ResourceId, Spec>,
}

/// What the world shows of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// `groups/global/MEMORY.md` is there and a regular file.
    GlobalMemory,
    /// At least one of a group's folders is there.
    Folder {
        /// Those that are not, relative to the project; empty where all are there.
        missing: BTreeSet<String>,
    },
    /// A group's settings file is there.
    Settings {
        /// The environment in it; `None` if it is edited, unreadable as ours, or somebody else's.
        env: Option<BTreeMap<String, String>>,
    },
    /// The model's server answered.
    Model(Availability),
    /// An agent of ours runs.
    Container {
        /// How many processes it has.
        processes: u32,
    },
}

/// Whether a server has a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It has.
    Present,
    /// It answers and has not.
    Missing,
    /// It has, but would have it answered elsewhere, which the gateway refuses.
    Elsewhere,
}
