//! Ollama's address within a sandbox, and behind it the link.
//!
//! A client of Ollama that a skill or a tool brings asks `127.0.0.1:11434` and
//! reaches the gateway, and nothing but the gateway: only its paths pass, so that
//! a tool never speaks with the agent's own authority. Bodies are passed on as
//! they come. However many clients ask at once, some of the link is left for what
//! the agent itself has to say. What an answer means is the gateway's business.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::error::chain;
use crate::link::client::Link;
use crate::protocol::{BODY_MAX, HEADERS_MAX, STREAMS_MAX};

/// Where any client of Ollama looks for it.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 11434);

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Requests under way on the link at once; further ones wait. The other half of the link's
/// streams is the agent's own.
const REQUESTS_MAX: usize = STREAMS_MAX as usize / 2;
/// How long a client may be silent before and within a request, and how long it may leave an
/// answer unread. How long a model may be silent is the gateway's to say.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long to wait where no connection can be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What is read and thrown away of a body that is too large, in bytes: a client that is still
/// writing would not see the answer.
const DISCARDED_MAX: usize = 4 * BODY_MAX;

/// Headers that are between two neighbours and go no further.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Said to this listener alone, too.
    "host",
    "expect",
];

type Answer = UnsyncBoxBody<Bytes, hyper::Error>;

/// Takes the address for this sandbox.
///
/// # Errors
/// When somebody else has it.
pub async fn bind() -> io::Result<TcpListener> {
    TcpListener::bind(ADDRESS).await
}

/// Serves clients until the runtime ends.
pub async fn serve(listener: TcpListener, link: Link) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    // Neither semaphore is ever closed.
    while let Ok(seat) = Arc::clone(&connections).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection on loopback");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (link, requests) = (link.clone(), Arc::clone(&requests));
        tokio::spawn(async move {
            attend(stream, link, requests).await;
            drop(seat);
        });
    }
}

/// Serves one client to its end.
async fn attend(stream: TcpStream, link: Link, requests: Arc<Semaphore>) {
    let patience = u32::try_from(IDLE_MAX.as_millis()).unwrap_or(u32::MAX);
    // Best effort: a client that never reads holds one request up, and others have theirs.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, patience);
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (link, requests) = (link.clone(), Arc::clone(&requests));
        async move { Ok::<_, Infallible>(answer(request, &link, requests).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_buf_size(HEADERS_MAX as usize)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = chain(&error), "a client on loopback left");
    }
}

/// Answers one request, over the link where it is the gateway's to answer.
async fn answer(
    request: Request<Incoming>,
    link: &Link,
    requests: Arc<Semaphore>,
) -> Response<Answer> {
    let path = request.uri().path();
    // A tunnel has no path, whatever it was asked with.
    if request.method() == Method::CONNECT || !is_gateways(path) {
        let words = format!(
            "{} {path} is not available here: an agent reaches its model only",
            request.method()
        );
        return refusal(StatusCode::NOT_FOUND, &words);
    }
    let (mut head, body) = request.into_parts();
    if body.size_hint().lower() > BODY_MAX as u64 {
        discard(body).await;
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, &BodyError::TooLarge.to_string());
    }
    drop_hop_by_hop(&mut head.headers);
    let Ok(permit) = requests.acquire_owned().await else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
    };
    let refused = Refused::default();
    let body = Bounded::new(body, Arc::clone(&refused));
    match link.forward(Request::from_parts(head, body)).await {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            drop_hop_by_hop(&mut head.headers);
            head.version = Version::HTTP_11;
            Response::from_parts(head, Held { body, _permit: permit }.boxed_unsync())
        }
        Err(error) => match refused.get() {
            Some((status, words)) => refusal(*status, words),
            None => refusal(StatusCode::BAD_GATEWAY, &error.to_string()),
        },
    }
}

/// Whether a path is the gateway's. Nothing in it may be another path to somebody who reads it
/// more loosely.
fn is_gateways(path: &str) -> bool {
    let plain = !path.contains(['%', '\\']) && !path.split('/').any(|part| part == "..");
    plain && (path == "/" || path.starts_with("/api/") || path.starts_with("/v1/"))
}

/// Lets go of what is said to a neighbour only, and of what `Connection` names as such.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().copied().chain(named.iter().map(HeaderName::as_str)) {
        headers.remove(name);
    }
}

/// An error as Ollama words one.
fn refusal(status: StatusCode, words: &str) -> Response<Answer> {
    let text = serde_json::json!({ "error": words }).to_string();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Reads a body without keeping it, as far as that is worth while.
async fn discard(mut body: Incoming) {
    let mut left = DISCARDED_MAX;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let count = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(count) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(IDLE_MAX, reading).await;
}

/// Why a body is not passed on to its end.
#[derive(Debug, Error)]
enum BodyError {
    #[error("the request is larger than {} MiB", BODY_MAX >> 20)]
    TooLarge,
    #[error("the rest of the request did not arrive within {} s", IDLE_MAX.as_secs())]
    Silent,
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// Why a body was cut off here, for the answer: the link knows only that it was.
type Refused = Arc<OnceLock<(StatusCode, String)>>;

/// A client's body, within its size and with no silence longer than [`IDLE_MAX`].
struct Bounded {
    body: Incoming,
    left: usize,
    refused: Refused,
    /// Since when there is nothing to pass on, while the link would take something.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    fn new(body: Incoming, refused: Refused) -> Self {
        Self { body, left: BODY_MAX, refused, silence: None }
    }

    fn refuse(&self, status: StatusCode, error: BodyError) -> BodyError {
        // The first reason is the one.
        let _ = self.refused.set((status, error.to_string()));
        error
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let silence =
                this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE_MAX)));
            ready!(silence.as_mut().poll(cx));
            let error = this.refuse(StatusCode::REQUEST_TIMEOUT, BodyError::Silent);
            return Poll::Ready(Some(Err(error)));
        };
        this.silence = None;
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        let count = frame.data_ref().map_or(0, Bytes::len);
        let Some(left) = this.left.checked_sub(count) else {
            let error = this.refuse(StatusCode::PAYLOAD_TOO_LARGE, BodyError::TooLarge);
            return Poll::Ready(Some(Err(error)));
        };
        this.left = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The gateway's answer, which is a request under way until its end.
struct Held {
    body: Incoming,
    _permit: OwnedSemaphorePermit,
}

impl Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_the_gateways_paths_pass() {
        for path in ["/", "/api/chat", "/api/", "/v1/models", "/api/blobs/sha256:ab"] {
            assert!(is_gateways(path), "{path}");
        }
        for path in [
            "",
            "*",
            "/hello",
            "/turns",
            "/turns/a/events",
            "/api",
            "/apiary/x",
            "//api/chat",
            "/api/../turns",
            "/api/..",
            "/v1/%2e%2e/hello",
            "/v1/\\..\\hello",
            "/API/chat",
        ] {
            assert!(!is_gateways(path), "{path}");
        }
    }

    #[test]
    fn what_is_said_to_a_neighbour_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("host", "localhost"),
            ("accept", "*/*"),
            ("content-length", "3"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        drop_hop_by_hop(&mut headers);
        let left: BTreeSet<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, BTreeSet::from(["accept", "content-length"]));
    }
}
