//! The statements that run for each message, collected so that a test can ask
//! SQLite how it would run them: none may get slower with what is stored.

use super::{delivery, fate, journal, messages, outbox, requests, steer, turn, turns, usage};

/// What runs for each message, turn, event or reply; inserts with plain values
/// are left out, for they look up nothing.
pub const PER_MESSAGE_STATEMENTS: &[&str] = &[
    messages::FIND,
    messages::OF_TURN,
    messages::WAITING,
    messages::WAITING_IN,
    steer::ATTACH,
    steer::DETACH,
    fate::FATE,
    turn::FIND,
    turn::OPEN_OF_GROUP,
    turn::MOVE,
    turns::OLDEST_WAKING,
    turns::TAKE_WAKING,
    turns::TAKE_CONTEXT,
    journal::ROUND,
    journal::CALL,
    journal::END_CALL,
    journal::GROW,
    journal::ROUNDS,
    journal::CALLS,
    outbox::FIND,
    outbox::OF_TURN,
    delivery::DUE,
    delivery::ANSWERS,
    delivery::ANSWER_TO,
    delivery::POSTS,
    delivery::MOVE,
    requests::KNOWN,
    requests::OF_TURN,
    requests::SINCE,
    requests::FORGET,
    usage::OF_TURN,
];
