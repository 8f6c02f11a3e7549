//! What a sandbox is made with: one trait, one implementation per runtime.
//!
//! A runtime starts, lists and ends sandboxes and knows nothing of what is said
//! over their links. Launching is all or nothing, listing is complete or an
//! error, stopping and reaping are idempotent, and every call has a deadline.

pub mod docker;
pub mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::name::{GroupName, ImageTag, Incarnation, InstanceId, SandboxId};
use crate::observed::SandboxSeen;
use crate::process::Process;
use crate::resource::{ContainerSpec, ImageSpec, RuntimeKind};

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a runtime makes a sandbox from.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The installation it belongs to.
    pub instance: InstanceId,
    /// The group it serves.
    pub group: GroupName,
    /// This start of it.
    pub incarnation: Incarnation,
    /// The generation it is started from; it is a label and nothing more.
    pub generation: u64,
    /// What it is made of.
    pub container: ContainerSpec,
    /// Its working directory on the host.
    pub workdir: PathBuf,
    /// Its home on the host.
    pub home: PathBuf,
    /// The file whose lock it holds for life, where it shares a kernel's view of files with others.
    pub lock: PathBuf,
    /// Folders of the host as it sees them, its own folder and home among them.
    pub mounts: Vec<Mount>,
    /// User and group it runs as, where that is not the controller's own.
    pub user: Option<(u32, u32)>,
    /// Further environment; never a secret.
    pub env: BTreeMap<String, String>,
}

/// A folder of the host within a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host: a folder, absolute, with no link in it.
    pub source: PathBuf,
    /// Where the agent finds it.
    pub target: String,
    /// Whether it may write there.
    pub access: Access,
}

/// What an agent may do in a mounted folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// A running sandbox. Dropping it closes the link, which ends the agent.
pub struct Sandbox {
    /// As its runtime calls it.
    pub id: SandboxId,
    /// The agent's process, where the runtime has one on this machine.
    pub process: Option<Process>,
    /// The link's byte stream.
    pub link: Box<dyn Duplex>,
    /// The agent's log.
    pub log: Box<dyn AsyncRead + Send + Unpin>,
    /// Becomes ready when the sandbox is gone.
    pub exit: BoxFuture<'static, Exit>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed, and something of it had been killed for want of memory: itself, or a tool
    /// before.
    OutOfMemory,
    /// Nobody knows.
    Lost(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}

/// Why a runtime did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuntimeError {
    /// The sandbox could not be started. Nothing of it is left.
    #[error("cannot start the agent: {0}")]
    Launch(String),
    /// The sandbox cannot be started, and another attempt does not help.
    #[error("cannot start the agent: {0}")]
    Refused(String),
    /// The runtime does not answer.
    #[error("{runtime} does not answer: {why}", runtime = .runtime.word())]
    Unavailable {
        /// Which one.
        runtime: RuntimeKind,
        /// What it was, and what helps.
        why: String,
    },
    /// A sandbox has the name already. It is left as it is.
    #[error("a container named {name} already exists")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The image is not there.
    #[error("there is no image {0}")]
    ImageMissing(String),
    /// There is no such sandbox.
    #[error("there is no container {0}")]
    NotFound(SandboxId),
    /// The runtime has not this ability.
    #[error("{runtime} cannot do this: {what}", runtime = .runtime.word())]
    Unsupported {
        /// Which one.
        runtime: RuntimeKind,
        /// What was asked.
        what: String,
    },
    /// Something did not end within its deadline.
    #[error("{what} did not finish within {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The deadline.
        seconds: u64,
    },
    /// The runtime refused or answered nonsense.
    #[error("{0}")]
    Failed(String),
}

/// What a runtime says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Which one it is.
    pub kind: RuntimeKind,
    /// Its version, for a person.
    pub version: String,
    /// Where it was found, and why there.
    pub endpoint: String,
    /// Whom sandboxes have to be run as, where that is not free to choose: root within a rootless
    /// engine is the user outside.
    pub user: Option<(u32, u32)>,
    /// The processor architecture of its machine, as Rust calls it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// The limits that it does not enforce, by their path in the manifest.
    pub unenforced: Vec<String>,
    /// What a reader should know about its walls.
    pub warnings: Vec<String>,
}

/// Something happened to a sandbox of an instance. It wakes whoever looks, and says nothing that
/// a look would not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The group, where the event says so.
    pub group: Option<GroupName>,
    /// What happened, in the runtime's word.
    pub what: String,
}

/// A command that the operator runs within a sandbox.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// The command and its arguments; never none.
    pub argv: Vec<String>,
    /// The size of the operator's terminal as columns and rows, where there is one.
    pub terminal: Option<(u16, u16)>,
    /// What it is started with; a container knows all of it but the environment.
    pub place: Option<ExecPlace>,
}

/// What a command beside the tools of a sandbox is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecPlace {
    /// By which all of its processes are known.
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

impl SandboxSpec {
    /// By what every process of this sandbox is known, where it is one of this machine.
    #[must_use]
    pub fn marker(&self) -> String {
        format!("{}/{}/{}", self.instance, self.group, self.incarnation)
    }

