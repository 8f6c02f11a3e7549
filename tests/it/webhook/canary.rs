//! The values of secrets are nowhere but where they are kept.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;

use super::site::{Called, SIGNING, Site, client};
use crate::support::docker::{block_on, needs_engine};
use crate::support::home::{Home, YES};

/// The token of the one installation here whose webhook never opens.
const TOKEN_OF_NONE: &str = "canary-of-no-site-5f1c7d";

/// An agent that says what it can see of itself, and of whatever else runs.
const LOOKS: &str = r#"
[[rule]]
steps = [
  { call = { tool = "bb_shell", arguments = { command = "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\000' '\\n'; ls -aR /workspace | head -n 500" } } },
  { reply = "{result}" },
]
"#;

#[test]
fn a_secret_is_in_no_output_no_file_no_process_and_no_agent() {
    let engine = needs_engine!();
    let called = Called::start();
    let site = Site::new(engine, "a", Some(called.port), LOOKS);
    let outputs = Mutex::new(Vec::new());
    let keep = |what: &str, text: String| outputs.lock().unwrap().push((what.to_owned(), text));
    let run = |arguments: &[&str], words: &str| {
        let output = site.command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // Each has something in it that only it could have.
        assert!(text.contains(words), "{arguments:?}: {text}");
        keep(&arguments.join(" "), text);
    };
    run(&["validate", "-v"], "is valid");
    run(&["validate", "--format", "json"], "valid");
    run(&["plan", "-v"], "API_TOKEN");
    run(&["plan", "--format", "json"], "API_TOKEN");
    run(&["apply", YES, "-vv"], "channel/api");
    let up = site.up();
    let reply = site.ask("a", &json!({ "text": "look", "sender": "Ann", "id": "one" }));
    assert!(reply.contains("PATH="), "{reply}");
    keep("reply", reply);
    assert_eq!(called.wait_for_one().lines().next(), Some("POST / HTTP/1.1"));
    let wrong = client().get(format!("http://127.0.0.1:{}/", site.port));
    let refused = block_on(async { wrong.send().await.unwrap().text().await.unwrap() });
    keep("refused", refused);
    run(&["status"], "a ");
    run(&["status", "--format", "json"], "controller");
    run(&["history"], "1");
    run(&["history", "--format", "json"], "generation");
    run(&["logs", "-n", "10000"], "ready");
    run(&["outbox", "list"], "");
    run(&["outbox", "list", "--format", "json"], "");
    keep("up", up.said());
    keep("callback", called.said());
    for (what, text) in outputs.lock().unwrap().iter() {
        assert!(!holds(text.as_bytes(), &site.token), "{what}:\n{text}");
    }
    assert_eq!(files_that_hold(&site.home.place.root(), &site.token), [".signing"]);
    assert_eq!(processes_that_hold(&site.token), [up.pid()]);
    up.end();
    assert_eq!(files_that_hold(&site.home.place.root(), &site.token), [".signing"]);
}

#[test]
fn an_agent_that_is_not_isolated_is_not_given_a_secret() {
    let text = "[secrets]\napi = { env = \"API_TOKEN\" }\n[channels.api]\nkind = \"webhook\"\n\
                listen = \"127.0.0.1:1\"\ntoken = { secret = \"api\" }\n\
                [groups.home]\nbind = [\"terminal\"]\n";
    let home = Home::none("", text, LOOKS);
    let mut command = home.place.command(["chat", "home", "look", YES]);
    let said = command.env("API_TOKEN", TOKEN_OF_NONE).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains("PATH="), "{said:?}");
    assert!(!holds(text.as_bytes(), TOKEN_OF_NONE), "{text}");
    assert_eq!(files_that_hold(&home.place.root(), TOKEN_OF_NONE), [""; 0]);
}

#[test]
fn a_secret_that_cannot_be_read_holds_up_its_channel_alone() {
    let engine = needs_engine!();
    let site = Site::new(engine, "a", None, "[[rule]]\nsteps = [{ reply = \"here\" }]\n");
    // Without its variable.
    let up = site.home.start(&mut site.home.place.command(["up", YES]));
    up.wait_until_it_serves();
    let status = site.home.status_when("the channel is degraded", |status| {
        status.to_string().contains("the variable API_TOKEN is not set")
    });
    assert!(!status.to_string().contains(SIGNING));
    let said = site.home.place.run(&["chat", "a", "hello"]);
    assert_eq!((said.code, said.stdout.trim()), (0, "here"), "{said:?}");
    up.end();
    // With it, a port that somebody has is told, and taken once it is free.
    let taken = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let up = site.up();
    site.home.status_when("the port is taken", |status| {
        status.to_string().contains("another program listens on 127.0.0.1")
    });
    drop(taken);
    site.home.status_when("it listens", |status| {
        !status.to_string().contains("another program listens on 127.0.0.1")
    });
    assert_eq!(site.ask("a", &json!({ "text": "hello" })), "here");
    up.end();
}

fn holds(bytes: &[u8], token: &str) -> bool {
    let has = |value: &str| bytes.windows(value.len()).any(|window| window == value.as_bytes());
    has(token) || has(SIGNING)
}

/// The files below a folder that hold one of the values, the store's among them.
fn files_that_hold(root: &Path, token: &str) -> Vec<String> {
    let (mut open, mut found, mut seen) = (vec![root.to_owned()], Vec::new(), 0);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                seen += 1;
                if holds(&fs::read(entry.path()).unwrap_or_default(), token) {
                    found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
    }
    assert!(seen > 3, "hardly a file was looked at");
    found
}

/// The processes of the machine that have one of the values in their environment or arguments.
fn processes_that_hold(token: &str) -> Vec<i32> {
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let found = numbers.filter(|pid| {
        ["environ", "cmdline"].iter().any(|file| {
            fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| holds(&bytes, token))
        })
    });
    found.collect()
}
