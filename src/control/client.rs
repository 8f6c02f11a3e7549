//! The other verbs' end: finds the controller, and asks it.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::place::{self, Notice};
use super::{
    ApplyEvent, ApplyRequest, BODY_MAX, BOUNDS, ChatEvent, ChatRequest, ControlError, Hello, Lease,
    PROTOCOL, PostDecision, PostOutcome, Refusal, Said, Status,
};
use crate::desired::Desired;
use crate::name::{GroupName, InstanceId, ThreadId};
use crate::observed::Observed;

/// How long a controller may take to answer a greeting, and whatever it knows without looking.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to look at the machine, or to do something at once.
const WORK_PATIENCE: Duration = Duration::from_secs(120);
/// How long a controller that closes connections may turn out to be one that ends.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// How long a controller may take to write its damaged notice again.
const RENEWAL_MAX: Duration = Duration::from_secs(2);
/// The wait before one that let nobody in is asked again.
const CROWD_PAUSE: Duration = Duration::from_millis(50);

/// Whether a group is held, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) held: bool,
}

/// An end that is asked for, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShutDown {
    pub(super) patience: Duration,
}

/// What of a greeting's answer every version understands.
#[derive(Deserialize)]
struct Language {
    protocol: u32,
    version: String,
}

/// A controller that answers. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    requests: SendRequest<Full<Bytes>>,
    hello: Hello,
    gone: CancellationToken,
}

/// Keeps a sandbox for as long as it is held.
#[derive(Debug)]
pub struct LeaseGuard {
    rest: Feed,
}

impl LeaseGuard {
    /// Waits until the controller takes the lease back, or is gone.
    pub async fn ended(&mut self) {
        while let Ok(Some(_)) = self.rest.line().await {}
    }
}

impl Client {
    /// Finds the controller of an instance by the project's data folder; `None` where none runs.
    ///
    /// # Errors
    /// When one runs, but does not let this user in, does not answer, or speaks another language.
    pub async fn connect(data: &Path, instance: &InstanceId) -> Result<Option<Self>, ControlError> {
        let until = Instant::now() + ENDING_MAX;
        let renewed = Instant::now() + RENEWAL_MAX;
        loop {
            let notice = match place::find(data) {
                Ok(Some(notice)) => notice,
                Ok(None) => return Ok(None),
                Err(ControlError::Content { .. }) if Instant::now() < renewed => {
                    tokio::time::sleep(CROWD_PAUSE).await;
                    continue;
                }
                // Nobody writes it again: it is what a dead controller left.
                Err(ControlError::Content { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let joining = Self::join(&notice, instance);
            match tokio::time::timeout(ANSWER_PATIENCE, joining).await {
                // One that ends closes what it does not answer any more, and is gone in a moment.
                Ok(Err(ControlError::Closed { .. })) if Instant::now() < until => {
                    tokio::time::sleep(CROWD_PAUSE).await;
                }
                Ok(joined) => return joined,
                Err(_) => return Err(silent(notice.pid, ANSWER_PATIENCE)),
            }
        }
    }

    async fn join(notice: &Notice, instance: &InstanceId) -> Result<Option<Self>, ControlError> {
        let Some(stream) = reach(notice).await? else { return Ok(None) };
        // Whatever happens before the greeting is answered is no word of a controller.
        let closed = |_| ControlError::Closed { pid: notice.pid };
        let connected = BOUNDS.client().handshake(TokioIo::new(stream)).await;
        let (requests, connection) = connected.map_err(closed)?;
        let gone = CancellationToken::new();
        let ended = gone.clone().drop_guard();
        tokio::spawn(async move {
            let _ended = ended;
            if let Err(error) = connection.await {
                tracing::debug!(
                    error = crate::error::chain(&error),
                    "the control connection broke"
                );
            }
        });
        let answer = send(&requests, Method::GET, "/hello", Bytes::new()).await;
        let answer = match answer {
            Err(ControlError::Ended | ControlError::Broken(_)) => {
                return Err(ControlError::Closed { pid: notice.pid });
            }
            answer => whole(answer?).await?,
        };
        let language: Language = parse(&answer)?;
        if language.protocol != PROTOCOL {
            return Err(ControlError::Version { pid: notice.pid, version: language.version });
        }
        let hello: Hello = parse(&answer)?;
        // A copied project names the controller of the original.
        Ok((hello.instance == *instance).then_some(Self { requests, hello, gone }))
    }

    /// Who answers.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Everything the controller tells of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Status, ControlError> {
        let answer = self.ask(Method::GET, "/status", Bytes::new(), ANSWER_PATIENCE).await?;
        parse(&answer)
    }

    /// Everything the controller tells of itself, now and whenever it changes. Ends when the
    /// controller stops serving.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn watch_status(
        &self,
    ) -> Result<BoxStream<'static, Result<Status, ControlError>>, ControlError> {
        let lines = self.open(Method::GET, "/status/watch", Bytes::new()).await?;
        Ok(Box::pin(lines.values(|_| false, Close::Silently)))
    }

