//! A fake Ollama that plays prepared answers byte for byte, and remembers what
//! it was asked.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// One thing the server does while it answers.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends one HTTP chunk.
    Chunk(Vec<u8>),
    /// Goes on when told so.
    Wait(Arc<Notify>),
    /// Sends nothing more, and waits for the client to leave.
    Silence,
    /// Closes the connection in the middle of the answer.
    Break,
}

/// A prepared answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// Further headers, each a whole line.
    pub(crate) headers: Vec<String>,
    pub(crate) steps: Vec<Step>,
    pub(crate) clean: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let content_type = "application/json; charset=utf-8".to_owned();
        let steps = vec![Step::Chunk(body.to_string().into_bytes())];
        Self { status, content_type, headers: Vec::new(), steps, clean: true }
    }

    /// A page that a proxy or another web server sends.
    pub(crate) fn page(status: u16, html: &str) -> Self {
        let content_type = "text/html; charset=utf-8".to_owned();
        Self { status, content_type, ..Self::stream([html]) }
    }

    /// A redirect.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        let headers = vec![format!("location: {location}")];
        Self { status, headers, ..Self::stream([""; 0]) }
    }

    /// A streamed answer in these chunks.
    pub(crate) fn stream(chunks: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        Self::steps(chunks.into_iter().map(|chunk| Step::Chunk(chunk.into())))
    }

    /// The same bytes, cut anew into chunks of some bytes each: where, follows from the seed.
    pub(crate) fn cut(mut self, seed: u64) -> Self {
        let mut state = seed;
        let mut pieces = Vec::new();
        for step in self.steps {
            let Step::Chunk(bytes) = step else {
                pieces.push(step);
                continue;
            };
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                // Knuth's generator: the test is the same every time.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let most = if state >> 63 == 0 { 4 } else { 120 };
                let length = 1 + usize::try_from(state >> 33).unwrap() % most;
                let (piece, left) = rest.split_at(length.min(rest.len()));
                pieces.push(Step::Chunk(piece.to_vec()));
                rest = left;
            }
        }
        self.steps = pieces;
        self
    }

    pub(crate) fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        let content_type = "application/x-ndjson".to_owned();
        let (headers, steps) = (Vec::new(), steps.into_iter().collect());
        Self { status: 200, content_type, headers, steps, clean: true }
    }
}

/// A recorded answer of a real server.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) case: String,
    pub(crate) path: String,
    pub(crate) request: Value,
    pub(crate) reply: Reply,
}

impl Trace {
    /// All cases recorded from this version.
    pub(crate) fn all(version: &str) -> Vec<Self> {
        let path = format!("{}/tests/fixtures/ollama/{version}.jsonl", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| Self::new(&serde_json::from_str(line).unwrap())).collect()
    }

    pub(crate) fn one(version: &str, case: &str) -> Self {
        Self::all(version).into_iter().find(|trace| trace.case == case).unwrap()
    }

    fn new(trace: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let chunks = trace["chunks"].as_array().unwrap();
        Self {
            case: text(&trace["case"]),
            path: text(&trace["request"]["path"]),
            request: trace["request"]["body"].clone(),
            reply: Reply {
                status: u16::try_from(trace["status"].as_u64().unwrap()).unwrap(),
                content_type: text(&trace["headers"]["content-type"]),
                headers: Vec::new(),
                steps: chunks.iter().map(|chunk| Step::Chunk(text(chunk).into_bytes())).collect(),
                clean: trace["ended_cleanly"] == true,
            },
        }
    }

    /// The whole body of the answer.
    pub(crate) fn body(&self) -> Vec<u8> {
        let chunk = |step: &Step| match step {
            Step::Chunk(bytes) => bytes.clone(),
            _ => Vec::new(),
        };
        self.reply.steps.iter().flat_map(chunk).collect()
    }
}

type Replies = Arc<Mutex<BTreeMap<String, VecDeque<Reply>>>>;

/// The server. It ends with the test's runtime.
pub(crate) struct FakeOllama {
    pub(crate) url: String,
    replies: Replies,
    requests: mpsc::UnboundedReceiver<Request>,
    left: mpsc::UnboundedReceiver<()>,
}

