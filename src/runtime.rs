//! What a sandbox is made with: one trait, one implementation per runtime.
//!
//! A runtime starts, lists and ends sandboxes and knows nothing of what is said
//! over their links. Launching is all or nothing, listing is complete or an
//! error, stopping and reaping are idempotent, and every call has a deadline.

pub mod docker;
mod exec;
pub mod process;
mod registry;
mod sandbox;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;

use crate::name::{GroupName, ImageTag, InstanceId, SandboxId};
use crate::observed::SandboxSeen;
use crate::resource::{Capabilities, ContainerSpec, ImageSpec, RuntimeKind, RuntimeRef};

pub use self::exec::{Exec, ExecPlace, ExecSpec};
pub use self::registry::{Runtimes, open};
pub use self::sandbox::{Access, Duplex, Exit, HOME, Mount, Sandbox, SandboxSpec, WORKDIR};

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
    /// Its version, for a person.
    pub version: String,
    /// Where it was found, and why there.
    pub endpoint: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Whom sandboxes have to be run as, where that is not free to choose: root within a rootless
    /// engine is the user outside.
    pub user: Option<(u32, u32)>,
    /// The processor architecture of its machine, as Rust calls it: `x86_64`, `aarch64`.
    pub architecture: String,
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
    /// Which one this is, by which it can be opened again.
    fn reference(&self) -> RuntimeRef;

    /// Asks the runtime what it is. Changes nothing.
    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>>;

    /// Starts a sandbox, with its link open before the agent's first word.
    fn launch(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>>;

    /// Every sandbox that carries the label of `instance`, or a name that one of its groups would
    /// have, running or not; complete, or an error.
    fn list(
        &self,
        instance: &InstanceId,
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

    /// Ends whatever of `instance` is left from an earlier controller, and touches nothing else.
    /// What stays although the runtime answers may hold up the group that it is of, where a list
    /// shows it.
    fn reap(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>>;

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
