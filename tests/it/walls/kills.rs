//! Kills at random moments, of the controller and of the agent: nothing is lost, run twice or left.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use super::house::{Container, House, VERB_MAX};
use crate::support::docker::{Engine, needs_engine};
use crate::support::home::HOME;
use crate::support::installation::{comes_true, wait_for_end, wait_until};
use crate::survival::kills::{Dice, SEED, check_store};

/// Turns, over all houses.
const TURNS: usize = 200;
/// Houses that are killed in at the same time.
const HOUSES: usize = 4;
/// How long a container may outlive its controller.
const OUTLIVES_MAX: Duration = Duration::from_secs(10);

/// Calls that leave a line each, and children that leave the shell behind.
const COUNTING: &str = r#"
[[rule]]
when = "number"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "echo '{message}, first' >> ran; setsid sleep MARK & env -i /bin/setsid sleep MARK & sleep 0.01" } } },
  { calls = [
    { tool = "bb_shell", arguments = { command = "echo '{message}, second' >> ran" } },
    { tool = "bb_shell", arguments = { command = "sleep MARK & echo '{message}, third' >> ran" } },
  ] },
  { call = { tool = "bb_shell", arguments = { command = "echo '{message}, last' >> ran; sleep 0.01" } } },
  { reply = "done with {message}" },
]
"#;

#[test]
fn two_hundred_turns_outlive_kills_of_their_controllers() {
    let engine = needs_engine!();
    let given: Option<u64> = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into()
    });
    println!("{SEED}={seed} repeats these moments");
    let engine = &engine;
    std::thread::scope(|scope| {
        for number in 0..HOUSES {
            scope.spawn(move || kill_again_and_again(engine, Dice::new(seed + number as u64)));
        }
    });
}

fn kill_again_and_again(engine: &Engine, mut dice: Dice) {
    let house = House::new(engine, HOME, COUNTING);
    house.apply();
    let began = Instant::now();
    say(&house, 0);
    // Moments from before the launch to after the reply, on a machine as busy as this one.
    let mut span = began.elapsed();
    let mut kills = 0;
    let mut number = 1;
    while number < TURNS / HOUSES {
        let mut controller = house.begin_chat("home", &format!("number {number}"));
        number += 1;
        // A random moment is no event that could be waited for.
        std::thread::sleep(span.mul_f64(1.1 * dice.fraction()));
        controller.kill().unwrap();
        controller.wait().unwrap();
        kills += 1;
        if dice.fraction() < 0.2 {
            // It takes no further controller to end what this one left.
            let runs = |found: &Container| found.state == "running";
            let gone = comes_true(OUTLIVES_MAX, || !house.containers().iter().any(runs));
            assert!(gone, "these outlived their controller: {:?}", house.containers());
        }
        if dice.fraction() < 0.4 {
            continue;
        }
        let old = house.containers();
        let began = Instant::now();
        say(&house, number);
        number += 1;
        span = (span * 3 + began.elapsed()) / 4;
        let left = house.containers();
        assert!(left.is_empty(), "{left:?} are left, of {old:?}");
        assert!(house.installation.sleepers().is_empty());
    }
    say(&house, number);
    assert_eq!(house.containers(), []);
    house.installation.assert_nothing_runs();
    let tally = check_store(&house.installation);
    assert!(tally.resumed > kills / 10, "too few kills met a turn: {tally:?} of {kills}");
}

/// Says the number and expects to be told that it was done.
#[track_caller]
fn say(house: &House, number: usize) {
    // What it does meanwhile is shown where it does not end.
    let ended = house.run(&["-vv", "chat", "home", &format!("number {number}")]);
    // Answers to what was said before a kill come first.
    let reply = format!("done with number {number}\n");
    assert!(ended.code == 0 && ended.stdout.ends_with(&reply), "{ended:?}");
}

#[test]
fn an_agent_that_is_killed_from_the_host_is_replaced_and_no_call_runs_twice() {
    let engine = needs_engine!();
    let script = r#"
        [[rule]]
        when = "number"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "echo '{message}, first' >> ran" } } },
          { call = { tool = "bb_shell", arguments = { command = "echo '{message}, second' >> ran; setsid sleep MARK & env -i /bin/setsid sleep MARK & sleep MARK" } } },
          { call = { tool = "bb_shell", arguments = { command = "echo '{message}, last' >> ran" } } },
          { reply = "done with {message}" },
        ]
    "#;
    let house = House::new(&engine, HOME, script);
    house.apply();
    // Once under a controller of its own, once under one that stays.
    for number in 0..2 {
        let up = (number == 1).then(|| house.up());
        let chat = house.begin_chat("home", &format!("number {number}"));
        wait_until("all three sleep", || house.installation.sleepers().len() == 3);
        let container = house.container();
        let strays = house.installation.sleepers();
        if rustix::process::geteuid().is_root() {
            house.first_process(&container).signal(Signal::KILL).unwrap();
        }
        wait_until("what was in it is gone", || strays.keys().all(|stray| !stray.is_alive()));
        let ended = wait_for_end(chat, VERB_MAX);
        let reply = format!("done with number {number}\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (0, reply.as_str()), "{ended:?}");
        assert!(house.containers().iter().all(|found| found.id != container.id));
        assert!(house.containers().len() <= 1);
        if let Some(up) = up {
            up.down();
        }
    }
    assert_eq!(house.containers(), []);
    let tally = check_store(&house.installation);
    assert_eq!((tally.turns, tally.resumed, tally.interrupted), (2, 2, 2));
    let ran = ["first", "second", "last"];
    let ran: Vec<String> =
        (0..2).flat_map(|number| ran.map(|word| format!("number {number}, {word}"))).collect();
    assert_eq!(house.installation.lines("ran"), ran);
}
