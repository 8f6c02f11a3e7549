//! A real installation with a webhook, in containers.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use babybot::clock::{Clock as _, SystemClock};
use reqwest::Client;
use serde_json::Value;

use crate::support::docker::{Engine, block_on};
use crate::support::home::{Home, Up, YES};
use crate::support::installation::wait_until;

pub(super) const SIGNING: &str = "canary-of-the-file-9b2d44aa";

/// Longest that one request takes, a container's start included.
const REQUEST_MAX: Duration = Duration::from_secs(90);

pub(super) struct Site {
    pub(super) home: Home,
    pub(super) port: u16,
    /// What no other site has, whose processes run beside this one's.
    pub(super) token: String,
}

/// A port that nobody listens on.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Site {
    /// Groups `a`, `b` and so on, each bound to the chat of its name; their rehearsal plays `script`.
    pub(super) fn new(engine: Engine, groups: &str, callback: Option<u16>, script: &str) -> Self {
        let port = free_port();
        let mut text = format!(
            "[secrets]\napi = {{ env = \"API_TOKEN\" }}\nsigning = {{ file = \"~/.signing\" }}\n\
             [channels.api]\nkind = \"webhook\"\nlisten = \"127.0.0.1:{port}\"\n\
             token = {{ secret = \"api\" }}\n"
        );
        if let Some(port) = callback {
            text.push_str(&format!(
                "callback = {{ url = \"http://127.0.0.1:{port}/\", secret = \"signing\" }}\n"
            ));
        }
        for group in groups.chars() {
            text.push_str(&format!("[groups.{group}]\nbind = [\"api:{group}\"]\n"));
        }
        let home = Home::docker(engine, "", &text, script);
        home.place.write(".signing", &format!("{SIGNING}\n"));
        let signing = home.place.root().join(".signing");
        std::fs::set_permissions(signing, std::fs::Permissions::from_mode(0o600)).unwrap();
        let token = format!("canary-of-the-variable-{}", &SystemClock.random_bits()[..16]);
        Self { home, port, token }
    }

    /// The program, with the token where it is looked for.
    pub(super) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.home.place.command(arguments);
        command.env("API_TOKEN", &self.token);
        command
    }

    #[track_caller]
    pub(super) fn up(&self) -> Up {
        let up = self.home.start(&mut self.command(&["up", YES, "-vv"]));
        up.wait_until_it_serves();
        up
    }

    /// Starts the controller again, without waiting until it serves.
    pub(super) fn up_again(&self) -> Up {
        self.home.start(&mut self.command(&["up"]))
    }

    /// Writes a message, once; what is answered, if anything is.
    pub(super) async fn write(
        &self,
        client: &Client,
        chat: &str,
        wait: &str,
        message: &Value,
    ) -> Option<(u16, Value)> {
        let url = format!("http://127.0.0.1:{}/v1/chats/{chat}/messages?wait={wait}", self.port);
        let asked = client.post(url).bearer_auth(&self.token).timeout(REQUEST_MAX);
        let asked = asked.header("content-type", "application/json").body(message.to_string());
        answered(asked).await
    }

    /// Reads replies, once.
    pub(super) async fn read(
        &self,
        client: &Client,
        chat: &str,
        after: i64,
    ) -> Option<(u16, Value)> {
        let url = format!("http://127.0.0.1:{}/v1/chats/{chat}/replies?after={after}", self.port);
        answered(client.get(url).bearer_auth(&self.token).timeout(REQUEST_MAX)).await
    }

    /// Writes a message and gives the reply to it.
    #[track_caller]
    pub(super) fn ask(&self, chat: &str, message: &Value) -> String {
        let answered = block_on(self.write(&client(), chat, "60s", message));
        let (status, body) = answered.expect("the webhook answers");
        assert_eq!(status, 200, "{body} {}", self.home.log());
        body["reply"]["text"].as_str().unwrap().to_owned()
    }
}

pub(super) fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn answered(asked: reqwest::RequestBuilder) -> Option<(u16, Value)> {
    let response = asked.send().await.ok()?;
    let status = response.status().as_u16();
    let body = response.bytes().await.ok()?;
    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// Somebody who is called back, and keeps what was said.
pub(super) struct Called {
    pub(super) port: u16,
    said: Arc<Mutex<String>>,
    /// The status that it answers with.
    pub(super) status: Arc<Mutex<&'static str>>,
}

impl Called {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::new(Mutex::new(String::new()));
        let status = Arc::new(Mutex::new("204 No Content"));
        let (hears, answers) = (Arc::clone(&said), Arc::clone(&status));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = vec![0; 1 << 20];
                // A request of this size comes in one piece, or in two.
                let mut length = stream.read(&mut bytes).unwrap();
                while !bytes[..length].ends_with(b"}") {
                    length += stream.read(&mut bytes[length..]).unwrap();
                }
                hears.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
                let status = *answers.lock().unwrap();
                let answer =
                    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { port, said, status }
    }

    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(super) fn wait_for_one(&self) -> String {
        wait_until("a reply is posted", || !self.said().is_empty());
        self.said()
    }
}
