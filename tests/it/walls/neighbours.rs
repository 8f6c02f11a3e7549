//! Others at the same engine: a copy of the project, another project, and what an engine was left.

use std::process::Command;

use super::house::{House, RUN, VERB_MAX};
use crate::support::docker::{Front, block_on, needs_engine, outside};
use crate::support::home::{HOME, YES};
use crate::support::installation::{Ended, wait_for_end, wait_until};

/// A group whose agent always runs.
const ALWAYS: &str = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n\
                      lifecycle = \"always\"\n";

#[test]
fn a_copy_of_a_project_touches_no_container_of_the_original() {
    let engine = needs_engine!();
    let house = House::new(&engine, ALWAYS, RUN);
    house.apply();
    let up = house.up();
    wait_until("its agent runs", || house.runs());
    let original = house.container();
    let copy = house.installation.beside("copy");
    let copied = Command::new("cp").arg("-a").args([&house.root(), &copy]).status();
    assert!(copied.unwrap().success());
    for verb in [
        &["plan"][..],
        &["apply", YES],
        &["up", YES],
        &["chat", "home", "hello"],
        &["exec", "home", "--", "true"],
        &["down"],
        &["pause", "home"],
    ] {
        let child = house.command_in(&copy, verb).spawn().unwrap();
        let ended = wait_for_end(child, VERB_MAX);
        assert_eq!((ended.code, ended.stdout.as_str()), (8, ""), "{verb:?}: {ended:?}");
        assert_eq!(house.container(), original, "{verb:?}");
    }
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    assert_eq!(house.container(), original);
    up.down();
}

#[test]
fn two_projects_with_the_same_groups_never_meet() {
    let engine = needs_engine!();
    let (ours, theirs) = (House::new(&engine, ALWAYS, RUN), House::new(&engine, ALWAYS, RUN));
    let _theirs_up = {
        theirs.apply();
        theirs.up()
    };
    wait_until("their agent runs", || theirs.runs());
    let stranger = theirs.container();
    ours.apply();

    // Ended as it is meant to be, then killed, which leaves something for the next to end.
    let up = ours.up();
    wait_until("our agent runs", || ours.runs());
    up.down();
    assert_eq!(ours.containers(), []);
    assert_eq!(theirs.container(), stranger);
    let up = ours.up();
    wait_until("our agent runs", || ours.runs());
    let halted = ours.container();
    block_on(engine.client().pause_container(&halted.id)).unwrap();
    up.kill();
    assert_eq!(theirs.container(), stranger);
    // One that is halted does not notice that its controller is gone: the next one ends it.
    let up = ours.up();
    wait_until("another agent runs", || {
        let all = ours.containers();
        all.len() == 1 && all[0].id != halted.id && all[0].state == "running"
    });
    assert_eq!(theirs.container(), stranger);
    assert_eq!(ours.chat("home", "hello").stdout, "here\n");
    up.down();
    ours.installation
        .write("babybot.toml", "schema = 1\nname = \"home\"\n[models.m]\nkind = \"rehearsal\"\n");
    let _: Ended = ours.run(&["apply", YES]);
    assert_eq!(theirs.container(), stranger);
    assert_eq!(theirs.chat("home", "hello").stdout, "here\n");
    assert_eq!(theirs.container(), stranger);
}

/// Its engine does not answer while it is given up, and is remembered from the first start.
#[test]
fn what_was_left_at_an_engine_out_of_sight_is_ended_once_it_answers() {
    let engine = needs_engine!();
    let mut front = outside().block_on(async { Front::of(&engine) });
    let house = House::new(&engine, ALWAYS, RUN);
    let docker = format!("kind = \"docker\"\ndocker = {{ host = \"{}\" }}", front.endpoint().url);
    house.edit("kind = \"docker\"", &docker);
    house.apply();
    let up = house.up();
    wait_until("its agent runs", || house.runs());
    block_on(engine.client().pause_container(&house.container().id)).unwrap();
    up.kill();
    let used = house.installation.column("SELECT endpoint FROM endpoints");
    assert_eq!(used, [front.endpoint().url]);

    outside().block_on(async { front.cut() });
    house.write_manifest("kind = \"none\"\n", HOME);
    let mut apply = house.command(&["apply", YES]);
    apply.env_remove("DOCKER_HOST");
    wait_for_end(apply.spawn().unwrap(), VERB_MAX);
    assert_eq!(house.containers().len(), 1, "nothing was left");
    outside().block_on(async { front.open() });
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    assert_eq!(house.containers(), []);
}

#[test]
fn what_was_left_at_an_engine_is_found_and_ended_after_a_switch_to_plain_processes() {
    let engine = needs_engine!();
    for by in ["apply", "chat"] {
        let house = House::new(&engine, ALWAYS, RUN);
        house.apply();
        let up = house.up();
        wait_until("its agent runs", || house.runs());
        let halted = house.container();
        block_on(engine.client().pause_container(&halted.id)).unwrap();
        up.kill();
        assert_eq!(house.container().id, halted.id, "nothing was left");

        house.write_manifest("kind = \"none\"\n", HOME);
        let plan = house.run(&["plan"]);
        assert_eq!(plan.code, 0, "{plan:?}");
        assert!(plan.stdout.contains("container/home"), "{plan:?}");
        let ended = match by {
            "apply" => house.run(&["apply", YES]),
            _ => house.run(&["chat", "home", "hello"]),
        };
        assert_eq!(ended.code, 0, "{by}: {ended:?}");
        wait_until("it is gone", || house.containers().is_empty());
        house.apply();
        let ended = house.chat("home", "hello");
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
        assert_eq!(house.containers(), []);
    }
}
