//! Engines that go away and come back, agents that cannot start, and how much the engine is asked.

use std::time::{Duration, Instant};

use babybot::controller::LOOK_EVERY;
use serde_json::Value;

use crate::support::docker::{Daemon, Front, needs_engine};
use crate::support::home::{ALWAYS, HOME, Home, LONG, YES, condition, report, within_tasks};
use crate::support::installation::{PATIENCE, comes_true, wait_until};

/// What `runtime.docker` says of a socket of a test.
pub(super) fn through(front: &Front) -> String {
    format!("\n[runtime.docker]\nhost = \"{}\"\n", front.endpoint().url)
}

/// The way to the engine is cut in the middle of a turn, as by a restart of the engine, and comes
/// back.
#[test]
fn a_turn_outlasts_an_engine_that_is_gone_for_a_while() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let mut front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let events = home.events();
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    front.cut();
    let status = home.status_when("it is said", |status| {
        condition(status, "Degraded").is_some()
            && status["controller"]["runtimes"][0]["answers"] == false
    });
    assert!(condition(&status, "Ready").is_none(), "{status:#}");
    let human = home.place.run(&["status"]).stdout;
    assert!(human.contains("does not answer"), "{human}");
    home.let_go();
    let back = Instant::now();
    front.open();
    home.assert_answered(said);
    report(&format!("an engine that was away: answered {:?} after it came back", back.elapsed()));
    home.assert_each_message_has_one_reply(1);
    let begun = home.place.lines("ran").iter().filter(|line| *line == "begun").count();
    assert_eq!(begun, 1, "the call ran again");
    home.status_when("all is well", |status| {
        condition(status, "Degraded").is_none() && condition(status, "Ready").is_some()
    });
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    events.assert_one_at_a_time();
    up.end();
    assert_eq!(home.containers().len(), 0);
}

/// A real one is, with all its containers, in the middle of a turn.
#[test]
fn a_turn_outlasts_an_engine_that_is_restarted() {
    let Some((mut daemon, engine)) = Daemon::start() else { return };
    let host = format!("\n[runtime.docker]\nhost = \"{}\"\n", engine.endpoint.url);
    let home = Home::docker(engine, &host, ALWAYS, LONG);
    let up = home.up();
    let before = home.wait_for_agent();
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    daemon.stop();
    home.status_when("it is said", |status| {
        condition(status, "Degraded").is_some()
            && status["controller"]["runtimes"][0]["answers"] == false
    });
    daemon.start_again();
    home.let_go();
    home.assert_answered(said);
    home.status_when("all is well", |status| {
        let agent = &status["groups"]["home"]["sandbox"];
        agent.as_str().is_some_and(|agent| agent != before)
            && condition(status, "Degraded").is_none()
            && condition(status, "Ready").is_some()
    });
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    // What the engine itself had ended is gone as well.
    assert_eq!(home.containers().len(), 1, "{:?}", home.containers());
    up.end();
    assert_eq!(home.containers().len(), 0);
}

/// Two runtimes serve at once, and one of them is killed: its groups wait, the others do not.
#[test]
fn a_killed_engine_holds_up_its_own_groups_alone() {
    let Some((mut daemon, engine)) = Daemon::start() else { return };
    let host = format!("\n[runtime.docker]\nhost = \"{}\"\n", engine.endpoint.url);
    let groups = format!("{ALWAYS}\n[groups.den]\nruntime = \"none\"\n");
    let home = Home::docker(engine, &host, &groups, LONG);
    let up = home.up();
    home.wait_for_agent();
    assert_eq!(home.containers().len(), 1, "{:?}", home.containers());
    home.assert_answers(home.say("den", "quick 1"), "quick 1");
    daemon.stop();
    let holds = |status: &Value, group: &str, which: &str| {
        status["groups"][group]["conditions"][which]["holds"] == true
    };
    home.status_when("one is away, and the other is not", |status| {
        holds(status, "home", "Degraded")
            && holds(status, "den", "Ready")
            && !holds(status, "den", "Degraded")
    });
    let waits = home.say("home", "quick 2");
    home.assert_answers(home.say("den", "quick 3"), "quick 3");
    // It is looked after all the same.
    let settings = home.place.root().join("data/sessions/den/.ollama/settings.json");
    std::fs::write(&settings, "{}").unwrap();
    wait_until("it is repaired", || std::fs::read(&settings).unwrap() != b"{}");
    daemon.start_again();
    home.assert_answers(waits, "quick 2");
    home.status_when("both are well", |status| {
        holds(status, "home", "Ready") && holds(status, "den", "Ready")
    });
    home.assert_each_message_has_one_reply(3);
    up.end();
    assert_eq!(home.containers().len(), 0);
}

