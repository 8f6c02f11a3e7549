//! The processes of this machine, as `/proc` shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use super::Process;

/// How long one look at all environments may wait for those in the middle of an exec, and the pause
/// between two looks at one: a busy machine may leave it there for a while.
pub(super) const EXEC_PATIENCE: Duration = Duration::from_secs(1);
const EXEC_PAUSE: Duration = Duration::from_millis(1);
/// How often an environment is read that does not come whole.
const TORN_LOOKS: u32 = 5;
/// `PF_EXITING` and `PF_KTHREAD` of the kernel's `include/linux/sched.h`, in the flags of
/// `/proc/<pid>/stat`: what ends, and what never was a program, has no environment.
const NO_PROGRAM: u32 = 0x0000_0004 | 0x0020_0000;

/// What `/proc/<pid>/stat` says, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) process: Process,
    pub(super) parent: i32,
    /// All its threads have ended.
    pub(super) zombie: bool,
    /// Whether a program runs in it: it is no thread of the kernel, and does not end just now.
    pub(super) program: bool,
    /// The size of its environment, in bytes: where that may be known, and an exec is done with it.
    environment: Option<usize>,
}

/// The processes whose environment has `name` with a value that starts with `prefix`, with it.
///
/// Only environments that this user may read are looked at.
#[must_use]
pub fn find_marked(name: &str, prefix: &str) -> BTreeMap<Process, String> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let until = Instant::now() + EXEC_PATIENCE;
    read()
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

/// What descends from a process and runs.
#[must_use]
pub fn descendants_of(pid: i32) -> BTreeSet<Process> {
    descendants(&read(), pid, &BTreeSet::new())
}

/// What descends from `ancestor` and runs, but `spared` and theirs.
pub(super) fn descendants(
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

/// Each of them, by number.
pub(super) fn read() -> BTreeMap<i32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_of(pid)?)))
        .collect()
}

pub(super) fn stat_of(pid: i32) -> Option<Stat> {
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
pub(super) fn environment(seen: &Stat, name: &str, until: Instant) -> Option<String> {
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
