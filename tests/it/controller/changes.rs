//! Changes that somebody asks for while a controller runs.

use crate::support::docker::needs_engine;
use crate::support::home::{ALWAYS, HOME, Home, LONG, YES, condition};
use crate::support::installation::{PATIENCE, wait_for_end, wait_until};

/// The group with another limit of memory.
fn edit_memory(home: &Home, memory: &str) {
    let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let lines = manifest.lines().filter(|line| !line.starts_with("limits")).collect::<Vec<_>>();
    let manifest = format!("{}\nlimits = {{ memory = \"{memory}\" }}\n", lines.join("\n"));
    home.place.write("babybot.toml", &manifest);
}

/// The lines of a plan that say what is done.
fn steps(plan: &str) -> Vec<String> {
    let marked = plan.lines().filter(|line| {
        ["+", "~", "-", "±", "-/+", "↻"].iter().any(|mark| line.trim_start().starts_with(mark))
            && line.contains('/')
    });
    marked.map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_changed_limit_replaces_the_container_once_the_turn_is_over() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    home.apply();
    edit_memory(&home, "256MiB");
    let without = home.place.run(&["plan"]);
    assert_eq!(
        steps(&without.stdout).iter().map(|s| s.contains("group/home")).collect::<Vec<_>>(),
        [true],
        "{}",
        without.stdout
    );
    edit_memory(&home, "1GiB");

    let up = home.up();
    let before = home.wait_for_agent();
    let events = home.events();
    let unedited = home.place.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(unedited.code, 0, "{unedited:?}");

    edit_memory(&home, "256MiB");
    let with = home.place.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(with.code, 2, "{with:?}");
    let found = steps(&with.stdout);
    assert_eq!(found.len(), 2, "{}", with.stdout);
    assert!(found[0].contains("group/home") && found[1].contains("container/home"), "{found:?}");
    home.status_when("it is pending", |status| condition(status, "PendingChanges").is_some());
    assert_eq!(events.count("die"), 0, "an edit is no action");

    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    let applied = home.apply();
    assert!(home.place.lines("ran") == ["begun"], "{applied:?}");
    assert_eq!(events.count("die"), 0, "the turn was not waited for: {applied:?}");
    let said_so = format!("{}{}", applied.stdout, applied.stderr);
    assert!(said_so.contains("container/home"), "the plan names what it waits for: {said_so}");
    home.let_go();
    home.assert_answers(said, "long 1");
    events.wait("another starts", |e| e.action == "start" && e.id != before);
    let after = home.status_when("another agent runs", |status| {
        let home = &status["groups"]["home"];
        home["stage"] == "idle" && home["sandbox"].as_str().is_some_and(|id| id != before)
    });
    // Where the turn ran, as its tool saw it.
    let host = home.place.lines("host");
    assert!(host.is_empty() || host[0].is_empty() || before.starts_with(&host[0]), "{host:?}");
    home.status_when("nothing is pending", |status| condition(status, "PendingChanges").is_none());
    assert_eq!((events.count("start"), events.count("die")), (1, 1), "{:#?}", events.all());
    let id = after["groups"]["home"]["sandbox"].as_str().unwrap().to_owned();
    let found = home.ask_engine(|client| async move { client.inspect_container(&id, None).await });
    assert_eq!(found.host_config.unwrap().memory, Some(256 << 20));
    events.assert_one_at_a_time();
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    up.end();
}

#[test]
fn an_edit_waits_for_an_apply_and_an_invalid_one_changes_nothing() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let mut watch = home.watch();
    let good = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();

    home.place.write("babybot.toml", &good.replace("requires_trigger", "requires_tigger"));
    let status =
        watch.wait_for("the problem is shown", |status| status["pending"]["valid"] == false);
    let text = status["pending"]["text"].as_str().unwrap();
    assert!(text.contains("requires_tigger") && text.contains("BB"), "{text}");
    let human = home.place.run(&["status"]).stdout;
    assert!(human.contains("requires_tigger"), "{human}");
    home.ask("quick 1");

    home.place.write("babybot.toml", &good.replace("requires_trigger = false\n", ""));
    let status = watch.wait_for("the plan is shown", |status| status["pending"]["valid"] == true);
    let text = status["pending"]["text"].as_str().unwrap();
    assert!(text.contains("group/home") && text.contains("requires_trigger"), "{text}");
    assert_eq!(status["generation"], 1);
    assert!(condition(&status, "PendingChanges").is_some());
    assert_eq!(home.place.run(&["plan", "--detailed-exitcode"]).code, 2);

    home.place.write("babybot.toml", &good);
    watch.wait_for("nothing is pending", |status| status["pending"].is_null());
    let plan = home.place.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert_eq!(home.status()["generation"], 1);
    up.end();
}

