//! What happens where the store takes nothing more: no spec stays that nobody knows, and whoever
//! asks a group is answered.

use rusqlite::Connection;

use crate::support::docker::{engine_here, needs_engine};
use crate::support::home::{ALWAYS, Home, YES, condition};
use crate::support::installation::{PATIENCE, wait_until};

/// Says in which environment its tools run.
const WHO: &str = r#"
[[rule]]
when = "who"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "echo $WHO >> who" } } },
  { reply = "done with {message}" },
]
[[rule]]
when = "quick"
steps = [{ reply = "done with {message}" }]
"#;

/// A limit that only another container has.
const MEMORY: &str = "limits = { memory = \"700MiB\" }\n";

fn everywhere() -> Vec<Home> {
    let groups = format!("{ALWAYS}env = {{ WHO = \"old\" }}\n");
    let docker = engine_here().map(|engine| Home::docker(engine, "", &groups, WHO));
    [Some(Home::none("", &groups, WHO)), docker].into_iter().flatten().collect()
}

/// From now on the store refuses whatever would be written into a table.
fn refuse(home: &Home, table: &str) {
    let trigger = format!(
        "CREATE TRIGGER refused BEFORE INSERT ON {table}
         BEGIN SELECT RAISE(ABORT, 'refused for a test'); END"
    );
    store(home).execute_batch(&trigger).unwrap();
}

fn accept(home: &Home) {
    store(home).execute_batch("DROP TRIGGER refused").unwrap();
}

fn store(home: &Home) -> Connection {
    let store = Connection::open(home.place.root().join("data/babybot.db")).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store
}

#[test]
fn a_generation_that_cannot_be_recorded_leaves_every_group_as_it_was_applied() {
    for (number, home) in everywhere().into_iter().enumerate() {
        let up = home.up();
        home.wait_for_agent();
        home.ask("who 1");
        refuse(&home, "generations");
        let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
        let mut edited = manifest.replace("WHO = \"old\"", "WHO = \"new\"");
        if number == 1 {
            // Another container.
            edited.push_str(MEMORY);
        }
        home.place.write("babybot.toml", &edited);
        let refused = home.place.run(&["apply", YES]);
        assert_eq!(refused.code, 1, "{refused:?}");
        // It becomes as it was applied, by itself.
        home.status_when("it is as applied", |status| {
            condition(status, "Drifted").is_none()
                && status["groups"]["home"]["stage"] == "idle"
                && status["groups"]["home"]["sandbox"].is_string()
        });
        home.ask("who 2");
        wait_until("the agent is the applied one's", || {
            home.ask("who again");
            home.place.lines("who").last().is_some_and(|who| who == "old")
        });
        assert!(!home.place.lines("who")[1..].iter().any(|who| who == "new"), "{:?}", home.log());
        assert_eq!(home.status()["generation"], 1);
        accept(&home);
        let applied = home.apply();
        assert_eq!(applied.code, 0);
        home.status_when("it is as applied", |status| {
            condition(status, "Drifted").is_none()
                && status["groups"]["home"]["stage"] == "idle"
                && status["groups"]["home"]["sandbox"].is_string()
        });
        home.ask("who 3");
        assert_eq!(home.place.lines("who").last().unwrap(), "new");
        up.end();
    }
}

#[test]
fn a_group_that_waits_for_the_store_answers_whoever_asks() {
    let home = Home::none("", ALWAYS, WHO);
    let up = home.up();
    home.wait_for_agent();
    refuse(&home, "turns");
    let mut said = home.say("home", "quick 1");
    home.status_when("it waits for the store", |status| condition(status, "Degraded").is_some());
    let looked = home.place.run(&["exec", "home", "--", "true"]);
    assert_eq!(looked.code, 0, "{looked:?}");
    let paused = home.place.run(&["pause", "home"]);
    assert_eq!(paused.code, 0, "{paused:?}");
    accept(&home);
    assert_eq!(home.place.run(&["resume", "home"]).code, 0);
    home.ask("quick 2");
    let _ = said.wait();
    home.assert_each_message_has_one_reply(2);
    up.end();
}

/// Whoever asks for a lease may go away before it is granted, at any moment.
#[test]
fn a_lease_whose_taker_vanished_is_given_back() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, WHO);
    let up = home.up();
    home.wait_for_agent();
    for delay in 0..20_u64 {
        let mut exec = home.place.command(["exec", "home", "--", "sleep", "60"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay * 7));
        exec.kill().unwrap();
        exec.wait().unwrap();
    }
    // A group that is looked into is not replaced: one that is replaced has no lease left.
    let before = home.wait_for_agent();
    let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    home.place.write("babybot.toml", &format!("{manifest}{MEMORY}"));
    home.apply();
    home.status_when("it is another agent", |status| {
        let sandbox = &status["groups"]["home"]["sandbox"];
        sandbox.is_string() && *sandbox != before.as_str()
    });
    up.end();
}