    /// Has the controller look at everything that matters to `desired`.
    ///
    /// # Errors
    /// When it refuses or does not answer, or is of another version.
    pub async fn observe(&self, desired: &Desired) -> Result<Observed, ControlError> {
        self.same_version()?;
        let body = body(desired)?;
        parse(&self.ask(Method::POST, "/observe", body, WORK_PATIENCE).await?)
    }

    /// Has the controller carry out a plan. The last event says how it ended; a stream that ends
    /// without it ends with an error.
    ///
    /// # Errors
    /// When it does not answer, or is of another version.
    pub async fn apply(
        &self,
        request: &ApplyRequest,
    ) -> Result<BoxStream<'static, Result<ApplyEvent, ControlError>>, ControlError> {
        self.same_version()?;
        let lines = self.open(Method::POST, "/apply", body(request)?).await?;
        let last = |event: &ApplyEvent| {
            use ApplyEvent::{Applied, Error, Stale};
            matches!(event, Applied { .. } | Stale { .. } | Error { .. })
        };
        Ok(Box::pin(lines.values(last, Close::IsAnError)))
    }

    /// Holds a conversation with a group. The last event is [`ChatEvent::End`]; a stream that ends
    /// without it ends with an error. Dropping the stream goes away from the conversation.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub async fn chat(
        &self,
        request: &ChatRequest,
    ) -> Result<BoxStream<'static, Result<ChatEvent, ControlError>>, ControlError> {
        let lines = self.open(Method::POST, "/chat", body(request)?).await?;
        let last = |event: &ChatEvent| matches!(event, ChatEvent::End { .. });
        Ok(Box::pin(lines.values(last, Close::IsAnError)))
    }

    /// Says something in a conversation that this controller holds. When it returns, that is stored.
    ///
    /// # Errors
    /// When the controller refuses or does not answer: then it may be said again.
    pub async fn say(&self, thread: &ThreadId, said: &Said) -> Result<(), ControlError> {
        let path = format!("/chat/{thread}/messages");
        self.ask(Method::POST, &path, body(said)?, WORK_PATIENCE).await.map(drop)
    }

    /// Stops what a conversation asked, and nobody else's.
    ///
    /// # Errors
    /// When the controller refuses or does not answer.
    pub async fn cancel(&self, thread: &ThreadId) -> Result<(), ControlError> {
        let path = format!("/chat/{thread}/cancel");
        self.ask(Method::POST, &path, Bytes::new(), WORK_PATIENCE).await.map(drop)
    }

    /// Says what became of a post.
    ///
    /// # Errors
    /// When the controller refuses or does not answer.
    pub async fn acknowledge(&self, post: i64, outcome: &PostOutcome) -> Result<(), ControlError> {
        let path = format!("/posts/{post}");
        self.ask(Method::POST, &path, body(outcome)?, WORK_PATIENCE).await.map(drop)
    }

    /// Holds a group, or lets it go on. Says whether it was not so before.
    ///
    /// # Errors
    /// When the controller refuses or does not answer.
    pub async fn hold(&self, group: &GroupName, held: bool) -> Result<bool, ControlError> {
        let path = format!("/groups/{group}/held");
        parse(&self.ask(Method::POST, &path, body(&Held { held })?, WORK_PATIENCE).await?)
    }

    /// Has a post sent again that was not delivered, or given up.
    ///
    /// # Errors
    /// When the controller refuses or does not answer.
    pub async fn decide(&self, post: i64, decision: PostDecision) -> Result<(), ControlError> {
        let path = format!("/posts/{post}/decision");
        self.ask(Method::POST, &path, body(&decision)?, ANSWER_PATIENCE).await.map(drop)
    }

    /// Has a group's sandbox kept, and started first if need be, for as long as the guard is held.
    ///
    /// # Errors
    /// When the controller refuses or does not answer.
    pub async fn lease(&self, group: &GroupName) -> Result<(Lease, LeaseGuard), ControlError> {
        let mut rest =
            self.open(Method::POST, &format!("/groups/{group}/lease"), Bytes::new()).await?;
        let granted = tokio::time::timeout(WORK_PATIENCE, rest.line()).await;
        let line = granted.map_err(|_| silent(self.hello.pid, WORK_PATIENCE))??;
        let granted: Result<Lease, Refusal> = parse(&line.ok_or(ControlError::Ended)?)?;
        match granted {
            Ok(lease) => Ok((lease, LeaseGuard { rest })),
            Err(refusal) => Err(ControlError::Refused(refusal.why)),
        }
    }

    /// Has the controller finish what is under way within `patience`, and end. Returns when it
    /// agreed to; [`Client::wait_gone`] waits for the end.
    ///
    /// # Errors
    /// When the controller refuses or does not answer.
    pub async fn shut_down(&self, patience: Duration) -> Result<(), ControlError> {
        let body = body(&ShutDown { patience })?;
        // One that drains before it answers may take as long as it may drain.
        let patience = patience.saturating_add(ANSWER_PATIENCE);
        match self.ask(Method::POST, "/shut-down", body, patience).await {
            Ok(_) | Err(ControlError::Ended) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the controller serves no more.
    pub async fn wait_gone(&self) {
        self.gone.cancelled().await;
    }

    /// What a plan means is known to the version that made it.
    fn same_version(&self) -> Result<(), ControlError> {
        if self.hello.version == env!("CARGO_PKG_VERSION") {
            return Ok(());
        }
        Err(ControlError::Version { pid: self.hello.pid, version: self.hello.version.clone() })
    }

    /// Asks, and takes the answer whole.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, ControlError> {
        let asking = async { whole(send(&self.requests, method, path, body).await?).await };
        let answered = tokio::time::timeout(patience, asking).await;
        answered.map_err(|_| silent(self.hello.pid, patience))?
    }

    /// Asks, and takes the answer line by line.
    async fn open(&self, method: Method, path: &str, body: Bytes) -> Result<Feed, ControlError> {
        let asking = send(&self.requests, method, path, body);
        let answered = tokio::time::timeout(WORK_PATIENCE, asking).await;
        let answer = answered.map_err(|_| silent(self.hello.pid, WORK_PATIENCE))??;
        Ok(Feed { body: answer.into_body(), buffer: BytesMut::new(), searched: 0 })
    }
}

