//! The quick start on machines that have no engine, or one that does not answer.

use std::fs;

use crate::support::folder::unbroken;
use crate::support::installation::{Ended, Installation, PATIENCE, User, wait_for_end};
use crate::support::machine::{EngineHere, Machine};

const HAIKU: [&str; 4] = ["chat", "--yes", "home", "Write a haiku to haiku.txt"];

#[test]
fn the_first_command_answers_whatever_a_machine_has_of_an_engine() {
    on_all(|machine, here, installation| {
        // Twice: on a fresh checkout, and where everything is there already.
        for _ in 0..2 {
            let ended = run(machine, installation, &HAIKU);
            assert_eq!(ended.code, 0, "{here:?}: {ended:?}");
            assert!(ended.stdout.contains("haiku.txt"), "{here:?}: {ended:?}");
            assert_eq!(installation.lines("haiku.txt").len(), 3, "{here:?}");
        }
        let plan = run(machine, installation, &["plan", "--detailed-exitcode"]);
        assert_eq!(plan.code, 0, "{here:?}: {plan:?}");
    });
}

#[test]
fn a_plan_names_the_engine_that_was_found_and_how_to_get_the_wall() {
    on_all(|machine, here, installation| {
        let plan = run(machine, installation, &["plan"]);
        assert_eq!(plan.code, 0, "{here:?}: {plan:?}");
        for words in here.words() {
            let said = unbroken(&plan.stdout);
            assert!(said.contains(words), "{here:?}: {words:?} is missing: {plan:?}");
        }
        assert!(plan.stdout.contains("does not isolate"), "{here:?}: {plan:?}");
        assert!(!plan.stdout.contains("PRIVILEGED"), "{here:?}: {plan:?}");
    });
}

#[test]
fn a_model_that_decides_for_itself_needs_approval_where_no_engine_answers() {
    on_all(|machine, here, installation| {
        let manifest = fs::read_to_string(installation.root().join("babybot.toml")).unwrap();
        let ollama = "kind = \"ollama\"\nurl = \"http://127.0.0.1:9\"\nmodel = \"qwen3:8b\"";
        installation.write("babybot.toml", &manifest.replace("kind = \"rehearsal\"", ollama));
        let plan = run(machine, installation, &["plan"]);
        let group = plan.stdout.lines().find(|line| line.contains("+   group/home"));
        assert!(group.is_some_and(|line| line.contains("PRIVILEGED")), "{here:?}: {plan:?}");
        let ended = run(machine, installation, &HAIKU);
        assert_eq!(ended.code, 7, "{here:?}: {ended:?}");
        assert!(!installation.root().join("data/babybot.db").exists(), "{here:?}: {ended:?}");
    });
}

/// Tries something with a fresh copy of the quick start, on each machine that can be made here and
/// as each user that can be met there.
#[track_caller]
fn on_all(attempt: impl Fn(&Machine, EngineHere, &Installation)) {
    let users = [User::Oneself, User::Nobody].into_iter().filter(|user| user.is_possible());
    for user in users {
        for here in EngineHere::all(user) {
            let Some(machine) = Machine::with(here, user) else { return };
            attempt(&machine, here, &quick_start(user));
        }
    }
}

/// An installation with the manifest of this repository, which is the quick start's.
fn quick_start(user: User) -> Installation {
    let installation = Installation::new(user, "");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/babybot.toml");
    installation.write("babybot.toml", &fs::read_to_string(manifest).unwrap());
    installation
}

fn run(machine: &Machine, installation: &Installation, arguments: &[&str]) -> Ended {
    wait_for_end(machine.command(installation, arguments).spawn().unwrap(), PATIENCE)
}
