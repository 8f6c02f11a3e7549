//! Images under the verbs: a base that cannot be had, nothing to build, and what is superseded.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;

use super::house::{House, RUN};
use crate::support::docker::{Engine, block_on, needs_engine};
use crate::support::home::{HOME, YES};
use crate::support::installation::wait_until;

#[test]
fn a_base_that_cannot_be_had_is_one_error_and_nothing_is_half_applied() {
    let engine = needs_engine!();
    let house = House::building(&engine, HOME, RUN);
    let good = house.read("babybot.toml");
    house.edit(&engine.image, "localhost:1/no/such/base:1");
    let plan = house.run(&["plan"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    for _ in 0..2 {
        let applied = house.run(&["apply", YES]);
        assert!([1, 4].contains(&applied.code), "{applied:?}");
        for way in ["docker pull localhost:1/no/such/base:1", "\"scratch\"", "runtime.image.ref"] {
            assert!(applied.stderr.contains(way), "{way}: {applied:?}");
        }
        assert_eq!(applied.stderr.matches("can it be pulled").count(), 1, "{applied:?}");
    }
    // No group is there that could not run.
    let groups = "SELECT count(*) FROM generations WHERE specs LIKE '%\"group/home\"%'";
    assert_eq!(house.installation.value::<i64>(groups), 0);
    let chat = house.run(&["chat", "home", "hello"]);
    assert_ne!(chat.code, 0, "{chat:?}");
    assert_eq!((chat.stdout.as_str(), house.containers()), ("", vec![]), "{chat:?}");
    assert_eq!(house.images(), [""; 0]);

    house.installation.write("babybot.toml", &good);
    house.apply();
    assert_eq!(house.installation.value::<i64>(groups), 1);
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    assert_eq!(house.run(&["plan", "--detailed-exitcode"]).code, 0);
}

#[test]
fn what_is_unchanged_is_not_built_again_and_what_is_superseded_goes() {
    let engine = needs_engine!();
    let house = House::building(&engine, HOME, RUN);
    house.apply();
    let first = house.images();
    assert_eq!(first.len(), 1, "{first:?}");
    // The engine's events have whole seconds.
    let built = seconds();
    wait_until("the second of the build is over", || seconds() > built);
    let since = seconds();
    assert_eq!(house.run(&["plan", "--detailed-exitcode"]).code, 0);
    house.apply();
    house.edit("requires_trigger", "limits = { turn = \"1m\" }\nrequires_trigger");
    house.apply();
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    let built = images_tagged(&engine, since, &first[0]);
    assert_eq!(built, 0, "it was built again");

    // Another base is another image; the one before goes, with this apply or the next.
    house.change_base();
    let since = seconds();
    house.apply();
    let second = house.images();
    let second: Vec<&String> = second.iter().filter(|image| !first.contains(image)).collect();
    assert_eq!(second.len(), 1, "{second:?}");
    // The engine's own word that something was built: the count above can be other than nothing.
    assert!(images_tagged(&engine, since, second[0]) > 0, "its events show nothing");
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    house.apply();
    assert_eq!(house.images(), [second[0].clone()]);
    assert_eq!(house.run(&["plan", "--detailed-exitcode"]).code, 0);
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
}

/// What both build is the same, and each has its own.
#[test]
fn what_one_project_supersedes_stays_another_projects() {
    let engine = needs_engine!();
    let (ours, theirs) = (House::building(&engine, HOME, RUN), House::building(&engine, HOME, RUN));
    ours.apply();
    theirs.apply();
    let kept = theirs.images();
    assert_eq!((ours.images().len(), kept.len()), (1, 1), "{kept:?}");
    ours.change_base();
    ours.apply();
    ours.apply();
    assert_eq!(ours.images().len(), 1);
    assert_eq!(theirs.images(), kept);
    assert_eq!(theirs.run(&["plan", "--detailed-exitcode"]).code, 0);
    assert_eq!(theirs.chat("home", "hello").stdout, "here\n");
}

/// The one that is named is not the one that runs: a controller finds it again all the same.
#[test]
fn a_controller_builds_around_the_babybot_that_is_named() {
    let engine = needs_engine!();
    let house = House::building(&engine, HOME, RUN);
    let named = house.root().join("dist/babybot");
    std::fs::create_dir(named.parent().unwrap()).unwrap();
    // What is behind a program's end changes what it is and not what it does.
    let mut program = std::fs::read(env!("CARGO_BIN_EXE_babybot")).unwrap();
    program.extend_from_slice(b"another");
    std::fs::write(&named, program).unwrap();
    house.edit("base = ", "binary = \"dist/babybot\"\nbase = ");
    let up = house.up();
    let first = house.images();
    assert_eq!(first.len(), 1, "{first:?}");

    house.change_base();
    house.apply();
    let second = house.images();
    let second: Vec<&String> = second.iter().filter(|image| !first.contains(image)).collect();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_eq!(house.chat("home", "hello").stdout, "here\n");

    // The same where it is mended.
    block_on(engine.remove_image(second[0]));
    wait_until("it is built again", || house.images().contains(second[0]));
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    up.down();
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// How often an image was given its name since then, which each build of it does.
fn images_tagged(engine: &Engine, since: u64, name: &str) -> usize {
    let filters = HashMap::from([("type", vec!["image"]), ("event", vec!["tag"])]);
    let options = EventsOptionsBuilder::default()
        .since(&since.to_string())
        .until(&(seconds() + 1).to_string())
        .filters(&filters)
        .build();
    let client = engine.client();
    let events = block_on(client.events(Some(options)).collect::<Vec<_>>());
    let names = events.into_iter().flatten().filter_map(|event| {
        event.actor.and_then(|actor| actor.attributes).and_then(|all| all.get("name").cloned())
    });
    names.filter(|found| found == name).count()
}
