//! Who talks where, and where a reply goes.

use rusqlite::Row;

use super::rows;
use crate::name::{ChannelName, ChatId, SenderId, ThreadId, TurnId};

/// One person in one thread of a chat: only they steer or stop the turn that answers them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conversation {
    /// The channel.
    pub channel: ChannelName,
    /// The chat.
    pub chat: ChatId,
    /// The thread within it, where it has some.
    pub thread: Option<ThreadId>,
    /// The person; `None` in what was stored before persons were told apart.
    pub sender: Option<SenderId>,
}

impl Conversation {
    /// Of a row with a chat, and this column for the person.
    pub(super) fn of_row(row: &Row<'_>, person: &str) -> rusqlite::Result<Self> {
        Ok(Self {
            channel: rows::name(row, "channel")?,
            chat: rows::name(row, "chat")?,
            thread: rows::name_maybe(row, "thread")?,
            sender: rows::name_maybe(row, person)?,
        })
    }
}

/// Where the reply of a turn goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To whom it answers.
    Chat(Conversation),
    /// Nowhere.
    Nobody,
    /// To the turn that asked for it.
    Turn(TurnId),
}

impl Destination {
    /// Whom the turn answers, where it answers somebody.
    #[must_use]
    pub fn conversation(&self) -> Option<&Conversation> {
        match self {
            Self::Chat(conversation) => Some(conversation),
            Self::Nobody | Self::Turn(_) => None,
        }
    }

    pub(super) fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let word: String = row.get("destination")?;
        match word.as_str() {
            "chat" => Ok(Self::Chat(Conversation::of_row(row, "recipient")?)),
            "nobody" => Ok(Self::Nobody),
            "turn" => Ok(Self::Turn(rows::name(row, "asking_turn")?)),
            _ => Err(rows::unknown(row, "destination", word)),
        }
    }
}
