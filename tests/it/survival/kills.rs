//! `kill -9` at any moment: nothing is left running, every message gets one reply, no call runs twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use babybot::process::Process;
use rustix::process::Signal;

use crate::support::installation::{Installation, PATIENCE, User, wait_for_end, wait_until};

/// Kills of the controller, spread over the users that can be tested as.
const KILLS: usize = 200;
/// The variable that repeats a run with the seed it printed.
pub(crate) const SEED: &str = "BABYBOT_TEST_SEED";

/// Calls that leave a line each, so that it shows how often each of them ran, and
/// children that leave the shell behind in every way there is.
const COUNTING: &str = r#"
[[rule]]
when = "number"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "echo '{message}, first' >> ran; setsid sleep MARK & ESCAPE sleep 0.01" } } },
  { calls = [
    { tool = "bb_shell", arguments = { command = "echo '{message}, second' >> ran" } },
    { tool = "bb_shell", arguments = { command = "sleep MARK & echo '{message}, third' >> ran" } },
  ] },
  { call = { tool = "bb_shell", arguments = { command = "setsid sh -c 'setsid sleep MARK & sleep MARK' & sleep 0.01; echo '{message}, last' >> ran; sleep 0.01" } } },
  { reply = "done with {message}" },
]
"#;

/// What leaves session and environment behind.
const ESCAPE: &str =
    "env -i setsid sleep MARK & env -i PATH=$PATH setsid sh -c 'sleep MARK & exec sleep MARK' &";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    /// The controller: its agent cleans up, whatever the tools did.
    Controller,
    /// Controller and agent at the same instant: the next controller cleans up what carries the
    /// instance in its environment.
    Both,
}

#[test]
fn whoever_kills_the_controller_loses_nothing_and_leaves_nothing() {
    kill_as_everybody(Killed::Controller, &COUNTING.replace("ESCAPE", ESCAPE));
}

#[test]
fn whoever_kills_controller_and_agent_at_once_loses_nothing_and_leaves_nothing() {
    kill_as_everybody(Killed::Both, &COUNTING.replace("ESCAPE", ""));
}

/// What no marker shows: gone from its session and with an environment of its own, when
/// both who would have adopted it died at once. Only a pid namespace holds on to that.
#[test]
fn what_left_session_and_environment_outlasts_only_the_death_of_both_at_once() {
    for user in User::all() {
        let installation = Installation::new(
            user,
            r#"
            [[rule]]
            when = "leave"
            steps = [
              { call = { tool = "bb_shell", arguments = { command = "setsid sleep MARK & (env -i setsid sleep MARK &); wait" } } },
              { reply = "left" },
            ]
            "#,
        );
        installation.apply();
        let controller = installation.begin_chat("leave");
        wait_until("both sleep", || installation.sleepers().len() == 2);
        kill(&installation, controller, Killed::Both);

        let ended = installation.chat("hello");
        assert_eq!(ended.code, 0, "{ended:?}");
        let left = installation.processes();
        let [unmarked] = &left.keys().copied().collect::<Vec<_>>()[..] else {
            panic!("{user:?}: one process, without a marker, should be left: {left:#?}")
        };
        let environment = std::fs::read(format!("/proc/{}/environ", unmarked.pid)).unwrap();
        assert_eq!(environment, b"", "{user:?}: a process that has a marker is left");
        unmarked.signal(Signal::KILL).unwrap();
        installation.wait_until_nothing_runs(PATIENCE);
    }
}

/// With only the agent killed, the controller adopts what it leaves and tries the turn again.
#[test]
fn an_agent_that_is_killed_alone_is_replaced_and_no_call_runs_twice() {
    const SCRIPT: &str = r#"
        [[rule]]
        when = "number"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "echo '{message}, first' >> ran" } } },
          { call = { tool = "bb_shell", arguments = { command = "echo '{message}, second' >> ran; setsid sleep MARK & env -i setsid sleep MARK & sleep MARK" } } },
          { call = { tool = "bb_shell", arguments = { command = "echo '{message}, last' >> ran" } } },
          { reply = "done with {message}" },
        ]
    "#;
    // The controller waits before it tries again: let all of them wait at the same time.
    std::thread::scope(|scope| {
        for user in User::all() {
            scope.spawn(move || {
                let installation = Installation::new(user, SCRIPT);
                installation.apply();
                let controller = installation.begin_chat("number 0");
                wait_until("all three sleep", || installation.sleepers().len() == 3);
                let strays = installation.sleepers();
                let agent = installation.agent();
                agent.signal(Signal::KILL).unwrap();
                wait_until("what the agent left is gone", || {
                    !agent.is_alive() && strays.keys().all(|stray| !stray.is_alive())
                });

                let ended = wait_for_end(controller, PATIENCE);
                assert_eq!((ended.code, ended.stdout.as_str()), (0, "done with number 0\n"));
                installation.assert_nothing_runs();
                let tally = check_store(&installation);
                assert_eq!(tally, Tally { turns: 1, resumed: 1, interrupted: 1 });
                let ran = ["number 0, first", "number 0, second", "number 0, last"];
                assert_eq!(installation.lines("ran"), ran);
            });
        }
    });
}

/// Kills again and again as every user there is, each on a thread of its own.
fn kill_as_everybody(killed: Killed, script: &str) {
    let given: Option<u64> = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into()
    });
    // The harness shows it if the test fails.
    println!("{SEED}={seed} repeats these moments");
    let users = User::all();
    let kills = KILLS.div_ceil(users.len());
    std::thread::scope(|scope| {
        for (number, user) in (0..).zip(users) {
            scope.spawn(move || {
                kill_again_and_again(user, killed, script, kills, Dice(seed + number));
            });
        }
    });
}

