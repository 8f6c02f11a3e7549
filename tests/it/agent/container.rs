//! The agent in a real container: its first process, with no network, and nothing writable but its
//! places.

use std::path::Path;
use std::process::{Command as StdCommand, Stdio};

use babybot::protocol::{Event, Limit};
use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;

use super::host::{Played, calls, result_of, says, shell, welcome};
use crate::support::installation::wait_until;

/// A shell and what a test needs of a system, in one static program.
const BUSYBOX: &str = "/bin/busybox";

/// An image of this test's own, gone with it.
struct Image(String);

impl Image {
    /// This program alone, or with a shell. `None`, said on the real stderr: there is no Docker.
    fn new(shell: bool) -> Option<Self> {
        let shell = shell.then(|| Path::new(BUSYBOX));
        if !docker(&["version"]).1 || shell.is_some_and(|path| !path.exists()) {
            let why = format!("it needs a Docker engine, and {BUSYBOX} (busybox-static)");
            assert!(std::env::var_os("BABYBOT_REQUIRE_DOCKER").is_none(), "not run: {why}");
            crate::support::skipped(&why);
            return None;
        }
        let image = Self(format!("babybot-it-agent:{}", random()));
        let mut importing = StdCommand::new("docker")
            .args(["import", "-", &image.0])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut tar = tar::Builder::new(importing.stdin.take().unwrap());
        let mut put = |from: &Path, to: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(from.metadata().unwrap().len());
            header.set_mode(0o755);
            tar.append_data(&mut header, to, std::fs::File::open(from).unwrap()).unwrap();
        };
        put(Path::new(env!("CARGO_BIN_EXE_babybot")), "babybot");
        if let Some(busybox) = shell {
            put(busybox, "bin/busybox");
            for applet in [
                "sh", "sleep", "cat", "head", "tail", "wc", "nc", "ls", "id", "touch", "grep",
                "setsid",
            ] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
            }
        }
        drop(tar.into_inner().unwrap());
        assert!(importing.wait().unwrap().success());
        Some(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

/// A container of this test's own, gone with it, and the agent in it.
struct Contained {
    played: Played,
    name: String,
}

impl Contained {
    /// An agent as the runtime starts it, with these options on top.
    fn start(image: &Image, more: &[&str]) -> Self {
        let name = format!("babybot-it-{}", random());
        let mut command = Command::new("docker");
        command
            .args(["run", "-i", "--rm", "--name", &name, "--log-driver", "none"])
            .args(["--network", "none", "--read-only", "--cap-drop", "ALL"])
            .args(["--security-opt", "no-new-privileges:true", "--user", "10001:10001"])
            .args(["--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777"])
            .args(["--tmpfs", "/workspace/group:rw,exec,uid=10001,gid=10001"])
            .args(["--tmpfs", "/home/agent:rw,exec,uid=10001,gid=10001"])
            .args(["--workdir", "/workspace/group", "--env", "HOME=/home/agent"])
            .args(more)
            .args([&image.0, "/babybot", "agent", "--loopback"]);
        Self { played: Played::start(command, welcome()), name }
    }

    /// A command of an operator's beside the agent: what it says, and whether it went well.
    async fn exec(&self, command: &str) -> (String, bool) {
        let (name, command) = (self.name.clone(), command.to_owned());
        tokio::task::spawn_blocking(move || exec(&name, &command)).await.unwrap()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.name]);
    }
}

