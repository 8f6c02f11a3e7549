//! The routes: what is asked of the door, and how its answers are worded.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream as streams};
use serde_json::Value;

use super::door::{Answered, Door, Posted};
use super::openai;
use super::rules::{self, Object};
use super::underway::LineReceiver;
use super::upstream::{Endpoint, JSON, Refusal};

type AtDoor = State<Arc<Door>>;

/// What every route gets that is none.
pub(super) async fn refused(method: Method, uri: Uri) -> Refusal {
    let path = uri.path();
    let words = format!("the gateway refuses {method} {path}: an agent may only use its own model");
    Refusal::new(StatusCode::NOT_FOUND, words)
}

/// What a route gets that is asked in the wrong way.
pub(super) async fn not_allowed(method: Method, uri: Uri) -> Refusal {
    let words = format!("method not allowed: {method} {}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, words)
}

pub(super) async fn version(State(door): AtDoor) -> Result<Response, Refusal> {
    Ok(json_response(&door.question(Endpoint::Version, Object::new()).await?))
}

pub(super) async fn tags(State(door): AtDoor) -> Result<Response, Refusal> {
    let list = door.question(Endpoint::Tags, Object::new()).await?;
    Ok(json_response(&rules::only_own(list, &door.caller.spec)))
}

pub(super) async fn loaded(State(door): AtDoor) -> Result<Response, Refusal> {
    let list = door.question(Endpoint::Ps, Object::new()).await?;
    Ok(json_response(&rules::only_own(list, &door.caller.spec)))
}

pub(super) async fn show(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    let request = rules::rebuild(Endpoint::Show, request, &door.caller.spec);
    let mut shown = door.question(Endpoint::Show, request).await?;
    if rules::is_remote(&shown) {
        return Err(rules::cloud_refused());
    }
    // It names files of the host.
    if let Some(modelfile) = shown.get_mut("modelfile") {
        *modelfile = "".into();
    }
    Ok(json_response(&shown))
}

pub(super) async fn chat(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    Ok(ollama_response(door.work(Endpoint::Chat, request).await?))
}

pub(super) async fn generate(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    Ok(ollama_response(door.work(Endpoint::Generate, request).await?))
}

pub(super) async fn embed(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    Ok(ollama_response(door.work(Endpoint::Embed, request).await?))
}

pub(super) async fn openai_models(State(door): AtDoor) -> Result<Response, openai::OpenAiRefusal> {
    let list = door.question(Endpoint::Tags, Object::new()).await?;
    Ok(json_response(&openai::models(&rules::only_own(list, &door.caller.spec))))
}

pub(super) async fn openai_chat(
    State(door): AtDoor,
    body: Posted,
) -> Result<Response, openai::OpenAiRefusal> {
    let asked = door.checked(body)?;
    let mut reply = openai::Reply::to(&asked);
    match door.work(Endpoint::Chat, openai::request(asked)?).await? {
        Answered::Whole(body) => {
            let answer = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Ok(json_response(&reply.whole(&answer)))
        }
        Answered::Streamed(lines, _) => {
            let events = received(lines).map(move |line| reply.event(&line));
            Ok(stream_response(HeaderValue::from_static("text/event-stream"), events))
        }
    }
}

fn ollama_response(answered: Answered) -> Response {
    match answered {
        Answered::Whole(body) => ([(header::CONTENT_TYPE, JSON)], body).into_response(),
        Answered::Streamed(lines, content_type) => stream_response(content_type, received(lines)),
    }
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], value.to_string()).into_response()
}

fn received(lines: LineReceiver) -> impl Stream<Item = Bytes> + Send + 'static {
    streams::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) })
}

fn stream_response(
    content_type: HeaderValue,
    lines: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
