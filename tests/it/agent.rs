//! The real agent as a container runs it: over two pipes, with a host that the test plays. What
//! a turn makes of a model is seen in `session`.

mod container;
mod host;
mod loopback;
mod shapes;

use std::fs::File;
use std::net::TcpListener;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use babybot::name::TurnId;
use babybot::protocol::{Event, Order};
use babybot::unit::ByteSize;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;
use tokio::process::Command;

use self::host::{Played, says, shell, welcome};
use crate::support::installation::wait_for_end;

/// An agent that is a child of this test, its link two pipes.
fn agent() -> (Played, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_babybot"));
    command.arg("agent").current_dir(home.path()).env("HOME", home.path());
    (Played::start(command, welcome()), home)
}

#[tokio::test]
async fn over_two_pipes_it_answers_and_ends_with_them() {
    let (mut played, _home) = agent();
    assert_eq!(played.run("echo hello $((40 + 2))").await, "hello 42");
    played.let_go();
    // It was not told to end.
    assert_eq!(played.end().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_it_is_asked_to_with_what_it_runs() {
    let (mut played, home) = agent();
    let marks = home.path().join("marks");
    played.begin_running("echo begun > marks; setsid sleep 600 & sleep 600").await;
    crate::support::installation::wait_until("the tool runs", || marks.exists());
    played.signal(Signal::TERM);
    assert_eq!(played.end().await.code(), Some(0));
}

#[tokio::test]
async fn where_ollamas_address_is_taken_it_warns_and_works() {
    // Whoever has it: this test, or what else runs on this machine.
    let _taken = TcpListener::bind(babybot::agent::loopback::ADDRESS);
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_babybot"));
    command.args(["agent", "--loopback"]).current_dir(home.path()).env("HOME", home.path());
    let mut played = Played::start(command, welcome());
    assert_eq!(played.run("echo works").await, "works");
    played.let_go();
    played.end().await;
    let log = played.log().await;
    assert!(log.contains("Ollama clients in this container cannot reach the model"), "{log}");
}

#[test]
fn a_terminal_or_a_file_is_no_link() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    let file = || File::options().read(true).write(true).open(folder.path().join("file")).unwrap();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let line = || File::options().read(true).write(true).open(&name).unwrap();
    let ends: [(Stdio, Stdio); 4] = [
        (file().into(), file().into()),
        (line().into(), line().into()),
        (Stdio::piped(), file().into()),
        (Stdio::null(), Stdio::piped()),
    ];
    for (input, output) in ends {
        let mut command = StdCommand::new(env!("CARGO_BIN_EXE_babybot"));
        command.arg("agent").stdin(input).stdout(output).stderr(Stdio::piped());
        let ended = wait_for_end(command.spawn().unwrap(), Duration::from_secs(10));
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("stdin and stdout are not a link"), "{}", ended.stderr);
    }
}

/// Lists what the agent has as children, ended ones included, without starting anything.
const CHILDREN: &str = "read children < /proc/$PPID/task/$PPID/children; echo $children = $$";

#[tokio::test]
async fn what_a_tool_orphans_is_reaped_while_the_tool_still_runs() {
    let (mut played, _home) = agent();
    let orphans = "i=0; while [ $i -lt 30 ]; do (true & ); i=$((i + 1)); done";
    let result = played.run(&format!("{orphans}; sleep 1; {CHILDREN}")).await;
    let (children, own) = result.split_once(" = ").unwrap();
    assert_eq!(children, own, "zombies are left");
    // What nobody waits for can be seen so.
    let left = "sh -c 'true & exec sleep 2' & sleep 0.5; read child < /proc/$!/task/$!/children; \
                read pid name state rest < /proc/$child/stat; echo $name $state";
    assert!(played.run(left).await.ends_with(") Z"));
}

#[tokio::test]
async fn no_end_of_a_tool_is_taken_away() {
    let (mut played, _home) = agent();
    let orphans = "i=0; while [ $i -lt 5 ]; do (true & ); i=$((i + 1)); done";
    for round in 0..150 {
        let result = played.run(&format!("{orphans}; exit {}", round % 7 + 1)).await;
        assert_eq!(result, format!("(no output)\n[exit status: {}]", round % 7 + 1), "{round}");
    }
}