/// A conversation without a controller that lasts needs the runtime of its own group alone.
#[test]
fn a_group_on_processes_is_reached_while_the_engine_of_others_is_away() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let mut front = Front::of(&engine);
    let groups = format!("{HOME}\n[groups.den]\nruntime = \"none\"\n");
    let home = Home::docker(engine, &through(&front), &groups, LONG);
    home.apply();
    home.ask("quick 1");
    front.cut();
    home.assert_answers(home.say("den", "quick 2"), "quick 2");
    front.open();
    home.ask("quick 3");
    home.assert_each_message_has_one_reply(3);
}

/// Nobody talks while the engine is away.
#[test]
fn an_agent_at_rest_is_back_after_its_engine_is() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let mut front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    front.cut();
    home.status_when("it is said", |status| condition(status, "Degraded").is_some());
    front.open();
    home.wait_for_agent();
    home.status_when("all is well", |status| {
        condition(status, "Degraded").is_none() && condition(status, "Ready").is_some()
    });
    home.ask("quick 1");
    assert_eq!(home.containers().len(), 1, "{:?}", home.containers());
    up.end();
}

/// Waits until what a start or a change brought with it is over.
#[track_caller]
pub(super) fn wait_until_quiet(front: &Front) {
    assert!(front.is_quiet_for(Duration::from_millis(700)), "the engine is asked all the time");
}

/// A thousand things happen to what is watched, and the engine is asked a few times.
#[test]
fn a_thousand_events_at_once_are_a_few_looks() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    wait_until_quiet(&front);
    let before = front.requests();
    let root = home.place.root();
    let settings = root.join("data/sessions/home/.ollama/settings.json");
    let text = std::fs::read(&settings).unwrap();
    let began = Instant::now();
    for number in 0..500 {
        std::fs::write(&settings, &text).unwrap();
        let (from, to) = (root.join(format!("groups/g{number}")), root.join("groups/other"));
        std::fs::create_dir(&from).unwrap();
        std::fs::rename(&from, &to).unwrap();
        std::fs::remove_dir(&to).unwrap();
    }
    let took = began.elapsed();
    wait_until_quiet(&front);
    let asked = front.requests() - before;
    report(&format!("2,000 folder events within {took:?}: {asked} requests to the engine"));
    // Each look is a few requests; a look per event would be thousands.
    let looks = usize::try_from(took.as_millis() / 250).unwrap() + 6;
    assert!(asked <= looks * 12, "{asked} requests within {took:?}");
    home.ask("quick 1");
    up.end();
}

/// At rest, nothing is asked but by the timer.
#[test]
fn nothing_is_asked_while_nothing_happens() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    assert!(front.is_quiet_for(LOOK_EVERY / 4), "the engine is asked while nothing happens");
    up.end();
}

