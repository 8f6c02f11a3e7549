//! The agent's end: greets, takes orders, reports events, asks the gateway.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{BOUNDS, LinkError};
use crate::line::{LINE_MAX, LineTooLong, Lines};
use crate::name::TurnId;
use crate::protocol::{BODY_MAX, Event, HEADERS_MAX, Hello, Order, Welcome};

/// A body of a request, whole or as it comes.
type Sent = UnsyncBoxBody<Bytes, Cause>;
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A handle to the host; clones share the connection.
#[derive(Clone, Debug)]
pub struct Link {
    requests: SendRequest<Sent>,
}

/// Opens the link over `io`. The second value drives it and ends when the link does.
///
/// # Errors
/// When the other end does not speak HTTP/2.
pub async fn connect<Io>(
    io: Io,
) -> Result<(Link, impl Future<Output = Result<(), LinkError>> + Send), LinkError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, connection) = BOUNDS.client().handshake(TokioIo::new(io)).await?;
    Ok((Link { requests }, async move { connection.await.map_err(LinkError::from) }))
}

impl Link {
    /// Greets the host and learns what to be.
    ///
    /// # Errors
    /// When the host does not speak this protocol, or the link breaks.
    pub async fn hello(&self, hello: &Hello) -> Result<Welcome, LinkError> {
        let response = self.post_json("/hello", hello).await?;
        read_json("/hello", response).await
    }

    /// Opens the stream of orders.
    ///
    /// # Errors
    /// When the host refuses, or the link breaks.
    pub async fn orders(
        &self,
    ) -> Result<impl Stream<Item = Result<Order, LinkError>> + Send + use<>, LinkError> {
        let request = Request::builder().method(Method::GET).uri(uri("/turns"));
        let response = self.send(request, Bytes::new()).await?;
        let response = accepted("/turns", response).await?;
        Ok(lines(response.into_body()))
    }

    /// Reports events; when this returns, they are stored.
    ///
    /// # Errors
    /// When the host refuses them, or the link breaks.
    pub async fn report(&self, turn: &TurnId, events: &[Event]) -> Result<(), LinkError> {
        let path = format!("/turns/{turn}/events");
        let mut body = Vec::new();
        for event in events {
            serde_json::to_writer(&mut body, event)
                .map_err(|error| LinkError::Malformed(error.to_string()))?;
            body.push(b'\n');
        }
        if body.len() > BODY_MAX {
            return Err(LinkError::TooLarge(BODY_MAX));
        }
        let request = Request::builder().method(Method::POST).uri(uri(&path));
        let response = self.send(request, Bytes::from(body)).await?;
        accepted(&path, response).await?;
        Ok(())
    }

    /// Asks the host for something, and gives its answer.
    ///
    /// # Errors
    /// When the host refuses to read it, or the link breaks.
    pub async fn request(&self, request: &Value) -> Result<Value, LinkError> {
        let response = self.post_json("/requests", request).await?;
        read_json("/requests", response).await
    }

    /// Posts JSON to any route of the host, such as the gateway's, and gives the answer as it is.
    ///
    /// # Errors
    /// When the value has no JSON form, or the link breaks.
    pub async fn post_json(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, LinkError> {
        let body =
            serde_json::to_vec(body).map_err(|error| LinkError::Malformed(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri(path))
            .header(CONTENT_TYPE, "application/json");
        self.send(request, Bytes::from(body)).await
    }

    /// Sends a request as it is, its body as it comes, and gives the answer likewise. Only path
    /// and query of its address count.
    ///
    /// # Errors
    /// When the address has no path, or the link or the body breaks.
    pub async fn forward<B>(&self, request: Request<B>) -> Result<Response<Incoming>, LinkError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri =
            Uri::try_from(uri(path)).map_err(|error| LinkError::Malformed(error.to_string()))?;
        // The connection's own version.
        head.version = hyper::Version::HTTP_2;
        let body = body.map_err(Into::into).boxed_unsync();
        self.send_body(Request::from_parts(head, body)).await
    }

    async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, LinkError> {
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let request =
            request.body(body).map_err(|error| LinkError::Malformed(error.to_string()))?;
        self.send_body(request).await
    }

    async fn send_body(&self, request: Request<Sent>) -> Result<Response<Incoming>, LinkError> {
        let mut requests = self.requests.clone();
        requests.ready().await?;
        Ok(requests.send_request(request).await?)
    }
}

/// HTTP/2 wants an authority; nobody looks at it.
fn uri(path: &str) -> String {
    format!("http://babybot{path}")
}

async fn accepted(
    path: &str,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, LinkError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), HEADERS_MAX as usize).collect().await;
    let message = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    Err(LinkError::Refused { path: path.to_owned(), status, message: message.unwrap_or_default() })
}

async fn read_json<T: DeserializeOwned>(
    path: &str,
    response: Response<Incoming>,
) -> Result<T, LinkError> {
    let response = accepted(path, response).await?;
    let body = Limited::new(response.into_body(), BODY_MAX)
        .collect()
        .await
        .map_err(|error| LinkError::Broken(error.to_string()))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| LinkError::Malformed(error.to_string()))
}

/// Splits a body into JSON lines, each at most [`LINE_MAX`] bytes.
pub fn lines<T: DeserializeOwned + Send>(
    body: Incoming,
) -> impl Stream<Item = Result<T, LinkError>> + Send {
    raw_lines(body).map(|line| {
        serde_json::from_slice(&line?).map_err(|error| LinkError::Malformed(error.to_string()))
    })
}

/// Splits a body into lines, whatever they hold, each at most [`LINE_MAX`] bytes.
pub fn raw_lines(body: Incoming) -> impl Stream<Item = Result<Bytes, LinkError>> + Send {
    let state = (Some(body), Lines::default());
    futures_util::stream::unfold(state, |(mut body, mut lines)| async move {
        loop {
            let line = match lines.take() {
                Ok(Some(line)) => Some(line),
                Ok(None) if body.is_none() => Some(lines.rest()?),
                Ok(None) => None,
                Err(LineTooLong) => {
                    return Some((Err(LinkError::TooLarge(LINE_MAX)), (None, Lines::default())));
                }
            };
            if let Some(line) = line {
                return Some((Ok(line), (body, lines)));
            }
            match body.as_mut()?.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        lines.push(&data);
                    }
                }
                Some(Err(error)) => {
                    return Some((Err(LinkError::from(error)), (None, Lines::default())));
                }
                None => body = None,
            }
        }
    })
}
