//! The host's end: serves a router to one agent.

use axum::Router;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{LinkError, PING_EVERY, PING_PATIENCE};
use crate::protocol::{HEADERS_MAX, STREAMS_MAX, WINDOW};

/// Requests that an agent may open and reset before they are answered.
const RESETS_MAX: usize = 64;

/// Serves `router` until the agent closes the link, breaks a bound, or stops answering pings.
///
/// # Errors
/// Why the link ended, unless the agent closed it in good order.
pub async fn serve<Io>(io: Io, router: Router) -> Result<(), LinkError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .initial_stream_window_size(WINDOW)
        // The connection holds what its streams hold, so that one that is not read blocks no other.
        .initial_connection_window_size(WINDOW * STREAMS_MAX)
        .max_send_buf_size(WINDOW as usize)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
        .await
        .map_err(LinkError::from)
}