    /// Where its tools run.
    #[must_use]
    pub fn place(&self) -> ExecPlace {
        ExecPlace {
            marker: self.marker(),
            workdir: self.workdir.clone(),
            home: self.home.clone(),
            user: self.user,
            env: self.env.clone(),
        }
    }
}

/// A command that runs within a sandbox.
pub struct Exec {
    /// What it reads.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes; with a terminal, its screen.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What it complains; with a terminal, nothing.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Becomes ready with its exit code once it has ended and its output was read.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}

/// The binary that an image is built around: an ELF file for Linux, read whole.
#[derive(Clone)]
pub struct Binary {
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
}

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binary").field("bytes", &self.bytes.len()).finish()
    }
}

/// What ends sandboxes and starts them.
pub trait Runtime: Send + Sync + fmt::Debug {
    /// Which one this is.
    fn kind(&self) -> RuntimeKind;

    /// Where it is reached, to be found again; `None` where there is only one place.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// Asks the runtime what it is. Changes nothing.
    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>>;

    /// Starts a sandbox, with its link open before the agent's first word.
    fn launch(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>>;

    /// Every sandbox that carries the label of `instance`, or a name that one of its groups would
    /// have, running or not; complete, or an error. `known` are its agents as the store remembers
    /// them, for a runtime that keeps no list of its own.
    fn list(
        &self,
        instance: &InstanceId,
        known: Vec<(GroupName, Process)>,
    ) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, RuntimeError>>;

    /// What of a sandbox that runs was changed from outside, held against what it was made from.
    fn edits(
        &self,
        _id: &SandboxId,
        _spec: &ContainerSpec,
    ) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Ends a sandbox, first by asking, after `grace` by force, with everything it started, and
    /// removes what is left of it. One that is gone is no error.
    fn stop(&self, id: &SandboxId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Ends whatever of `instance` is left from an earlier controller; `known` are its agents
    /// as the store remembers them. Touches nothing else. What stays although the runtime answers
    /// may hold up the group that it is of, where a list shows it.
    fn reap(
        &self,
        instance: InstanceId,
        known: Vec<Process>,
    ) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Ends whatever of one group of `instance` is no sandbox of its own any more.
    fn sweep<'a>(
        &'a self,
        _instance: &'a InstanceId,
        _group: &'a GroupName,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    /// What happens to the sandboxes of an instance from now on. Ends when the runtime is lost:
    /// then look, and watch anew.
    fn watch(&self, _instance: &InstanceId) -> BoxStream<'static, RuntimeEvent> {
        Box::pin(futures_util::stream::pending())
    }

    /// Runs a command of the operator within a sandbox, as its user and within its walls.
    fn exec(&self, id: &SandboxId, command: ExecSpec) -> BoxFuture<'_, Result<Exec, RuntimeError>>;

    /// Whether an image is there, built for `instance` if it is one that is built. Pulls nothing.
    fn has_image(
        &self,
        _instance: Option<&InstanceId>,
        _image: &ImageSpec,
    ) -> BoxFuture<'_, Result<bool, RuntimeError>> {
        Box::pin(async { Ok(true) })
    }

    /// The tags of the images that were built for an instance, this one's and older.
    fn images(&self, _instance: &InstanceId) -> BoxFuture<'_, Result<Vec<ImageTag>, RuntimeError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Builds an image around `binary`, telling `progress` what the builder says, line by line.
    /// Builds nothing if it is there already.
    fn build_image<'a>(
        &'a self,
        _instance: &'a InstanceId,
        _image: &'a ImageSpec,
        _binary: Binary,
        _progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    /// Removes an image that was built for `instance`. One that is gone is no error; one that a
    /// container stands on is.
    fn remove_image<'a>(
        &'a self,
        _instance: &'a InstanceId,
        _tag: &'a ImageTag,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }
}

/// One that was found, or why there is none.
type Present = Result<Arc<dyn Runtime>, String>;

/// The runtimes of this machine that an instance uses. Clones share them: one that is found later
/// is there for all.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    all: Arc<RwLock<BTreeMap<RuntimeKind, Present>>>,
}

impl Runtimes {
    /// These and no others.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Runtime>>) -> Self {
        let all = all.into_iter().map(|runtime| (runtime.kind(), Ok(runtime))).collect();
        Self { all: Arc::new(RwLock::new(all)) }
    }

    /// Adds one that was found, in the place of one of its kind.
    pub fn add(&self, runtime: Arc<dyn Runtime>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(runtime.kind(), Ok(runtime));
    }

    /// Says why there is none of this kind.
    pub fn lack(&self, kind: RuntimeKind, why: String) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(kind, Err(why));
    }

    /// The one of this kind.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where it was not found.
    pub fn get(&self, kind: RuntimeKind) -> Result<Arc<dyn Runtime>, RuntimeError> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let nowhere = || Err("not found on this machine".to_owned());
        let found = all.get(&kind).cloned().unwrap_or_else(nowhere);
        found.map_err(|why| RuntimeError::Unavailable { runtime: kind, why })
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Runtime>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().cloned().collect()
    }
}
