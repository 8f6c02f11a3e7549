//! Ctrl-C: the turn is cancelled, and nothing that it started is left.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::Duration;

use babybot::process::Process;
use rustix::process::Signal;

use crate::support::installation::{
    Ended, Installation, PATIENCE, User, comes_true, wait_for_end, wait_until,
};

/// How long anything may be left after the second Ctrl-C.
const AT_ONCE: Duration = Duration::from_secs(2);

const SCRIPT: &str = r#"
[[rule]]
when = "hang"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "setsid sleep MARK & (env -i setsid sleep MARK &); setsid sh -c 'setsid sleep MARK & trap \"\" TERM INT HUP; sleep MARK; sleep MARK' & sleep MARK" } } },
]
[[rule]]
when = "deaf"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "kill -STOP $PPID; setsid sleep MARK & (env -i setsid sleep MARK &); sleep MARK" } } },
]
[[rule]]
when = "chain"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "for n in 1 2 3 4; do sh chain.sh; done; sleep 0.05" } } },
  { reply = "chained" },
]
"#;

#[test]
fn ctrl_c_cancels_the_turn_and_leaves_nothing() {
    for user in User::all() {
        let (installation, controller) = begin(user, "hang", 5);
        interrupt(&controller);
        let ended = wait_for_end(controller, PATIENCE);
        assert_eq!((ended.code, ended.stdout.as_str()), (130, ""), "{user:?}: {ended:?}");
        installation.assert_nothing_runs();
        assert_eq!(installation.column("SELECT state FROM turns"), ["cancelled"]);
        assert_goes_on(&installation);
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    for user in User::all() {
        // Once as it is, and once with an agent that obeys nobody.
        for (message, sleepers) in [("hang", 5), ("deaf", 3)] {
            let (installation, mut controller) = begin(user, message, sleepers);
            let said = controller.stderr.take().expect("it is piped");
            interrupt(&controller);
            // Two signals at the same moment would be one.
            let mut lines = BufReader::new(said).lines().map_while(Result::ok);
            assert!(lines.any(|line| line.contains("Ctrl-C again")));
            interrupt(&controller);
            let gone = comes_true(AT_ONCE, || installation.processes().len() <= 1);
            let ended = wait_for_end(controller, AT_ONCE);
            assert_eq!((ended.code, ended.stdout.as_str()), (130, ""), "{user:?}, {message}");
            assert!(gone, "{user:?}, {message}: not at once");
            installation.assert_nothing_runs();
            assert_goes_on(&installation);
        }
    }
}

/// A chain of processes each of which lives for a moment: started in a session of its own by the
/// one before, which is gone by then. None of them is there for long enough to be looked for.
#[test]
fn what_never_stays_is_caught_all_the_same() {
    const CHAIN: &str = "[ -e stop ] && exit; echo >> beats; setsid sh chain.sh MARK & exit";
    for user in User::all() {
        let installation = Installation::new(user, SCRIPT);
        installation.apply();
        installation.write("groups/home/chain.sh", &CHAIN.replace("MARK", installation.mark()));
        for _ in 0..4 {
            let ended = installation.chat("chain");
            assert_eq!((ended.code, ended.stdout.as_str()), (0, "chained\n"), "{ended:?}");
            let beats = installation.lines("beats").len();
            assert!(beats > 0, "{user:?}: no chain was there");
            // Each link adds a beat within a few milliseconds, so this is a long time.
            let beat_again = || installation.lines("beats").len() > beats;
            let alive = comes_true(Duration::from_millis(100), beat_again);
            if alive {
                installation.write("groups/home/stop", "");
            }
            assert!(!alive, "{user:?}: the chain goes on");
            installation.assert_nothing_runs();
        }
    }
}

/// Begins a turn whose tool never ends, and waits until as many of its children sleep.
fn begin(user: User, message: &str, sleepers: usize) -> (Installation, Child) {
    let installation = Installation::new(user, SCRIPT);
    installation.apply();
    let controller = installation.begin_chat(message);
    wait_until("the tool has started all that it starts", || {
        installation.sleepers().len() == sleepers
    });
    (installation, controller)
}

fn interrupt(controller: &Child) {
    let process = Process::find(i32::try_from(controller.id()).unwrap()).expect("it runs");
    process.signal(Signal::INT).unwrap();
}

/// The next message is answered, and no turn is left open.
#[track_caller]
fn assert_goes_on(installation: &Installation) {
    // The turn that was cut short may be gone on with first, and would hang again.
    installation.write("script.toml", "[[rule]]\nsteps = [{ reply = \"here\" }]\n");
    let Ended { code, stdout, stderr } = installation.chat("are you there");
    assert_eq!((code, stdout.as_str()), (0, "here\n"), "{stderr}");
    let open = installation.column("SELECT id FROM turns WHERE state IN ('queued', 'running')");
    assert_eq!(open, Vec::<String>::new());
    installation.assert_nothing_runs();
}
