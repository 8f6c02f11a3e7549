//! What is used while nothing happens: by a controller with many groups, and by one agent.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Effort, Table};
use crate::instant::Instantly;
use crate::turn::runtime;
use crate::up::{Engine, Up};

/// How long what was begun at the start may take until it is quiet.
fn settle(effort: Effort) -> Duration {
    match effort {
        Effort::Full => Duration::from_secs(5),
        Effort::Quick => Duration::from_secs(1),
    }
}

/// How long it is looked at: long enough for the look that comes every 30 s to be in it twice.
fn window(effort: Effort) -> Duration {
    match effort {
        Effort::Full => Duration::from_secs(60),
        Effort::Quick => Duration::from_secs(2),
    }
}

/// What a process used within a time.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// Its share of memory, in KiB, and what of it is its own alone; `None` where nobody may look.
    memory: Option<(u64, u64)>,
    /// Processor time in nanoseconds, of all its threads.
    processor: u64,
    /// How often one of its threads was woken.
    wakes: u64,
    threads: usize,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let (mut processor, mut wakes, mut threads) = (0, 0, 0);
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let first = read("schedstat").split(' ').next().and_then(|text| text.parse().ok());
            processor += first.unwrap_or(0);
            wakes += number_after(&read("status"), "voluntary_ctxt_switches:").unwrap_or(0);
            threads += 1;
        }
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let memory = rollup.ok().and_then(|text| {
            Some((number_after(&text, "Pss:")?, number_after(&text, "Pss_Anon:")?))
        });
        Self { memory, processor, wakes, threads }
    }

    /// What was used since then, for a table.
    #[allow(clippy::cast_precision_loss, reason = "counts of a bench are small")]
    fn line(self, what: &str, before: Self, took: Duration, most: f64) -> String {
        let seconds = took.as_secs_f64();
        let share = (self.processor - before.processor) as f64 / 1e7 / seconds;
        let wakes = (self.wakes - before.wakes) as f64 / seconds;
        let megabytes = |kib: u64| kib as f64 * 1024.0 / 1e6;
        let (memory, met) = match self.memory {
            None => ("may not be read |".to_owned(), ""),
            Some((pss, own)) => {
                let met = if megabytes(pss) <= most { "yes" } else { "NO" };
                (format!("{:.1} MB | {:.1} MB", megabytes(pss), megabytes(own)), met)
            }
        };
        let threads = self.threads;
        format!(
            "| {what} | {memory} | {share:.3} % | {wakes:.1} | {threads} | ≤ {most} MB | {met} |\n"
        )
    }
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

const HEAD: &str = "| what | PSS | not of the file | of a core | wakes a second | threads | target | met |\n\
                    |---|---|---|---|---|---|---|---|\n";

fn manifest(kind: &str, model: &str, groups: usize) -> String {
    let mut text = format!(
        "schema = 1\nname = \"home\"\n[runtime]\nkind = \"{kind}\"\n[runtime.image]\n\
         base = \"scratch\"\n[models.local]\n{model}\n"
    );
    for number in 0..groups {
        let _ = writeln!(text, "[groups.house-{number}]");
    }
    text
}

/// Controllers to whom nothing happens.
pub(crate) fn controllers(effort: Effort, table: &mut Table) {
    let window = window(effort);
    runtime().block_on(async {
        let instant = Instantly::serve().await;
        let engine = Engine::find().await.ok();
        let mut lines = String::new();
        for (kind, engine) in [("none", None), ("docker", engine.as_ref())] {
            if kind == "docker" && engine.is_none() {
                continue;
            }
            for groups in [1, 100] {
                let up = Up::new(&manifest(kind, &instant.lines(), groups), engine).await;
                let pid = up.child.id().unwrap();
                tokio::time::sleep(settle(effort)).await;
                let (before, begun) = (Usage::of(pid), Instant::now());
                tokio::time::sleep(window).await;
                let what = format!("`babybot up`, {groups} groups on `{kind}`, no agent");
                lines += &Usage::of(pid).line(&what, before, begun.elapsed(), 20.0);
                up.end().await;
            }
        }
        let seconds = window.as_secs();
        table.note(&format!("### A controller at rest, for {seconds} s\n\n{HEAD}{lines}"));
    });
}

/// An agent that has answered and waits.
pub(crate) async fn agent(effort: Effort, table: &mut Table, pid: u32) {
    let window = window(effort);
    tokio::time::sleep(settle(effort)).await;
    let (before, begun) = (Usage::of(pid), Instant::now());
    tokio::time::sleep(window).await;
    let line = Usage::of(pid).line("an agent after its turns", before, begun.elapsed(), 6.0);
    let seconds = window.as_secs();
    table.note(&format!("### An agent at rest in its container, for {seconds} s\n\n{HEAD}{line}"));
}
