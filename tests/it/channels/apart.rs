//! Conversations that are apart: what one does is nothing to the others.

use babybot::process::Process;
use rustix::process::Signal;

use crate::support::home::Up;
use crate::support::installation::{Installation, PATIENCE, User, wait_for_end, wait_until};

const SCRIPT: &str = r#"
[[rule]]
when = "work"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "touch begun; while ! [ -e go ]; do sleep 0.02; done" } } },
  { reply = "worked" },
]
[[rule]]
when = "colour"
steps = [{ reply = "\u001b[31mred\u001b[0m\ttab" }]
[[rule]]
steps = [{ reply = "here" }]
"#;

fn signal(child: &std::process::Child, signal: Signal) {
    let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
    process.signal(signal).unwrap();
}

#[test]
fn who_waits_behind_another_is_stored_and_stops_only_what_they_asked() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let first = installation.begin_chat("work");
    wait_until("the first is at work", || installation.workplace("begun").exists());
    let stored = || installation.column("SELECT text FROM messages ORDER BY seq");
    let second = installation.begin_chat("second");
    wait_until("the second is stored", || stored() == ["work", "second"]);
    let third = installation.begin_chat("third");
    wait_until("the third is stored", || stored() == ["work", "second", "third"]);
    signal(&second, Signal::INT);
    // The group is at work still: nobody waits for that.
    let second = wait_for_end(second, PATIENCE);
    assert_eq!((second.code, second.stdout.as_str()), (130, ""), "{second:?}");
    signal(&third, Signal::TERM);
    let third = wait_for_end(third, PATIENCE);
    assert_eq!(third.code, 130, "{third:?}");
    assert!(third.stderr.contains("your message is kept"), "{third:?}");

    installation.write("groups/home/go", "");
    let first = wait_for_end(first, PATIENCE);
    assert_eq!((first.code, first.stdout.as_str()), (0, "worked\n"), "{first:?}");
    let next = installation.chat("hello");
    assert_eq!((next.code, next.stdout.as_str()), (0, "here\n"), "{next:?}");
    assert!(next.stderr.contains("to “third”"), "{next:?}");
    assert!(!next.stderr.contains("to “second”"), "{next:?}");
    let states = "SELECT turns.state FROM messages JOIN turns ON turns.id = turn ORDER BY seq";
    assert_eq!(installation.column(states), ["done", "cancelled", "done", "done"]);
    installation.assert_nothing_runs();
}

#[test]
fn a_pipe_is_given_the_stored_reply_and_nothing_else() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let ended = installation.chat("colour");
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "\u{1b}[31mred\u{1b}[0m\ttab\n"),
        "{ended:?}"
    );
}

/// One place, and a group whose model is not there: it waits, and nobody waits for it.
#[test]
fn a_group_that_waits_holds_no_place_and_does_not_hold_up_the_end() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    let path = installation.root().join("babybot.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let manifest = manifest.replace("kind = \"none\"", "kind = \"none\"\nparallel = 1");
    let more = "\n[models.away]\nkind = \"ollama\"\nurl = \"http://127.0.0.1:9\"\nmodel = \"m\"\n\
                [groups.lab]\nmodel = \"away\"\n[defaults.group]\nmodel = \"stand-in\"\n";
    installation.write("babybot.toml", &format!("{manifest}{more}"));
    let applied = installation.run(&["apply", "--yes=safe,disruptive,privileged"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let up = Up::start(&installation, &mut installation.command(["up"]));
    up.wait_until_it_serves();
    let waits = installation.command(["chat", "lab", "hello"]).spawn().unwrap();
    let tried =
        "SELECT count(*) FROM turns WHERE grp = 'lab' AND attempts > 0 AND state = 'queued'";
    wait_until("the turn waits", || installation.value::<i64>(tried) == 1);
    let ended = installation.chat("hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    // Its patience is longer than this test's: what waits is not waited for.
    let down = installation.run(&["down", "--wait", "10m"]);
    assert_eq!(down.code, 0, "{down:?}");
    up.wait(PATIENCE);
    signal(&waits, Signal::TERM);
    let waits = wait_for_end(waits, PATIENCE);
    assert!(waits.stderr.contains("your message is kept"), "{waits:?}");
}

#[test]
fn an_answer_to_somebody_who_vanished_is_given_to_the_next_conversation_and_keeps_nobody_busy() {
    let installation = Installation::new(User::Oneself, SCRIPT);
    installation.apply();
    let up = Up::start(&installation, &mut installation.command(["up"]));
    up.wait_until_it_serves();
    assert_eq!(installation.run(&["pause", "home"]).code, 0);
    let gone = installation.begin_chat("hello there");
    let stored = "SELECT count(*) FROM messages";
    wait_until("it is stored", || installation.value::<i64>(stored) == 1);
    signal(&gone, Signal::KILL);
    assert_eq!(wait_for_end(gone, PATIENCE).code, 137);
    assert_eq!(installation.run(&["resume", "home"]).code, 0);
    let post = "SELECT count(*) FROM outbox WHERE state = 'pending'";
    wait_until("there is a reply", || installation.value::<i64>(post) == 1);
    // Nobody is tried who is not there: an attempt would count up.
    let next = installation.chat("hello");
    assert_eq!((next.code, next.stdout.as_str()), (0, "here\n"), "{next:?}");
    assert!(next.stderr.contains("to “hello there”"), "{next:?}");
    let tries = "SELECT coalesce(max(attempts), 0) FROM outbox";
    assert_eq!(installation.value::<i64>(tries), 1);
    up.end();
}
