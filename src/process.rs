//! The processes of this machine: looked at through `/proc`, ended through pidfds.
//!
//! A pid alone names nobody, since the kernel gives it out again. A [`Process`]
//! is a pid with its start time, and every signal goes through a pidfd that was
//! checked against both. Knows nothing of agents, groups or tools.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions,
};
use serde::{Deserialize, Serialize};

/// How often a kill looks again for what was forked meanwhile.
const ROUNDS_MAX: u32 = 200;
/// How often the children alone are killed before all of `/proc` is looked at.
const CHILDREN_ROUNDS: u32 = 50;
/// How long one look at all environments may wait for those in the middle of an exec, and the pause
/// between two looks at one: a busy machine may leave it there for a while.
const EXEC_PATIENCE: Duration = Duration::from_secs(1);
const EXEC_PAUSE: Duration = Duration::from_millis(1);
/// How often an environment is read that does not come whole.
const TORN_LOOKS: u32 = 5;
/// `PF_EXITING` and `PF_KTHREAD` of the kernel's `include/linux/sched.h`, in the flags of
/// `/proc/<pid>/stat`: what ends, and what never was a program, has no environment.
const NO_PROGRAM: u32 = 0x0000_0004 | 0x0020_0000;

/// A process that cannot be mistaken for another with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start_time: i64,
}

/// What `/proc/<pid>/stat` says, as far as it matters here.
#[derive(Clone, Copy, Debug)]
struct Stat {
    process: Process,
    parent: i32,
    /// All its threads have ended.
    zombie: bool,
    /// Whether a program runs in it: it is no thread of the kernel, and does not end just now.
    program: bool,
    /// The size of its environment, in bytes: where that may be known, and an exec is done with it.
    environment: Option<usize>,
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

/// Kills every descendant of this process but the children that are `spared`, by their pid, and what
/// descends from those; reaps the children it adopted. Needs a process that adopts what lost its
/// parent: a child subreaper, or the first of a container.
///
/// A child keeps its pid until it is reaped, so `spared` is asked about nobody else.
///
/// Whoever was brought into a container from outside has no parent within it and is no
/// descendant; only what it leaves behind at its own end is.
///
/// A process can fork while it is being killed, so this looks again until there
/// is none left. Only what is stopped by the kernel itself can outlast it; then
/// the number of those is returned.
pub fn kill_descendants(spared: &dyn Fn(i32) -> bool) -> usize {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut left = 0;
    for _ in 0..ROUNDS_MAX {
        // What forks and exits faster than all of /proc is read is a child of this process by
        // then, and the list of those is short.
        for _ in 0..CHILDREN_ROUNDS {
            let mut children = children_of(me);
            children.retain(|child| !spared(*child));
            if children.is_empty() {
                break;
            }
            children.into_iter().filter_map(Pid::from_raw).for_each(kill_child);
        }
        left = kill_until_none(|table| {
            let children = table.values().filter(|stat| stat.parent == me);
            let (spared, others): (Vec<&Stat>, Vec<&Stat>) =
                children.partition(|stat| spared(stat.process.pid));
            // Zombies of ours that nobody waits for: the adopted ones.
            for stat in others.into_iter().filter(|stat| stat.zombie) {
                if let Some(pid) = Pid::from_raw(stat.process.pid) {
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
                }
            }
            descendants(table, me, &spared.into_iter().map(|stat| stat.process.pid).collect())
        });
        // The table is no snapshot: what was born while it was read may not be in it.
        if left > 0 || !has_children(me, spared) {
            break;
        }
    }
    left
}

/// Reaps the children of this process but `spared` that have ended. They are those it adopted: of
/// the others somebody wants to know how they ended.
///
/// No child may be started meanwhile that is not in `spared`, or its end is taken from whoever
/// waits for it.
pub fn reap_adopted(spared: &BTreeSet<i32>) {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let children = children_of(me).into_iter().filter(|child| !spared.contains(child));
    for pid in children.filter_map(Pid::from_raw) {
        // One by one: to wait for any child would take the end of a spared one as well.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Kills a child of this process and reaps it if it has ended. A child keeps its number until it
/// is reaped, so this cannot be another process.
fn kill_child(pid: Pid) {
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
}

/// Whether this process has children that are not `spared`, zombies included.
fn has_children(me: i32, spared: &dyn Fn(i32) -> bool) -> bool {
    // Whether there are any the kernel knows for sure, and reaps nothing when asked like this.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if matches!(rustix::process::waitid(WaitId::All, look), Err(Errno::CHILD)) {
        return false;
    }
    // A list that shows none was read while they changed.
    let children = children_of(me);
    children.is_empty() || children.into_iter().any(|child| !spared(child))
}

/// The children of a process, zombies included.
fn children_of(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Kills every process of this machine whose environment has the variable `name` with a
/// value that starts with `prefix`, with all their descendants. Returns how many were left.
///
/// Only environments that this user may read are looked at.
pub fn kill_marked(name: &str, prefix: &str) -> usize {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    kill_until_none(|table| {
        let (mut found, until) = (BTreeSet::new(), Instant::now() + EXEC_PATIENCE);
        for stat in table.values().filter(|stat| stat.process.pid != me && stat.program) {
            if environment(stat, name, until).is_some_and(|value| value.starts_with(prefix)) {
                found.insert(stat.process);
                found.extend(descendants(table, stat.process.pid, &BTreeSet::from([me])));
            }
        }
        found
    })
}

/// The processes whose environment has `name` with a value that starts with `prefix`, with it.
///
/// Only environments that this user may read are looked at.
#[must_use]
pub fn find_marked(name: &str, prefix: &str) -> BTreeMap<Process, String> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let until = Instant::now() + EXEC_PATIENCE;
    table()
        .values()
        .filter(|stat| stat.process.pid != me && stat.program)
        .filter_map(|stat| {
            let value = environment(stat, name, until)?;
            value.starts_with(prefix).then_some((stat.process, value))
        })
        .collect()
}

/// The value that a variable has in the environment a process was started with, if this user may
/// read it.
#[must_use]
pub fn variable_of(pid: i32, name: &str) -> Option<String> {
    environment(&stat_of(pid)?, name, Instant::now() + EXEC_PATIENCE)
}

/// Kills `process` and every descendant it has. Returns how many were left.
pub fn kill_tree(process: Process) -> usize {
    kill_until_none(|table| {
        let mut found = descendants(table, process.pid, &BTreeSet::new());
        if table.get(&process.pid).is_some_and(|stat| stat.process == process && !stat.zombie) {
            found.insert(process);
        } else {
            // The pid is somebody else's by now, and so are its children.
            found.clear();
        }
        found
    })
}

fn kill_until_none(mut find: impl FnMut(&BTreeMap<i32, Stat>) -> BTreeSet<Process>) -> usize {
    // One that is dying has lost its environment before its files, and its locks with them.
    let mut dying: BTreeSet<Process> = BTreeSet::new();
    for round in 0..ROUNDS_MAX {
        let found = find(&table());
        dying.extend(&found);
        // What may not be killed, such as a program of another user, is waited for only as long as
        // it is found.
        dying.retain(|process| {
            let killed = process.signal(Signal::KILL).is_ok();
            process.is_alive() && (killed || found.contains(process))
        });
        // A killed process takes a moment to be gone: wait on one of them rather than spin.
        match dying.first() {
            Some(process) => {
                let patience = Duration::from_millis(if round < 20 { 5 } else { 50 });
                wait_for_exit(process.pid, patience);
            }
            None if found.is_empty() => break,
            // They may have forked before they died.
            None => {}
        }
    }
    dying.len()
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

/// What descends from a process and runs.
#[must_use]
pub fn descendants_of(pid: i32) -> BTreeSet<Process> {
    descendants(&table(), pid, &BTreeSet::new())
}

fn descendants(
    table: &BTreeMap<i32, Stat>,
    ancestor: i32,
    spared: &BTreeSet<i32>,
) -> BTreeSet<Process> {
    let mut children: BTreeMap<i32, Vec<&Stat>> = BTreeMap::new();
    for stat in table.values() {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = BTreeSet::new();
    let mut open = vec![ancestor];
    while let Some(parent) = open.pop() {
        for stat in children.get(&parent).into_iter().flatten() {
            if spared.contains(&stat.process.pid) {
                continue;
            }
            open.push(stat.process.pid);
            if !stat.zombie {
                found.insert(stat.process);
            }
        }
    }
    found
}

fn table() -> BTreeMap<i32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_of(pid)?)))
        .collect()
}

