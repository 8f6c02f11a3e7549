//! Sandboxes that were started, so that a controller which was killed finds its leftovers.

use std::path::Path;

use rusqlite::{Connection, Row, named_params};

use super::error::{CommandError, StoreError};
use super::open::{Reader, Store};
use super::rows;
use crate::clock::Timestamp;
use crate::name::{GroupName, Incarnation};
use crate::process::Process;

/// Ended sandboxes that stay on record, the newest ones.
pub const SANDBOXES_ENDED_KEPT: u32 = 100;

/// A sandbox that was started, and what tells its process from a later one
/// with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The group whose agent runs in it.
    pub group: GroupName,
    /// This start of it.
    pub incarnation: Incarnation,
    /// The process, as this machine numbers it.
    pub pid: u32,
    /// When the kernel started the process, in its clock ticks since boot.
    pub start_time: i64,
    /// The boot of the machine in which that counts.
    pub boot_id: String,
    /// When it was started.
    pub started_at: Timestamp,
}

impl Sandbox {
    /// Its process, if it was started in this boot of the machine: in another, the number and
    /// the start time mean nothing.
    #[must_use]
    pub fn process_in(&self, boot_id: &str) -> Option<Process> {
        let pid = i32::try_from(self.pid).ok().filter(|_| self.boot_id == boot_id)?;
        Some(Process { pid, start_time: self.start_time })
    }
}

impl Store {
    /// The agents of [`Store::open_sandboxes`] that were started in this boot of the machine, each
    /// with its group, from the store at `path`, for whoever does not write to it. Empty if there
    /// is no store.
    ///
    /// # Errors
    /// They could not be read.
    pub fn agents_left(
        path: &Path,
        boot_id: &str,
    ) -> Result<Vec<(GroupName, Process)>, StoreError> {
        let left = match Self::read_only(path)? {
            Some(reader) => reader.open_sandboxes()?,
            None => Vec::new(),
        };
        let agents = left
            .into_iter()
            .filter_map(|sandbox| Some((sandbox.group.clone(), sandbox.process_in(boot_id)?)));
        Ok(agents.collect())
    }

    /// Records a start. The same start again changes nothing.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn sandbox_started(&self, sandbox: Sandbox) -> Result<(), StoreError> {
        self.call(move |connection| started(connection, &sandbox)).await
    }

    /// Records an end. Nothing changes for one that has ended or was never recorded.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn sandbox_ended(
        &self,
        incarnation: &Incarnation,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let incarnation = incarnation.clone();
        self.call(move |connection| ended(connection, &incarnation, at)).await
    }

    /// The sandboxes whose end was never recorded, oldest first.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn open_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        self.call(open).await
    }
}

impl Reader {
    /// As [`Store::open_sandboxes`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn open_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        self.ask(open)
    }
}

fn started(connection: &Connection, sandbox: &Sandbox) -> Result<(), CommandError> {
    connection.execute(
        "INSERT INTO sandboxes (grp, incarnation, pid, start_time, boot_id, started_at)
         VALUES (:grp, :incarnation, :pid, :start_time, :boot_id, :at)
         ON CONFLICT (incarnation) DO NOTHING",
        named_params! {
            ":grp": sandbox.group.as_str(),
            ":incarnation": sandbox.incarnation.as_str(),
            ":pid": sandbox.pid,
            ":start_time": sandbox.start_time,
            ":boot_id": sandbox.boot_id,
            ":at": sandbox.started_at.0,
        },
    )?;
    Ok(())
}

fn ended(
    connection: &Connection,
    incarnation: &Incarnation,
    at: Timestamp,
) -> Result<(), CommandError> {
    connection.execute(
        "UPDATE sandboxes SET ended_at = :at
         WHERE incarnation = :incarnation AND ended_at IS NULL",
        named_params! { ":incarnation": incarnation.as_str(), ":at": at.0 },
    )?;
    connection.execute(
        "DELETE FROM sandboxes WHERE incarnation IN (
             SELECT incarnation FROM sandboxes WHERE ended_at IS NOT NULL
             ORDER BY ended_at DESC LIMIT -1 OFFSET :kept)",
        named_params! { ":kept": SANDBOXES_ENDED_KEPT },
    )?;
    Ok(())
}

fn open(connection: &Connection) -> Result<Vec<Sandbox>, CommandError> {
    let mut statement =
        connection.prepare("SELECT * FROM sandboxes WHERE ended_at IS NULL ORDER BY started_at")?;
    let sandboxes = statement.query_map([], sandbox)?;
    Ok(sandboxes.collect::<Result<_, _>>()?)
}

fn sandbox(row: &Row<'_>) -> rusqlite::Result<Sandbox> {
    Ok(Sandbox {
        group: rows::name(row, "grp")?,
        incarnation: rows::name(row, "incarnation")?,
        pid: rows::count(row, "pid")?,
        start_time: row.get("start_time")?,
        boot_id: row.get("boot_id")?,
        started_at: rows::moment(row, "started_at")?,
    })
}