fn kill_again_and_again(user: User, killed: Killed, script: &str, kills: usize, mut dice: Dice) {
    let installation = Installation::new(user, script);
    installation.apply();
    let began = Instant::now();
    say(&installation, 0);
    // Moments from before the launch to after the reply, on a machine as busy as this one.
    let mut span = began.elapsed();
    let mut number = 1;
    for _ in 0..kills {
        let controller = installation.begin_chat(&format!("number {number}"));
        number += 1;
        // A random moment is no event that could be waited for.
        std::thread::sleep(span.mul_f64(1.1 * dice.fraction()));
        let old = kill(&installation, controller, killed);
        if killed == Killed::Controller && dice.fraction() < 0.5 {
            // It takes no further controller to end what this one left.
            installation.wait_until_nothing_runs(PATIENCE);
        }
        if dice.fraction() < 0.3 {
            // The next one is killed as well, perhaps while it cleans up after this one.
            continue;
        }
        let began = Instant::now();
        say(&installation, number);
        number += 1;
        span = (span * 3 + began.elapsed()) / 4;
        let alive: Vec<_> = old.iter().filter(|(process, _)| process.is_alive()).collect();
        assert!(alive.is_empty(), "{user:?}: these outlived the next run: {alive:#?}");
        installation.assert_nothing_runs();
    }
    say(&installation, number);
    installation.assert_nothing_runs();
    let tally = check_store(&installation);
    assert!(tally.resumed > kills / 10, "too few kills met a turn: {tally:?}");
}

/// Says the number and expects to be told that it was done.
#[track_caller]
fn say(installation: &Installation, number: usize) {
    let ended = wait_for_end(installation.begin_chat(&format!("number {number}")), PATIENCE);
    let reply = format!("done with number {number}\n");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, reply.as_str()), "{ended:?}");
}

/// Kills, and returns what ran at that moment.
fn kill(
    installation: &Installation,
    mut controller: std::process::Child,
    killed: Killed,
) -> BTreeMap<Process, String> {
    let mut old = BTreeMap::new();
    if killed == Killed::Both {
        // Both are stopped first, so that neither sees the other die.
        let pid = i32::try_from(controller.id()).unwrap();
        let controller = Process::find(pid).expect("it was not waited for");
        controller.signal(Signal::STOP).unwrap();
        let agents: Vec<Process> = installation.agents();
        for agent in &agents {
            agent.signal(Signal::STOP).unwrap();
        }
        old = installation.processes();
        controller.signal(Signal::KILL).unwrap();
        for agent in agents {
            agent.signal(Signal::KILL).unwrap();
        }
    }
    controller.kill().unwrap();
    controller.wait().unwrap();
    if killed == Killed::Controller {
        old = installation.processes();
    }
    old
}

/// What the store holds once everything was answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) turns: usize,
    /// Turns that were begun more than once.
    pub(crate) resumed: usize,
    /// Calls of which nobody knows whether they ran.
    pub(crate) interrupted: usize,
}

/// Checks that every message has one turn of its own, every turn one reply, and every call run at
/// most once: exactly once if its result is known, and once or not at all if it was interrupted.
#[track_caller]
pub(crate) fn check_store(installation: &Installation) -> Tally {
    let none = |what: &str, query: &str| {
        let found = installation.column(query);
        assert!(found.is_empty(), "{what}: {found:?}");
    };
    none("turns that are not done", "SELECT id || ' ' || state FROM turns WHERE state <> 'done'");
    none(
        "messages without a turn of their own",
        "SELECT text FROM messages WHERE turn IS NULL
         OR turn IN (SELECT turn FROM messages GROUP BY turn HAVING count(*) > 1)",
    );
    none(
        "turns without exactly one reply, or with anything else",
        "SELECT id FROM turns WHERE
         (SELECT group_concat(kind) FROM outbox WHERE turn = turns.id) IS NOT 'reply'",
    );
    none(
        "replies to another message",
        "SELECT outbox.text FROM outbox JOIN messages USING (turn)
         WHERE outbox.text <> 'done with ' || messages.text",
    );
    none("calls without a result", "SELECT arguments FROM turn_calls WHERE state <> 'ended'");
    none("damage", "SELECT * FROM pragma_integrity_check WHERE integrity_check <> 'ok'");
    let said = installation.column("SELECT text FROM messages");
    assert_eq!(said.len(), said.iter().collect::<BTreeSet<_>>().len(), "a message came twice");

    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for line in installation.lines("ran") {
        *ran.entry(line).or_default() += 1;
    }
    let calls = installation.column(
        "SELECT (result LIKE 'interrupted%') || ' ' || (arguments ->> 'command') FROM turn_calls",
    );
    let mut interrupted = 0;
    for call in &calls {
        let line = call.split("echo '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
        let times = ran.remove(line).unwrap_or_default();
        if call.starts_with('1') {
            interrupted += 1;
            assert!(times <= 1, "an interrupted call ran {times} times: {line}");
        } else {
            assert_eq!(times, 1, "how often a call with a result ran: {line}");
        }
    }
    assert!(ran.is_empty(), "these ran and the store knows nothing of them: {ran:?}");
    Tally {
        turns: said.len(),
        resumed: installation.column("SELECT id FROM turns WHERE attempts > 1").len(),
        interrupted,
    }
}

/// Random numbers that a seed repeats (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 up to, but not including, 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from(u32::try_from((bits ^ (bits >> 31)) >> 32).unwrap_or_default()) / 2_f64.powi(32)
    }
}
