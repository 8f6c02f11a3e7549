//! Which limits of the sandbox struck a tool, read from its control groups.
//!
//! The kernel counts what it killed for want of memory and what it did not let
//! start. Whoever looks before and after a call knows whether that call met a
//! limit; what it is then told is here as well. Only in a sandbox with control
//! groups of its own: elsewhere the counters are the whole machine's.

use std::path::{Path, PathBuf};

use crate::protocol::Limit;

/// Where a sandbox sees its control groups.
const ROOT: &str = "/sys/fs/cgroup";

/// What a limit counts, and the files that may have it: of the newer hierarchy, then of the older.
const COUNTERS: &[(Limit, &str, [&str; 2])] = &[
    (Limit::Memory, "oom_kill", ["memory.events", "memory/memory.oom_control"]),
    (Limit::Pids, "max", ["pids.events", "pids/pids.events"]),
];

/// The limits of this sandbox, as far as they can be seen.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    root: Option<PathBuf>,
}

/// How often each limit has struck, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count([Option<u64>; COUNTERS.len()]);

impl Limits {
    /// Those of a sandbox with control groups of its own.
    pub(super) fn of_sandbox() -> Self {
        Self { root: Some(PathBuf::from(ROOT)) }
    }

    /// None that can be told from the machine's.
    pub(super) fn none() -> Self {
        Self { root: None }
    }

    /// How often each has struck so far.
    pub(super) fn count(&self) -> Count {
        let Some(root) = &self.root else { return Count([None; COUNTERS.len()]) };
        Count(std::array::from_fn(|at| {
            let (_, counter, files) = COUNTERS[at];
            files.iter().find_map(|file| read(&root.join(file), counter))
        }))
    }
}

impl Count {
    /// Which limits struck since an earlier count.
    pub(super) fn since(self, before: Self) -> Vec<Limit> {
        let grew = |at: &usize| matches!((before.0[*at], self.0[*at]), (Some(b), Some(a)) if a > b);
        (0..COUNTERS.len()).filter(grew).map(|at| COUNTERS[at].0).collect()
    }
}

/// What a model is told of a limit that struck its tool.
pub(super) fn words(limit: Limit) -> String {
    let what = match limit {
        Limit::Memory => "a process was killed: the container is out of memory",
        Limit::Pids => "a process could not start: the container reached its process limit",
        Limit::Disk => "its folders are full",
    };
    format!("{}: {what}", limit.path())
}

/// The number after a word in a file of lines like `oom_kill 3`.
fn read(path: &Path, counter: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(word, _)| *word == counter)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Writes files below a root and gives which limits struck between the two.
    fn struck(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<Limit> {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits { root: Some(root.path().to_path_buf()) };
        let write = |files: &[(&str, &str)]| {
            for (file, text) in files {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        };
        write(before);
        let count = limits.count();
        write(after);
        limits.count().since(count)
    }

    const OLD_MEMORY: &str = "memory/memory.oom_control";
    const CALM: &str = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";

    #[test]
    fn a_counter_that_grew_names_its_limit() {
        let shown = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n";
        let killed = "low 0\nhigh 0\nmax 90\noom 2\noom_kill 1\n";
        assert_eq!(
            struck(&[("memory.events", shown)], &[("memory.events", killed)]),
            [Limit::Memory]
        );
        let killed = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(struck(&[(OLD_MEMORY, CALM)], &[(OLD_MEMORY, killed)]), [Limit::Memory]);
        for file in ["pids.events", "pids/pids.events"] {
            assert_eq!(struck(&[(file, "max 0\n")], &[(file, "max 12\n")]), [Limit::Pids]);
        }
        let both = [("pids.events", "max 1\n"), ("memory.events", "oom_kill 1\n")];
        let none = [("pids.events", "max 0\n"), ("memory.events", "oom_kill 0\n")];
        assert_eq!(struck(&none, &both), [Limit::Memory, Limit::Pids]);
    }

    #[test]
    fn what_did_not_grow_or_is_not_known_strikes_nobody() {
        assert!(struck(&[], &[]).is_empty());
        assert!(struck(&[(OLD_MEMORY, CALM)], &[]).is_empty());
        // Memory that was short without anybody being killed for it.
        let short = "max 9000\noom_kill 2\n";
        assert!(
            struck(&[("memory.events", "oom_kill 2\n")], &[("memory.events", short)]).is_empty()
        );
        assert!(struck(&[], &[("pids.events", "max 3\n")]).is_empty());
        assert!(struck(&[("pids.events", "max 9\n")], &[("pids.events", "?")]).is_empty());
        assert_eq!(Limits::none().count(), Count([None, None]));
    }
}
