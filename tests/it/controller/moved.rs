//! A project that was moved, copied or restored: nobody works with it until a person says which of
//! these it is, and what belongs to the original stays the original's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use babybot::project::Project;

use crate::support::docker::needs_engine;
use crate::support::home::{ALWAYS, HOME, Home, LONG, YES};
use crate::support::installation::Ended;

/// A copy of a project, with everything in it.
fn copy(home: &Home) -> PathBuf {
    let folder = home.place.beside("copy");
    let copied = Command::new("cp").arg("-a").arg(home.place.root()).arg(&folder).status().unwrap();
    assert!(copied.success());
    folder
}

/// The project somewhere else, where its folders are others than before.
fn moved(home: &Home) -> PathBuf {
    let folder = copy(home);
    fs::remove_dir_all(home.place.root()).unwrap();
    folder
}

fn run(home: &Home, folder: &Path, arguments: &[&str]) -> Ended {
    home.place.command_in(folder, arguments).output().unwrap().into()
}

fn instance(folder: &Path) -> String {
    let project = Project::open(folder).unwrap();
    project.known_instance().unwrap().unwrap().to_string()
}

#[track_caller]
fn assert_says_how_to_go_on(home: &Home, folder: &Path) {
    for verb in [
        &["status"][..],
        &["plan"],
        &["apply", YES],
        &["up", YES],
        &["chat", "home", "quick 1"],
        &["down"],
    ] {
        let ended = run(home, folder, verb);
        assert_eq!(ended.code, 8, "{verb:?}: {ended:?}");
        for way in ["babybot apply --reclaim", "babybot apply --new-instance"] {
            assert!(ended.stderr.contains(way), "{verb:?}: {ended:?}");
        }
        assert!(!ended.stderr.contains("doctor"), "{verb:?}: {ended:?}");
    }
}

#[test]
fn a_project_that_was_moved_says_so_and_is_reclaimed_with_its_image_and_its_messages() {
    let image = "[runtime.image]\nbase = \"scratch\"\n";
    let home = Home::docker_with(needs_engine!(), "", image, HOME, LONG);
    home.apply();
    home.ask("quick 1");
    let (before, images) = (home.instance(), home.images());
    assert_eq!(images.len(), 1);
    let folder = moved(&home);
    assert_says_how_to_go_on(&home, &folder);
    // It needs a yes of its own, although there is nothing else to do.
    let unapproved = run(&home, &folder, &["apply", "--reclaim", "--yes"]);
    assert!(unapproved.code == 7 && unapproved.stderr.contains("privileged"), "{unapproved:?}");
    assert!(unapproved.stdout.contains(&before[..8]), "{unapproved:?}");
    assert_says_how_to_go_on(&home, &folder);
    let reclaimed = run(&home, &folder, &["apply", "--reclaim", "--yes=privileged"]);
    assert_eq!(reclaimed.code, 0, "{reclaimed:?}");
    assert_eq!(instance(&folder), before);
    // Back under the name by which the other helpers look for it: the same folder.
    fs::rename(&folder, home.place.root()).unwrap();
    assert_eq!(home.images(), images, "the image was built again");
    let plan = home.place.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    // Said once more, it is no mistake.
    let again = home.place.run(&["apply", "--reclaim", YES]);
    assert!(again.code == 0 && again.stderr.contains("neither moved nor copied"), "{again:?}");
}

#[test]
fn a_backup_that_is_restored_on_another_machine_is_reclaimed() {
    let home = Home::none("", HOME, LONG);
    home.apply();
    home.ask("quick 1");
    let file = home.place.root().join("data/instance");
    let text = fs::read_to_string(&file).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["machine"] = "another".into();
    fs::write(&file, value.to_string()).unwrap();
    let folder = home.place.root();
    assert_says_how_to_go_on(&home, &folder);
    let status = home.place.run(&["status"]);
    assert!(status.stderr.contains("on another machine"), "{status:?}");
    let reclaimed = home.place.run(&["apply", "--reclaim", "--yes=privileged"]);
    assert_eq!(reclaimed.code, 0, "{reclaimed:?}");
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
}

#[test]
fn a_copy_becomes_an_instance_of_its_own_and_takes_nothing_from_the_original() {
    let engine = needs_engine!();
    let home = Home::docker(engine, "", ALWAYS, LONG);
    let up = home.up();
    let agent = home.wait_for_agent();
    let containers = home.containers();
    let folder = copy(&home);
    assert_says_how_to_go_on(&home, &folder);
    // While the original runs, and while it is only there, its identity is its own.
    let both = run(&home, &folder, &["apply", "--reclaim", "--yes=privileged"]);
    assert_eq!(both.code, 8, "{both:?}");
    assert!(both.stderr.contains("--new-instance"), "{both:?}");
    let unapproved = run(&home, &folder, &["apply", "--new-instance", "--yes"]);
    assert_eq!(unapproved.code, 7, "{unapproved:?}");
    let own = run(&home, &folder, &["apply", "--new-instance", "--yes=privileged"]);
    assert_eq!(own.code, 0, "{own:?}");
    assert_ne!(instance(&folder), home.instance());
    let said = run(&home, &folder, &["chat", "home", "quick 1"]);
    assert!(said.code == 0 && said.stdout.contains("quick 1"), "{said:?}");
    assert_eq!(home.containers(), containers, "the original's container was touched");
    assert_eq!(home.wait_for_agent(), agent);
    home.ask("quick 2");
    up.end();
}

#[test]
fn a_folder_that_is_only_renamed_needs_no_word() {
    let home = Home::none("", HOME, LONG);
    home.apply();
    let folder = home.place.beside("renamed");
    fs::rename(home.place.root(), &folder).unwrap();
    let plan = run(&home, &folder, &["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, 0, "{plan:?}");
}
