//! Others who attack a webhook: the groups behind it, and whoever has the token, do not notice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::site::{Site, client};
use super::{JSON, answer, request};
use crate::support::docker::{block_on, needs_engine, outside};
use crate::support::home::report;
use crate::support::installation::{PATIENCE, wait_for_end, wait_until};

/// Twice as many connections as a webhook takes at once.
const IDLE: usize = 256;
/// Clients of each other kind.
const EACH: usize = 8;
/// How long each of them waits between two steps: they share the machine with those who work.
const PACE: Duration = Duration::from_millis(20);
/// Messages of either kind that are answered meanwhile.
const MESSAGES: usize = 5;
/// How often a message is written at most: each time, it may be let go for newer connections.
const ATTEMPTS_MAX: usize = 20;

const SCRIPT: &str = "[[rule]]\nsteps = [{ reply = \"to {message}\" }]\n";

/// What attackers did so far.
#[derive(Debug, Default)]
struct Done {
    wrong_tokens: AtomicUsize,
    slow_bytes: AtomicUsize,
    idle: AtomicUsize,
    refused_bodies: AtomicUsize,
}

impl Done {
    fn counts(&self) -> [usize; 4] {
        [&self.wrong_tokens, &self.slow_bytes, &self.idle, &self.refused_bodies]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Attack {
    address: String,
    done: Done,
}

impl Attack {
    fn head(&self, header: &[&str]) -> String {
        let host = format!("Host: {}", self.address);
        let line = "POST /v1/chats/a/messages HTTP/1.1";
        request(&[&[line, &host, JSON][..], header].concat(), "")
    }

    async fn connect(&self) -> Option<TcpStream> {
        TcpStream::connect(&self.address).await.ok()
    }

    /// Guesses tokens.
    async fn guess(&self) {
        let Some(mut stream) = self.connect().await else { return };
        let head = self.head(&["Authorization: Bearer a-guess-of-the-token", "Content-Length: 0"]);
        if stream.write_all(head.as_bytes()).await.is_ok()
            && let Some(answer) = answer(&mut stream).await
        {
            assert!(matches!(answer.status, 401 | 429), "{answer:?}");
            count(&self.done.wrong_tokens);
        }
    }

    /// Sends a head, one byte after the other, as long as somebody takes them.
    async fn trickle(&self) {
        let Some(mut stream) = self.connect().await else { return };
        for byte in self.head(&[]).into_bytes() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            count(&self.done.slow_bytes);
            tokio::time::sleep(PACE).await;
        }
    }

    /// Connects and says nothing, until it is let go.
    async fn idle(&self) {
        let Some(mut stream) = self.connect().await else { return };
        count(&self.done.idle);
        let _ = stream.read(&mut [0]).await;
    }

    /// Sends a body without an end, which the token alone gets as far as a bound.
    async fn flood(&self, header: &str) {
        let Some(stream) = self.connect().await else { return };
        let (mut reader, mut writer) = stream.into_split();
        let head = self.head(&[header, "Transfer-Encoding: chunked"]);
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        let send = async {
            let mut sent = writer.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = writer.write_all(chunk.as_bytes()).await;
            }
        };
        let read = async {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes).await;
        };
        tokio::join!(send, read);
        count(&self.done.refused_bodies);
    }
}

/// Does it again and again.
async fn again<F: Future<Output = ()>>(what: impl Fn() -> F) {
    loop {
        what().await;
        tokio::time::sleep(PACE).await;
    }
}

#[test]
fn an_attack_disturbs_no_group_and_nobody_who_has_the_token() {
    let engine = needs_engine!();
    let site = Site::new(engine, "ab", None, SCRIPT);
    let up = site.up();
    let attack = Attack { address: format!("127.0.0.1:{}", site.port), done: Done::default() };
    let (over, bearer) =
        (CancellationToken::new(), format!("Authorization: Bearer {}", site.token));
    std::thread::scope(|scope| {
        let (site, attack, stop) = (&site, &attack, over.clone().drop_guard());
        let (over, bearer) = (&over, bearer.as_str());
        scope.spawn(move || {
            let idle = join_all((0..IDLE).map(|_| again(|| attack.idle())));
            let guess = join_all((0..EACH).map(|_| again(|| attack.guess())));
            let trickle = join_all((0..EACH).map(|_| again(|| attack.trickle())));
            let flood = join_all((0..EACH).map(|number| {
                let header = if number % 2 == 0 { bearer } else { "X-Token: none" };
                again(move || attack.flood(header))
            }));
            outside().block_on(async {
                tokio::select! {
                    _ = async { tokio::join!(idle, guess, trickle, flood) } => {}
                    () = over.cancelled() => {}
                }
            });
        });
        for number in 0..MESSAGES {
            let before = attack.done.counts();
            // Another group, at the terminal.
            let text = format!("b {number}");
            let said = site.home.say("b", &text);
            let ended = wait_for_end(said, PATIENCE);
            let right = (0, format!("to {text}\n"));
            assert_eq!((ended.code, ended.stdout.clone()), right, "{ended:?}");
            // The group that is attacked, by whoever has the token.
            let text = format!("a {number}");
            assert_eq!(ask(site, &text), format!("to {text}"));
            let wait = || attack.done.counts().iter().zip(&before).all(|(now, then)| now > then);
            wait_until("every attack goes on", wait);
        }
        drop(stop);
    });
    let status = site.home.status();
    for group in ["a", "b"] {
        let conditions = &status["groups"][group]["conditions"];
        assert_eq!(conditions["Degraded"]["holds"], false, "{status:#}");
    }
    site.home.assert_each_message_has_one_reply(2 * MESSAGES);
    report(&format!("an attack: {:?}", attack.done));
    up.end();
}

/// Writes a message and gives the reply. A connection may be let go for newer ones: then it is
/// written again, as a client does, a few times at most.
#[track_caller]
fn ask(site: &Site, text: &str) -> String {
    let message = json!({ "text": text, "id": text });
    for attempt in 1..=ATTEMPTS_MAX {
        let client = client();
        let answered = block_on(site.write(&client, "a", "60s", &message));
        let Some((status, body)) = answered else { continue };
        assert_eq!(status, 200, "{body}");
        report(&format!("{text}: answered at attempt {attempt}"));
        return body["reply"]["text"].as_str().unwrap().to_owned();
    }
    panic!("{text}: nobody takes it");
}
