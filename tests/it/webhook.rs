//! The webhook, over real connections: what it serves, and whom it refuses.

mod api;
mod attack;
mod callback;
mod canary;
mod hostile;
mod inbox;
mod outbox;
mod page;
mod senders;
mod site;
mod soak;
mod stranger;

use std::net::SocketAddr;
use std::sync::Arc;

use babybot::channel::{Channel, Opening, Registry};
use babybot::name::{ChannelName, SecretName};
use babybot::resource::{CallbackSpec, ChannelSpec, SecretRef, SecretSource, WebhookSpec};
use babybot::secret::Secret;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::inbox::FakeInbox;

const TOKEN: &str = "a-token-of-some-length";
const SIGNING: &str = "the-secret-that-signs";

/// A webhook that listens, with what stands behind it.
struct Listening {
    address: SocketAddr,
    channel: Arc<dyn Channel>,
    inbox: Arc<FakeInbox>,
    _stop: DropGuard,
}

impl Listening {
    async fn start() -> Self {
        Self::calling(None).await
    }

    async fn calling(callback: Option<String>) -> Self {
        loop {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let channel = open(free, callback.clone()).unwrap();
            let (inbox, stop) = (Arc::new(FakeInbox::default()), CancellationToken::new());
            let (serving, behind, end) = (Arc::clone(&channel), Arc::clone(&inbox), stop.clone());
            let mut run = tokio::spawn(async move { serving.run(&*behind, end).await });
            loop {
                tokio::select! {
                    // Somebody else took the port in between.
                    ended = &mut run => {
                        ended.unwrap().unwrap_err();
                        break;
                    }
                    listens = channel.probe() => {
                        if listens.is_ok() {
                            let _stop = stop.drop_guard();
                            return Self { address: free, channel, inbox, _stop };
                        }
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Sends a request as it is written here, with a body.
    async fn ask(&self, head: &[&str], body: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request(head, body).as_bytes()).await.unwrap();
        answer(&mut stream).await.expect("the webhook answers")
    }

    /// Writes a message to the chat `kitchen`.
    async fn write(&self, query: &str, message: &Value) -> Answer {
        let line = format!("POST /v1/chats/kitchen/messages{query} HTTP/1.1");
        self.ask(&[&line, &self.host(), BEARER, JSON], &message.to_string()).await
    }

    /// Reads the replies of the chat `kitchen`.
    async fn read(&self, query: &str) -> Answer {
        let line = format!("GET /v1/chats/kitchen/replies{query} HTTP/1.1");
        self.ask(&[&line, &self.host(), BEARER], "").await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn host(&self) -> String {
        format!("Host: {}", self.address)
    }
}

const BEARER: &str = "Authorization: Bearer a-token-of-some-length";
const JSON: &str = "Content-Type: application/json";

/// A request in bytes; its length is said unless the head says something about it.
fn request(head: &[&str], body: &str) -> String {
    let mut text = head.join("\r\n");
    if !body.is_empty() && !text.contains("Content-Length") && !text.contains("chunked") {
        text.push_str(&format!("\r\nContent-Length: {}", body.len()));
    }
    format!("{text}\r\n\r\n{body}")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

/// Reads one answer; `None` where the connection ended instead.
async fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            break (head.clone(), length.map_or(0, |length| length.parse().unwrap()));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let start = head.len() + 4;
    while bytes.len() < start + length {
        assert_ne!(stream.read_buf(&mut bytes).await.ok()?, 0, "an answer was cut off");
    }
    let status = head.split(' ').nth(1)?.parse().unwrap();
    let body = serde_json::from_slice(&bytes[start..start + length]).unwrap_or(Value::Null);
    Some(Answer { status, head, body })
}

fn spec(listen: SocketAddr, callback: Option<String>) -> ChannelSpec {
    let secret = |name: &str, variable: &str| SecretRef {
        name: SecretName::new(name).unwrap(),
        source: SecretSource::Env(variable.to_owned()),
    };
    let callback = callback.map(|url| CallbackSpec { url, secret: secret("signing", "SIGNING") });
    let token = secret("api", "API_TOKEN");
    ChannelSpec::Webhook(Box::new(WebhookSpec { listen, token, callback }))
}

fn open(listen: SocketAddr, callback: Option<String>) -> Result<Arc<dyn Channel>, String> {
    open_with(listen, callback, TOKEN)
}

fn open_with(
    listen: SocketAddr,
    callback: Option<String>,
    token: &'static str,
) -> Result<Arc<dyn Channel>, String> {
    let name = ChannelName::new("api").unwrap();
    let secrets = move |secret: &SecretRef| {
        let value = if secret.name.as_str() == "api" { token } else { SIGNING };
        Ok(Secret::new(value.as_bytes().to_vec()))
    };
    let spec = spec(listen, callback);
    Registry::of_house(&Arc::default()).open(&Opening {
        name: &name,
        spec: &spec,
        secrets: &secrets,
    })
}
