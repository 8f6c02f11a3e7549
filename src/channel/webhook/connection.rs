//! Connections of a webhook: so many at once, and none that only sits there.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Webhook, routes};
use crate::channel::Inbox;
use crate::process;

/// How long nobody is taken in where the machine could not take one in.
pub(super) const AFTER_A_FAULT: Duration = Duration::from_millis(100);
/// Most connections at once.
const CONNECTIONS_MAX: usize = 128;
/// Of the files that a process may have open, connections take one in so many.
const FILES_SHARE: u64 = 8;
/// How long a client may take to send a request's head, to read an answer, or to say nothing.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a request may take to end where the webhook ends.
const PARTING_MAX: Duration = Duration::from_secs(2);
/// What is read at once, and so the longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<Vec<Arc<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    /// Since when no request is being answered; `None` while one is.
    quiet_since: Mutex<Option<Instant>>,
    evicted: CancellationToken,
}

/// A place among them, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    connections: &'a Connections,
    connection: Arc<Connection>,
}

impl Default for Connections {
    fn default() -> Self {
        let share = usize::try_from(process::open_files_max() / FILES_SHARE).unwrap_or(usize::MAX);
        Self { most: share.clamp(1, CONNECTIONS_MAX), open: Mutex::new(Vec::new()) }
    }
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more: where all are taken, that of whoever has been quiet for longest. `None`
    /// where all are at work.
    pub(super) fn place(&self) -> Option<Place<'_>> {
        let mut open = self.open();
        if open.len() >= self.most {
            let quiet = open.iter().enumerate();
            let quiet = quiet.filter_map(|(at, connection)| Some((connection.quiet_since()?, at)));
            let (_, at) = quiet.min()?;
            open.swap_remove(at).evicted.cancel();
        }
        let connection = Arc::new(Connection {
            quiet_since: Mutex::new(Some(Instant::now())),
            evicted: CancellationToken::new(),
        });
        open.push(Arc::clone(&connection));
        Some(Place { connections: self, connection })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.connections.open().retain(|open| !Arc::ptr_eq(open, &self.connection));
    }
}

impl Connection {
    fn quiet_since(&self) -> Option<Instant> {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_quiet_since(&self, quiet_since: Option<Instant>) {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner) = quiet_since;
    }

    /// Becomes ready when it was quiet for too long.
    async fn is_too_quiet(&self) {
        while self.quiet_since().is_none_or(|since| since.elapsed() < QUIET_MAX) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Serves one connection until either side ends it, or it is in the way.
pub(super) fn serve<'a>(
    webhook: &'a Webhook,
    inbox: &'a dyn Inbox,
    stream: TcpStream,
    place: Place<'a>,
    cancelled: &'a CancellationToken,
) -> BoxFuture<'a, ()> {
    let connection = Arc::clone(&place.connection);
    let at_work = Arc::clone(&connection);
    let service = service_fn(move |request| -> BoxFuture<'a, Result<_, Infallible>> {
        let connection = Arc::clone(&at_work);
        Box::pin(async move {
            connection.set_quiet_since(None);
            let answer = routes::answer(webhook, inbox, cancelled, request).await;
            connection.set_quiet_since(Some(Instant::now()));
            Ok(answer)
        })
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUIET_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    Box::pin(async move {
        let _place = place;
        let mut serving = pin!(serving);
        tokio::select! {
            // Whatever is wrong with a connection is the client's to know.
            _ = &mut serving => return,
            () = connection.evicted.cancelled() => return,
            () = connection.is_too_quiet() => return,
            () = cancelled.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(PARTING_MAX, serving).await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_quiet_for_longest_makes_room_and_who_is_at_work_does_not() {
        let connections = Connections { most: 3, open: Mutex::default() };
        let places: Vec<_> = (0..3).map(|_| connections.place().unwrap()).collect();
        let is_evicted = |at: usize| places[at].connection.evicted.is_cancelled();
        places[0].connection.set_quiet_since(None);
        let fourth = connections.place().unwrap();
        assert_eq!([is_evicted(0), is_evicted(1), is_evicted(2)], [false, true, false]);
        places[2].connection.set_quiet_since(None);
        fourth.connection.set_quiet_since(None);
        assert!(connections.place().is_none());
        drop(fourth);
        assert!(connections.place().is_some());
        assert_eq!(connections.open().len(), 2);
        drop(places);
        assert_eq!(connections.open().len(), 0);
    }
}