/// Connects to the socket; `None` where nobody listens at it.
async fn reach(notice: &Notice) -> Result<Option<UnixStream>, ControlError> {
    let Notice { socket, pid, .. } = notice;
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                io::ErrorKind::PermissionDenied => {
                    return Err(ControlError::Permission { pid: *pid });
                }
                io::ErrorKind::WouldBlock => tokio::time::sleep(CROWD_PAUSE).await,
                _ => return Err(ControlError::Io { path: socket.clone(), source: error }),
            },
        }
    };
    let peer =
        stream.peer_cred().map_err(|source| ControlError::Io { path: socket.clone(), source })?;
    let ours = geteuid();
    // Root trusts whom it finds in the project, as it trusts the project itself.
    if ours.is_root() || peer.uid() == ours.as_raw() || peer.uid() == 0 {
        Ok(Some(stream))
    } else {
        Err(ControlError::Stranger { socket: socket.clone(), uid: peer.uid() })
    }
}

async fn send(
    requests: &SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>, ControlError> {
    let request = Request::builder()
        .method(method)
        // HTTP/2 wants an authority; nobody looks at it.
        .uri(format!("http://babybot{path}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ControlError::Malformed(error.to_string()))?;
    let mut requests = requests.clone();
    requests.ready().await?;
    let answer = requests.send_request(request).await?;
    match answer.status() {
        status if status.is_success() => Ok(answer),
        StatusCode::PAYLOAD_TOO_LARGE => Err(ControlError::TooLarge),
        StatusCode::CONFLICT => {
            let refusal: Refusal = parse(&whole(answer).await?)?;
            Err(ControlError::Refused(refusal.why))
        }
        status => {
            let words = whole(answer).await.unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            Err(ControlError::Malformed(format!("{path}: {status} {words}")))
        }
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, ControlError> {
    let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => ControlError::from(*error),
            Err(_) => ControlError::TooLarge,
        }),
    }
}

fn body(value: &impl Serialize) -> Result<Bytes, ControlError> {
    let body =
        serde_json::to_vec(value).map_err(|error| ControlError::Malformed(error.to_string()))?;
    if body.len() > BODY_MAX { Err(ControlError::TooLarge) } else { Ok(body.into()) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(bytes).map_err(|error| ControlError::Malformed(error.to_string()))
}

fn silent(pid: u32, patience: Duration) -> ControlError {
    ControlError::Silent { pid, seconds: patience.as_secs() }
}

/// What the end of an answer means, where its last line did not say it.
#[derive(Clone, Copy, Debug)]
enum Close {
    Silently,
    IsAnError,
}

/// An answer that comes line by line. Its lines may be larger than those of a link: a line may
/// hold a plan.
#[derive(Debug)]
struct Feed {
    body: Incoming,
    buffer: BytesMut,
    // Where to go on looking for a line feed, so that a long line is searched once.
    searched: usize,
}

impl Feed {
    /// The next line; `None` after the last.
    async fn line(&mut self) -> Result<Option<Bytes>, ControlError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > BODY_MAX {
                return Err(ControlError::TooLarge);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ControlError::Ended),
            }
        }
    }

    /// The lines as values, up to the one that is the last.
    fn values<T: DeserializeOwned + Send>(
        self,
        last: impl Fn(&T) -> bool + Send,
        close: Close,
    ) -> impl Stream<Item = Result<T, ControlError>> + Send {
        let begin = Some((self, last));
        futures_util::stream::unfold(begin, move |state| async move {
            let (mut feed, last) = state?;
            let value: Result<T, _> = match (feed.line().await, close) {
                (Ok(Some(line)), _) => parse(&line),
                (Ok(None), Close::Silently) => return None,
                (Ok(None), Close::IsAnError) => Err(ControlError::Ended),
                (Err(error), _) => Err(error),
            };
            let over = value.as_ref().map_or(true, &last);
            Some((value, (!over).then_some((feed, last))))
        })
        .fuse()
    }
}
