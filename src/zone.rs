//! Time zones as programs are told of them: by name, or by rule where nobody knows names.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use jiff::civil::{Date, Weekday};
use jiff::tz::{Offset, TimeZone, TimeZoneTransition};
use jiff::{Timestamp, ToSpan as _};

/// How far ahead the changes of a zone are looked at: after as many years, the calendar repeats.
const YEARS_AHEAD: i16 = 28;
/// Most changes of a zone that are looked at.
const CHANGES_MAX: usize = 2 * YEARS_AHEAD as usize;
/// Fewest changes of either kind that make a rule.
const CHANGES_MIN: usize = YEARS_AHEAD as usize - 2;
/// How many days before the change a rule may count from, the likeliest first: it may say "the
/// last Sunday, an hour before midnight", or "the first Saturday, 24 hours later".
const SHIFTS: [i8; 4] = [0, -1, 1, 2];

/// What the environment variable `TZ` says for a zone: its IANA name or, where it has none, its
/// rule from `now` on.
#[must_use]
pub fn variable(zone: &TimeZone, now: Timestamp) -> String {
    if zone.is_unknown() {
        return "UTC".to_owned();
    }
    zone.iana_name().map_or_else(|| rule(zone, now), str::to_owned)
}

/// The zone as a POSIX rule from `now` on, such as `CET-1CEST,M3.5.0,M10.5.0/3`, which needs no
/// zone data. A zone whose changes follow no such rule has the offset of `now`.
#[must_use]
pub fn rule(zone: &TimeZone, now: Timestamp) -> String {
    changing(zone, now).unwrap_or_else(|| {
        let info = zone.to_offset_info(now);
        format!("{}{}", abbreviation(info.abbreviation()), offset(info.offset()))
    })
}

/// One of the two changes of a year: the offset before it, and when it is.
struct Transition {
    before: Offset,
    day: Day,
    seconds: i32,
}

/// A day of each year: the `week`th `weekday` of `month`; week 5 is the last.
#[derive(PartialEq)]
struct Day {
    month: i8,
    week: i8,
    weekday: Weekday,
}

/// The rule of a zone that changes twice a year.
fn changing(zone: &TimeZone, now: Timestamp) -> Option<String> {
    let until = now.to_zoned(TimeZone::UTC).checked_add(YEARS_AHEAD.years()).ok()?.timestamp();
    let all: Vec<TimeZoneTransition<'_>> = zone
        .following(now)
        .take(CHANGES_MAX)
        .take_while(|change| change.timestamp() <= until)
        // Zone data may name moments at which nothing changes.
        .filter(|change| zone.to_offset(before(change)) != change.offset())
        .collect();
    let (into, out_of): (Vec<_>, Vec<_>) = all.iter().partition(|change| change.dst().is_dst());
    let (summer, winter) = (into.first()?, out_of.first()?);
    let alike = |changes: &[&TimeZoneTransition<'_>], one: &TimeZoneTransition<'_>| {
        let is_alike = |change: &&TimeZoneTransition<'_>| {
            (change.offset(), change.abbreviation()) == (one.offset(), one.abbreviation())
        };
        changes.len() >= CHANGES_MIN && changes.iter().all(is_alike)
    };
    let regular = alike(&into, summer) && alike(&out_of, winter);
    let begins = Transition::of(&into, winter.offset())?;
    let ends = Transition::of(&out_of, summer.offset())?;
    regular.then(|| {
        format!(
            "{}{}{}{},{begins},{ends}",
            abbreviation(winter.abbreviation()),
            offset(begins.before),
            abbreviation(summer.abbreviation()),
            // An hour ahead is what no offset means.
            match ends.before.seconds() - begins.before.seconds() {
                3600 => String::new(),
                _ => offset(ends.before),
            },
            begins = begins.written(),
            ends = ends.written(),
        )
    })
}

/// The second before a change.
fn before(change: &TimeZoneTransition<'_>) -> Timestamp {
    change.timestamp().saturating_sub(1.second()).unwrap_or(Timestamp::MIN)
}

