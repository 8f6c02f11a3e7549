//! An installation that the version before left: its messages, its turn and its replies go on.

use std::fs;

use serde_json::Value;

use crate::support::docker::needs_engine;
use crate::support::home::{Home, YES};
use crate::support::installation::wait_until;

/// The store as the version before left it, with a turn, a message and a reply unfinished.
const STORE: &str = include_str!("../../fixtures/store/v2.sql");

/// The manifest that was applied last in it.
fn manifest(store: &rusqlite::Connection) -> String {
    let newest = "SELECT manifest FROM generations ORDER BY number DESC LIMIT 1";
    store.query_row(newest, [], |row| row.get(0)).unwrap()
}

#[test]
fn what_the_version_before_left_is_taken_over_and_nothing_is_lost() {
    let home = Home::docker(needs_engine!(), "", "", "");
    let data = home.place.root().join("data");
    fs::create_dir_all(&data).unwrap();
    let store = rusqlite::Connection::open(data.join("babybot.db")).unwrap();
    store.execute_batch(STORE).unwrap();
    home.place.write("babybot.toml", &manifest(&store));
    drop(store);

    let plan = home.place.run(&["plan", "--format", "json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap_or_else(|_| panic!("{plan:?}"));
    assert_eq!(plan["generation"]["from"], 3, "{plan:#}");
    for step in plan["steps"].as_array().unwrap() {
        let id = step["id"].as_str().unwrap();
        // The binary is another, so the image is; the folders are not there in this test.
        let kinds = ["image/", "memory/", "folder/", "settings/", "group/", "instance"];
        assert!(kinds.iter().any(|kind| id.starts_with(kind)), "{plan:#}");
    }

    let up = home.up_with(&[YES]);
    let replies = |group: &str| {
        home.place.column(&format!(
            "SELECT text FROM outbox WHERE kind = 'reply' AND chat = '{group}' ORDER BY id"
        ))
    };
    wait_until("the turn that was begun is answered", || replies("home").len() == 4);
    assert_eq!(home.status()["groups"]["kitchen"]["held"], true);
    assert_eq!(replies("kitchen").len(), 3, "a group that is paused was answered");

    assert_eq!(home.place.run(&["resume", "kitchen"]).code, 0);
    let said = home.place.run(&["chat", "kitchen", "hello"]);
    assert_eq!(said.code, 0, "{said:?}");
    for late in ["It is done.", "coffee"] {
        assert!(format!("{}{}", said.stdout, said.stderr).contains(late), "{late}: {said:?}");
    }
    let twice =
        "SELECT count(*) FROM outbox WHERE kind = 'reply' GROUP BY turn HAVING count(*) > 1";
    assert!(home.place.column(twice).is_empty(), "a turn has two replies");
    let open = "SELECT seq FROM messages WHERE turn IS NULL";
    assert!(home.place.column(open).is_empty(), "a message was left");
    up.end();
    assert!(home.containers().is_empty());
    // Nothing is left to change.
    let plan = home.place.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, 0, "{plan:?}");
}
