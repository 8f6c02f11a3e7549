//! The words in which the store says where something stands.

use super::rows::words;

/// The position of a message in the order in which messages were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageSeq(pub i64);

/// Where a turn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TurnState {
    /// It waits for an agent.
    Queued,
    /// An agent is at work on it.
    Running,
    /// Its reply is stored.
    Done,
    /// It was given up.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

words!(TurnState {
    Queued = "queued",
    Running = "running",
    Done = "done",
    Failed = "failed",
    Cancelled = "cancelled",
});

impl TurnState {
    /// All states, in the order in which a turn may reach them.
    pub const ALL: [Self; 5] =
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// Whether a turn may go from this state to `next`. A running turn goes
    /// back to the queue for another attempt; one in the queue may be given
    /// up or cancelled without another; what has ended stays as it is.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Queued, Self::Running | Self::Failed | Self::Cancelled) => true,
            (Self::Running, next) => next != Self::Running,
            _ => false,
        }
    }

    /// Whether the turn still has to be answered.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// Where a turn comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TurnSource {
    /// Messages that ask for an answer.
    Message,
    /// A schedule of the group.
    Schedule,
    /// A request of an agent.
    Request,
    /// A turn that hands a part of its work on.
    Delegate,
}

words!(TurnSource {
    Message = "message",
    Schedule = "schedule",
    Request = "request",
    Delegate = "delegate",
});

/// The number of an entry of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub i64);

impl std::fmt::Display for OutboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PostKind {
    /// The answer of a turn; a turn has exactly one.
    Reply,
    /// That a turn has failed; a turn has at most one.
    Notice,
    /// Anything else, such as what an agent says while it works.
    Message,
}

words!(PostKind { Reply = "reply", Notice = "notice", Message = "message" });

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PostState {
    /// To be sent.
    Pending,
    /// Handed to the channel.
    Sending,
    /// The channel has it.
    Delivered,
    /// A crash came while it was sent: it may have been delivered, and is sent once more.
    Uncertain,
    /// Given up.
    Failed,
}

words!(PostState {
    Pending = "pending",
    Sending = "sending",
    Delivered = "delivered",
    Uncertain = "uncertain",
    Failed = "failed",
});
