//! The clock of tools: the group's time zone, in words that programs here understand.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::zone;

/// The variable that names the zone.
const VARIABLE: &str = "TZ";
/// Where programs look a zone's name up.
const ZONE_DATA: &str = "/usr/share/zoneinfo";

/// Gives the variable of a tool's environment another value where programs here would not
/// understand it. One that has no zone data reads an unknown name as UTC, and says nothing.
pub(super) fn understood(name: &str, value: String) -> String {
    if name == VARIABLE { understood_with(value, Path::new(ZONE_DATA)) } else { value }
}

/// The change that [`understood`] makes to this process's own environment, for what takes its
/// place.
pub(super) fn own() -> Option<(&'static str, String)> {
    let value = std::env::var(VARIABLE).ok()?;
    Some((VARIABLE, understood(VARIABLE, value)))
}

fn understood_with(value: String, data: &Path) -> String {
    match TimeZone::get(&value) {
        Ok(zone) if !data.join(&value).is_file() => zone::rule(&zone, Timestamp::now()),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::understood_with;

    #[test]
    fn a_name_stays_where_programs_know_it_and_becomes_a_rule_elsewhere() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("Asia")).unwrap();
        std::fs::write(data.path().join("Asia/Kolkata"), "TZif").unwrap();
        let told = |value: &str| understood_with(value.to_owned(), data.path());
        assert_eq!(told("Asia/Kolkata"), "Asia/Kolkata");
        assert_eq!(told("Asia/Tokyo"), "JST-9");
        for kept in ["CET-1CEST,M3.5.0,M10.5.0/3", "No/Such", ""] {
            assert_eq!(told(kept), kept);
        }
    }
}