fn exec(container: &str, command: &str) -> (String, bool) {
    docker(&["exec", container, "/bin/sh", "-c", command])
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn docker(arguments: &[&str]) -> (String, bool) {
    let run = StdCommand::new("docker").args(arguments).stdin(Stdio::null()).output();
    let Ok(run) = run else { return (String::new(), false) };
    (String::from_utf8_lossy(&run.stdout).trim().to_owned(), run.status.success())
}

/// Asks over HTTP/1.1 as any client does, which stays until it has its answer.
fn asks(request: &str) -> String {
    let headers = "Host: x\\r\\nConnection: close\\r\\n\\r\\n";
    format!("(printf '{request} HTTP/1.1\\r\\n{headers}'; sleep 1) | nc 127.0.0.1 11434")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_first_process_and_reaches_nothing_but_its_model() {
    let Some(image) = Image::new(true) else { return };
    let mut contained = Contained::start(&image, &[]);
    let played = &mut contained.played;
    assert_eq!(played.run("echo $PPID; id -u").await, "1\n10001");
    for path in ["/proc/1/fd/0", "/proc/1/fd/1", "/proc/1/fd/2", "/proc/1/mem"] {
        let tried = played.run(&format!("echo forged > {path} || echo refused")).await;
        assert!(tried.ends_with("refused"), "{path}: {tried}");
    }
    let files = "touch /new; touch /workspace/group/a ~/b /tmp/c && echo kept";
    let result = played.run(files).await;
    assert!(result.contains("/new: Read-only file system") && result.ends_with("kept"), "{result}");
    let write = calls("bb_write_file", json!({"path": "/etc/x", "content": "y"}));
    let result = result_of(&played.call(write).await);
    assert!(result.starts_with("error: /etc/x: "), "{result}");

    // The model is there for a tool, and for an operator's command; the agent's own routes are not.
    let running = played.run(&asks("GET /")).await;
    assert!(running.starts_with("HTTP/1.1 200 OK"), "{running}");
    assert!(running.ends_with("Ollama is running"), "{running}");
    assert!(played.run(&asks("POST /hello")).await.starts_with("HTTP/1.1 404"));
    let elsewhere = "nc -w 2 172.17.0.1 22 < /dev/null || echo unreachable";
    assert!(played.run(elsewhere).await.ends_with("unreachable"));
    let head = contained.exec(&asks("HEAD /")).await.0;
    assert!(head.starts_with("HTTP/1.1 200 OK") && !head.contains("running"), "{head}");

    // All of a flood is in the home, up to what is kept of it.
    let played = &mut contained.played;
    let flood = played.run("head -c 200000000 /dev/zero").await;
    let words = "the first 10485760 of 200000000 bytes are in /home/agent/.bb/out/";
    assert!(flood.contains(words), "{flood}");
    let kept = played.run("cat ~/.bb/out/* | wc -c; ls ~/.ollama").await;
    assert_eq!(kept, "10485760\ntranscript.jsonl");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reaps_what_others_leave_behind_and_leaves_an_operator_alone() {
    let Some(image) = Image::new(true) else { return };
    let mut contained = Contained::start(&image, &[]);
    assert_eq!(contained.played.run("echo ready").await, "ready");
    // Orphans of an operator's command, between calls.
    let orphans = "i=0; while [ $i -lt 20 ]; do (sleep 0.1 & ); i=$((i + 1)); done; sleep 0.5";
    assert!(contained.exec(orphans).await.1);
    let children = contained.exec("cat /proc/1/task/1/children").await.0;
    assert_eq!(children, "", "zombies are left");

    // A command that runs while a tool ends is nobody's leftover, what it leaves behind is.
    let command = format!("(setsid sleep 600 &); sleep 0.2; {SLEEPERS}; touch /tmp/begun; sleep 4");
    let (name, play) = (contained.name.clone(), &mut contained.played);
    let exec = tokio::task::spawn_blocking(move || exec(&name, &command));
    play.run("while [ ! -e /tmp/begun ]; do sleep 0.1; done").await;
    assert_eq!(play.run(SLEEPERS).await, "0");
    assert!(!exec.is_finished());
    assert_eq!(exec.await.unwrap(), ("1".to_owned(), true));
}

/// Counts the processes that are `sleep 600`.
const SLEEPERS: &str = r#"n=0; for p in /proc/[0-9]*; do read -r line < $p/cmdline
[ "$line" != sleep600 ] || n=$((n + 1)); done 2> /dev/null; echo $n"#;

/// Waits until the operator's command runs.
async fn contained_until_begun(name: &str) {
    let name = name.to_owned();
    let begun = move || {
        wait_until("the command runs", || docker(&["exec", &name, "/bin/ls", "/tmp/begun"]).1);
    };
    tokio::task::spawn_blocking(begun).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_hears_that_it_shall_end_and_ends_with_its_host() {
    let Some(image) = Image::new(true) else { return };
    for by_signal in [true, false] {
        let mut contained = Contained::start(&image, &[]);
        contained.played.begin_running("touch /tmp/begun; setsid sleep 600 & sleep 600").await;
        contained_until_begun(&contained.name).await;
        if by_signal {
            let (name, signal) = (contained.name.clone(), format!("{}", Signal::TERM.as_raw()));
            assert!(docker(&["kill", "--signal", &signal, &name]).1);
            assert_eq!(contained.played.end().await.code(), Some(0));
        } else {
            contained.played.let_go();
            contained.played.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_strikes_a_tool_is_named_and_reported() {
    let Some(image) = Image::new(true) else { return };
    let image = std::sync::Arc::new(image);
    // Where a tool that is being killed has not given its memory back yet, the kernel may take one
    // more, and that is the agent: seldom, and not three times in a row.
    for _ in 0..2 {
        let image = std::sync::Arc::clone(&image);
        if tokio::spawn(async move { strike(&image).await }).await.is_ok() {
            return;
        }
    }
    strike(&image).await;
}

async fn strike(image: &Image) {
    let bounds = ["--memory", "64m", "--memory-swap", "64m", "--pids-limit", "24"];
    let mut contained = Contained::start(image, &bounds);
    let played = &mut contained.played;
    let calm = played.call(shell("echo calm")).await;
    assert!(!calm.iter().any(|event| matches!(event, Event::Struck { .. })), "{calm:?}");

    // One that holds everything, and many that hold a little each: never the agent.
    let one = "tail -c 200000000 /dev/zero | wc -c";
    let many = "for i in 1 2 3 4 5 6; do tail -c 15000000 /dev/zero & done > /dev/null; sleep 4";
    for hog in [one, many] {
        let events = played.call(shell(hog)).await;
        assert!(events.contains(&Event::Struck { limit: Limit::Memory }), "{events:?}");
        let words = "[limits.memory: a process was killed: the container is out of memory]";
        assert!(result_of(&events).ends_with(words), "{events:?}");
    }
    let forks = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i + 1)); done 2> /dev/null; exit 3";
    let events = played.call(shell(forks)).await;
    assert!(events.contains(&Event::Struck { limit: Limit::Pids }), "{events:?}");
    assert!(result_of(&events).contains("[limits.pids: a process could not start"));
    assert_eq!(played.run("echo alive").await, "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_but_itself_it_has_its_file_tools() {
    let Some(image) = Image::new(false) else { return };
    let mut contained = Contained::start(&image, &[]);
    let played = &mut contained.played;
    let turn = played.turn("write").await;
    let asked = played.asked().await;
    let names: Vec<&str> = asked["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["function"]["name"].as_str().unwrap())
        .collect();
    // Beside those, what the host offers.
    assert_eq!(names, ["bb_read_file", "bb_write_file", "bb_edit_file", "bb_send_message"]);
    played.answer(calls("bb_write_file", json!({"path": "notes/a.txt", "content": "one\n"})));
    assert_eq!(played.result(&turn).await, "wrote 4 bytes to notes/a.txt");
    played.answer(shell("cat notes/a.txt"));
    assert!(played.result(&turn).await.starts_with("error: there is no tool `bb_shell`"));
    played.answer(calls("bb_read_file", json!({"path": "/workspace/group/notes/a.txt"})));
    assert_eq!(played.result(&turn).await, "one\n");
    played.answer(says("done"));
    assert!(matches!(played.event(&turn).await, Event::Done { .. }));
    // Nothing of what was said or done is on the log.
    played.let_go();
    played.end().await;
    let log = played.log().await;
    assert_eq!(log.matches('\n').count(), 1, "{log}");
    assert!(log.starts_with("babybot: cannot run the agent: the link broke"), "{log}");
}
