//! The way to a running agent from another task, whatever its session is at.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::name::{GroupName, InstanceId, SandboxId};
use crate::observed::SandboxState;
use crate::resource::{ContainerSpec, RuntimeRef};
use crate::runtime::{ExecPlace, Runtime, RuntimeError};

/// A folder that a sandbox was given, as it was then.
#[derive(Clone, Debug)]
pub(super) struct MountedFolder {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// Reaches a session from another task, whatever that session is at.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) sandbox: SandboxId,
    pub(super) container: ContainerSpec,
    pub(super) place: ExecPlace,
    pub(super) folders: Arc<[MountedFolder]>,
}

impl AgentHandle {
    /// The sandbox.
    #[must_use]
    pub fn sandbox(&self) -> &SandboxId {
        &self.sandbox
    }

    /// What it was made of.
    #[must_use]
    pub fn container(&self) -> &ContainerSpec {
        &self.container
    }

    /// Its runtime.
    #[must_use]
    pub fn runtime(&self) -> RuntimeRef {
        self.runtime.reference()
    }

    /// Where its tools run.
    #[must_use]
    pub fn place(&self) -> &ExecPlace {
        &self.place
    }

    /// The folders that are not those any more that the sandbox was given: it would go on in the
    /// old ones.
    #[must_use]
    pub fn displaced(&self) -> Vec<PathBuf> {
        let gone = self.folders.iter().filter(|place| place.is_another());
        gone.map(|place| place.path.clone()).collect()
    }

    /// Whether somebody halted the sandbox from outside.
    pub async fn is_halted(&self, instance: &InstanceId, group: &GroupName) -> bool {
        let seen = self.runtime.list(instance).await.unwrap_or_default();
        let mut seen = seen.get(group).into_iter().flatten();
        seen.any(|seen| seen.id == self.sandbox && seen.state == SandboxState::Paused)
    }

    /// Ends the sandbox, by force after `grace`.
    ///
    /// # Errors
    /// Why it may still be there.
    pub async fn stop(&self, grace: Duration) -> Result<(), RuntimeError> {
        self.runtime.stop(&self.sandbox, grace).await
    }
}

impl MountedFolder {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), identity: identity(path) }
    }

    fn is_another(&self) -> bool {
        self.identity.is_some() && identity(&self.path) != self.identity
    }
}

/// What tells a folder from another that has its name later.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
