//! Time as values, and the one door to the machine's clock and randomness.
//!
//! Everything that decides takes a [`Timestamp`] or an identifier as an
//! argument; only the loops at the edge ask [`Clock`] for one.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::name::{Incarnation, InstanceId, MessageId, TurnId};
use crate::unit::Period;

/// A moment, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `period` after this one.
    #[must_use]
    pub fn after(self, period: Period) -> Self {
        let step = i64::try_from(period.as_milliseconds()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(step))
    }

    /// The wall clock of `zone` at this moment, as `2026-11-22 09:30`.
    #[must_use]
    pub fn local(self, zone: &TimeZone) -> String {
        jiff::Timestamp::from(self).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// The wall clock of `zone` at this moment with the zone's abbreviation, as
    /// `2026-11-22 09:30 CET`.
    #[must_use]
    pub fn local_named(self, zone: &TimeZone) -> String {
        jiff::Timestamp::from(self).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string()
    }
}

/// The same moment; 1970 for one that no calendar has.
impl From<Timestamp> for jiff::Timestamp {
    fn from(moment: Timestamp) -> Self {
        Self::from_millisecond(moment.0).unwrap_or(Self::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// The source of time and of fresh identifiers, handed to whatever needs one.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// 128 fresh bits that sort by the time they were made, as 32 hexadecimal digits.
    fn ordered_bits(&self) -> String;

    /// 128 fresh random bits, as 32 hexadecimal digits.
    fn random_bits(&self) -> String;

    /// A fresh turn.
    fn turn_id(&self) -> TurnId {
        TurnId::new(self.ordered_bits()).expect("128 bits in hexadecimal are a turn id")
    }

    /// A fresh message of our own making.
    fn message_id(&self) -> MessageId {
        MessageId::new(self.ordered_bits()).expect("128 bits in hexadecimal are a message id")
    }

    /// A fresh start of an agent.
    fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.random_bits()).expect("128 bits in hexadecimal are an incarnation")
    }

    /// A fresh installation.
    fn instance_id(&self) -> InstanceId {
        InstanceId::new(self.random_bits()).expect("128 bits in hexadecimal are an instance")
    }
}

/// The machine's own clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }

    fn ordered_bits(&self) -> String {
        Uuid::now_v7().simple().to_string()
    }

    fn random_bits(&self) -> String {
        Uuid::new_v4().simple().to_string()
    }
}

/// Becomes ready at this moment; never, where there is none.
pub async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