#[tokio::test]
async fn a_new_welcome_holds_from_the_next_turn_on() {
    let (mut played, _home) = agent();
    let turn = played.turn("first").await;
    let asked = played.asked().await;
    assert_eq!(asked["model"], "first:1b");
    assert!(asked["messages"][0]["content"].as_str().unwrap().contains("You are Baby,"));

    let mut changed = welcome();
    changed.assistant = "Ada".into();
    changed.model = "second:2b".into();
    changed.context = 65_536;
    changed.output = ByteSize::bytes(50_000);
    changed.env.insert("GREETING".into(), "good day".into());
    played.order(Order::Settle(Box::new(changed)));
    // The turn under way has the old one to its end.
    played.answer(shell("echo $GREETING"));
    assert_eq!(played.result(&turn).await, "hello there");
    assert_eq!(played.asked().await["model"], "first:1b");
    played.answer(says("done"));
    assert!(matches!(played.event(&turn).await, Event::Done { .. }));

    let turn = played.turn("second").await;
    let asked = played.asked().await;
    assert_eq!(asked["model"], "second:2b");
    let told = asked["messages"].to_string();
    assert!(told.contains("You are Ada,") && told.contains("first"), "{told}");
    played.answer(shell("echo $GREETING; head -c 100000 /dev/zero | tr '\\0' x"));
    let result = played.result(&turn).await;
    assert!(result.starts_with("good day"), "{result}");
    assert!(result.contains("the first 50000 of 100009 bytes"), "{result}");
    // 15 % of a window of 4096 tokens would be much less.
    assert!(result.len() > 20_000, "{}", result.len());
}

#[tokio::test]
async fn a_turn_ordered_before_a_welcome_is_answered_under_the_one_before() {
    let (mut played, _home) = agent();
    let mut changed = welcome();
    changed.model = "second:2b".into();
    let first = played.turn("first").await;
    let second = played.turn("second").await;
    played.order(Order::Settle(Box::new(changed)));
    for turn in [first, second] {
        assert_eq!(played.asked().await["model"], "first:1b");
        played.answer(says("done"));
        assert!(matches!(played.event(&turn).await, Event::Done { .. }));
    }
    played.turn("third").await;
    assert_eq!(played.asked().await["model"], "second:2b");
}

#[tokio::test]
async fn each_session_remembers_its_own_turns_and_an_old_transcript_is_the_terminals() {
    let home = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_babybot"));
        command.arg("agent").current_dir(home.path()).env("HOME", home.path());
        Played::start(command, welcome())
    };
    let old = format!("{:032x}", 99);
    std::fs::create_dir(home.path().join(".ollama")).unwrap();
    let lines = [
        format!(r#"{{"type":"turn","turn":"{old}","prompt":"long ago"}}"#),
        format!(r#"{{"type":"end","turn":"{old}","how":"done"}}"#),
    ];
    std::fs::write(home.path().join(".ollama/transcript.jsonl"), lines.join("\n") + "\n").unwrap();
    let mut number = 0;
    for _ in 0..2 {
        let mut played = start();
        for (session, told) in [("api.kitchen", "of the kitchen"), ("terminal.family", "long ago")]
        {
            number += 1;
            let turn = TurnId::new(format!("{number:032x}")).unwrap();
            played.order_turn(&turn, session, &format!("{session} {number}"), Vec::new());
            let asked = played.asked().await["messages"].to_string();
            let others = ["api.kitchen", "terminal.family"].into_iter().find(|of| *of != session);
            assert!(!asked.contains(others.unwrap()), "{asked}");
            assert_eq!(asked.contains("long ago"), told == "long ago", "{asked}");
            let before = number > 2;
            assert_eq!(asked.contains(&format!("{session} {}", number - 2)), before, "{asked}");
            played.answer(says("done"));
            assert!(matches!(played.event(&turn).await, Event::Done { .. }));
        }
        played.let_go();
        played.end().await;
    }
}
