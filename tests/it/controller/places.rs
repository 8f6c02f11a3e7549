//! What an agent puts in the place of what is babybot's: it is known to be wrong, and repaired.

use std::os::unix::fs::MetadataExt as _;

use rustix::process::Signal;

use crate::support::docker::needs_engine;
use crate::support::home::{ALWAYS, HOME, Home, LONG, condition};
use crate::support::installation::wait_until;

/// A command of an agent, the resource that is then wrong, and how that is told.
type Case = (&'static str, &'static str, &'static str);

/// In the place of a file.
const FILES: &[Case] = &[
    ("cd ~/.ollama && ln -sf /etc/passwd settings.json", "settings/home", "a link is in its place"),
    ("cd ~/.ollama && mkfifo pipe && mv pipe settings.json", "settings/home", "a pipe is"),
    (
        "cd ~/.ollama && until rm -f settings.json; mkdir settings.json; do :; done && echo kept > settings.json/kept",
        "settings/home",
        "a folder is in its place",
    ),
    (
        "cd ~/.ollama && ln settings.json other && touch settings.json",
        "settings/home",
        "a hard link",
    ),
    ("chmod 0 ~/.ollama/settings.json", "settings/home", "keeps its owner from reading it"),
];

/// In the place of a folder.
const FOLDERS: &[Case] = &[
    ("mv ~/.ollama ~/theirs && ln -s / ~/.ollama", "settings/home", ".ollama: a link is in"),
    ("mv ~/.ollama ~/theirs2 && echo kept > ~/.ollama", "settings/home", ".ollama: a file is in"),
    ("chmod 0 ~/.ollama", "settings/home", ".ollama: its mode keeps its owner out"),
    ("chmod 0 ~", "folder/home", "data/sessions/home: its mode keeps its owner out"),
];

/// Few cases for one installation: a resource that is repaired often is repaired ever later.
#[track_caller]
fn check(home: &Home, cases: &[Case], kept: &str) {
    let up = home.up();
    home.wait_for_agent();
    for (command, id, words) in cases {
        let ran = home.place.run(&["exec", "-q", "home", "--", "sh", "-c", command]);
        assert_eq!(ran.code, 0, "{command}: {ran:?}");
        home.assert_drift_is_told(id, words);
    }
    let session = home.place.root().join("data/sessions/home");
    wait_until("everything is as applied", || {
        condition(&home.status(), "Drifted").is_none()
            && session.join(".ollama/settings.json").is_file()
    });
    let found = std::fs::read_to_string(session.join(kept));
    assert_eq!(found.ok().as_deref(), Some("kept\n"), "{}", home.log());
    home.ask("quick 1");
    let log = home.log();
    assert!(!log.contains("could not be checked"), "{log}");
    up.end();
}

#[test]
fn what_an_agent_puts_in_the_place_of_its_settings_is_repaired_where_it_is_a_process() {
    let home = || Home::none("", ALWAYS, LONG);
    check(&home(), FILES, ".ollama/settings.json.moved-aside-2/kept");
    check(&home(), FOLDERS, ".ollama.moved-aside-2");
}

#[test]
fn what_an_agent_puts_in_the_place_of_its_settings_is_repaired_where_it_is_a_container() {
    let engine = needs_engine!();
    let home = || Home::docker(engine.clone(), "", ALWAYS, LONG);
    check(&home(), FILES, ".ollama/settings.json.moved-aside-2/kept");
    check(&home(), FOLDERS, ".ollama.moved-aside-2");
}

/// In the project's own words, on a runtime that has no container.
#[test]
fn a_deleted_home_is_told_of_by_its_path_and_by_the_end_of_its_agent() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    // Moved away, since a deleted folder's number may be given out again, to the one in its place.
    let session = home.place.root().join("data/sessions/home");
    std::fs::rename(&session, home.place.beside("aside")).unwrap();
    home.assert_drift_is_told("folder/home", "data/sessions/home is missing");
    let words = "data/sessions/home was deleted or replaced; the agent is replaced";
    home.assert_drift_is_told("container/home", words);
    home.ask("quick 1");
    let page = home.place.run(&["status"]).stdout;
    let root = home.place.root().display().to_string();
    assert_eq!(page.matches("changed outside babybot").count(), 1, "{page}");
    assert!(!page.contains(&root), "{page}");
    up.end();
}

