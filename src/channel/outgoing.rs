//! What goes out through a channel, as values.

use std::time::Duration;

use crate::name::{ChatId, MessageId, SenderId, ThreadId};
use crate::resource::Writers;

/// The number of a post in the outbox, in the order in which posts were stored.
pub type PostNumber = i64;

/// Where a post goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The chat.
    pub chat: ChatId,
    /// The thread within it, where it has some.
    pub thread: Option<ThreadId>,
    /// Whom it answers, where it answers somebody.
    pub recipient: Option<SenderId>,
}

/// A post on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number: the same whenever it is sent again.
    pub number: PostNumber,
    /// Where it goes.
    pub to: Address,
    /// What it says.
    pub text: String,
    /// Whether it is a notice that there is no reply.
    pub notice: bool,
    /// The messages that it answers, oldest first, as their service calls them.
    pub answers: Vec<MessageId>,
    /// Whether it may have been sent before.
    pub uncertain: bool,
}

impl Outgoing {
    /// A key that is the same whenever this post is sent, for services that take one.
    #[must_use]
    pub fn key(&self) -> String {
        format!("babybot-{}", self.number)
    }
}

/// What became of a post that was handed to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The service has it.
    Sent {
        /// What the service calls it, where it says.
        service_id: Option<MessageId>,
    },
    /// Not now.
    Retry {
        /// How long the service wants to be left alone; `None`: it did not say.
        after: Option<Duration>,
        /// Why.
        why: String,
    },
    /// Never: another attempt would change nothing.
    Refused {
        /// Why.
        why: String,
    },
    /// Nobody is there to take it. It was not sent, and that is no attempt.
    Nobody,
    /// It may or may not have been sent: the answer was lost.
    Unknown {
        /// Why nobody knows.
        why: String,
    },
}

/// What a channel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether a post that was sent can be edited.
    pub edit: bool,
    /// Whether it can show that an answer is on its way.
    pub typing: bool,
    /// Whether attachments can be fetched.
    pub fetch: bool,
    /// Whether its chats have threads.
    pub threads: bool,
    /// Who writes there.
    pub writers: Writers,
    /// The longest text of one post, in characters.
    pub text_max: usize,
    /// How text may be formatted.
    pub formatting: Formatting,
}

/// How text may be formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formatting {
    /// Not at all.
    Plain,
    /// As Markdown.
    Markdown,
}
