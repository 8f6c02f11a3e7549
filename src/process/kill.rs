//! Ending processes with everything that descends from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::table::{self, EXEC_PATIENCE, Stat, descendants, environment};
use super::{Process, wait_for_exit};

/// How often a kill looks again for what was forked meanwhile.
const ROUNDS_MAX: u32 = 200;
/// How often the children alone are killed before all of `/proc` is looked at.
const CHILDREN_ROUNDS: u32 = 50;

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
        let found = find(&table::read());
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