/// Both ways lead to one engine here, and are two for whoever is told where it is.
#[test]
fn agents_move_to_the_engine_that_is_named_instead() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let (mut one, mut other) = (Front::of(&engine), Front::of(&engine));
    let home = Home::docker(engine, &through(&one), ALWAYS, LONG);
    let up = home.up();
    let first = home.wait_for_agent();
    let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let moved = manifest.replace(&one.endpoint().url, &other.endpoint().url);
    home.place.write("babybot.toml", &moved);
    home.apply();
    let second = home.wait_for_agent();
    assert_ne!(first, second, "it stayed at the old one");
    let used = home.place.column("SELECT endpoint FROM endpoints ORDER BY first_used");
    assert_eq!(used, [one.endpoint().url, other.endpoint().url]);

    one.cut();
    let ended = home.place.run(&["exec", "home", "--", "true"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    home.ask("quick 1");
    // It hears of what happens there, long before it looks by itself.
    let id = second.clone();
    home.ask_engine(|client| async move { client.pause_container(&id).await });
    let paused = Instant::now();
    home.status_when("another runs", |status| {
        let home = &status["groups"]["home"];
        home["stage"] == "idle" && home["sandbox"].as_str().is_some_and(|id| id != second)
    });
    assert!(paused.elapsed() < LOOK_EVERY / 2, "{:?}", paused.elapsed());

    // What waits for an engine that does not come back is answered at another.
    one.open();
    other.cut();
    let waits = home.say("home", "quick 2");
    home.status_when("it waits", |status| condition(status, "Degraded").is_some());
    home.place.write("babybot.toml", &manifest);
    home.apply();
    home.assert_answers(waits, "quick 2");
    home.assert_each_message_has_one_reply(2);
    up.end();
    assert_eq!(home.containers().len(), 0);
}

/// What is in the image ends at once, again and again, until somebody mends it.
#[test]
fn an_agent_that_cannot_start_is_tried_less_and_less_often() {
    let engine = needs_engine!();
    let image = format!("[runtime.image]\nref = \"{}\"\n", engine.image);
    let good = engine.agent_image();
    let home = Home::docker_with(engine, "", &image, ALWAYS, LONG);
    home.apply();
    let events = home.events();
    let up = home.up();
    let status = home.status_when("it is a crash loop", |status| {
        condition(status, "Degraded").is_some_and(|why| why.contains("crash loop"))
    });
    assert!(condition(&status, "Ready").is_none(), "{status:#}");
    // From the end of one container to the making of the next, by the engine's clock.
    let waits: Vec<Duration> = {
        let all = events.all();
        let ends = all.iter().enumerate().filter(|(_, event)| event.action == "destroy");
        let next = ends.filter_map(|(at, end)| {
            let made = all[at..].iter().find(|event| event.action == "create")?;
            Some(made.at.saturating_sub(end.at))
        });
        next.collect()
    };
    report(&format!("a crash loop: {waits:?} between containers until it is one"));
    assert!(waits.last() > waits.first(), "it is tried as often as before: {waits:?}");

    let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let broken = home.engine().image.clone();
    home.place.write("babybot.toml", &manifest.replace(&broken, &good));
    // Containers come and go while it is decided, and then it is decided anew.
    let applied = || {
        let ended = home.place.run(&["apply", YES]);
        assert!([0, 5].contains(&ended.code), "{ended:?}");
        ended.code == 0
    };
    assert!(comes_true(PATIENCE, applied), "it is never applied: {}", home.log());
    home.wait_for_agent();
    let status = home.status_when("all is well", |status| {
        condition(status, "Degraded").is_none()
            && condition(status, "Drifted").is_none()
            && condition(status, "Ready").is_some()
            && status["pending"].is_null()
    });
    assert_eq!(status["generation"], 2, "{status:#}");
    home.ask("quick 1");
    up.end();
}

/// The same on processes: HOME is not a folder, until it is again.
#[test]
fn a_message_to_an_agent_that_cannot_start_is_answered_once_it_can() {
    let home = Home::none("", HOME, LONG);
    let up = home.up();
    let session = home.place.root().join("data/sessions/home");
    let aside = home.place.beside("aside");
    std::fs::rename(&session, &aside).unwrap();
    wait_until("the folder is back", || session.is_dir());
    home.ask("quick 1");
    home.assert_each_message_has_one_reply(1);
    up.end();
}

#[test]
fn a_group_whose_model_cannot_be_reached_is_degraded_and_neither_ready_nor_drifted() {
    // Nobody listens there: the port was given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = Home::none("", HOME, LONG);
    let path = home.place.root().join("babybot.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let model =
        format!("kind = \"ollama\"\nurl = \"http://127.0.0.1:{port}\"\nmodel = \"qwen3:8b\"\n");
    let lines = manifest.lines().filter(|line| !line.starts_with("script"));
    let manifest = lines.map(|line| format!("{line}\n")).collect::<String>();
    home.place.write("babybot.toml", &manifest.replace("kind = \"rehearsal\"\n", &model));
    let applied = home.place.run(&["apply", "--yes=privileged"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let up = home.up();
    let status = home.status_when("it is known", |status| condition(status, "Degraded").is_some());
    for other in ["Ready", "Drifted"] {
        assert_eq!(condition(&status, other), None, "{status:#}");
    }
    let page = home.place.run(&["status"]).stdout;
    assert!(page.contains("is not running") && !page.contains("waiting:"), "{page}");

    // A group with a turn that waits is not idle.
    let said = home.place.run(&["chat", "--wait", "100ms", "home", "hello"]);
    assert_eq!(said.code, 1, "{said:?}");
    home.status_when("its turn waits", |status| {
        let home = &status["groups"]["home"];
        home["turn"].is_array() && home["stage"] == "queued"
    });
    up.end();
}
