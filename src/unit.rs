//! Durations and sizes as a person writes them: `30m`, `10MiB`.
//!
//! Both are whole numbers with one unit. Printing gives the largest unit that
//! divides the value, so that what is printed reads back as the same value.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// There is no number in front.
    #[error("a number with a unit is expected, such as {0}")]
    Number(&'static str),
    /// A number without a unit.
    #[error("the unit is missing: {0}")]
    UnitMissing(&'static str),
    /// A unit that does not exist here.
    #[error("unknown unit `{unit}`: {known}")]
    UnknownUnit {
        /// What was written.
        unit: String,
        /// The units there are.
        known: &'static str,
    },
    /// The value does not fit.
    #[error("the value is too large")]
    TooLarge,
}

const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const DURATION_KNOWN: &str = "ms, s, m, h or d";

const SIZE_UNITS: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const SIZE_KNOWN: &str = "B, KiB, MiB, GiB or TiB";

fn parse(
    text: &str,
    units: &[(&str, u64)],
    known: &'static str,
    example: &'static str,
) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err(UnitError::Number(example));
    }
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(UnitError::UnitMissing(known));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(UnitError::UnknownUnit { unit: unit.to_owned(), known });
    };
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    // Both end up in databases and kernel interfaces that count in i64.
    number
        .checked_mul(*factor)
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or(UnitError::TooLarge)
}

fn print(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (unit, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .copied()
        .unwrap_or(units[0]);
    f.pad(&format!("{}{unit}", value / factor))
}

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $units:ident, $known:ident, $example:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u64);

        impl FromStr for $name {
            type Err = UnitError;
            fn from_str(text: &str) -> Result<Self, UnitError> {
                parse(text, $units, $known, $example).map(Self)
            }
        }
        impl TryFrom<String> for $name {
            type Error = UnitError;
            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                print(self.0, $units, f)
            }
        }
    };
}

unit! {
    /// A length of time in whole milliseconds, written with one unit: `250ms`, `30s`, `30m`, `2h`, `1d`.
    Period, DURATION_UNITS, DURATION_KNOWN, "\"30m\""
}
unit! {
    /// A number of bytes, written with one binary unit: `512B`, `10MiB`, `2GiB`.
    ByteSize, SIZE_UNITS, SIZE_KNOWN, "\"10MiB\""
}

impl Period {
    /// A period of this many milliseconds.
    #[must_use]
    pub const fn milliseconds(count: u64) -> Self {
        Self(count)
    }

    /// A period of this many seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self(count * 1_000)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn as_milliseconds(self) -> u64 {
        self.0
    }

    /// The same length of time as the standard library has it.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl ByteSize {
    /// A size of this many bytes.
    #[must_use]
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}