fn stat_of(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, and may hold any character.
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ended = matches!(*fields.first()?, "Z" | "X");
    // The first thread's end looks like that of all of them.
    let zombie = ended && number(17)? <= 1;
    let (start, end) = (number(47).unwrap_or(0), number(48).unwrap_or(0));
    let size = end.checked_sub(start).filter(|_| end > 0);
    Some(Stat {
        process: Process { pid, start_time: fields.get(19)?.parse().ok()? },
        parent: fields.get(1)?.parse().ok()?,
        zombie,
        program: !ended && number(6)? & u64::from(NO_PROGRAM) == 0,
        environment: size.and_then(|size| usize::try_from(size).ok()),
    })
}

/// The value of a variable in the environment a process was started with, if it may be read. What
/// is in the middle of an exec is waited for, but not past `until`.
///
/// An exec takes one environment away before it gives the next: what is read then is empty, or ends
/// anywhere. A program may also have written over its own, or let go of it.
fn environment(seen: &Stat, name: &str, until: Instant) -> Option<String> {
    let (pid, mut stat) = (seen.process.pid, *seen);
    for look in 1.. {
        let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let settled = match stat.environment {
            Some(size) => size == bytes.len() || look >= TORN_LOOKS,
            None => bytes.ends_with(&[0]) || Instant::now() >= until,
        };
        if settled {
            return bytes.split(|byte| *byte == 0).find_map(|entry| {
                let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(String::from_utf8_lossy(value).into_owned())
            });
        }
        if stat.environment.is_none() {
            std::thread::sleep(EXEC_PAUSE);
        }
        stat = stat_of(pid).filter(|stat| stat.process == seen.process && stat.program)?;
    }
    None
}
