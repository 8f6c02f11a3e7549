//! Another user of the machine: what they find of a webhook, and what they can do with it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::json;

use super::site::Site;
use crate::support::docker::needs_engine;

/// A user without any power.
const NOBODY: u32 = 65_534;
/// The variable by which a test program is that user, and is told where to try.
const STRANGER: &str = "BABYBOT_IT_STRANGER";
const HERE: &str = "[[rule]]\nsteps = [{ reply = \"here\" }]\n";

/// What the user of the next test tries; by itself nothing.
#[test]
fn the_program_of_another_user() {
    let Ok(places) = std::env::var(STRANGER) else { return };
    for place in places.lines() {
        let (way, place) = place.split_once(' ').unwrap();
        let came = match way {
            "file" => std::fs::File::open(place).map(|_| "read".to_owned()),
            "socket" => UnixStream::connect(place).map(|_| "connected".to_owned()),
            request => ask(place, request),
        };
        let came = came.unwrap_or_else(|error| format!("{:?}", error.kind()));
        println!("\n{way} {place}: {came}");
    }
}

/// The status of an answer to a message, with this token or without one.
fn ask(address: &str, token: &str) -> std::io::Result<String> {
    let body = r#"{"text":"from a stranger"}"#;
    let token = match token {
        "without" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let mut stream = TcpStream::connect(address)?;
    let head = format!(
        "POST /v1/chats/a/messages?wait=5m HTTP/1.1\r\nHost: {address}\r\n{token}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[test]
fn another_user_finds_no_token_and_no_way_in() {
    let engine = needs_engine!();
    if !rustix::process::geteuid().is_root() {
        crate::support::skipped("only root can be another user");
        return;
    }
    let site = Site::new(engine, "a", None, HERE);
    let up = site.up();
    let root = site.home.place.root();
    let notice = std::fs::read(root.join("data/controller.json")).unwrap();
    let notice: serde_json::Value = serde_json::from_slice(&notice).unwrap();
    let socket = notice["socket"].as_str().unwrap();
    let address = format!("127.0.0.1:{}", site.port);
    let at = |path: &str| root.join(path).display().to_string();
    let process = |file: &str| format!("/proc/{}/{file}", up.pid());
    let expected = [
        // The positive controls: it can read what is not secret, and it reaches the webhook.
        (format!("file {}", at("babybot.toml")), "read"),
        (format!("without {address}"), "401"),
        (format!("a-guess-of-the-token {address}"), "401"),
        (format!("file {}", at(".signing")), "PermissionDenied"),
        (format!("file {}", at("data/controller.json")), "PermissionDenied"),
        (format!("file {}", at("data/babybot.db")), "PermissionDenied"),
        (format!("file {}", at("data/logs/babybot.log")), "PermissionDenied"),
        (format!("file {}", process("environ")), "PermissionDenied"),
        (format!("file {}", process("mem")), "PermissionDenied"),
        (format!("socket {socket}"), "PermissionDenied"),
    ];
    let places: Vec<&str> = expected.iter().map(|(place, _)| place.as_str()).collect();
    let (_, module) = module_path!().split_once("::").unwrap();
    let tried = Command::new(site.home.place.test_program())
        .args(["--exact", &format!("{module}::the_program_of_another_user"), "--nocapture"])
        .env_clear()
        .env(STRANGER, places.join("\n"))
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let tried = String::from_utf8_lossy(&tried.stdout).into_owned();
    for (place, came) in &expected {
        assert!(tried.contains(&format!("\n{place}: {came}\n")), "{place}: {came}: {tried}");
    }
    // Nor do the verbs reach anything for them.
    for verb in [&["chat", "a", "from a stranger"][..], &["status"], &["outbox", "list"], &["down"]]
    {
        let ended = site.home.place.command(verb).uid(NOBODY).gid(NOBODY).output().unwrap();
        assert!(!ended.status.success(), "{verb:?}: {ended:?}");
    }
    // Everything is as it was for whoever has the token.
    assert_eq!(site.ask("a", &json!({ "text": "hello", "id": "one" })), "here");
    assert_eq!(site.home.place.column("SELECT text FROM messages"), ["hello"]);
    up.end();
}
