//! Messages that are given to a turn under way, and taken back where they came too late.

use rusqlite::{Connection, named_params};

use super::conversation::Destination;
use super::error::{CommandError, StoreError};
use super::open::Store;
use super::state::MessageSeq;
use super::turn;
use crate::name::{SenderId, ThreadId, TurnId};

pub(super) const ATTACH: &str = "UPDATE messages SET turn = :turn
    WHERE seq = :seq AND turn IS NULL AND grp = :grp AND channel = :channel AND chat = :chat
        AND (wakes = 0 OR (thread IS :thread AND sender_id IS :sender))";

pub(super) const DETACH: &str = "UPDATE messages SET turn = NULL WHERE seq = :seq AND turn = :turn";

impl Store {
    /// Gives waiting messages to a turn under way that they steer, and returns
    /// how many. Those that are not waiting, are another group's, or ask in
    /// another conversation than the one that the turn answers stay as they are.
    ///
    /// # Errors
    /// There is no such turn, or it has ended.
    pub async fn attach(&self, turn: &TurnId, seqs: &[MessageSeq]) -> Result<usize, StoreError> {
        let (turn, seqs) = (turn.clone(), seqs.to_vec());
        self.call(move |connection| attach(connection, &turn, &seqs)).await
    }

    /// Lets messages wait again that came too late to steer their turn, and
    /// returns how many. To be done before the turn ends where that can be
    /// chosen: a crash between its end and this would leave them unanswered.
    ///
    /// # Errors
    /// There is no such turn, or it could not be written.
    pub async fn detach(&self, turn: &TurnId, seqs: &[MessageSeq]) -> Result<usize, StoreError> {
        let (turn, seqs) = (turn.clone(), seqs.to_vec());
        self.call(move |connection| {
            turn::find(connection, &turn)?;
            let mut statement = connection.prepare_cached(DETACH)?;
            let mut count = 0;
            for seq in &seqs {
                count += statement.execute(named_params! {
                    ":turn": turn.as_str(), ":seq": seq.0
                })?;
            }
            Ok(count)
        })
        .await
    }
}

fn attach(
    connection: &Connection,
    turn: &TurnId,
    seqs: &[MessageSeq],
) -> Result<usize, CommandError> {
    let turn = turn::under_way(connection, turn)?;
    let Destination::Chat(to) = &turn.destination else { return Ok(0) };
    let mut statement = connection.prepare_cached(ATTACH)?;
    let mut count = 0;
    for seq in seqs {
        count += statement.execute(named_params! {
            ":turn": turn.id.as_str(),
            ":seq": seq.0,
            ":grp": turn.group.as_str(),
            ":channel": to.channel.as_str(),
            ":chat": to.chat.as_str(),
            ":thread": to.thread.as_ref().map(ThreadId::as_str),
            ":sender": to.sender.as_ref().map(SenderId::as_str),
        })?;
    }
    Ok(count)
}
