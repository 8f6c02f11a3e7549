//! Groups that the operator holds. A hold outlasts its controller.

use std::collections::BTreeMap;

use rusqlite::{Connection, named_params};

use super::error::{CommandError, StoreError};
use super::open::{Reader, Store};
use super::rows;
use crate::clock::Timestamp;
use crate::name::GroupName;

/// Holds that are read, the oldest first: more than there can be groups.
const HOLDS_MAX: u32 = 10_000;

impl Store {
    /// Holds a group from now on. One that is held already stays so.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn hold(&self, group: &GroupName, at: Timestamp) -> Result<(), StoreError> {
        let group = group.clone();
        self.call(move |connection| {
            connection.execute(
                "INSERT INTO holds (group_name, since) VALUES (:group, :at)
                 ON CONFLICT (group_name) DO NOTHING",
                named_params! { ":group": group.as_str(), ":at": at.0 },
            )?;
            Ok(())
        })
        .await
    }

    /// Lets a group go on. One that is not held is no error.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn let_go(&self, group: &GroupName) -> Result<(), StoreError> {
        let group = group.clone();
        self.call(move |connection| {
            connection.execute(
                "DELETE FROM holds WHERE group_name = :group",
                named_params! { ":group": group.as_str() },
            )?;
            Ok(())
        })
        .await
    }

    /// The groups that are held, and since when.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn holds(&self) -> Result<BTreeMap<GroupName, Timestamp>, StoreError> {
        self.call(holds).await
    }
}

impl Reader {
    /// As [`Store::holds`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn holds(&self) -> Result<BTreeMap<GroupName, Timestamp>, StoreError> {
        self.ask(holds)
    }
}

fn holds(connection: &Connection) -> Result<BTreeMap<GroupName, Timestamp>, CommandError> {
    let mut statement =
        connection.prepare("SELECT * FROM holds ORDER BY since, group_name LIMIT :limit")?;
    let holds = statement.query_map(named_params! { ":limit": HOLDS_MAX }, |row| {
        Ok((rows::name(row, "group_name")?, rows::moment(row, "since")?))
    })?;
    Ok(holds.collect::<Result<_, _>>()?)
}
