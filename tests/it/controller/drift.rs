//! What is changed behind a controller's back: it comes back, is told, and loses nothing.

use std::time::{Duration, Instant};

use babybot::controller::LOOK_EVERY;
use babybot::runtime::docker::{GENERATION, GROUP, INSTANCE};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, NetworkConnectRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StopContainerOptionsBuilder,
};

use super::engine::{through, wait_until_quiet};
use crate::support::docker::{Front, engine_here, needs_engine};
use crate::support::home::{
    ALWAYS, Event, Events, HOME, Home, LONG, condition, report, within_tasks,
};
use crate::support::installation::{comes_true, wait_until};

/// Within which something is back on a machine that has other things to do as well; it is to be
/// one second on one that has not.
const BACK_WITHIN: Duration = Duration::from_secs(LOOK_EVERY.as_secs() / 2);

/// Does something to the group's container, and checks that another takes its place in time.
#[track_caller]
fn check_replaced(what: &str, cause: &str, words: &str, hurt: impl FnOnce(&Home, &str)) {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    let up = home.up();
    let before = home.wait_for_agent();
    let decoy = home.stranger(&format!("decoy-{}", &home.instance()[..8]), &[]);
    let other =
        [(INSTANCE, "0123456789abcdef0123456789abcdef"), (GROUP, "home"), (GENERATION, "1")];
    let neighbour = home.stranger(&format!("neighbour-{}", &home.instance()[..8]), &other);
    let events = home.events();

    hurt(&home, &before);
    let hurt = events.wait(cause, |event| event.action == cause && event.id == before);
    check_back(&home, what, &events, &before, &hurt);
    home.assert_drift_is_told("container/home", words);
    let after = home.wait_for_agent();
    assert_ne!(after, before);
    home.ask("quick 1");
    home.assert_each_message_has_one_reply(1);
    assert_eq!(home.containers().len(), 1, "{:?}", home.containers());
    events.assert_one_at_a_time();
    up.end();
    assert_eq!(home.containers().len(), 0);
    decoy.assert_untouched();
    neighbour.assert_untouched();
}

#[track_caller]
fn check_back(home: &Home, what: &str, events: &Events, before: &str, hurt: &Event) {
    let back = events.wait("another starts", |event| event.action == "start" && event.id != before);
    let took = back.at.saturating_sub(hurt.at);
    report(&format!("{what}: back {} ms after the event", took.as_millis()));
    assert!(took < BACK_WITHIN, "{what}: back after {took:?}\n{}", home.log());
}

#[test]
fn a_container_that_was_killed_is_back_at_once() {
    check_replaced("docker kill", "kill", "signal 9", |home, id| {
        let id = id.to_owned();
        home.ask_engine(|client| async move {
            let options = KillContainerOptionsBuilder::default().signal("KILL").build();
            client.kill_container(&id, Some(options)).await
        });
    });
}

#[test]
fn a_container_that_was_removed_is_back_at_once() {
    check_replaced("docker rm -f", "kill", "stopped", |home, id| {
        let id = id.to_owned();
        home.ask_engine(|client| async move {
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            client.remove_container(&id, Some(options)).await
        });
    });
}

#[test]
fn a_container_that_was_stopped_is_back_at_once() {
    check_replaced("docker stop", "die", "stopped", |home, id| {
        let id = id.to_owned();
        home.ask_engine(|client| async move {
            let options = StopContainerOptionsBuilder::default().t(5).build();
            client.stop_container(&id, Some(options)).await
        });
    });
}

#[test]
fn a_container_that_was_paused_is_replaced() {
    check_replaced("docker pause", "pause", "paused", |home, id| {
        let id = id.to_owned();
        home.ask_engine(|client| async move { client.pause_container(&id).await });
    });
}

#[test]
fn a_container_whose_limits_were_edited_is_replaced() {
    check_replaced("docker update", "update", "memory", |home, id| {
        let id = id.to_owned();
        home.ask_engine(|client| async move {
            let update = ContainerUpdateBody {
                memory: Some(800 << 20),
                memory_swap: Some(800 << 20),
                ..Default::default()
            };
            client.update_container(&id, update).await
        });
    });
}

/// A container leaves the network in which there is nothing, and enters one.
#[test]
fn a_container_that_was_put_into_a_network_is_replaced_at_once() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), ALWAYS, LONG);
    let up = home.up();
    let before = home.wait_for_agent();
    let events = home.events();
    // No look of the start is to see it by chance.
    wait_until_quiet(&front);
    let id = before.clone();
    home.ask_engine(|client| async move {
        let request = NetworkDisconnectRequest { container: id.clone(), force: Some(false) };
        client.disconnect_network("none", request).await?;
        let request = NetworkConnectRequest { container: id, ..Default::default() };
        client.connect_network("bridge", request).await
    });
    let connected = Instant::now();
    events.wait("another starts", |event| event.action == "start" && event.id != before);
    let took = connected.elapsed();
    report(&format!("docker network connect: back {took:?} after it"));
    // A look comes every 30 s in any case.
    assert!(took < BACK_WITHIN, "back after {took:?}\n{}", home.log());
    home.assert_drift_is_told("container/home", "it is in the network bridge");
    home.ask("quick 1");
    home.assert_each_message_has_one_reply(1);
    events.assert_one_at_a_time();
    up.end();
}

