//! Stopping what one conversation asked, and nobody else's.

use rusqlite::Connection;

use super::conversation::Conversation;
use super::error::{CommandError, StoreError};
use super::open::Store;
use super::state::TurnState;
use super::{messages, turn, turns};
use crate::clock::Timestamp;
use crate::name::{GroupName, TurnId};

/// What of a conversation was stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// The turn that was under way for it.
    pub turn: Option<TurnId>,
    /// Whether messages of it waited for a turn.
    pub waiting: bool,
}

impl Store {
    /// Cancels what a conversation asked of a group, in one step: the turn under way, if that is
    /// its, and what waits for one, which is given a turn called `id` that was never begun.
    ///
    /// # Errors
    /// The identifier was used before, or it could not be written.
    pub async fn cancel_conversation(
        &self,
        group: &GroupName,
        conversation: &Conversation,
        id: &TurnId,
        at: Timestamp,
    ) -> Result<Cancelled, StoreError> {
        let (group, id, conversation) = (group.clone(), id.clone(), conversation.clone());
        self.call(move |connection| cancel(connection, &group, &conversation, &id, at)).await
    }
}

fn cancel(
    connection: &Connection,
    group: &GroupName,
    conversation: &Conversation,
    id: &TurnId,
    at: Timestamp,
) -> Result<Cancelled, CommandError> {
    let open = turn::unfinished(connection, Some(group))?;
    let mut open = open.into_iter();
    let own = open.find(|turn| turn.destination.conversation() == Some(conversation));
    if let Some(own) = &own {
        turn::change(connection, &own.id, TurnState::Cancelled, None, at)?;
    }
    let waiting = !messages::waiting_in(connection, group, conversation)?.is_empty();
    if waiting {
        turn::insert(connection, (id, group), conversation, TurnState::Cancelled, at)?;
        turns::take_waking(connection, group, id, conversation)?;
    }
    Ok(Cancelled { turn: own.map(|turn| turn.id), waiting })
}
