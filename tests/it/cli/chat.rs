//! A conversation at a terminal, as a person sees it, and what is under way in a pipe.

use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::folder::{Folder, QUICK, Terminal};
use crate::support::ollama::{FakeOllama, Reply, Step};

/// A line of an answer of `/api/chat`.
fn chunk(text: &str, done: bool) -> Step {
    let line = json!({"message": {"role": "assistant", "content": text}, "done": done});
    Step::Chunk(format!("{line}\n").into_bytes())
}

/// An answer that comes in three pieces, the later two when they are let go.
fn in_pieces(pieces: [&str; 3]) -> (Reply, [Arc<Notify>; 2]) {
    let gates = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    let steps = [
        chunk(pieces[0], false),
        Step::Wait(Arc::clone(&gates[0])),
        chunk(pieces[1], false),
        Step::Wait(Arc::clone(&gates[1])),
        chunk(pieces[2], true),
    ];
    (Reply::steps(steps), gates)
}

/// A folder whose model is this server, applied.
fn applied_on(fake: &FakeOllama) -> Folder {
    let spec = format!("\"ollama\"\nurl = \"{}\"\nmodel = \"automaton\"\n", fake.url);
    let folder = Folder::with(&QUICK.replace("\"rehearsal\"\n", &spec));
    let applied = folder.run(&["apply", "--yes=privileged"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    folder
}

fn applied() -> Folder {
    let folder = Folder::with(QUICK);
    assert_eq!(folder.run(&["apply", "--yes"]).code, Some(0));
    folder
}

/// The last line of a screen that is not empty.
fn last(screen: &str) -> &str {
    screen.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
}

fn send(terminal: &Terminal, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_minute_of_a_conversation() {
    let fake = FakeOllama::start().await;
    let (reply, [first, second]) = in_pieces(["Milk, ", "eggs and ", "bread."]);
    fake.answer("/api/chat", reply);
    let (stalled, _never) = in_pieces(["Once ", "upon ", "a time"]);
    fake.answer("/api/chat", stalled);
    let minute = move || {
        let folder = applied_on(&fake);
        let mut terminal = folder.at_terminal(&["chat", "home"]);
        terminal.see("a prompt", |screen| last(screen).trim_end() == ">");
        // Typing, and an edit in the middle.
        terminal.type_in("what do we ned");
        terminal.type_in("\u{1b}[D\u{1b}[De");
        terminal.see("the edit", |screen| last(screen) == "> what do we need");
        terminal.type_in("\r");
        // What is under way, and for how long, above the prompt.
        terminal.see("thinking", |screen| screen.contains("thinking… 1 s"));
        first.notify_one();
        terminal.see("the answer so far", |screen| {
            screen.contains("Milk, eggs and") && !screen.contains("thinking")
        });
        // What is typed meanwhile stays whole.
        terminal.type_in("tha");
        terminal.see("both", |screen| screen.contains("Milk, eggs") && last(screen) == "> tha");
        second.notify_one();
        let screen = terminal.see("the reply", |screen| screen.contains("Milk, eggs and bread."));
        assert_eq!(screen.matches("Milk").count(), 1, "{screen}");
        terminal.see("the line", |screen| last(screen) == "> tha");
        // Ctrl-C clears the line first.
        terminal.type_in("\u{3}");
        terminal.see("no line", |screen| last(screen).trim_end() == ">");
        // History.
        terminal.type_in("\u{1b}[A");
        terminal.see("the recall", |screen| last(screen) == "> what do we need");
        terminal.type_in("\r");
        terminal
            .see("a turn", |screen| last(screen).trim_end() == ">" && screen.contains("thinking…"));
        // On an empty line it stops the answer, and the conversation goes on.
        terminal.type_in("\u{3}");
        let screen = terminal.see("the stop", |screen| screen.contains("stopped\n"));
        assert!(!screen.contains("thinking"), "{screen}");
        terminal.type_in("\u{3}");
        terminal.see("how to leave", |screen| screen.contains("ends the conversation"));
        terminal.type_in("\u{4}");
        assert_eq!(terminal.ended().0, Some(0));
        assert!(terminal.is_as_before());
        // The next conversation knows what was typed in this one.
        let mut next = folder.at_terminal(&["chat", "home"]);
        next.see("a prompt", |screen| last(screen).trim_end() == ">");
        next.type_in("\u{1b}[A");
        next.see("the recall", |screen| last(screen) == "> what do we need");
        next.type_in("\u{3}\u{4}");
        assert_eq!(next.end().0, Some(0));
    };
    tokio::task::spawn_blocking(minute).await.unwrap();
}

#[test]
fn a_message_may_have_several_lines_typed_or_pasted() {
    let folder = applied();
    let mut terminal = folder.at_terminal(&["chat", "home"]);
    terminal.see("a prompt", |screen| last(screen).trim_end() == ">");
    terminal.type_in("one\\\rtwo\u{1b}\rthree\u{1b}[200~\rfour\u{1b}[201~");
    terminal.see("four lines", |screen| last(screen).contains("four"));
    assert!(!folder.read("data/chat-history").contains("one"), "a line was sent too early");
    terminal.type_in("\r");
    terminal.wait_for("(rehearsal)");
    let history = folder.read("data/chat-history");
    assert!(history.contains("two\\nthree\\nfour"), "{history}");
    terminal.type_in("\u{4}");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn tab_completes_commands_and_groups() {
    let folder = Folder::with(&format!("{QUICK}\n[groups.work]\nbind = []\n"));
    assert_eq!(folder.run(&["apply", "--yes"]).code, Some(0));
    let mut terminal = folder.at_terminal(&["chat", "home"]);
    terminal.see("a prompt", |screen| last(screen).trim_end() == "home>");
    terminal.type_in("/w\t\r");
    terminal.see("the other group", |screen| last(screen).trim_end() == "work>");
    terminal.type_in("/he\t\r");
    terminal.see("the help", |screen| screen.contains("Alt-Enter"));
    terminal.type_in("/nobody\r");
    terminal.see("a refusal", |screen| screen.contains("unknown command"));
    terminal.type_in("/quit\r");
    assert_eq!(terminal.ended().0, Some(0));
    assert!(terminal.is_as_before());
}

#[test]
fn a_terminal_is_left_as_it_was_whatever_ends_the_conversation() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let folder = applied();
        let mut terminal = folder.at_terminal(&["chat", "home"]);
        terminal.see("a prompt", |screen| last(screen).trim_end() == ">");
        assert!(!terminal.is_as_before(), "{signal:?}: the line is not edited");
        send(&terminal, signal);
        let (code, screen) = terminal.ended();
        assert_eq!(code, Some(130), "{signal:?}: {screen}");
        assert!(terminal.is_as_before(), "{signal:?}");
        assert!(screen.contains("\u{1b}[?2004l"), "{signal:?}: pasting stays marked: {screen:?}");
    }
}

#[test]
fn a_terminal_that_cannot_redraw_is_sent_no_escapes() {
    let folder = applied();
    let mut command = folder.command(&["chat", "home"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::start(command);
    terminal.type_in("write milk to list.txt\n");
    let screen = terminal.see("the reply", |screen| screen.contains("(rehearsal)"));
    assert!(!screen.contains("…"), "{screen}");
    terminal.type_in("\u{4}");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pipe_the_reply_is_on_stdout_once_and_what_is_under_way_on_stderr() {
    let fake = FakeOllama::start().await;
    let (reply, [first, second]) = in_pieces(["Milk, ", "eggs and ", "bread."]);
    fake.answer("/api/chat", reply);
    let talk = move || {
        let folder = applied_on(&fake);
        let mut command = folder.command(&["chat", "home", "what do we need?"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("thinking") {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.extend(byte);
        }
        first.notify_one();
        second.notify_one();
        let ended = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "Milk, eggs and bread.\n");
        stderr.read_to_end(&mut seen).unwrap();
        let told = String::from_utf8_lossy(&seen);
        assert!(!told.contains('\u{1b}') && !told.contains("Milk"), "{told:?}");
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
}

#[test]
fn a_second_conversation_says_whom_it_is_queued_behind() {
    let folder = applied();
    let mut first = folder.at_terminal(&["chat", "home", "run `sleep 300`"]);
    first.wait_for("bb_shell");
    let mut second = folder.at_terminal(&["chat", "home", "hello"]);
    second.see("whom", |screen| screen.contains("queued behind another conversation with home"));
    for terminal in [&second, &first] {
        send(terminal, Signal::TERM);
    }
    assert_eq!(second.end().0, Some(130));
    assert_eq!(first.end().0, Some(130));
}
