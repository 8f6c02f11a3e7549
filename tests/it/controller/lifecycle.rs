//! When agents run: on demand, always, and how many at once.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::docker::engine_here;
use crate::support::home::{ALWAYS, HOME, Home, LONG};
use crate::support::installation::wait_until;

/// Turns that are under way until a file says that they may go on.
const IN_TURN: &str = r#"
[[rule]]
when = "turn"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "echo {message} >> ran; while ! [ -e go ]; do sleep 0.02; done" } } },
  { reply = "done with {message}" },
]
"#;

/// One group on demand whose agent rests soon.
const SHORT: &str = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n\
                     limits = { idle = \"1s\" }\n";

fn everywhere(groups: &str, script: &str) -> Vec<Home> {
    let docker = engine_here().map(|engine| Home::docker(engine, "", groups, script));
    [Some(Home::none("", groups, script)), docker].into_iter().flatten().collect()
}

#[test]
fn an_agent_on_demand_comes_with_a_message_and_goes_when_it_is_idle() {
    for home in everywhere(SHORT, LONG) {
        let up = home.up();
        let mut watch = home.watch();
        watch.wait_for("it sleeps", |status| status["groups"]["home"]["stage"] == "asleep");
        assert!(home.status()["groups"]["home"]["sandbox"].is_null());
        home.ask("quick 1");
        watch.wait_for("it is awake", |status| status["groups"]["home"]["sandbox"].is_string());
        let status = watch.wait_for("it sleeps again", |status| {
            let home = &status["groups"]["home"];
            home["stage"] == "asleep" && home["sandbox"].is_null()
        });
        assert_eq!(status["drift"], serde_json::json!([]), "{status:#}");
        home.ask("quick 2");
        home.assert_each_message_has_one_reply(2);
        up.end();
    }
}

#[test]
fn an_agent_that_always_runs_is_there_before_a_message_and_stays() {
    let idle = "limits = { idle = \"1s\" }\n";
    let groups = format!("{ALWAYS}{idle}[groups.brief]\nrequires_trigger = false\n{idle}");
    for home in everywhere(&groups, LONG) {
        let up = home.up();
        let first = home.wait_for_agent();
        home.ask("quick 1");
        // One that does not always run, and was idle from later on, has gone by then.
        let brief = home.say("brief", "quick 2");
        home.assert_answers(brief, "quick 2");
        home.status_when("the brief one sleeps", |status| {
            status["groups"]["brief"]["stage"] == "asleep"
        });
        assert_eq!(home.wait_for_agent(), first);
        up.end();
        wait_until("nothing runs", || home.place.processes().is_empty());
    }
}

/// Of three groups one is at work at a time, in the order in which they were talked to.
#[test]
fn one_place_is_given_to_one_group_after_the_other() {
    let groups = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n\
                  [groups.one]\nrequires_trigger = false\n[groups.two]\nrequires_trigger = false\n";
    let home = Home::none("parallel = 1", groups, IN_TURN);
    let up = home.up();
    let mut watch = home.watch();
    let stage = |status: &Value, group: &str| status["groups"][group]["stage"].clone();
    let first = home.say("home", "turn 1");
    watch.wait_for("the first works", |status| stage(status, "home") == "working");
    wait_until("its tool runs", || home.place.workplace("ran").exists());
    let second = home.say("two", "turn 2");
    watch.wait_for("the second waits", |status| stage(status, "two") == "queued");
    let third = home.say("one", "turn 3");
    let status = watch.wait_for("the third waits", |status| stage(status, "one") == "queued");
    for group in ["one", "two"] {
        let waits = status["groups"][group]["waits_for"].as_str().unwrap_or_default();
        assert!(waits.contains("runtime.parallel"), "{status:#}");
        assert_eq!(status["groups"][group]["conditions"]["Progressing"]["holds"], true);
    }
    assert!(home.place.run(&["status"]).stdout.contains("queued"));
    // Whoever works more may not go before whoever waits.
    let fourth = home.say("home", "turn 4");
    let folder = |group: &str| home.place.root().join("groups").join(group);
    let ran = |group: &str| std::fs::read_to_string(folder(group).join("ran")).unwrap_or_default();
    let let_go = |group: &str| std::fs::write(folder(group).join("go"), "").unwrap();
    let_go("home");
    home.assert_answers(first, "turn 1");
    wait_until("the second's tool runs", || !ran("two").is_empty());
    assert_eq!(ran("one"), "");
    let_go("two");
    home.assert_answers(second, "turn 2");
    wait_until("the third's tool runs", || !ran("one").is_empty());
    let_go("one");
    home.assert_answers(third, "turn 3");
    home.assert_answers(fourth, "turn 4");
    for status in watch.so_far() {
        let groups = status["groups"].as_object().unwrap();
        let at_work: BTreeSet<&String> = groups
            .iter()
            .filter(|(_, group)| group["stage"] == "working")
            .map(|(name, _)| name)
            .collect();
        assert!(at_work.len() <= 1, "{at_work:?} at once");
    }
    home.assert_each_message_has_one_reply(4);
    up.end();
}

/// Messages of one group are answered one after the other, by one agent, in one container.
#[test]
fn a_group_never_has_two_agents() {
    let Some(engine) = engine_here() else { return };
    let home = Home::docker(engine, "", SHORT, LONG);
    home.apply();
    let events = home.events();
    let up = home.up();
    let said: Vec<_> = (0..4).map(|n| (n, home.say("home", &format!("quick {n}")))).collect();
    for (number, child) in said {
        home.assert_answers(child, &format!("quick {number}"));
    }
    home.status_when("it sleeps", |status| status["groups"]["home"]["stage"] == "asleep");
    home.ask("quick 5");
    up.end();
    events.assert_one_at_a_time();
    home.assert_each_message_has_one_reply(5);
    assert_eq!((events.count("create"), events.count("destroy")), (2, 2), "{:#?}", events.all());
}

/// Whoever asks is told what holds now, whatever the group is at.
#[test]
fn a_group_is_held_and_let_go_in_the_middle_of_a_turn() {
    let home = Home::none("", HOME, LONG);
    let up = home.up();
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    for (verb, words) in [
        ("pause", "is paused. It finishes its turn"),
        ("pause", "is already paused"),
        ("resume", "resumed"),
        ("resume", "is not paused"),
        ("pause", "is paused."),
        ("resume", "resumed"),
    ] {
        let ran = home.place.run(&[verb, "home"]);
        assert!(ran.code == 0 && ran.stdout.contains(words), "{verb} {words}: {ran:?}");
    }
    // What changed nothing is no event.
    for (event, times) in [("group paused", 2), ("group resumed", 2)] {
        assert_eq!(home.log().matches(event).count(), times, "{event}: {}", home.log());
    }
    home.let_go();
    home.assert_answers(said, "long 1");
    home.ask("quick 2");
    up.end();
}

#[test]
fn a_held_group_waits_and_goes_on() {
    let home =
        Home::none("", "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n", LONG);
    let up = home.up();
    let paused = home.place.run(&["pause", "home"]);
    assert_eq!(paused.code, 0, "{paused:?}");
    let said = home.say("home", "quick 1");
    let status = home.status_when("it waits", |status| status["groups"]["home"]["messages"] == 1);
    assert_eq!(status["groups"]["home"]["held"], true);
    assert_eq!(status["groups"]["home"]["waits_for"], "`babybot resume home` (paused)");
    let told = home.place.run(&["status"]);
    assert!(told.stdout.contains("\n  paused; run `babybot resume home"), "{told:?}");
    assert!(!told.stdout.contains("waiting:"), "{told:?}");
    let ended = home.place.run(&["chat", "--wait", "100ms", "home", "quick 2"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    for words in ["home is paused until you run `babybot resume home`", "your message is kept"] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    let resumed = home.place.run(&["resume", "home"]);
    assert!(resumed.code == 0 && resumed.stdout.contains('2'), "{resumed:?}");
    home.assert_answers(said, "quick 1");
    wait_until("the other message is answered", || {
        home.place.value::<i64>("SELECT count(*) FROM outbox WHERE kind = 'reply'") == 2
    });
    home.assert_each_message_has_one_reply(2);
    up.end();
}

/// Within the walls of the group's sandbox, as its agent's user.
#[test]
fn a_command_of_the_operator_runs_within_the_sandbox() {
    let Some(engine) = engine_here() else { return };
    let home = Home::docker(engine, "", SHORT, LONG);
    {
        let up = home.up();
        let ran = home.place.run(&[
            "exec",
            "home",
            "--",
            "/bin/sh",
            "-c",
            "echo here > by-hand; pwd; exit 7",
        ]);
        assert_eq!(ran.code, 7, "{ran:?}\n{}", home.log());
        assert_eq!(home.place.lines("by-hand"), ["here"], "{ran:?}");
        let unknown = home.place.run(&["exec", "garden", "--", "true"]);
        assert!(unknown.code != 0 && unknown.stderr.contains("garden"), "{unknown:?}");
        up.end();
        let none = home.place.run(&["exec", "home", "--", "true"]);
        assert_eq!(none.code, 0, "{none:?}");
    }
}
