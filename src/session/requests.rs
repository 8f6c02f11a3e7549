//! What an agent asks for over its link: read, carried out once, answered.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Json, State};
use axum::response::{IntoResponse, Response};

use super::state::{Shared, TurnStage};
use crate::error::chain;
use crate::request::{self, Ask, Request, RequestError};
use crate::store::{NewSend, SendOnce};

/// What is said of a message that is stored.
const STORED: &str = "sent";

/// Answers a request. Its answer means that it was carried out, and will not be again.
pub(super) async fn answer(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let read = request::parse(&body, &shared.group, shared.clock.now());
    let (id, outcome) = match read {
        Ok(request) => (Some(request.id.clone()), carry_out(&shared, request).await),
        Err(error) => (None, Err(error)),
    };
    if let Err(error) = &outcome {
        tracing::info!(group = %shared.group, %error, "a request of the agent is refused");
    }
    Json(request::response(id.as_ref(), &outcome)).into_response()
}

async fn carry_out(shared: &Shared, request: Request) -> Result<&'static str, RequestError> {
    let Request { id, ask: Ask::Send { text, to } } = request;
    let to = to.map(|to| shared.reach(to)).transpose()?;
    // Nothing is sent for a turn that is over.
    let _turn_lock = shared.turn_lock.lock().await;
    let turn = match &*shared.in_flight() {
        Some(in_flight) if in_flight.stage == TurnStage::Open => in_flight.id.clone(),
        _ => return Err(RequestError::NoTurn),
    };
    let group = shared.group.clone();
    let send = NewSend { id, group, turn, to, text };
    match shared.store.send_once(send, shared.clock.now()).await {
        Ok(SendOnce::Sent(_)) => Ok(STORED),
        Ok(SendOnce::NoChat) => Err(RequestError::NoChat),
        Ok(SendOnce::TooMany) => Err(RequestError::TooMany),
        Err(error) => {
            tracing::warn!(group = %shared.group, error = chain(&error), "cannot store a message");
            Err(RequestError::Failed("its store does not take it".to_owned()))
        }
    }
}