#[test]
fn a_container_that_was_renamed_is_replaced() {
    check_replaced("docker rename", "rename", "", |home, id| {
        let (id, name) = (id.to_owned(), format!("renamed-{}", &home.instance()[..8]));
        home.ask_engine(|client| async move {
            let options = RenameContainerOptionsBuilder::default().name(&name).build();
            client.rename_container(&id, options).await
        });
    });
}

/// Somebody runs a second container that says it is the group's.
#[test]
fn a_second_container_of_a_group_is_removed() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    let up = home.up();
    let before = home.wait_for_agent();
    let events = home.events();
    let (instance, image) = (home.instance(), home.engine().image.clone());
    let name = format!("twin-{}", &instance[..8]);
    let labels = [(INSTANCE, instance.as_str()), (GROUP, "home"), (GENERATION, "1")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let twin = home.ask_engine(|client| async move {
        let body = ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(vec!["/bin/sleep".into(), "600".into()]),
            labels: Some(labels.into_iter().collect()),
            network_disabled: Some(true),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let id = client.create_container(Some(options), body).await?.id;
        client.start_container(&id, None).await?;
        Ok::<_, bollard::errors::Error>(id)
    });
    let came = events.wait("the twin starts", |e| e.action == "start" && e.id == twin);
    let gone = events.wait("the twin goes", |e| e.action == "destroy" && e.id == twin);
    let took = gone.at.saturating_sub(came.at);
    report(&format!("a second container: gone {} ms after its start", took.as_millis()));
    assert!(took < BACK_WITHIN, "gone after {took:?}");
    home.ask("quick 1");
    // The first one stays, and answers.
    assert_eq!(home.wait_for_agent(), before);
    let ours = home.containers();
    assert_eq!(ours.get(&home.container("home")), Some(&before), "{ours:?}");
    assert_eq!(ours.len(), 1, "{ours:?}");
    home.assert_drift_is_told("container/home", "");
    home.assert_each_message_has_one_reply(1);
    up.end();
}

/// Kills, removes, pauses and edits the container in which a turn is under way.
#[test]
fn a_turn_outlasts_whatever_is_done_to_its_container() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let events = home.events();
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    let first = home.status()["groups"]["home"]["sandbox"].as_str().unwrap().to_owned();
    let id = first.clone();
    home.ask_engine(|client| async move {
        let options = KillContainerOptionsBuilder::default().signal("KILL").build();
        client.kill_container(&id, Some(options)).await
    });
    let died = events.wait("it dies", |e| e.action == "die" && e.id == first);
    // The tool that was interrupted may have run, so that it is not run again.
    home.let_go();
    home.assert_answered(said);
    let back = events.wait("another starts", |e| e.action == "start" && e.id != first);
    report(&format!("killed in a turn: back {} ms after", (back.at - died.at).as_millis()));
    home.assert_each_message_has_one_reply(1);
    let begun = home.place.lines("ran").iter().filter(|line| *line == "begun").count();
    assert_eq!(begun, 1, "the call ran again");
    events.assert_one_at_a_time();
    home.assert_drift_is_told("container/home", "signal 9");
    up.end();
}

/// An edit of a limit waits until the turn is over, and is mended then.
#[test]
fn an_edited_container_finishes_its_turn_before_it_is_replaced() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    let up = home.up();
    let before = home.wait_for_agent();
    let events = home.events();
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    let id = before.clone();
    home.ask_engine(|client| async move {
        let update = ContainerUpdateBody {
            memory: Some(800 << 20),
            memory_swap: Some(800 << 20),
            ..Default::default()
        };
        client.update_container(&id, update).await
    });
    events.wait("it is edited", |e| e.action == "update");
    home.status_when("it is seen", |status| {
        condition(status, "Drifted").is_some() || status["groups"]["home"]["waits_for"].is_string()
    });
    assert_eq!(events.count("die"), 0);
    home.let_go();
    home.assert_answers(said, "long 1");
    let back = events.wait("another starts", |e| e.action == "start" && e.id != before);
    report(&format!("edited in a turn: {:?}", back.action));
    home.assert_drift_is_told("container/home", "memory");
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    events.assert_one_at_a_time();
    up.end();
}

#[test]
fn a_turn_in_a_paused_container_is_gone_on_with() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    let up = home.up();
    let before = home.wait_for_agent();
    let events = home.events();
    let said = home.say("home", "long 1");
    home.wait_until_begun(1);
    let id = before.clone();
    home.ask_engine(|client| async move { client.pause_container(&id).await });
    let paused = events.wait("it is paused", |e| e.action == "pause");
    home.let_go();
    let back = events.wait("another starts", |e| e.action == "start" && e.id != before);
    report(&format!("paused in a turn: back after {} ms", (back.at - paused.at).as_millis()));
    home.assert_answered(said);
    home.assert_each_message_has_one_reply(1);
    events.assert_one_at_a_time();
    up.end();
}

