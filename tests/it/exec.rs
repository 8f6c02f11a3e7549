//! The operator's look inside a sandbox that is a process, and what outlasts a controller.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use babybot::process::Process;
use rustix::process::Signal;

use crate::support::docker::needs_engine;
use crate::support::folder::{Folder, QUICK, Ran, Terminal};
use crate::support::home;
use crate::support::home::{HOME, Home, LONG};
use crate::support::installation::{Installation, PATIENCE, User, comes_true, wait_until};

const SCRIPT: &str = r#"
[[rule]]
when = "env"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "INSIDE" } } },
  { reply = "{result}" },
]
"#;

/// What a process can say of where it is and of what it may do.
const INSIDE: &str = "pwd; id -u; id -g; echo $HOME $USER $TZ $GREETING; \
                      grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; ulimit -n; ulimit -c";

/// A command of the operator that goes on until it is ended.
const SLEEPS: &str = "setsid sleep MARK & sleep MARK & echo ready; sleep MARK";

fn applied() -> Folder {
    let folder = Folder::with(QUICK);
    let ran = folder.run(&["apply", "--yes=privileged"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    folder
}

fn shell(folder: &Folder, script: &str) -> Ran {
    folder.feed(&["exec", "-q", "home", "--", "sh", "-c", script], "typed\n")
}

#[test]
fn a_command_has_its_streams_and_ends_as_it_ends_with_nothing_left() {
    let folder = applied();
    let ran = shell(&folder, "cat; echo out; echo err >&2; exit 7");
    let all = (ran.code, ran.stdout.as_str(), ran.stderr.as_str());
    assert_eq!(all, (Some(7), "typed\nout\n", "err\n"));
    let killed = shell(&folder, "kill -9 $$");
    assert_eq!(killed.code, Some(128 + 9), "{killed:?}");
    let none = folder.run(&["exec", "home", "--", "/no/such"]);
    assert_eq!((none.code, none.stderr.contains("cannot run /no/such")), (Some(127), true));
    assert_eq!(folder.run(&["exec", "home", "--", "/etc/passwd"]).code, Some(126));
    // What holds its output open and left everything else behind does not hold up the end.
    let ran = shell(&folder, "env -i setsid sleep 97531 & echo $!");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let left = Process::find(ran.stdout.trim().parse().unwrap());
    assert!(left.is_none_or(|left| left.wait_gone(PATIENCE)), "it is left");
}

#[test]
fn a_command_has_the_place_and_the_walls_of_the_groups_tools() {
    for user in User::all() {
        let installation = Installation::new(user, &SCRIPT.replace("INSIDE", INSIDE));
        let ended = installation.run(&["apply", "--yes"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let tool = installation.chat("env");
        let command = installation.run(&["exec", "home", "--", "sh", "-c", INSIDE]);
        let zone = installation.run(&["exec", "home", "--", "sh", "-c", "echo ${TZ?}"]);
        assert_eq!(zone.code, 0, "{zone:?}");
        assert_eq!((tool.code, command.code), (0, 0), "{user:?}: {tool:?} {command:?}");
        assert_eq!(command.stdout.trim(), tool.stdout.trim(), "{user:?}");
        assert!(command.stdout.contains("NoNewPrivs:\t1"), "{command:?}");
        installation.wait_until_nothing_runs(PATIENCE);
    }
}

/// A controller that lasts, killed where the test fails.
struct Up(Child);

impl Up {
    fn start(installation: &Installation) -> Self {
        let mut command = installation.command(["up", "--yes"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = Self(child);
        wait_until("the controller answers", || {
            let ended = installation.run(&["status", "--format", "json"]);
            ended.stdout.contains("\"role\": \"up\"")
        });
        up
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ready(installation: &Installation) -> Child {
    let script = SLEEPS.replace("MARK", installation.mark());
    let mut command: Command = installation.command(["exec", "home", "--", "sh", "-c", &script]);
    let child = command.process_group(0).spawn().unwrap();
    wait_until("the command runs", || installation.sleepers().len() == 3);
    child
}

#[test]
fn a_command_goes_with_its_controller_and_with_whoever_ran_it() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let gone = || installation.sleepers().is_empty();

    // A controller of its own, killed: the next one finds what is left.
    let mut child = ready(&installation);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(installation.run(&["exec", "home", "--", "true"]).code, 0);
    assert!(comes_true(PATIENCE, gone), "{:?}", installation.sleepers());

    // Whoever ran it is killed, and the controller takes its lease back.
    let up = Up::start(&installation);
    let mut child = ready(&installation);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(comes_true(PATIENCE, gone), "{:?}", installation.sleepers());

    // The controller is killed.
    let child = ready(&installation);
    drop(up);
    let ended = crate::support::installation::wait_for_end(child, PATIENCE);
    assert_eq!((ended.code, ended.stderr.contains("the controller ended")), (1, true), "{ended:?}");
    assert!(comes_true(PATIENCE, gone), "{:?}", installation.sleepers());
    installation.wait_until_nothing_runs(PATIENCE);
}

#[test]
fn ctrl_c_ends_a_command_that_has_no_terminal() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let child = ready(&installation);
    let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
    process.signal(Signal::INT).unwrap();
    let ended = crate::support::installation::wait_for_end(child, PATIENCE);
    assert_eq!(ended.code, 130, "{ended:?}");
    installation.wait_until_nothing_runs(Duration::from_secs(10));
}

#[test]
fn at_a_terminal_a_command_has_one_of_its_own() {
    let folder = applied();
    let script = "tty >/dev/null && echo it is one; stty size; read line; echo \"<$line>\"; exit 3";
    let mut terminal = folder.at_terminal(&["exec", "-q", "home", "--", "sh", "-c", script]);
    terminal.wait_for("it is one");
    terminal.type_in("typed\r");
    terminal.wait_for("<typed>");
    assert_eq!(terminal.end().0, Some(3));
    // Its Ctrl-C is the command's own.
    let script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done";
    let mut terminal = folder.at_terminal(&["exec", "-q", "home", "--", "sh", "-c", script]);
    terminal.wait_for("ready");
    terminal.type_in("\u{3}");
    terminal.wait_for("caught");
    assert_eq!(terminal.end().0, Some(4));
}

#[test]
fn after_a_command_that_is_not_in_the_image_a_terminal_is_in_its_first_column() {
    let home = Home::docker(needs_engine!(), "", HOME, LONG);
    home.apply();
    let mut terminal = Terminal::start(home.place.command(["exec", "home", "--", "no-such"]));
    let (code, screen) = terminal.ended();
    assert_eq!(code, Some(127), "{screen}");
    assert!(screen.ends_with("has babybot and no shell\r\n"), "{screen:?}");
    assert!(terminal.is_as_before());
}

#[test]
fn a_hold_outlasts_a_controller_that_is_killed() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let up = Up::start(&installation);
    assert_eq!(installation.run(&["pause", "home"]).code, 0);
    drop(up);
    let without = installation.run(&["status"]);
    assert!(without.stdout.contains("paused; run `babybot resume home"), "{without:?}");
    let without = installation.run(&["status", "--format", "json"]);
    assert!(without.stdout.contains("\"held\": true"), "{without:?}");

    let _up = Up::start(&installation);
    let status = installation.run(&["status"]);
    assert!(status.stdout.contains("paused"), "{status:?}");
    // The operator's own look is no work of the group's.
    assert_eq!(installation.run(&["exec", "home", "--", "true"]).code, 0);
    let child = installation.begin_chat("env");
    wait_until("the message waits", || {
        installation.value::<i64>("SELECT count(*) FROM messages") == 1
    });
    let resumed = installation.run(&["resume", "home"]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert_eq!(crate::support::installation::wait_for_end(child, PATIENCE).code, 0);
    assert_eq!(installation.value::<i64>("SELECT count(*) FROM holds"), 0);
}

#[test]
fn what_is_mended_of_a_group_is_in_the_log_of_that_group() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let _up = Up::start(&installation);
    let settings = installation.root().join("data/sessions/home/.ollama/settings.json");
    std::fs::remove_file(&settings).unwrap();
    wait_until("it is mended", || settings.exists());
    assert_eq!(installation.run(&["pause", "home"]).code, 0);
    let logged = |wanted: &[&str]| {
        comes_true(PATIENCE, || {
            let ended = installation.run(&["logs", "home"]);
            ended.code == 0 && wanted.iter().all(|wanted| ended.stdout.contains(wanted))
        })
    };
    assert!(logged(&["repaired", "settings/home", "group paused"]));
}

#[test]
fn a_command_is_not_refused_while_a_new_controller_looks_for_turns() {
    let installation = Installation::new(User::Oneself, "");
    installation.apply();
    for _ in 0..6 {
        let up = home::Up::start(&installation, &mut installation.command(["up"]));
        up.wait_until_it_serves();
        let looked = installation.run(&["exec", "-q", "home", "--", "echo", "inside"]);
        assert_eq!((looked.code, looked.stdout.as_str()), (0, "inside\n"), "{looked:?}");
        up.end();
    }
}
