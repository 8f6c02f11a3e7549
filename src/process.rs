//! The processes of this machine: looked at through `/proc`, ended through pidfds.
//!
//! A pid alone names nobody, since the kernel gives it out again. A [`Process`]
//! is a pid with its start time, and every signal goes through a pidfd that was
//! checked against both. Knows nothing of agents, groups or tools.

pub mod children;
mod kill;
mod table;

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

use self::table::stat_of;

pub use self::kill::{kill_descendants, kill_marked, kill_tree, reap_adopted};
pub use self::table::{descendants_of, find_marked, variable_of};

/// This executable, even where its file was replaced since.
pub const SELF: &str = "/proc/self/exe";

/// A process that cannot be mistaken for another with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start_time: i64,
}

impl Process {
    /// This process itself.
    #[must_use]
    pub fn current() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let start_time = stat_of(pid).map_or(0, |stat| stat.process.start_time);
        Self { pid, start_time }
    }

    /// The process that has this pid now.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        stat_of(pid).map(|stat| stat.process)
    }

    /// Whether it still runs. A zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat_of(self.pid).is_some_and(|stat| stat.process == self && !stat.zombie)
    }

    /// What it calls itself: the first word of its command line. A zombie has none.
    #[must_use]
    pub fn title(self) -> Option<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).ok()?;
        let title = line.split(|byte| *byte == 0).next()?;
        // Whoever has the pid by now may not be the one that was meant.
        self.is_alive().then(|| String::from_utf8_lossy(title).into_owned())
    }

    /// Sends `signal` to it, and to nobody else. One that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses, as it does for another user's process.
    pub fn signal(self, signal: Signal) -> Result<(), Errno> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error),
        };
        // The handle is to whoever has the pid now: is that still the one that was meant?
        if !self.is_alive() {
            return Ok(());
        }
        match rustix::process::pidfd_send_signal(&handle, signal) {
            Err(Errno::SRCH) => Ok(()),
            other => other,
        }
    }

    /// Waits until it is gone or `patience` is over; says whether it is gone.
    #[must_use]
    pub fn wait_gone(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_alive() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wait_for_exit(self.pid, left.min(Duration::from_millis(200)));
        }
        true
    }
}

/// Blocks until the process with this pid exits, at most for `patience`.
fn wait_for_exit(pid: i32, patience: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(pid) = Pid::from_raw(pid) else { return };
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    let timeout = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout));
}

/// The identifier of this boot of the machine: start times mean something only within it.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Lets this process open as many files as the system allows it.
pub fn raise_open_files() {
    let present = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: present.maximum, maximum: present.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot open more files");
    }
}

/// How many files this process may open.
#[must_use]
pub fn open_files_max() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
