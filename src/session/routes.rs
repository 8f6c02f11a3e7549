//! What an agent may ask of its session over the link: greet, take orders, report.
//!
//! A report is stored before it is answered, and only of the turn under way. What it
//! means for the turn is the turn loop's business; all other requests are the
//! gateway's.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Json, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::disk::Fill;
use super::requests;
use super::state::{Shared, TurnStage};
use crate::name::TurnId;
use crate::protocol::{BODY_MAX, Event, Failure, Hello, Limit, PROTOCOL};
use crate::store::{MessageSeq, StoreError};
use crate::unit::ByteSize;

/// How long the measurement of an answer may hold up the end of a cancelled turn.
const LATE_LOOK_MAX: Duration = Duration::from_secs(1);

/// The routes of one link: the agent's own, and the gateway's for all else.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/hello", post(hello))
        .route("/requests", post(requests::answer))
        .route("/turns", get(turns))
        .route("/turns/{turn}/events", post(report))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .fallback(ask_gateway)
        .with_state(shared)
}

/// Everything else is asked of whatever answers for the model now.
async fn ask_gateway(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match shared.gateway().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// A refusal in words.
fn refuse(status: StatusCode, why: impl Into<String>) -> Response {
    (status, why.into()).into_response()
}

async fn hello(State(shared): State<Arc<Shared>>, Json(hello): Json<Hello>) -> Response {
    if hello.protocol != PROTOCOL {
        let why = format!(
            "the agent is babybot {} and speaks protocol {}, the host is babybot {} and speaks \
             protocol {PROTOCOL}: build the image again",
            hello.version,
            hello.protocol,
            env!("CARGO_PKG_VERSION"),
        );
        return refuse(StatusCode::CONFLICT, why);
    }
    if shared.greeted.swap(true, Ordering::SeqCst) {
        return refuse(StatusCode::CONFLICT, "this link was greeted before");
    }
    Json(shared.told()).into_response()
}

async fn turns(State(shared): State<Arc<Shared>>) -> Response {
    if !shared.greeted.load(Ordering::SeqCst) {
        return refuse(StatusCode::FORBIDDEN, "greet first");
    }
    let Some(inbox) = shared.inbox.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return refuse(StatusCode::CONFLICT, "orders have one reader");
    };
    shared.ready.send_replace(true);
    let lines = futures_util::stream::unfold(inbox, |mut inbox| async move {
        let order = inbox.recv().await?;
        let mut line = serde_json::to_vec(&order).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), inbox))
    });
    Body::from_stream(lines).into_response()
}

/// Stores what the agent reports. Only then it is answered.
async fn report(
    State(shared): State<Arc<Shared>>,
    Path(turn): Path<TurnId>,
    body: Bytes,
) -> Response {
    let events: Result<Vec<Event>, _> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect();
    let events = match events {
        Ok(events) => events,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    for mut event in events {
        if let Event::Done { .. } = event {
            event = measured(&shared, &turn, event).await;
        }
        let follower = match store_event(&shared, &turn, &event).await {
            Ok(follower) => follower,
            Err(response) => return response,
        };
        // not while the turn lock is held: who follows may be waiting for it.
        let _ = follower.send(event).await;
    }
    StatusCode::NO_CONTENT.into_response()
}

/// An answer as it is stored, once the folders were measured: nobody is answered as if they were
/// within their limit when they are not. A turn that is to end meanwhile waits for it only for a moment.
async fn measured(shared: &Shared, turn: &TurnId, done: Event) -> Event {
    let under_way = match &*shared.in_flight() {
        Some(in_flight) if in_flight.id == *turn => {
            Some((in_flight.events.clone(), in_flight.ending.clone()))
        }
        _ => None,
    };
    let (Some((follower, ending)), Event::Done { text, steers }) = (under_way, &done) else {
        return done;
    };
    let fill = tokio::select! {
        biased;
        fill = shared.quota.look() => fill,
        () = async {
            ending.cancelled().await;
            tokio::time::sleep(LATE_LOOK_MAX).await;
        } => {
            let message = "cancelled".to_owned();
            return Event::Failed { reason: Failure::Cancelled, message };
        }
    };
    if !fill.is_over() {
        return done;
    }
    let _ = follower.send(Event::Struck { limit: Limit::Disk }).await;
    let (group, limit) = (&shared.group, shared.quota.limit());
    let limit = ByteSize::bytes(limit);
    let why = match fill {
        Fill::Hidden(why) => format!("cannot be measured ({why})"),
        _ => format!("hold more than {limit}"),
    };
    let notice =
        format!("[limits.disk: the folders of {group} {why}. Delete files to free space.]");
    Event::Done { text: format!("{text}\n\n{notice}"), steers: *steers }
}

/// Stores an event of the turn under way, and says who follows that turn.
async fn store_event(
    shared: &Shared,
    turn: &TurnId,
    event: &Event,
) -> Result<mpsc::Sender<Event>, Response> {
    let _turn_lock = shared.turn_lock.lock().await;
    let (follower, late) = match &*shared.in_flight() {
        Some(in_flight) if in_flight.id == *turn && in_flight.stage == TurnStage::Open => {
            (in_flight.events.clone(), in_flight.late(event))
        }
        _ => return Err(refuse(StatusCode::CONFLICT, "this turn is not running")),
    };
    let stage = record(shared, turn, event, &late).await.map_err(|error| {
        tracing::warn!(%turn, %error, "a report of the agent is refused");
        refuse(StatusCode::CONFLICT, crate::error::chain(&error))
    })?;
    if let Some(in_flight) = shared.in_flight().as_mut() {
        in_flight.stage = stage;
    }
    Ok(follower)
}

/// Puts an event into the store, and says where the turn stands after it. `late` are messages
/// that came too late for an answer.
async fn record(
    shared: &Shared,
    turn: &TurnId,
    event: &Event,
    late: &[MessageSeq],
) -> Result<TurnStage, StoreError> {
    let now = shared.clock.now();
    match event {
        Event::Round { .. } | Event::CallBegan { .. } | Event::CallEnded { .. } => {
            shared.store.journal(turn, std::slice::from_ref(event), now).await?;
            Ok(TurnStage::Open)
        }
        Event::Text { .. } | Event::Struck { .. } | Event::Toolless => Ok(TurnStage::Open),
        Event::Done { text, .. } => {
            // They wait for the next turn. Before the end is stored, so that a crash in
            // between loses nothing.
            if !late.is_empty() {
                shared.store.detach(turn, late).await?;
            }
            shared.store.finish_turn(turn, text, now).await?;
            Ok(TurnStage::Answered)
        }
        Event::Failed { .. } => Ok(TurnStage::GivenUp),
    }
}
