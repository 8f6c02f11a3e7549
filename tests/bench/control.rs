//! From the manifest to the plan: the functions alone, and the whole process.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use babybot::desired::{Desired, Setting};
use babybot::manifest;
use babybot::plan::{check, plan};
use toml::de::DeTable;

use crate::harness::{Effort, Table, Times};
use crate::support::World;

/// For 1,000 groups.
const TARGET: Duration = Duration::from_millis(50);

/// A manifest as people write them, with so many groups.
fn manifest_of(groups: usize) -> String {
    let mut text = "schema = 1\nname = \"home\"\n\n[runtime]\nkind = \"none\"\n\n[models.local]\n\
                    kind = \"rehearsal\"\n"
        .to_owned();
    for number in 0..groups {
        let _ = write!(
            text,
            "\n# House {number}, and the terminal it is reached from.\n[channels.desk-{number}]\n\
             kind = \"terminal\"\n[groups.house-{number}]\nbind = [\"desk-{number}\"]\n\
             trigger = \"@House{number}\"\nlimits = {{ output = \"1MiB\", turn = \"10m\" }}\n\
             env = {{ LANG = \"de_DE.UTF-8\" }}\n"
        );
    }
    text
}

fn target(groups: usize) -> Option<Duration> {
    (groups == 1_000).then_some(TARGET)
}

/// Pure functions, in this process.
pub(crate) fn functions(effort: Effort, table: &mut Table) {
    let count = effort.samples(200);
    table.heading("`manifest::parse`; the floor is the TOML parser alone");
    for &groups in effort.sizes() {
        let text = manifest_of(groups);
        let floor = Times::of(count, || DeTable::parse(&text).unwrap());
        let times = Times::of(count, || manifest::parse(&text).unwrap());
        table.line(&format!("{groups} groups"), &times, Some(&floor), target(groups));
    }
    table.heading("`Desired::new`, `plan` with nothing to do and `check`; the floor clones and compares the specs");
    for &groups in effort.sizes() {
        let manifest = manifest::parse(&manifest_of(groups)).unwrap();
        let desired = Desired::new(&manifest, &Setting::default());
        let mut world = World::empty(&desired);
        world.apply(&plan(&desired, &world.observed));
        let specs = world.specs();
        let floor = Times::of(count, || {
            let copy = specs.clone();
            assert_eq!(copy, specs);
            copy
        });
        let times = Times::of(count, || {
            let desired = Desired::new(&manifest, &Setting::default());
            let plan = plan(&desired, &world.observed);
            assert!(plan.is_empty());
            check::check(&plan, &desired, &world.observed).unwrap();
            (plan, desired)
        });
        table.line(&format!("{groups} groups"), &times, Some(&floor), target(groups));
    }
    table.heading(
        "`manifest::parse` with a mistake in every tenth group; the floor is the TOML parser alone",
    );
    for &groups in effort.sizes() {
        let text: String = manifest_of(groups)
            .lines()
            .map(|line| {
                let slip = line.starts_with("trigger") && line.ends_with("0\"");
                let line = if slip { line.replace(" =", "") } else { line.to_owned() };
                line + "\n"
            })
            .collect();
        let floor = Times::of(count.div_ceil(4), || DeTable::parse_recoverable(&text).1.len());
        let times = Times::of(count.div_ceil(4), || manifest::parse(&text).unwrap_err());
        table.line(&format!("{groups} groups"), &times, Some(&floor), None);
    }
}

/// Whole processes, from their start to their end.
pub(crate) fn processes(effort: Effort, table: &mut Table) {
    let count = effort.samples(40);
    let mut lines = Vec::new();
    for &groups in effort.sizes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("babybot.toml"), manifest_of(groups)).unwrap();
        run(folder.path(), &["apply", "--yes=safe,disruptive,destructive,privileged"]);
        let floor = Times::of(count, || run(folder.path(), &["--version"]));
        let validate = Times::of(count, || run(folder.path(), &["validate"]));
        let plan = Times::of(count, || run(folder.path(), &["plan", "--detailed-exitcode"]));
        lines.push((groups, floor, validate, plan));
    }
    table.heading("Whole processes; the floor is `babybot --version`");
    for (groups, floor, validate, plan) in lines {
        let what = |verb: &str| format!("`babybot {verb}`, {groups} groups");
        table.line(&what("validate"), &validate, Some(&floor), target(groups));
        table.line(&what("plan"), &plan, Some(&floor), target(groups));
    }
}

fn run(folder: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_babybot"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "babybot {arguments:?}: {words}");
}
