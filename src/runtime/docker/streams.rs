//! The bytes that go in and out of a container.
//!
//! Docker sends stdout and stderr over one connection, and a connection that
//! nobody reads stalls the engine for everybody (Podman's does). So a task of
//! its own takes them apart as they come: the link is held back when its reader
//! is slow, as any stream is; the log never holds anything back, and what its
//! reader has no room for is dropped and counted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bollard::container::LogOutput;
use bollard::errors::Error;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::StreamReader;

/// Pieces of output, of 32 KiB at most as engines cut them, that wait for a reader.
const PIECES_MAX: usize = 16;

/// What a container writes, as its connection gives it.
pub(super) type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;
/// The way into a container.
pub(super) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Whose output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// An agent: stdout is its link, and a full log loses what it has no room for.
    Agent,
    /// A command of the operator, who wants to see all of it.
    Command,
}

/// Both outputs, apart.
pub(super) struct Outputs {
    /// stdout; with a terminal, its screen.
    pub(super) stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// stderr.
    pub(super) stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Becomes ready once the container has said everything.
    pub(super) end: oneshot::Receiver<()>,
}

/// Takes a connection's output apart, in a task that ends with it.
pub(super) fn apart(output: Output, of: Of) -> Outputs {
    let (stdout, out) = mpsc::channel(PIECES_MAX);
    let (stderr, err) = mpsc::channel(PIECES_MAX);
    let (ended, end) = oneshot::channel();
    tokio::spawn(async move {
        drain(output, stdout, stderr, of).await;
        let _ = ended.send(());
    });
    Outputs { stdout: reader(out), stderr: reader(err), end }
}

async fn drain(
    mut output: Output,
    stdout: mpsc::Sender<Bytes>,
    stderr: mpsc::Sender<Bytes>,
    of: Of,
) {
    let mut lost = 0;
    while let Some(piece) = output.next().await {
        // A reader that is gone does not stop the draining.
        match piece {
            Ok(LogOutput::StdOut { message }) => {
                let _ = stdout.send(message).await;
            }
            Ok(LogOutput::Console { message }) if of == Of::Command => {
                let _ = stdout.send(message).await;
            }
            Ok(LogOutput::StdErr { message }) if of == Of::Command => {
                let _ = stderr.send(message).await;
            }
            Ok(LogOutput::StdErr { message }) => {
                if lost > 0 {
                    let note = format!("\n({lost} bytes of this log were dropped)\n");
                    if stderr.try_send(note.into()).is_ok() {
                        lost = 0;
                    }
                }
                if let Err(mpsc::error::TrySendError::Full(message)) = stderr.try_send(message) {
                    lost += message.len();
                }
            }
            // Without a terminal, a console is a piece that was cut off at the end.
            Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) => {}
            Err(error) => {
                tracing::debug!(%error, "the output of a container broke off");
                return;
            }
        }
    }
}

fn reader(pieces: mpsc::Receiver<Bytes>) -> Box<dyn AsyncRead + Send + Unpin> {
    let pieces: BoxStream<'static, io::Result<Bytes>> =
        futures_util::stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((Ok(piece), pieces))
        })
        .boxed();
    Box::new(StreamReader::new(pieces))
}

/// A way into a container that is given back when it is dropped, so that it is closed in order:
/// the connection's other half goes on.
pub(super) struct Returned {
    input: Option<Input>,
    back: Option<oneshot::Sender<Input>>,
}

impl Returned {
    /// The way in, and where it ends up.
    pub(super) fn new(input: Input) -> (Self, oneshot::Receiver<Input>) {
        let (back, returned) = oneshot::channel();
        (Self { input: Some(input), back: Some(back) }, returned)
    }

    fn inner(&mut self) -> io::Result<Pin<&mut (dyn AsyncWrite + Send)>> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(input.as_mut())
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if let (Some(input), Some(back)) = (self.input.take(), self.back.take()) {
            let _ = back.send(input);
        }
    }
}

impl AsyncWrite for Returned {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(context)
    }
}