#[test]
fn what_is_put_in_the_place_of_a_folder_or_of_the_memory_is_moved_aside_and_loses_nothing() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    let memory = home.place.root().join("groups/global/MEMORY.md");
    std::fs::write(&memory, "by hand\n").unwrap();
    let shell = |script: &str| {
        let mut shell = std::process::Command::new("sh");
        let ran = shell.args(["-c", script]).current_dir(home.place.root()).status().unwrap();
        assert!(ran.success(), "{script}");
    };
    let root = home.place.root();
    let whole = || {
        let found = |path: &str| std::fs::symlink_metadata(root.join(path)).ok();
        let folder = |path| found(path).is_some_and(|it| it.is_dir() && it.mode() & 0o700 == 0o700);
        let memory = found("groups/global/MEMORY.md");
        memory.is_some_and(|it| it.is_file() && it.nlink() == 1)
            && ["groups/global", "groups/home", "data/ipc/home"].into_iter().all(folder)
    };
    let global = "memory/global";
    for (script, id, words) in [
        ("cd groups/global && ln MEMORY.md other && touch MEMORY.md", global, "a hard link"),
        ("cd groups/global && mv MEMORY.md linked && ln -s linked MEMORY.md", global, "a link is"),
        ("cd groups/global && rm MEMORY.md && mkfifo MEMORY.md", global, "a pipe is in"),
        ("cd groups/global && rm MEMORY.md && mkdir MEMORY.md", global, "a folder is in"),
        ("cd groups && mv global theirs && ln -s theirs global", global, "a link is in"),
        (
            "cd groups && echo kept > home/kept && mv home ../elsewhere && ln -s ../elsewhere home",
            "folder/home",
            "groups/home: a link is in its place",
        ),
        ("cd data/ipc && rmdir home && mkfifo home", "folder/home", "data/ipc/home: a pipe is in"),
        ("chmod 0 groups/home", "folder/home", "groups/home: its mode keeps its owner out"),
    ] {
        // The controller sees what a script leaves, and nothing of the way there.
        up.signal(Signal::STOP);
        shell(script);
        up.signal(Signal::CONT);
        home.assert_drift_is_told(id, words);
        wait_until("all is a folder or a file again", whole);
    }
    let read = |path: &str| std::fs::read_to_string(home.place.root().join(path)).unwrap();
    assert_eq!(read("groups/theirs/MEMORY.md.moved-aside-1"), "by hand\n");
    assert_eq!(read("groups/home.moved-aside-1/kept"), "kept\n");
    home.ask("quick 1");
    up.end();
}

/// Everything works with few descriptors, slower: also for more groups than may keep an agent, and
/// with a folder that is deeper than there are descriptors.
#[test]
fn sixty_four_descriptors_are_enough() {
    let groups: String = (0..20).map(|n| format!("[groups.g{n}]\n")).collect();
    let home = Home::none("", &format!("{HOME}{groups}"), LONG);
    home.apply();
    let deep = format!("{}/groups/home/{}", home.place.root().display(), "d/".repeat(300));
    std::fs::create_dir_all(deep).unwrap();
    let program = home.place.command(["up"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" up"]).arg(program.get_program());
    limited.current_dir(home.place.root());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let up = home.start(&mut limited);
    up.wait_until_it_serves();
    for group in (0..20).map(|n| format!("g{n}")).chain(["home".to_owned()]) {
        home.assert_answers(home.say(&group, "quick 1"), "quick 1");
    }
    let status = home.status();
    for (group, found) in status["groups"].as_object().unwrap() {
        assert_eq!(found["conditions"]["Degraded"]["holds"], false, "{group}: {found}");
    }
    up.end();
}
