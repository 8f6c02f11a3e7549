//! The statements that run for each message, collected so that a test can ask
//! SQLite how it would run them: none may get slower with what is stored.

use super::{journal, messages, outbox, turns, usage};

/// What runs for each message, turn, event or reply; inserts with plain values
/// are left out, for they look up nothing.
pub const PER_MESSAGE_STATEMENTS: &[&str] = &[
    messages::FIND,
    messages::OF_TURN,
    messages::WAITING,
    messages::ATTACH,
    messages::DETACH,
    turns::FIND,
    turns::OPEN_OF_GROUP,
    turns::OLDEST_WAKING,
    turns::TAKE_WAKING,
    turns::TAKE_CONTEXT,
    turns::MOVE,
    journal::ROUND,
    journal::CALL,
    journal::END_CALL,
    journal::GROW,
    journal::ROUNDS,
    journal::CALLS,
    outbox::FIND,
    outbox::OF_TURN,
    outbox::DUE,
    outbox::DUE_IN_CHAT,
    outbox::MOVE,
    usage::OF_TURN,
];
