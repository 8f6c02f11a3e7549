//! What verbs print for programs, and times in one zone.

use serde_json::Value;

use crate::support::folder::{Folder, QUICK};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON on every line")).collect()
}

fn applied() -> Folder {
    let zone = "name = \"home\"\n\n[assistant]\ntimezone = \"Asia/Tokyo\"\n";
    let folder = Folder::with(&QUICK.replacen("name = \"home\"\n", zone, 1));
    let ran = folder.run(&["apply", "--yes=privileged"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = folder.run(&["chat", "home", "hello"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    folder
}

#[test]
fn history_and_logs_are_objects_of_one_shape_and_times_are_in_the_assistants_zone() {
    let folder = applied();
    let history = lines(&folder.run(&["history", "--format", "json"]).stdout);
    let keys =
        |object: &Value| -> Vec<String> { object.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&history[0]), ["at", "generation", "parent", "outcome", "approved", "tool"]);
    assert!(folder.run(&["history"]).stdout.contains(" JST  generation 1  "));

    let line =
        "2026-11-22T09:30:00.123Z WARN  babybot::host {group=home why=\"a \\\"b\\\"\"} it failed\n";
    folder.write("data/logs/babybot.log", line);
    let told = folder.run(&["logs"]).stdout;
    assert!(
        told.starts_with("2026-11-22 18:30:00.123 JST WARN  babybot::host {group=home "),
        "{told}"
    );
    let objects = lines(&folder.run(&["logs", "--format", "json"]).stdout);
    assert_eq!(objects[0]["fields"], serde_json::json!({ "group": "home", "why": "a \"b\"" }));
    assert_eq!(told.lines().count(), objects.len());
    for (line, object) in told.lines().zip(&objects) {
        assert_eq!(keys(object), ["at", "level", "target", "fields", "message"]);
        assert!(object["at"].is_i64() && object["fields"].is_object(), "{object}");
        assert!(
            line.contains(" JST ") && line.ends_with(object["message"].as_str().unwrap()),
            "{line}"
        );
    }
    let of_group = folder.run(&["logs", "home", "--format", "json"]).stdout;
    assert!(lines(&of_group).iter().all(|object| object["fields"]["group"] == "home"));
}

#[test]
fn every_shell_is_given_completions_and_they_know_the_verbs() {
    let folder = Folder::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = folder.run(&["completions", shell]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            ran.stdout.contains("explain") && ran.stdout.contains("detailed-exitcode"),
            "{shell}"
        );
    }
    assert_eq!(folder.run(&["completions", "tcsh"]).code, Some(64));
}

#[test]
fn the_version_names_the_commit_where_it_is_known() {
    let told = Folder::empty().run(&["--version"]).stdout;
    let version = told.strip_prefix("babybot ").unwrap().trim_end();
    let rest = version.strip_prefix(env!("CARGO_PKG_VERSION")).unwrap();
    if rest.is_empty() {
        crate::support::skipped("this is no checkout of a commit");
        return;
    }
    let built = rest.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')')).unwrap();
    let (commit, date) = built.split_once(' ').unwrap();
    assert!(commit.len() >= 7 && commit.bytes().all(|c| c.is_ascii_hexdigit()), "{told}");
    assert!(date.parse::<jiff::civil::Date>().is_ok(), "{told}");
}
