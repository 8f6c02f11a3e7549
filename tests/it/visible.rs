//! Whatever others write, nothing that babybot prints is unseen or changes how the rest is seen.

use babybot::visible::{has_hidden, lines};

use crate::support::folder::{Folder, QUICK, Ran};

/// A right-to-left override, an isolate, a zero-width space and joiner, a byte order mark, a soft
/// hyphen, a tag, and the escape sequence that clears the screen.
const HIDDEN: &str = "a\u{202e}b\u{2066}c\u{200b}d\u{200d}e\u{feff}f\u{ad}g\u{e0041}h";
const STEERS: &str = "\u{1b}[2J";

/// What is printed has line ends and tabs, and nothing else that is not seen.
#[track_caller]
fn is_seen(doing: &[&str], ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        assert_eq!(&*lines(text), text.as_str(), "{doing:?}");
    }
}

#[test]
fn every_verb_shows_what_is_hidden_in_a_manifest() {
    let folder = Folder::with(&QUICK.replace(
        "requires_trigger = false",
        &format!("requires_trigger = false\nenv = {{ NOTE = \"{HIDDEN}\" }}"),
    ));
    folder.write(
        "script.toml",
        &format!("[[rule]]\nsteps = [{{ reply = \"{HIDDEN}\\u001b[2J\" }}]\n"),
    );
    folder.edit("kind = \"rehearsal\"", "kind = \"rehearsal\"\nscript = \"script.toml\"");
    let runs: &[&[&str]] = &[
        &["validate"],
        &["plan"],
        &["plan", "--format", "json"],
        &["apply", "--yes=privileged"],
        &["status"],
        &["status", "--format", "json"],
        &["history"],
        &["history", "--format", "json"],
        &["logs"],
        &["logs", "--format", "json"],
        &["chat", HIDDEN, "hello"],
        &["pause", HIDDEN],
        &["explain", HIDDEN],
        &["logs", HIDDEN],
        &["plan", "--manifest", HIDDEN],
    ];
    for run in runs {
        is_seen(run, &folder.run(run));
    }
    // What a program reads is the reply itself; what a person reads beside it is not.
    let chat = folder.run(&["chat", "home", HIDDEN]);
    assert_eq!(chat.stdout, format!("{HIDDEN}\u{1b}[2J\n"));
    assert_eq!(&*lines(&chat.stderr), chat.stderr);
    let plan = folder.run(&["plan", "--format", "json"]);
    serde_json::from_str::<serde_json::Value>(&plan.stdout).unwrap();
    folder.edit(HIDDEN, "plain");
    let plan = folder.run(&["plan"]).stdout;
    assert!(plan.contains("a\\u{202e}b\\u{2066}c\\u{200b}d"), "{plan}");
}

#[test]
fn a_diagnostic_shows_what_is_hidden_in_what_it_quotes() {
    let broken = [
        format!("name = \"{HIDDEN}\"\n"),
        format!("\"{HIDDEN}\" = 1\n"),
        format!("[groups.\"{HIDDEN}\"]\n"),
        format!("[models.a]\nkind = \"{HIDDEN}\"\n"),
        format!("[assistant]\nname = \"{HIDDEN}\"\ntimezone = \"{HIDDEN}\"\n"),
        format!("# {HIDDEN}\n{HIDDEN} = {HIDDEN}{STEERS}\n"),
        format!(
            "[groups.a]\nbind = [\"{HIDDEN}\"]\nmodel = \"{HIDDEN}\"\ntrigger = \"{HIDDEN}\"\n"
        ),
    ];
    for text in broken {
        let folder = Folder::with(&text);
        for run in [&["validate"][..], &["validate", "--format", "json"], &["plan"], &["status"]] {
            let ran = folder.run(run);
            is_seen(run, &ran);
        }
    }
}

#[test]
fn emoji_and_the_scripts_that_join_letters_are_printed_as_they_are() {
    let ordinary = "👩\u{200d}🚀 ❤\u{fe0f} می\u{200c}خواهم";
    assert!(!has_hidden(ordinary));
    let folder = Folder::with(&format!("{QUICK}env = {{ NOTE = \"{ordinary}\" }}\n"));
    let plan = folder.run(&["plan"]).stdout;
    assert!(plan.contains(ordinary), "{plan}");
}
