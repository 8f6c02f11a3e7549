//! Two that could get into each other's way: the same installation twice, a copy, another one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};

use babybot::process::Process;
use rustix::process::Signal;

use crate::support::installation::{Ended, Installation, PATIENCE, User, wait_for_end, wait_until};

const SCRIPT: &str = r#"
[[rule]]
when = "wait"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "setsid sleep MARK & sleep MARK & while ! [ -e go ]; do sleep 0.02; done; echo waited >> ran" } } },
  { reply = "waited" },
]
[[rule]]
steps = [{ reply = "here" }]
"#;

/// An installation with a tool at work until it is told to go on.
struct AtWork {
    installation: Installation,
    controller: Child,
    processes: BTreeMap<Process, String>,
}

impl AtWork {
    fn begin(user: User) -> Self {
        let installation = Installation::new(user, SCRIPT);
        installation.apply();
        let controller = installation.begin_chat("wait");
        wait_until("the tool is at work", || installation.sleepers().len() == 2);
        // Controller, agent, shell and the two; what the shell forks in between comes and goes.
        let mut processes = BTreeMap::new();
        wait_until("nothing else is seen", || {
            processes = installation.processes();
            processes.len() == 5
        });
        Self { installation, controller, processes }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let dead: Vec<_> =
            self.processes.iter().filter(|(process, _)| !process.is_alive()).collect();
        assert!(dead.is_empty(), "these are dead: {dead:#?}");
    }

    /// Lets the tool go on, and the turn come to its end as if nothing had been.
    #[track_caller]
    fn finish(self) {
        self.assert_untouched();
        self.installation.write("groups/home/go", "");
        let ended = wait_for_end(self.controller, PATIENCE);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "waited\n"), "{ended:?}");
        assert_eq!(self.installation.lines("ran"), ["waited"]);
        self.installation.assert_nothing_runs();
    }
}

#[test]
fn whoever_comes_second_joins_the_first_and_goes_on_where_that_one_ends() {
    for user in User::all() {
        let at_work = AtWork::begin(user);
        let installation = &at_work.installation;
        let second = installation.begin_chat("hello");
        let plan = installation.run(&["plan"]);
        assert_eq!(plan.code, 0, "{plan:?}");
        let manifest = std::fs::read_to_string(installation.root().join("babybot.toml")).unwrap();
        installation.write("babybot.toml", &manifest.replace("1MiB", "2MiB"));
        let apply = installation.run(&["apply", "--yes"]);
        assert_eq!(apply.code, 0, "{apply:?}");
        let plan = installation.run(&["plan", "--detailed-exitcode"]);
        assert_eq!(plan.code, 0, "{plan:?}");
        // What the second says is stored behind the first, and waits for a turn of its own.
        assert_eq!(installation.column("SELECT text FROM messages"), ["wait", "hello"]);
        assert_eq!(installation.value::<i64>("SELECT count(*) FROM turns"), 1);
        at_work.assert_untouched();
        installation.write("groups/home/go", "");
        let AtWork { installation, controller, .. } = at_work;
        let first = wait_for_end(controller, PATIENCE);
        assert_eq!((first.code, first.stdout.as_str()), (0, "waited\n"), "{first:?}");
        let second = wait_for_end(second, PATIENCE);
        assert_eq!((second.code, second.stdout.as_str()), (0, "here\n"), "{second:?}");
        assert_eq!(installation.lines("ran"), ["waited"]);
        installation.assert_nothing_runs();
    }
}

#[test]
fn a_copy_refuses_to_act_and_leaves_the_original_alone() {
    for user in User::all() {
        let at_work = AtWork::begin(user);
        let installation = &at_work.installation;
        let copy = copy(installation);
        let run = |arguments: &[&str]| -> Ended {
            installation.command_in(&copy, arguments).output().unwrap().into()
        };
        for verb in [&["chat", "home", "hello"][..], &["apply", "--yes"], &["plan"]] {
            let ended = run(verb);
            assert_eq!((ended.code, ended.stdout.as_str()), (8, ""), "{verb:?}: {ended:?}");
            for way in ["babybot apply --reclaim", "babybot apply --new-instance"] {
                assert!(ended.stderr.contains(way), "{verb:?}: {ended:?}");
            }
            at_work.assert_untouched();
        }

        // As an installation of its own it knows the original's agent from the store, and what
        // it has to do goes on; but that agent is not its own.
        std::fs::remove_file(copy.join("data/instance")).unwrap();
        std::fs::write(copy.join("groups/home/go"), "").unwrap();
        let plan = run(&["plan"]);
        assert_eq!(plan.code, 0, "{plan:?}");
        assert!(!plan.stdout.contains("container/home   remove"), "{plan:?}");
        let ended = run(&["chat", "--yes", "home", "hello"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
        at_work.finish();
    }
}

#[test]
fn an_installation_that_cleans_up_does_not_touch_another() {
    for user in User::all() {
        let at_work = AtWork::begin(user);
        let mut other = AtWork::begin(user);
        let agent = other.installation.agent();
        agent.signal(Signal::STOP).unwrap();
        other.controller.kill().unwrap();
        other.controller.wait().unwrap();
        agent.signal(Signal::KILL).unwrap();
        let ended = wait_for_end(other.installation.begin_chat("hello"), PATIENCE);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
        other.installation.assert_nothing_runs();
        at_work.finish();
    }
}

/// A copy of the whole project, as `cp -a` makes it.
fn copy(installation: &Installation) -> std::path::PathBuf {
    let copy = installation.beside("copy");
    let copied = Command::new("cp").arg("-a").args([&installation.root(), &copy]).status();
    assert!(copied.unwrap().success());
    assert!(Path::new(&copy).join("data/instance").exists());
    copy
}