impl Transition {
    /// What these changes, one a year, have in common.
    fn of(changes: &[&TimeZoneTransition<'_>], before: Offset) -> Option<Self> {
        let local = || changes.iter().map(|at| before.to_datetime(at.timestamp()));
        let time = local().next()?.time();
        if local().any(|at| at.time() != time) {
            return None;
        }
        let seconds = i32::from(time.hour()) * 3600
            + i32::from(time.minute()) * 60
            + i32::from(time.second());
        SHIFTS.into_iter().find_map(|shift| {
            let dates = local().map(|at| at.date().checked_sub(i32::from(shift).days()));
            let dates: Vec<Date> = dates.collect::<Result<_, _>>().ok()?;
            let seconds = seconds + i32::from(shift) * 24 * 3600;
            Some(Self { before, day: Day::of(&dates)?, seconds })
        })
    }

    fn written(&self) -> String {
        let Day { month, week, weekday } = self.day;
        let time = match self.seconds {
            // Two o'clock is what no time means.
            7200 => String::new(),
            seconds => format!("/{}", clock(seconds)),
        };
        format!("M{month}.{week}.{}{time}", weekday.to_sunday_zero_offset())
    }
}

impl Day {
    /// The day that all of these dates are, each in its year.
    fn of(dates: &[Date]) -> Option<Self> {
        let first = dates.first()?;
        let (month, weekday) = (first.month(), first.weekday());
        let week = |date: &Date| (date.day() - 1) / 7 + 1;
        let alike = |date: &Date| (date.month(), date.weekday()) == (month, weekday);
        if !dates.iter().all(alike) {
            None
        } else if dates.iter().all(|date| week(date) == week(first)) {
            Some(Self { month, week: week(first), weekday })
        } else {
            let last = |date: &Date| date.day() + 7 > date.days_in_month();
            dates.iter().all(last).then_some(Self { month, week: 5, weekday })
        }
    }
}

/// An offset as POSIX writes it: what is to be added to local time for UTC.
fn offset(offset: Offset) -> String {
    clock(-offset.seconds())
}

fn clock(seconds: i32) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let (hours, rest) = (seconds.abs() / 3600, seconds.abs() % 3600);
    match (rest / 60, rest % 60) {
        (0, 0) => format!("{sign}{hours}"),
        (minutes, 0) => format!("{sign}{hours}:{minutes:02}"),
        (minutes, seconds) => format!("{sign}{hours}:{minutes:02}:{seconds:02}"),
    }
}

fn abbreviation(name: &str) -> String {
    let plain = name.len() >= 3 && name.bytes().all(|letter| letter.is_ascii_alphabetic());
    if plain { name.to_owned() } else { format!("<{name}>") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28.
    const NOW: i64 = 1_795_824_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    #[test]
    fn rules_are_written_as_zone_data_writes_them() {
        for (name, expected) in [
            ("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
            ("America/New_York", "EST5EDT,M3.2.0,M11.1.0"),
            ("America/Santiago", "<-04>4<-03>,M9.1.6/24,M4.1.6/24"),
            ("America/Nuuk", "<-02>2<-01>,M3.5.0/-1,M10.5.0/0"),
            ("Asia/Jerusalem", "IST-2IDT,M3.4.4/26,M10.5.0"),
            ("Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"),
            ("Asia/Kolkata", "IST-5:30"),
            ("UTC", "UTC0"),
        ] {
            assert_eq!(rule(&TimeZone::get(name).unwrap(), now()), expected, "{name}");
        }
    }

    #[test]
    fn every_zone_has_a_rule_that_tells_the_same_time() {
        // These follow the moon, and have the offset of the moment.
        let irregular = ["Africa/Casablanca", "Africa/El_Aaiun", "Asia/Gaza", "Asia/Hebron"];
        let mut seen = 0;
        for name in jiff::tz::TimeZoneDatabase::bundled().available() {
            let zone = TimeZone::get(name.as_str()).unwrap();
            let posix = TimeZone::posix(&rule(&zone, now())).unwrap();
            let days = if irregular.contains(&name.as_str()) { 30 } else { 10 * 365 };
            for step in 0..days * 24 / 40 {
                let at = Timestamp::from_second(NOW + step * 40 * 3600 + 1_830).unwrap();
                let (there, here) = (zone.to_offset_info(at), posix.to_offset_info(at));
                assert_eq!(there.offset(), here.offset(), "{name} at {at}");
                assert_eq!(there.abbreviation(), here.abbreviation(), "{name} at {at}");
            }
            seen += 1;
        }
        assert!(seen > 300, "{seen}");
    }

    #[test]
    fn a_zone_without_a_name_is_told_by_its_rule() {
        let named = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(variable(&named, now()), "Europe/Berlin");
        let posix = TimeZone::posix("XYZ-3ABC-5,M2.1.1/4,M8.3.2/1:30").unwrap();
        assert_eq!(variable(&posix, now()), "XYZ-3ABC-5,M2.1.1/4,M8.3.2/1:30");
        assert_eq!(variable(&TimeZone::unknown(), now()), "UTC");
    }
}
