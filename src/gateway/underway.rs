//! The lines of an answer that are on their way to an agent: a bounded number, of bounded bytes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Lines on their way to the agent: a whole answer, at a line for a token, so that
/// an agent that reads slowly keeps no other from the model.
const LINES_UNDERWAY_MAX: usize = 4096 + 64;
/// The bytes of all lines that are on their way. One line alone may have more.
pub(super) const BYTES_UNDERWAY_MAX: usize = 4 << 20;

/// The end of the model's server.
#[derive(Debug)]
pub(super) struct LineSender {
    lines: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct LineReceiver(mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>);

/// A way for lines.
pub(super) fn lines() -> (LineSender, LineReceiver) {
    let (lines, receiver) = mpsc::channel(LINES_UNDERWAY_MAX);
    let room = Arc::new(Semaphore::new(BYTES_UNDERWAY_MAX));
    (LineSender { lines, room }, LineReceiver(receiver))
}

impl LineSender {
    /// Sends a line once there is room for it. Says whether anybody takes it.
    pub(super) async fn send(&self, line: Bytes) -> bool {
        let size = u32::try_from(line.len().min(BYTES_UNDERWAY_MAX)).unwrap_or(u32::MAX);
        let room = tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(size) => room,
            () = self.lines.closed() => return false,
        };
        match room {
            Ok(room) => self.lines.send((line, room)).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Becomes ready when nobody takes lines any more.
    pub(super) async fn closed(&self) {
        self.lines.closed().await;
    }
}

impl LineReceiver {
    /// The next line; `None` after the last.
    pub(super) async fn recv(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|(line, _)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_reads_is_bounded_in_bytes_and_a_long_line_still_comes_through() {
        let (sender, mut receiver) = lines();
        let quarter = Bytes::from(vec![b'x'; BYTES_UNDERWAY_MAX / 4]);
        for _ in 0..4 {
            assert!(sender.send(quarter.clone()).await);
        }
        let mut fifth = Box::pin(sender.send(quarter.clone()));
        assert!(futures_util::poll!(&mut fifth).is_pending(), "there is no room left");
        receiver.recv().await.unwrap();
        assert!(fifth.await);
        while !receiver.0.is_empty() {
            receiver.recv().await.unwrap();
        }
        let long = Bytes::from(vec![b'x'; 2 * BYTES_UNDERWAY_MAX]);
        assert!(sender.send(long.clone()).await);
        assert_eq!(receiver.recv().await, Some(long));
        drop(receiver);
        assert!(!sender.send(quarter).await);
    }
}
