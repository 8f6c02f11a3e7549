//! The one thread that writes, and group commit.
//!
//! What is queued is carried out in one transaction, each command in a
//! savepoint of its own, so that one that fails undoes only itself. Nobody is
//! answered before the commit. If the transaction as a whole fails (no space
//! left, say), each command is tried again alone: a large one must not take
//! its small neighbours down. Commands therefore can run twice and touch
//! nothing but the connection they are given.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{CommandError, StoreError};

/// Commands that may wait for the writing thread; further callers wait in line.
pub const QUEUE_LENGTH_MAX: usize = 1024;

/// Commands that share one commit.
pub const BATCH_LENGTH_MAX: usize = 256;

/// The way to the writing thread.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Box<dyn Job>>,
    /// Closes when the thread has closed the database.
    ended: watch::Receiver<()>,
    path: Arc<Path>,
}

/// What a command does to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It may change something.
    Write,
    /// It changes nothing.
    Read,
}

/// A command in the queue.
trait Job: Send + std::fmt::Debug {
    /// What it does to the database.
    fn kind(&self) -> Kind;

    /// Does the work and keeps what came of it; returns whether it succeeded.
    fn attempt(&mut self, connection: &Connection, path: &Path) -> bool;

    /// Notes that the transaction around the work was lost, unless the work
    /// itself already failed: then its own failure says more.
    fn lost(&mut self, error: StoreError);

    /// Tells the caller.
    fn answer(self: Box<Self>);
}

struct Call<T, F> {
    work: F,
    kind: Kind,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> std::fmt::Debug for Call<T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: Fn(&Connection) -> Result<T, CommandError> + Send,
{
    fn kind(&self) -> Kind {
        self.kind
    }

    fn attempt(&mut self, connection: &Connection, path: &Path) -> bool {
        let outcome = (self.work)(connection).map_err(|fault| fault.at(path));
        let succeeded = outcome.is_ok();
        self.outcome = Some(outcome);
        succeeded
    }

    fn lost(&mut self, error: StoreError) {
        if !matches!(self.outcome, Some(Err(_))) {
            self.outcome = Some(Err(error));
        }
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // A caller that stopped waiting is no error: the work is done.
            let _ = self.reply.send(outcome);
        }
    }
}

impl Queue {
    /// Has `work` done in a transaction and returns what came of it, committed.
    pub(super) async fn call<T, F>(&self, work: F, kind: Kind) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, CommandError> + Send + 'static,
    {
        let closed = || StoreError::Closed { path: self.path.to_path_buf() };
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { work, kind, outcome: None, reply });
        self.sender.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Gives up this handle and waits for the thread's end.
    pub(super) async fn close(self) {
        let Self { sender, mut ended, .. } = self;
        drop(sender);
        // Nothing is ever sent: the wait ends when the thread drops its side.
        while ended.changed().await.is_ok() {}
    }
}

/// Starts the thread that owns `connection` until the last [`Queue`] is gone.
pub(super) fn start(connection: Connection, path: &Path) -> std::io::Result<Queue> {
    let (sender, queue) = mpsc::channel(QUEUE_LENGTH_MAX);
    let (end, ended) = watch::channel(());
    let path: Arc<Path> = path.into();
    let named = Arc::clone(&path);
    std::thread::Builder::new().name("store".to_owned()).spawn(move || {
        serve(&connection, &named, queue);
        drop(connection);
        drop(end);
    })?;
    Ok(Queue { sender, ended, path })
}

fn serve(connection: &Connection, path: &Path, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_LENGTH_MAX {
            let Ok(next) = queue.try_recv() else { break };
            batch.push(next);
        }
        run_batch(connection, path, &mut batch);
        for job in batch {
            job.answer();
        }
    }
}

/// Carries out a batch in one transaction, or each command in its own if that fails.
fn run_batch(connection: &Connection, path: &Path, batch: &mut [Box<dyn Job>]) {
    // Nobody else writes on this connection, so that what only reads sees one state without one.
    if batch.iter().all(|job| job.kind() == Kind::Read) {
        for job in batch {
            let _ = job.attempt(connection, path);
        }
        return;
    }
    if let Err(error) = begin(connection) {
        // Without the write lock trying one by one would only wait as often.
        let error = StoreError::from_sqlite(path, error);
        batch.iter_mut().for_each(|job| job.lost(error.clone()));
        return;
    }
    let Err(error) = together(connection, path, batch) else { return };
    roll_back(connection);
    if let [job] = batch {
        job.lost(StoreError::from_sqlite(path, error));
        return;
    }
    for job in batch {
        run_batch(connection, path, std::slice::from_mut(job));
    }
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    control(connection, "BEGIN IMMEDIATE")
}

fn together(
    connection: &Connection,
    path: &Path,
    batch: &mut [Box<dyn Job>],
) -> rusqlite::Result<()> {
    if let [job] = batch {
        // The transaction is its savepoint.
        if !job.attempt(connection, path) {
            roll_back(connection);
            return Ok(());
        }
        return control(connection, "COMMIT");
    }
    for job in batch {
        control(connection, "SAVEPOINT command")?;
        // After some failures SQLite has rolled back everything by itself: the
        // savepoint is gone then, and the error here says so.
        if !job.attempt(connection, path) {
            control(connection, "ROLLBACK TO command")?;
        }
        control(connection, "RELEASE command")?;
    }
    control(connection, "COMMIT")
}

/// Runs one of the few statements around commands, parsed once.
fn control(connection: &Connection, statement: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}

fn roll_back(connection: &Connection) {
    if !connection.is_autocommit() {
        // It fails only if there is no transaction, and then there is nothing to undo.
        let _ = connection.execute_batch("ROLLBACK");
    }
}