/// A stranger sits where the group's container belongs: nobody touches it, and everything waits.
#[test]
fn a_strangers_container_with_our_name_is_left_alone_and_waited_for() {
    let home = Home::docker(needs_engine!(), "", HOME, LONG);
    let up = home.up();
    let stranger = home.stranger(&home.container("home"), &[]);
    let said = home.say("home", "quick 1");
    home.status_when("it is reported", |status| {
        status["groups"]["home"].to_string().contains(&home.container("home"))
            && condition(status, "Ready").is_none()
    });
    let plan = home.place.run(&["plan"]);
    assert!(plan.stdout.contains(&home.container("home")), "{plan:?}");
    stranger.assert_untouched();
    drop(stranger);
    home.assert_answers(said, "quick 1");
    home.assert_each_message_has_one_reply(1);
    up.end();
}

#[test]
fn an_agent_that_always_runs_waits_for_a_stranger_as_well() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    home.apply();
    let stranger = home.stranger(&home.container("home"), &[]);
    let up = home.up();
    home.status_when("it is reported", |status| {
        status["groups"]["home"].to_string().contains(&home.container("home"))
    });
    stranger.assert_untouched();
    let events = home.events();
    drop(stranger);
    home.wait_for_agent();
    home.ask("quick 1");
    assert_eq!(events.count("start"), 1);
    up.end();
}

/// What is ours among the files of a project.
#[test]
fn files_that_were_edited_or_deleted_are_back_at_once() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let root = home.place.root();
    let settings = root.join("data/sessions/home/.ollama/settings.json");
    let original = std::fs::read(&settings).unwrap();

    std::fs::write(&settings, "{\"model\": \"another\"}").unwrap();
    wait_until("the settings are as they were", || {
        std::fs::read(&settings).is_ok_and(|now| now == original)
    });
    home.assert_drift_is_told("settings/home", "");
    std::fs::remove_file(&settings).unwrap();
    wait_until("the settings are back", || {
        std::fs::read(&settings).is_ok_and(|now| now == original)
    });
    let memory = root.join("groups/global/MEMORY.md");
    std::fs::remove_file(&memory).unwrap();
    wait_until("the memory is back", || memory.exists());
    home.assert_drift_is_told("memory/global", "");
    home.ask("quick 1");
    up.end();
}

/// The group's folder goes, and with it what its container has mounted.
#[test]
fn a_folder_that_was_deleted_is_back_and_so_is_its_agent() {
    for home in [
        Some(Home::none("", ALWAYS, LONG)),
        engine_here().map(|engine| Home::docker(engine, "", ALWAYS, LONG)),
    ]
    .into_iter()
    .flatten()
    {
        let up = home.up();
        let before = home.wait_for_agent();
        let folder = home.place.root().join("groups/home");
        std::fs::remove_dir_all(&folder).unwrap();
        // What is said right now waits for it.
        home.ask("quick 1");
        wait_until("the folder is back", || folder.exists());
        home.status_when("another agent runs", |status| {
            let home = &status["groups"]["home"];
            home["stage"] == "idle"
                && home["sandbox"].as_str().is_some_and(|sandbox| sandbox != before)
        });
        home.assert_drift_is_told("folder/home", "");
        // The agent works in the folder that there is now.
        home.let_go();
        home.ask("long 2");
        assert_eq!(home.place.lines("ran"), ["begun", "ended"]);
        home.assert_each_message_has_one_reply(2);
        up.end();
    }
}

/// Who talks without `up` has nobody else to mend it.
#[test]
fn an_image_that_was_removed_is_built_again_for_whoever_talks() {
    let engine = needs_engine!();
    let image = "[runtime.image]\nbase = \"scratch\"\n";
    let home = Home::docker_with(engine, "", image, crate::support::home::HOME, LONG);
    home.apply();
    for image in home.images() {
        home.ask_engine(|client| async move {
            let force = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true);
            client.remove_image(&image, Some(force.build()), None).await
        });
    }
    home.ask("quick 1");
    home.assert_each_message_has_one_reply(1);
}

#[test]
fn an_image_that_was_removed_is_built_again() {
    let engine = needs_engine!();
    let image = format!("[runtime.image]\nbase = \"{}\"\n", "scratch");
    let home = Home::docker_with(engine, "", &image, crate::support::home::HOME, LONG);
    let up = home.up();
    home.ask("quick 1");
    let plan = home.place.run(&["plan", "--format", "json"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let count = || home.images();
    let [image] = &count()[..] else { panic!("{:?}", count()) };
    let id = image.clone();
    // Nothing runs from it while nobody talks.
    let containers = home.containers();
    for id in containers.into_values() {
        home.ask_engine(|client| async move {
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            client.remove_container(&id, Some(options)).await
        });
    }
    home.ask_engine(|client| async move {
        let force = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true);
        client.remove_image(&id, Some(force.build()), None).await
    });
    home.ask("quick 2");
    assert!(comes_true(Duration::from_secs(5), || count().len() == 1), "{}", home.log());
    home.assert_drift_is_told("image/", "");
    home.assert_each_message_has_one_reply(2);
    up.end();
}