impl FakeOllama {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts it where there was none.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let replies = Replies::default();
        let (requests_in, requests) = mpsc::unbounded_channel();
        let (left_in, left) = mpsc::unbounded_channel();
        let served = replies.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    stream,
                    read: Vec::new(),
                    replies: served.clone(),
                    requests: requests_in.clone(),
                    left: left_in.clone(),
                };
                tokio::spawn(connection.serve());
            }
        });
        Self { url, replies, requests, left }
    }

    /// Answers the next request for this path so.
    pub(crate) fn answer(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().entry(path.to_owned()).or_default().push_back(reply);
    }

    /// The next request, apart from those that only ask about the model.
    pub(crate) async fn received(&mut self) -> Request {
        loop {
            let request = self.requests.recv().await.unwrap();
            if request.path != "/api/show" {
                return request;
            }
        }
    }

    /// Forgets what was prepared for this path and not asked for.
    pub(crate) fn forget(&self, path: &str) {
        self.replies.lock().unwrap().remove(path);
    }

    /// The requests that came and were not looked at, apart from those about the model.
    pub(crate) fn so_far(&mut self) -> Vec<Request> {
        let requests = std::iter::from_fn(|| self.requests.try_recv().ok());
        requests.filter(|request| request.path != "/api/show").collect()
    }

    /// Whether a request came that was not yet looked at.
    pub(crate) fn was_asked(&mut self) -> bool {
        self.requests.try_recv().is_ok()
    }

    /// Waits until a client leaves an answer that is silent.
    pub(crate) async fn left(&mut self) {
        self.left.recv().await.unwrap();
    }
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    replies: Replies,
    requests: mpsc::UnboundedSender<Request>,
    left: mpsc::UnboundedSender<()>,
}

impl Connection {
    async fn serve(mut self) {
        while let Some(request) = self.request().await {
            let path = request.path.clone();
            self.requests.send(request).ok();
            let reply = self.replies.lock().unwrap().get_mut(&path).and_then(VecDeque::pop_front);
            let reply = reply.unwrap_or_else(|| default(&path));
            if self.play(reply).await.is_none() {
                return;
            }
        }
    }

    async fn request(&mut self) -> Option<Request> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.read[..end]).to_ascii_lowercase();
        let path = head.split(' ').nth(1)?.to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        while self.read.len() < end + length {
            self.more().await?;
        }
        let body = serde_json::from_slice(&self.read[end..end + length]).unwrap_or_default();
        self.read.drain(..end + length);
        Some(Request { path, body })
    }

    async fn more(&mut self) -> Option<()> {
        let count = self.stream.read_buf(&mut self.read).await.ok()?;
        (count > 0).then_some(())
    }

    /// `None` once the connection is over.
    async fn play(&mut self, reply: Reply) -> Option<()> {
        let further: String = reply.headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!(
            "HTTP/1.1 {} Played\r\ncontent-type: {}\r\n{further}transfer-encoding: chunked\r\n\r\n",
            reply.status, reply.content_type
        );
        self.stream.write_all(head.as_bytes()).await.ok()?;
        for step in reply.steps {
            match step {
                Step::Chunk(bytes) => self.chunk(&bytes).await?,
                Step::Wait(told) => told.notified().await,
                Step::Break => return None,
                Step::Silence => {
                    while self.more().await.is_some() {}
                    self.left.send(()).ok();
                    return None;
                }
            }
        }
        if !reply.clean {
            return None;
        }
        self.stream.write_all(b"0\r\n\r\n").await.ok()
    }

    async fn chunk(&mut self, bytes: &[u8]) -> Option<()> {
        let head = format!("{:x}\r\n", bytes.len());
        let chunk = [head.as_bytes(), bytes, b"\r\n"].concat();
        self.stream.write_all(&chunk).await.ok()?;
        self.stream.flush().await.ok()
    }
}

fn default(path: &str) -> Reply {
    match path {
        "/api/show" => Reply::json(200, &json!({ "capabilities": ["completion", "tools"] })),
        "/api/version" => Reply::json(200, &json!({ "version": "0.33.0" })),
        _ => Reply::json(404, &json!({ "error": "nothing is prepared for this" })),
    }
}
