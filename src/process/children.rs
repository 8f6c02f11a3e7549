//! The children that this process started itself, told apart from those it adopted.
//!
//! A process that adopts whatever loses its parent has to kill and reap the
//! adopted, at any time. Of those it started somebody else waits for the end, and
//! to reap one of them would take that end away. All of them are on one list,
//! whoever started them: a child is on it from before anybody can see that it
//! ended, because it is started while the list is held, and sweeping holds the
//! list too.

use std::collections::BTreeSet;
use std::io;
use std::process::Command as StdCommand;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

static STARTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn started() -> MutexGuard<'static, BTreeSet<i32>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

type Request = (StdCommand, Handle, oneshot::Sender<io::Result<Child>>);

/// Starts a child of which the end is somebody's to wait for.
///
/// It is started from the one thread that lives as long as the process: a child's
/// parent-death signal fires when the *thread* that started it ends.
///
/// # Errors
/// Why it was not started.
pub async fn start(command: StdCommand) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (command, runtime, answer) in inbox {
                    let _guard = runtime.enter();
                    let mut started = started();
                    let child = Command::from(command).spawn();
                    started.extend(child.as_ref().ok().and_then(pid_of));
                    drop(started);
                    let _ = answer.send(child);
                }
            })
            .expect("a thread can be started while the process starts");
        Mutex::new(requests)
    });
    let (answer, child) = oneshot::channel();
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, Handle::current(), answer))
        .map_err(|_| io::Error::other("the spawning thread ended"))?;
    child.await.map_err(|_| io::Error::other("the spawning thread ended"))?
}

/// Takes a child that was waited for off the list. Its number is the kernel's to give again.
pub fn ended(pid: i32) {
    started().remove(&pid);
}

/// Kills the adopted and all that descends from them, and nobody that was started here; returns how
/// many are left. No child is started meanwhile.
#[must_use]
pub fn kill_adopted() -> usize {
    let started = started();
    super::kill_descendants(&|child| started.contains(&child))
}

/// The number of a child that was not waited for yet.
#[must_use]
pub fn pid_of(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}
