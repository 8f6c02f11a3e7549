//! The host's end: serves a router to one agent.

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{BOUNDS, LinkError};

/// Serves `router` until the agent closes the link, breaks a bound, or stops answering pings.
///
/// # Errors
/// Why the link ended, unless the agent closed it in good order.
pub async fn serve<Io>(io: Io, router: Router) -> Result<(), LinkError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    BOUNDS
        .server()
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
        .await
        .map_err(LinkError::from)
}
