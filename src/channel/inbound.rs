//! What comes in through a channel, as values.

use crate::clock::Timestamp;
use crate::name::{AttachmentId, ChannelName, ChatId, GroupName, MessageId, SenderId, ThreadId};

/// Something that happened in a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundEvent {
    /// A message was written.
    Message(Box<Inbound>),
    /// A message was edited: this is all of it as it is now.
    Edited(Box<Inbound>),
    /// A message was deleted.
    Deleted {
        /// The channel.
        channel: ChannelName,
        /// The chat.
        chat: ChatId,
        /// The message.
        id: MessageId,
    },
    /// A chat goes on under another identifier.
    Moved {
        /// The channel.
        channel: ChannelName,
        /// The chat as it was called.
        from: ChatId,
        /// The chat as it is called now.
        to: ChatId,
    },
}

/// A message as a channel hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The channel it came through.
    pub channel: ChannelName,
    /// The chat it was written in.
    pub chat: ChatId,
    /// The thread within that chat, where it has some.
    pub thread: Option<ThreadId>,
    /// What the service calls it. Handed over again under the same identifier, it is the same message.
    pub id: MessageId,
    /// Who wrote it.
    pub sender: Sender,
    /// What was written.
    pub text: String,
    /// What it quotes or answers.
    pub quote: Option<Quote>,
    /// The files that came with it.
    pub attachments: Vec<Attachment>,
    /// When it was written, as the service says.
    pub sent_at: Timestamp,
    /// The group that it is addressed to, where the channel lets its sender choose; elsewhere
    /// bindings decide.
    pub to: Option<GroupName>,
    /// Whether it is meant for the agent by itself, and not for everybody in a chat: a direct
    /// message, a mention, a request of a program.
    pub direct: bool,
}

/// Who wrote a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// As the service knows them: it does not change.
    pub id: SenderId,
    /// As they are shown. Anybody may call themselves anything.
    pub name: String,
}

/// A message that another one quotes or answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What the service calls it, where it says.
    pub id: Option<MessageId>,
    /// Who wrote it, as they are shown.
    pub sender: String,
    /// What is quoted.
    pub text: String,
}

/// A file that came with a message. The agent is told of it; its bytes stay with the service, since
/// nothing fetches them yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What the service calls it.
    pub id: AttachmentId,
    /// Its name, as the sender says.
    pub name: String,
    /// Its media type, as the service says.
    pub media_type: Option<String>,
    /// Its size in bytes, as the service says.
    pub size: Option<u64>,
}

/// What became of something that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whether it is new; `false` for a message that was handed over before.
    pub fresh: bool,
    /// What follows from it.
    pub fate: Fate,
}

/// What follows from something that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It is kept, and is context for later messages of its chat.
    Kept,
    /// Nothing: no group listens there, or its sender may not write to it.
    Ignored,
}

/// Why something was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAccepted {
    /// It never will be: it is larger than what is taken, for example.
    Refused(String),
    /// It cannot be stored for now.
    Failed(String),
}
