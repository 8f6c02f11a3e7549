//! The one zone of the times that verbs print.

use jiff::tz::TimeZone;

use crate::resource;
use crate::store::AppliedGeneration;

/// The zone that was applied, else the machine's: the one in which agents are told the time.
#[must_use]
pub fn of(applied: Option<&AppliedGeneration>) -> TimeZone {
    let named = applied.and_then(|applied| {
        resource::instance(&applied.specs).and_then(|instance| instance.timezone.as_deref())
    });
    named.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(TimeZone::system)
}
