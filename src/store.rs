//! What must survive: messages, turns, replies on their way out, and what was applied.
//!
//! One SQLite file with one writing thread. Whatever a method of [`Store`]
//! returns is committed by then: `kill -9` at any moment afterwards loses
//! nothing (a power cut may lose the last moments). Times and identifiers are
//! arguments; the store asks no clock, knows no channel and decides nothing
//! about who is answered.
//!
//! ```text
//! Store (cheap clones) ─► bounded queue ─► writer thread ─► babybot.db
//! Reader ──────────────── its own read-only connection ──────┘
//! ```

mod cancel;
mod conversation;
mod delivery;
mod drift;
mod error;
mod fate;
mod generations;
mod holds;
mod journal;
mod messages;
mod migrations;
mod open;
mod operator;
mod outbox;
mod requests;
mod revise;
mod rows;
mod sandboxes;
mod specs;
mod state;
mod statements;
mod steer;
mod turn;
mod turns;
mod usage;
mod writer;

pub use cancel::Cancelled;
pub use conversation::{Conversation, Destination};
pub use delivery::{Due, OUTBOX_ATTEMPTS_MAX, OUTBOX_INTERRUPTIONS_MAX};
pub use drift::{DRIFT_KEPT, DRIFT_TEXT_MAX, Drift, ENDPOINTS_MAX};
pub use error::StoreError;
pub use fate::{Backlog, MessageFate};
pub use generations::{
    AppliedGeneration, ApplyOutcome, GENERATION_SIZE_MAX, GENERATIONS_KEPT, Generation,
    GenerationSummary, HISTORY_LENGTH_MAX, NewGeneration,
};
pub use journal::{
    JOURNAL_CALLS_MAX, JOURNAL_ENTRY_SIZE_MAX, JOURNAL_ROUNDS_MAX, JOURNAL_SIZE_MAX, JOURNALS_KEPT,
};
pub use messages::{
    Accepted, Incoming, MESSAGE_DETAILS_MAX, MESSAGE_TEXT_MAX, Message, SENDER_LENGTH_MAX,
    TURN_CONTEXT_MAX, WAITING_MAX,
};
pub use open::{Reader, Store};
pub use outbox::{NewPost, Post, REPLY_TEXT_MAX};
pub use requests::{NewSend, SENDS_OF_HOUR_MAX, SENDS_OF_TURN_MAX, SendOnce};
pub use sandboxes::{SANDBOXES_ENDED_KEPT, Sandbox};
pub use state::{MessageSeq, OutboxId, PostKind, PostState, TurnSource, TurnState};
pub use statements::PER_MESSAGE_STATEMENTS;
pub use turn::Turn;
pub use turns::{FAILURE_TEXT_MAX, TakenUp};
pub use usage::{USAGE_KEPT, Usage, UsageOutcome, UsageTotal};
pub use writer::{BATCH_LENGTH_MAX, QUEUE_LENGTH_MAX};
