//! One HTTP/2 connection over any byte stream between an agent and its host.
//!
//! The agent is the client and opens every request; the host serves an ordinary
//! router. This room moves bytes, keeps the bounds and notices a dead peer. What
//! the routes mean is `session`'s and `gateway`'s business, and which group is
//! at the other end is known from the connection, never from what it says.

pub mod client;
pub mod server;

use thiserror::Error;

use crate::error::chain;
use crate::protocol::{HEADERS_MAX, STREAMS_MAX, WINDOW};
use crate::wire::Bounds;

/// What one link may hold.
const BOUNDS: Bounds = Bounds { streams: STREAMS_MAX, window: WINDOW, headers: HEADERS_MAX };

/// What can go wrong on a link.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The connection ended or broke the protocol.
    #[error("the link broke: {0}")]
    Broken(String),
    /// The host refused a request.
    #[error("the host refused {path}: {status} {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The host's words.
        message: String,
    },
    /// What arrived is not what the protocol says.
    #[error("cannot understand the other end of the link: {0}")]
    Malformed(String),
    /// More than the protocol allows.
    #[error("a message on the link is larger than {0} bytes")]
    TooLarge(usize),
}

impl From<hyper::Error> for LinkError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(chain(&error))
    }
}
