//! The processes that the agent started itself, and what they leave behind.
//!
//! An agent adopts every process that loses its parent in its sandbox: what a tool
//! left behind and, as the first process of a container, what an operator's command
//! did. It has to reap those at any time. Of the children that it started, somebody
//! else waits for the end, and to reap one of them would take that end away. A child
//! is on the list from before anybody can see that it ended, because it is started
//! while the list is held, and reaping holds the list too.
//!
//! Several children may run at once. Processes that a child leaves behind end with it
//! and with no other child: a process is known by the group it is in, by the marker in its
//! environment, and by when it started.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::process::{self, Process};

/// The variable that marks a child and everything it starts.
const MARKER: &str = "BABYBOT_CALL";

/// The list. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct Children(Arc<Mutex<BTreeMap<i32, Started>>>);

/// A child that was started and is not ended yet.
#[derive(Debug)]
struct Started {
    /// The value of [`MARKER`] in its environment.
    mark: String,
    /// When it started, in clock ticks: what started earlier is not its own.
    began: i64,
}

impl Children {
    /// Starts a child in a process group of its own, marked with `mark`. The caller waits for its end,
    /// and then calls [`Self::end`].
    pub(super) async fn start(&self, command: &mut Command, mark: &str) -> io::Result<Child> {
        let mut started = self.0.lock().await;
        let child = command.env(MARKER, mark).process_group(0).spawn()?;
        if let Some(pid) = pid_of(&child) {
            let began = Process::find(pid).map_or(0, |process| process.start_time);
            started.insert(pid, Started { mark: mark.to_owned(), began });
        }
        Ok(child)
    }

    /// Ends a child, its process group, and whatever else it started. `pid` is the child's, which
    /// may have been waited for already.
    pub(super) async fn end(&self, child: &mut Child, pid: Option<i32>) {
        if let Some(pid) = pid_of(child).and_then(Pid::from_raw) {
            // Its id is there, so it was not waited for yet and the number is still its own.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        let Some(pid) = pid else { return };
        let mut started = Arc::clone(&self.0).lock_owned().await;
        started.remove(&pid);
        // A process that lost its parent is a child of this agent now.
        let kill = move || process::kill_descendants(&|child| is_of_another(child, pid, &started));
        let left = tokio::task::spawn_blocking(kill).await.unwrap_or_default();
        if left > 0 {
            tracing::warn!(left, "cannot kill processes of a tool");
        }
    }

    /// Reaps what ended of the adopted.
    pub(super) async fn reap_adopted(&self) {
        let started = self.0.lock().await;
        process::reap_adopted(&started.keys().copied().collect());
    }
}

/// Says if a child of this agent belongs to a call that goes on, and not to the one that ended as
/// `ended`.
///
/// A process that left its group and emptied its environment names nobody. It is spared for as long
/// as anybody runs who may have started it, and ends with the last of them.
fn is_of_another(child: i32, ended: i32, others: &BTreeMap<i32, Started>) -> bool {
    if others.is_empty() {
        return false;
    }
    if others.contains_key(&child) {
        return true;
    }
    let group = Pid::from_raw(child).and_then(|pid| rustix::process::getpgid(Some(pid)).ok());
    let group = group.map(Pid::as_raw_pid);
    if group.is_some_and(|group| others.contains_key(&group)) {
        return true;
    }
    match process::variable_of(child, MARKER) {
        Some(mark) => others.values().any(|other| other.mark == mark),
        None if group == Some(ended) => false,
        None => Process::find(child)
            .is_some_and(|child| others.values().any(|other| other.began <= child.start_time)),
    }
}

/// The number of a child that was not waited for yet.
pub(super) fn pid_of(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}
