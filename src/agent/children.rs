//! The processes that the agent started itself, told apart from those it adopted.
//!
//! An agent adopts whatever loses its parent in its sandbox: what a tool left
//! behind and, as the first process of a container, what an operator's command
//! did. Those it has to reap, at any time; of those it started somebody else
//! waits for the end, and to reap one of them would take that end away. A child
//! is on the list from before anybody can see that it ended, because it is started
//! while the list is held, and reaping holds the list too.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// The list. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct Children(Arc<Mutex<BTreeSet<i32>>>);

impl Children {
    /// Starts a child of which the end is somebody's to wait for.
    pub(super) async fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut started = self.0.lock().await;
        let child = command.spawn()?;
        started.extend(pid_of(&child));
        Ok(child)
    }

    /// Takes a child that was waited for off the list. Its number is the kernel's to give again.
    pub(super) async fn ended(&self, pid: i32) {
        self.0.lock().await.remove(&pid);
    }

    /// Reaps what ended of the adopted.
    pub(super) async fn reap_adopted(&self) {
        let started = self.0.lock().await;
        crate::process::reap_adopted(&started);
    }

    /// Kills the adopted and all that descends from them; returns how many are left.
    pub(super) async fn kill_adopted(&self) -> usize {
        let started = Arc::clone(&self.0).lock_owned().await;
        let kill = move || crate::process::kill_descendants(&started);
        tokio::task::spawn_blocking(kill).await.unwrap_or_default()
    }
}

/// The number of a child that was not waited for yet.
pub(super) fn pid_of(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}
