//! HTTP/2 over any byte stream, within bounds: how both ends of a connection are set up.
//!
//! The same for an agent's link and for the control socket. Sets up and nothing
//! else: who is at the other end, and what is said, is for the rooms that connect.

use std::time::Duration;

use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How often a silent connection is pinged.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a ping may stay unanswered: after both, the connection is dead.
pub const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Requests that a client may open and reset before they are answered.
const RESETS_MAX: usize = 64;

/// What one connection may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Concurrent requests.
    pub streams: u32,
    /// Flow-control window of one stream, in bytes. The connection holds what its streams hold, so
    /// that one that is not read blocks no other.
    pub window: u32,
    /// Size of a request's headers, in bytes.
    pub headers: u32,
}

impl Bounds {
    /// The end that answers.
    #[must_use]
    pub fn server(self) -> server::conn::http2::Builder<TokioExecutor> {
        let mut builder = server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams)
            .max_header_list_size(self.headers)
            .initial_stream_window_size(self.window)
            .initial_connection_window_size(self.window * self.streams)
            .max_send_buf_size(self.window as usize)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE);
        builder
    }

    /// The end that asks.
    #[must_use]
    pub fn client(self) -> client::conn::http2::Builder<TokioExecutor> {
        let mut builder = client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.window)
            .initial_connection_window_size(self.window * self.streams)
            .max_send_buf_size(self.window as usize)
            .max_header_list_size(self.headers)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .keep_alive_while_idle(true);
        builder
    }
}
