//! What a sandbox is made with: which runtime, where it is, and what it can do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of runtime. Their order means nothing; see [`Wall`] for which is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// A plain process of this machine.
    None,
    /// A container of a Docker engine, or of what speaks its API.
    Docker,
}

impl RuntimeKind {
    /// The word used in the manifest.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Docker => "docker",
        }
    }
}

/// One runtime of this machine: two engines of one kind are two runtimes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuntimeRef {
    /// Its kind.
    pub kind: RuntimeKind,
    /// Where it is reached; `None`: there is only one place, or it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

impl RuntimeRef {
    /// Plain processes of this machine.
    pub const NONE: Self = Self { kind: RuntimeKind::None, endpoint: None };

    /// The engine that is reached there.
    #[must_use]
    pub fn docker(endpoint: Option<String>) -> Self {
        Self { kind: RuntimeKind::Docker, endpoint }
    }
}

impl fmt::Display for RuntimeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "{} at {endpoint}", self.kind.word()),
            None => f.pad(self.kind.word()),
        }
    }
}

/// What stands between an agent and this machine. The order is the order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// Nothing.
    None,
    /// Rules that the kernel holds a process to.
    Process,
    /// A view of the machine of its own, on the machine's kernel.
    Container,
    /// A kernel of its own.
    Vm,
}

impl Wall {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Container => "container",
            Self::Vm => "vm",
        }
    }
}

/// The limits that a runtime enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedLimits {
    /// Processor time.
    pub cpus: bool,
    /// Memory.
    pub memory: bool,
    /// Processes and threads.
    pub pids: bool,
}

impl EnforcedLimits {
    /// None of them.
    pub const NONE: Self = Self { cpus: false, memory: false, pids: false };
    /// Each of them.
    pub const ALL: Self = Self { cpus: true, memory: true, pids: true };

    /// Those that are not enforced, by their path in the manifest.
    pub fn missing(self) -> impl Iterator<Item = &'static str> {
        let all = CONTAINER_LIMITS.into_iter().zip([self.cpus, self.memory, self.pids]);
        all.filter(|(_, enforced)| !enforced).map(|(path, _)| path)
    }
}

/// The limits that a container engine enforces, and nothing else does, by their path in the manifest.
pub const CONTAINER_LIMITS: [&str; 3] = ["limits.cpus", "limits.memory", "limits.pids"];

/// What a runtime can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What stands between an agent and this machine.
    pub wall: Wall,
    /// Whether sandboxes are made from images.
    pub images: bool,
    /// Whether a sandbox has a loopback interface of its own.
    pub loopback: bool,
    /// Whether a sandbox finds the group's folders at places of its own.
    pub mounts: bool,
    /// Whether a command of the operator can run within a sandbox.
    pub exec: bool,
    /// Whether it tells what happens to its sandboxes.
    pub events: bool,
    /// The limits that it enforces.
    pub limits: EnforcedLimits,
}

impl Capabilities {
    /// Those of plain processes.
    pub const PROCESS: Self = Self {
        wall: Wall::None,
        images: false,
        loopback: false,
        mounts: false,
        exec: true,
        events: false,
        limits: EnforcedLimits::NONE,
    };

    /// Those of a container engine that enforces these limits.
    #[must_use]
    pub const fn container(limits: EnforcedLimits) -> Self {
        Self {
            wall: Wall::Container,
            images: true,
            loopback: true,
            mounts: true,
            exec: true,
            events: true,
            limits,
        }
    }

    /// What it cannot do, in a word each.
    fn missing(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.images, "images"),
            (self.loopback, "loopback"),
            (self.mounts, "mounts"),
            (self.exec, "exec"),
            (self.events, "events"),
        ];
        let missing = all.into_iter().filter(|(able, _)| !able).map(|(_, word)| word);
        missing.chain(self.limits.missing())
    }

    /// What a runtime of this kind can do as far as is known before it was asked.
    #[must_use]
    pub const fn expected(kind: RuntimeKind) -> Self {
        match kind {
            RuntimeKind::None => Self::PROCESS,
            RuntimeKind::Docker => Self::container(EnforcedLimits::ALL),
        }
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolation {}", self.wall.word())?;
        let missing: Vec<&str> = self.missing().collect();
        if missing.is_empty() { Ok(()) } else { write!(f, ", without {}", missing.join(", ")) }
    }
}