#[test]
fn a_group_that_is_applied_from_another_shell_is_served_and_one_that_is_taken_out_is_not() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let good = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    home.place.write("babybot.toml", &format!("{good}\n[groups.garden]\n"));
    let refused = home.place.run(&["apply"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    home.apply();
    let said = home.say("garden", "quick 1");
    home.assert_answers(said, "quick 1");
    assert_eq!(home.status()["generation"], 2);

    home.place.write("babybot.toml", &good);
    home.apply();
    home.status_when("it is served no more", |status| {
        status["groups"].as_object().is_some_and(|groups| groups.len() == 1)
    });
    assert_ne!(home.place.run(&["chat", "garden", "quick 2"]).code, 0);
    home.ask("quick 3");
    home.assert_each_message_has_one_reply(2);
    up.end();
}

/// What it said is kept, whoever waits is told, and one that comes back is the only one.
#[test]
fn a_group_that_is_taken_out_at_work_finishes_and_may_come_back() {
    let home = Home::none("", &format!("{HOME}[groups.garden]\n"), LONG);
    let up = home.up();
    let both = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let without = both.replace(HOME, "");
    assert_ne!(without, both);
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    let waits = home.say("home", "quick 2");
    home.place.write("babybot.toml", &without);
    let applied = home.apply();
    assert!(applied.stdout.contains("will stop when the current work is done"), "{applied:?}");
    home.place.write("babybot.toml", &both);
    home.apply();
    home.let_go();
    home.assert_answers(said, "long 1");
    home.assert_answers(waits, "quick 2");
    assert_eq!(home.place.lines("ran"), ["begun", "ended"], "it ran twice");

    std::fs::remove_file(home.place.workplace("go")).unwrap();
    let said = home.say("home", "long 3");
    home.wait_until_begun(2);
    let waits = home.say("home", "quick 4");
    home.place.write("babybot.toml", &without);
    home.apply();
    home.let_go();
    home.assert_answers(said, "long 3");
    let ended = wait_for_end(waits, PATIENCE);
    assert!(ended.code == 1 && ended.stderr.contains("home was removed"), "{ended:?}");
    up.end();
}

/// Whoever looks inside is not cut short either.
#[test]
fn a_group_that_is_taken_out_stays_while_somebody_looks_inside() {
    let home = Home::none("", &format!("{HOME}[groups.garden]\n"), LONG);
    let up = home.up();
    let script = "echo begun >> ran; while ! [ -e go ]; do sleep 0.02; done; exit 7";
    let inside = home.start(&mut home.place.command(["exec", "home", "--", "sh", "-c", script]));
    home.wait_until_begun(1);
    let both = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    home.place.write("babybot.toml", &both.replace(HOME, ""));
    home.apply();
    home.status_when("it is taken out", |status| status["groups"]["home"].is_null());
    assert!(inside.process.is_alive(), "{}", inside.said());
    home.let_go();
    let (code, told) = inside.wait(PATIENCE);
    assert_eq!(code, 7, "{told}");
    up.end();
}

/// What was built takes long, and nobody waits for it whose agent it is not.
#[test]
fn an_agent_that_is_killed_while_an_image_is_built_is_back_before_that_is_done() {
    let engine = needs_engine!();
    let base = engine.slow_base();
    let image = format!("[runtime.image]\nbase = \"{base}\"\n");
    let home = Home::docker_with(engine, "", &image, ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let events = home.events();
    let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let more = manifest.replace(&image, &format!("{image}packages = [\"curl\"]\n"));
    home.place.write("babybot.toml", &more);
    let apply = home.start(&mut home.place.command(["apply", "-v", YES]));
    wait_until("it is being built", || apply.said().contains("installing slowly"));
    let container = home.container("home");
    home.ask_engine(|client| async move { client.kill_container(&container, None).await });
    events.wait("it is back", |event| event.action == "start");
    assert!(apply.process.is_alive(), "the build was waited for: {}", apply.said());
    let (code, told) = apply.wait(PATIENCE);
    assert_eq!(code, 0, "{told}");
    events.assert_one_at_a_time();
    home.ask("quick 1");
    up.end();
}

/// A safe edit that cannot be carried out is tried once: each attempt is a generation.
#[test]
fn an_edit_that_fails_when_it_is_followed_waits_for_another() {
    let engine = needs_engine!();
    // Nothing in it installs packages.
    let image = format!("[runtime.image]\nbase = \"{}\"\n", engine.image);
    let home = Home::docker_with(engine, "", &image, HOME, LONG);
    let up = home.up_with(&[YES, "--follow"]);
    let good = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let bad = good.replace(&image, &format!("{image}packages = [\"no-such-package\"]\n"));
    home.place.write("babybot.toml", &bad);
    home.status_when("it is left", |status| status["pending"]["valid"] == true);
    let generation = home.status()["generation"].as_u64().unwrap();
    assert!(generation <= 2, "{generation}");
    home.place.write("babybot.toml", &format!("{good}\n[groups.garden]\n"));
    home.status_when("the next is followed", |status| {
        status["groups"]["garden"].is_object() && status["pending"].is_null()
    });
    assert_eq!(home.status()["generation"].as_u64().unwrap(), generation + 1);
    up.end();
}

#[test]
fn following_applies_what_is_safe_and_leaves_what_is_not() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.up_with(&[YES, "--follow"]);
    home.wait_for_agent();
    let good = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let safe = format!("{good}limits = {{ turn = \"20m\" }}\n");
    home.place.write("babybot.toml", &safe);
    let status = home.status_when("it is applied", |status| status["generation"] == 2);
    assert!(status["pending"].is_null(), "{status:#}");

    // Taking a group out is not safe.
    let more = format!("{safe}\n[groups.garden]\n");
    home.place.write("babybot.toml", &more);
    home.status_when("it is applied, or left", |status| {
        status["generation"] == 3 || !status["pending"].is_null()
    });
    home.apply();
    home.place.write("babybot.toml", &safe);
    let status = home.status_when("it is left", |status| status["pending"]["valid"] == true);
    assert_eq!(status["generation"], 3, "{status:#}");
    assert_eq!(status["groups"].as_object().unwrap().len(), 2);
    home.ask("quick 1");
    up.end();
}

/// Nothing of it is new, so that nobody is asked and nothing is done.
#[test]
fn a_start_with_nothing_to_apply_asks_nobody() {
    let home = Home::none("", ALWAYS, LONG);
    home.apply();
    let up = home.up_with(&[]);
    assert!(!up.said().contains("approve"), "{}", up.said());
    home.ask("quick 1");
    up.end();
    edit_memory(&home, "256MiB");
    let good = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let edited = good.replace("limits = { memory = \"256MiB\" }", "limits = { turn = \"20m\" }");
    home.place.write("babybot.toml", &edited);
    // Nobody approves: what was applied runs on, and says so.
    let up = home.up_with(&[]);
    assert!(up.said().contains("generation 1 keeps running"), "{}", up.said());
    home.status_when("it is pending", |status| condition(status, "PendingChanges").is_some());
    home.ask("quick 2");
    up.end();
    wait_until("nothing runs", || home.place.processes().is_empty());
}

#[test]
fn what_was_applied_with_an_override_stays_until_the_next_apply() {
    let home = Home::none("", HOME, LONG);
    let run = |arguments: &[&str], timeout: &str| {
        let mut command = home.place.command(arguments);
        command.env("CONTAINER_TIMEOUT", timeout);
        command
    };
    let applied = wait_for_end(run(&["apply", YES], "600000").spawn().unwrap(), PATIENCE);
    assert_eq!(applied.code, 0, "{applied:?}");
    let offline = home.place.run(&["status"]);
    let shown = "CONTAINER_TIMEOUT=600000 from the environment";
    assert!(offline.stdout.contains(shown), "{offline:?}");

    // A controller's own environment says nothing, though it says something else.
    let up = home.start(&mut run(&["up"], "900000"));
    up.wait_until_it_serves();
    let manifest = home.place.root().join("babybot.toml");
    let written = std::fs::read_to_string(&manifest).unwrap();
    let renamed = "[assistant]\nname = \"Robin\"\n";
    home.place.write("babybot.toml", &format!("{written}\n{renamed}"));
    let status = home.status_when("the edit is pending", |status| !status["pending"].is_null());
    let text = status["pending"]["text"].as_str().unwrap();
    assert!(text.contains("limits.turn is 10m") && !text.contains("15m"), "{text}");
    let online = home.place.run(&["status"]);
    assert!(online.stdout.contains(shown), "{online:?}");
    assert_eq!(home.status()["environment"]["CONTAINER_TIMEOUT"], "600000");

    let plan = home.place.run(&["plan"]);
    for line in ["limits.turn", "CONTAINER_TIMEOUT=600000"] {
        assert!(plan.stdout.contains(line), "{line}: {plan:?}");
    }
    home.apply();
    assert_eq!(home.status()["environment"], serde_json::json!({}));
    up.end();
}
