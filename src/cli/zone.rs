//! The one zone of the times that verbs print.

use jiff::tz::TimeZone;

use crate::resource::Spec;
use crate::store::AppliedGeneration;

/// The zone that was applied, else the machine's: the one in which agents are told the time.
#[must_use]
pub fn of(applied: Option<&AppliedGeneration>) -> TimeZone {
    let named = applied.and_then(|applied| {
        applied.specs.values().find_map(|spec| match spec {
            Spec::Group(group) => group.timezone.as_deref(),
            _ => None,
        })
    });
    named.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(TimeZone::system)
}
