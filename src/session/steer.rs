//! Messages for a turn that is under way.
//!
//! A message is given to the turn in the store before the agent is told of it, and
//! never while the turn ends. What an answer did not take into account is put back
//! by `routes`; when somebody steers is for others to decide.

use std::sync::Arc;

use super::Session;
use super::state::{Shared, TurnStage};
use crate::name::TurnId;
use crate::protocol::Order;
use crate::store::{MessageSeq, StoreError};

impl Session {
    /// Gives the turn under way more messages. Says whether they were given; if not, they wait
    /// for a turn of their own.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn steer(
        &self,
        messages: Vec<MessageSeq>,
        prompt: String,
    ) -> Result<bool, StoreError> {
        self.steer_handle().steer(messages, prompt).await
    }

    /// The side of this session that other tasks may steer while it runs a turn.
    #[must_use]
    pub fn steer_handle(&self) -> SteerHandle {
        SteerHandle { shared: Arc::clone(&self.shared) }
    }
}

/// Reaches the turn under way of a session from another task.
#[derive(Clone, Debug)]
pub struct SteerHandle {
    shared: Arc<Shared>,
}

impl SteerHandle {
    /// See [`Session::steer`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn steer(
        &self,
        messages: Vec<MessageSeq>,
        prompt: String,
    ) -> Result<bool, StoreError> {
        let shared = &*self.shared;
        // The end of a turn and a steer for it come one after the other: see `Event::Done`.
        let _turn_lock = shared.turn_lock.lock().await;
        if messages.is_empty() {
            return Ok(false);
        }
        let turn = match &*shared.in_flight() {
            Some(in_flight) if in_flight.stage == TurnStage::Open => in_flight.id.clone(),
            _ => return Ok(false),
        };
        let attached = attach(shared, &turn, &messages).await?;
        if attached.len() == messages.len()
            && shared.orders.try_send(Order::Steer { turn: turn.clone(), prompt }).is_ok()
        {
            if let Some(in_flight) = shared.in_flight().as_mut() {
                in_flight.steers.push_back(messages);
            }
            return Ok(true);
        }
        if !attached.is_empty() {
            shared.store.detach(&turn, &attached).await?;
        }
        Ok(false)
    }
}

/// Gives messages to a turn, and says which it took: the prompt tells of all of them, so it
/// must be all or none.
async fn attach(
    shared: &Shared,
    turn: &TurnId,
    messages: &[MessageSeq],
) -> Result<Vec<MessageSeq>, StoreError> {
    let mut attached = Vec::new();
    for message in messages {
        match shared.store.attach(turn, &[*message]).await {
            Ok(0) | Err(StoreError::TurnState { .. }) => break,
            Ok(_) => attached.push(*message),
            Err(error) => return Err(error),
        }
    }
    Ok(attached)
}
