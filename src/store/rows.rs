//! Columns as the values they stand for. What a column cannot be read as is
//! an error that names the column's type, never a default.

use std::error::Error;
use std::fmt;

use rusqlite::Row;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;

pub(super) fn unreadable(
    row: &Row<'_>,
    column: &str,
    error: impl Into<Box<dyn Error + Send + Sync>>,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error.into())
}

/// An identifier, or any other value with a checked text form.
pub(super) fn name<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: TryFrom<String>,
    T::Error: Error + Send + Sync + 'static,
{
    T::try_from(row.get::<_, String>(column)?).map_err(|error| unreadable(row, column, error))
}

/// Like [`name`], where the column may be empty.
pub(super) fn name_maybe<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: TryFrom<String>,
    T::Error: Error + Send + Sync + 'static,
{
    match row.get::<_, Option<String>>(column)? {
        Some(text) => T::try_from(text).map(Some).map_err(|error| unreadable(row, column, error)),
        None => Ok(None),
    }
}

/// A moment.
pub(super) fn moment(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp)
}

/// A moment that may not have come yet.
pub(super) fn moment_maybe(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

/// A number that is never negative.
pub(super) fn count<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: TryFrom<i64>,
    T::Error: Error + Send + Sync + 'static,
{
    T::try_from(row.get::<_, i64>(column)?).map_err(|error| unreadable(row, column, error))
}

/// A value that is kept as JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?)
        .map_err(|error| unreadable(row, column, error))
}

/// The JSON of a value whose keys are texts and whose numbers are finite.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("every stored value has a JSON form")
}

/// A number as SQLite counts: it has no unsigned ones.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A word in the database that stands for none of the values it may have.
#[derive(Debug)]
pub(super) struct UnknownWord(pub(super) String);

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown word `{}`", self.0)
    }
}

impl Error for UnknownWord {}

/// An enum that is kept as a word: one word for each variant.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// The word that stands for it.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }

        impl $name {
            pub(super) fn of_row(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Self> {
                let word: String = row.get(column)?;
                match word.as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::store::rows::unknown(row, column, word)),
                }
            }
        }
    };
}
pub(super) use words;

/// The error for a word that stands for nothing.
pub(super) fn unknown(row: &Row<'_>, column: &str, word: String) -> rusqlite::Error {
    unreadable(row, column, UnknownWord(word))
}
