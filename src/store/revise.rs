//! What a channel says of messages that it handed over before: edited, deleted, moved elsewhere.
//!
//! A message that an agent was given stays as it was given.

use rusqlite::named_params;

use super::error::{StoreError, check_size};
use super::messages::MESSAGE_TEXT_MAX;
use super::open::Store;
use crate::name::{ChannelName, ChatId, MessageId};

const EDIT: &str = "UPDATE messages SET text = :text
    WHERE channel = :channel AND chat = :chat AND message_id = :id AND turn IS NULL";

const DELETE: &str = "DELETE FROM messages
    WHERE channel = :channel AND chat = :chat AND message_id = :id AND turn IS NULL";

/// What still has to do with a chat: what waits in it, is answered to it or goes out to it.
const MOVES: [&str; 3] = [
    "UPDATE OR IGNORE messages SET chat = :to
        WHERE channel = :channel AND chat = :from AND turn IS NULL",
    "UPDATE turns SET chat = :to
        WHERE channel = :channel AND chat = :from AND state IN ('queued', 'running')",
    "UPDATE outbox SET chat = :to
        WHERE channel = :channel AND chat = :from AND state IN ('pending', 'sending', 'uncertain')",
];

impl Store {
    /// Replaces the text of a message that no turn has yet. Says whether there is one.
    ///
    /// # Errors
    /// The text is larger than [`MESSAGE_TEXT_MAX`], or it could not be written.
    pub async fn edit_message(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        id: &MessageId,
        text: &str,
    ) -> Result<bool, StoreError> {
        check_size("the text of a message", text.len(), MESSAGE_TEXT_MAX)?;
        let (channel, chat, id) = (channel.clone(), chat.clone(), id.clone());
        let text = text.to_owned();
        self.call(move |connection| {
            let changed = connection.prepare_cached(EDIT)?.execute(named_params! {
                ":channel": channel.as_str(), ":chat": chat.as_str(), ":id": id.as_str(),
                ":text": text,
            })?;
            Ok(changed > 0)
        })
        .await
    }

    /// Forgets a message that no turn has yet. Says whether there was one.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn delete_message(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        id: &MessageId,
    ) -> Result<bool, StoreError> {
        let (channel, chat, id) = (channel.clone(), chat.clone(), id.clone());
        self.call(move |connection| {
            let changed = connection.prepare_cached(DELETE)?.execute(named_params! {
                ":channel": channel.as_str(), ":chat": chat.as_str(), ":id": id.as_str(),
            })?;
            Ok(changed > 0)
        })
        .await
    }

    /// Has all that still has to do with a chat go on in the chat that it is called by now. Says
    /// whether there was anything.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn move_chat(
        &self,
        channel: &ChannelName,
        from: &ChatId,
        to: &ChatId,
    ) -> Result<bool, StoreError> {
        let (channel, from, to) = (channel.clone(), from.clone(), to.clone());
        self.call(move |connection| {
            let mut changed = 0;
            for statement in MOVES {
                changed += connection.prepare_cached(statement)?.execute(named_params! {
                    ":channel": channel.as_str(), ":from": from.as_str(), ":to": to.as_str(),
                })?;
            }
            Ok(changed > 0)
        })
        .await
    }
}
