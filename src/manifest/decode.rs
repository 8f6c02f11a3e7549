//! Reading values out of the tree: every value once, every problem noted, never giving up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::codes::Code;
use super::diagnostic::{Diagnostic, closest, listed, quote, shown};
use super::fields::{self, Field, TEXT_LENGTH_MAX, Type};
use super::place::Lines;
use super::render::PROBLEMS_MAX;
use super::syntax::Mended;
use super::{Span, Written, habits, token};
use crate::resource::MilliCpus;
use crate::unit::{ByteSize, Period};

/// A table of the manifest and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Section<'t, 'i> {
    pub(crate) table: &'t DeTable<'i>,
    /// Its path with the names a person gave: `groups.family.limits`.
    pub(crate) path: String,
    /// Its path in the list of fields: `groups.<group>.limits`.
    pub(crate) pattern: &'static str,
    /// The place of its name.
    pub(crate) at: Span,
}

/// What has been read and noted so far.
#[derive(Debug)]
pub(crate) struct Decoder<'d> {
    lines: &'d Lines<'d>,
    mended: &'d Mended,
    lost: BTreeSet<String>,
    pub(crate) problems: Vec<Diagnostic>,
}

/// A value of one of the types that fit on a line.
enum Scalar {
    Text(String),
    Boolean(bool),
    Integer(u64),
    Cpus(MilliCpus),
    Period(Period),
    Size(ByteSize),
}

impl<'d> Decoder<'d> {
    pub(crate) fn new(lines: &'d Lines<'d>, mended: &'d Mended) -> Self {
        Self { lines, mended, lost: mended.lost.clone(), problems: Vec::new() }
    }

    /// The place of a range of the tree.
    pub(crate) fn span(&self, range: &Range<usize>) -> Span {
        self.lines.span(self.mended.original(range))
    }

    /// Notes a problem.
    pub(crate) fn note(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    /// The whole manifest as a section.
    pub(crate) fn root<'t, 'i>(&self, table: &'t DeTable<'i>) -> Section<'t, 'i> {
        Section { table, path: String::new(), pattern: "", at: self.lines.span(0..0) }
    }

    /// Whether something was written at this path or above it that is not in the tree.
    pub(crate) fn is_lost(&self, path: &str) -> bool {
        let above = path.match_indices('.').map(|(dot, _)| &path[..dot]);
        above.chain([path]).any(|path| self.lost.contains(path))
    }

    /// Whether a name declared in this table may be missing from the tree.
    pub(crate) fn loses_names(&self, path: &str) -> bool {
        let names = format!("{path}.");
        let below = self.lost.range(names.clone()..).map_while(|lost| lost.strip_prefix(&names));
        self.is_lost(path) || below.into_iter().any(|name| !name.contains('.'))
    }

    /// The table under a key, if it is there and a table.
    pub(crate) fn section<'t, 'i>(
        &mut self,
        parent: &Section<'t, 'i>,
        key: &str,
    ) -> Option<Section<'t, 'i>> {
        let pattern = known_table(parent.pattern, key);
        let (name, value) = parent.table.get_key_value(key)?;
        self.table(parent, name, value, pattern)
    }

    /// The table of one name in a table of names, if it is a table.
    pub(crate) fn named_section<'t, 'i>(
        &mut self,
        parent: &Section<'t, 'i>,
        name: &str,
    ) -> Option<Section<'t, 'i>> {
        let pattern = known_table(parent.pattern, "<");
        let (name, value) = parent.table.get_key_value(name)?;
        self.table(parent, name, value, pattern)
    }

    /// Where each key of a table has its value.
    pub(crate) fn places(&self, section: &Section<'_, '_>) -> BTreeMap<String, Span> {
        let places = section.table.iter();
        places.map(|(key, value)| (key.get_ref().to_string(), self.span(&value.span()))).collect()
    }

    /// The tables of a table of names, in the order they were written.
    pub(crate) fn named<'t, 'i>(
        &mut self,
        parent: &Section<'t, 'i>,
    ) -> Vec<(&'t str, Section<'t, 'i>)> {
        let pattern = known_table(parent.pattern, "<");
        let mut found = Vec::new();
        for (name, value) in parent.table.iter() {
            if let Some(section) = self.table(parent, name, value, pattern) {
                found.push((name.get_ref().as_ref(), section));
            }
        }
        found
    }

    fn table<'t, 'i>(
        &mut self,
        parent: &Section<'t, 'i>,
        name: &Spanned<DeString<'i>>,
        value: &'t Spanned<DeValue<'i>>,
        pattern: &'static str,
    ) -> Option<Section<'t, 'i>> {
        let path = join(&parent.path, &shown(name.get_ref()));
        let at = self.span(&name.span());
        if let Some(table) = value.get_ref().as_table() {
            return Some(Section { table, path, pattern, at });
        }
        let problem = Diagnostic::new(
            Code::WrongType,
            format!("{} takes a table, not {}", quote(name.get_ref()), article(value)),
        );
        let problem = if is_table_list(value) {
            problem
                .at(at, "a list of tables")
                .helped("every table has a name: `[groups.family]`, not `[[groups]]`")
        } else {
            problem
                .at(self.span(&value.span()), "a table is expected here")
                .helped(format!("write `[{path}]` and its keys below it"))
        };
        self.note(problem);
        None
    }

    /// Notes every key that the table does not take. A key so close to a known
    /// one that it must have been meant is not missed where the other is.
    pub(crate) fn check_keys(&mut self, section: &Section<'_, '_>, kind: Option<&str>) {
        let Some(known) = fields::KNOWN_KEYS.get(section.pattern) else { return };
        let of_kind = |key: &str| match kind {
            Some(kind) => fields::of_kind(section.pattern, key).is_none_or(|of| of == kind),
            None => true,
        };
        let taken: Vec<&str> = known.iter().copied().filter(|key| of_kind(key)).collect();
        for (name, value) in section.table.iter() {
            let key = name.get_ref().as_ref();
            if taken.contains(&key) {
                continue;
            }
            let at = self.span(&name.span());
            let place = if section.path.is_empty() {
                "the manifest".to_owned()
            } else {
                section.path.clone()
            };
            if known.contains(&key) {
                let kind = kind.unwrap_or_default();
                self.note(
                    Diagnostic::new(
                        Code::KeyOfOtherKind,
                        format!(
                            "{} has no meaning in {place}, whose kind is {}",
                            quote(key),
                            quote(kind)
                        ),
                    )
                    .at(at, format!("not for kind {}", quote(kind)))
                    .helped(format!("keys of kind `{kind}`: {}", listed(taken.iter().copied()))),
                );
                continue;
            }
            let absent = taken.iter().copied().filter(|key| !section.table.contains_key(*key));
            // Past what anybody is shown, what may have been meant is not worth the search.
            let many = self.problems.len() >= PROBLEMS_MAX;
            let near = (!many).then(|| closest(key, absent)).flatten();
            let meant = near.or_else(|| {
                // A table may be written in several places, so this may be one more of them.
                let again = !many && value.get_ref().is_table();
                again.then(|| closest(key, taken.iter().copied())).flatten()
            });
            if let Some(meant) = meant {
                self.lost.insert(join(&section.path, meant));
            }
            let label = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if many => "not known here".to_owned(),
                None => match elsewhere(section, key) {
                    Some(table) => format!("belongs under `[{table}]`"),
                    None => self.written_already(section, key, &taken),
                },
            };
            self.note(
                Diagnostic::new(Code::UnknownKey, format!("unknown key {} in {place}", quote(key)))
                    .at(at, label)
                    .helped(format!("known keys: {}", listed(taken.iter().copied()))),
            );
        }
    }

    /// What is said of an unknown key that is none of those still missing.
    fn written_already(&self, section: &Section<'_, '_>, key: &str, taken: &[&str]) -> String {
        let meant = closest(key, taken.iter().copied());
        let written = meant.and_then(|meant| section.table.get_key_value(meant));
        written.map_or_else(
            || "not known here".to_owned(),
            |(name, _)| {
                let line = self.span(&name.span()).line;
                format!(
                    "did you mean `{}`, which is written already on line {line}?",
                    name.get_ref()
                )
            },
        )
    }

    /// Notes that a required key is not there.
    pub(crate) fn require(&mut self, section: &Section<'_, '_>, key: &str, help: &str) {
        let path = join(&section.path, key);
        if section.table.contains_key(key) || self.is_lost(&path) {
            return;
        }
        let place = if section.path.is_empty() { "the manifest" } else { section.path.as_str() };
        self.note(
            Diagnostic::new(Code::MissingKey, format!("{place} has no `{key}`"))
                .at(section.at, format!("`{key}` is missing"))
                .helped(help),
        );
    }

    /// A string, from `key`.
    pub(crate) fn text(&mut self, section: &Section<'_, '_>, key: &str) -> Option<Written<String>> {
        let (scalar, at) = self.scalar(section, key)?;
        match scalar {
            Scalar::Text(value) => Some(Written { value, at: Some(at) }),
            _ => None,
        }
    }

    /// `true` or `false`, from `key`.
    pub(crate) fn boolean(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
    ) -> Option<Written<bool>> {
        let (scalar, at) = self.scalar(section, key)?;
        match scalar {
            Scalar::Boolean(value) => Some(Written { value, at: Some(at) }),
            _ => None,
        }
    }

    /// A whole number, from `key`.
    pub(crate) fn integer(&mut self, section: &Section<'_, '_>, key: &str) -> Option<Written<u32>> {
        let (scalar, at) = self.scalar(section, key)?;
        match scalar {
            Scalar::Integer(value) => {
                Some(Written { value: u32::try_from(value).unwrap_or(u32::MAX), at: Some(at) })
            }
            _ => None,
        }
    }

    /// A number of cores, from `key`.
    pub(crate) fn cpus(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
    ) -> Option<Written<MilliCpus>> {
        let (scalar, at) = self.scalar(section, key)?;
        match scalar {
            Scalar::Cpus(value) => Some(Written { value, at: Some(at) }),
            _ => None,
        }
    }

    /// A length of time, from `key`.
    pub(crate) fn period(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
    ) -> Option<Written<Period>> {
        let (scalar, at) = self.scalar(section, key)?;
        match scalar {
            Scalar::Period(value) => Some(Written { value, at: Some(at) }),
            _ => None,
        }
    }

    /// A number of bytes, from `key`.
    pub(crate) fn size(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
    ) -> Option<Written<ByteSize>> {
        let (scalar, at) = self.scalar(section, key)?;
        match scalar {
            Scalar::Size(value) => Some(Written { value, at: Some(at) }),
            _ => None,
        }
    }

    /// The strings of a list, from `key`.
    pub(crate) fn texts(&mut self, section: &Section<'_, '_>, key: &str) -> Vec<(String, Span)> {
        let Some(value) = section.table.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array().filter(|_| !is_table_list(value)) else {
            let sample = fields::field(section.pattern, key).map_or("", |field| field.sample);
            self.wrong_type(key, value, &format!("a list of strings, such as `{sample}`"));
            return Vec::new();
        };
        let items: &DeArray<'_> = items;
        items
            .iter()
            .filter_map(|item| {
                let at = self.span(&item.span());
                self.check_token(key, item);
                match self.decode_text(key, item)? {
                    Scalar::Text(text) => Some((text, at)),
                    _ => None,
                }
            })
            .collect()
    }

    /// Every `name = "string"` of a table of names.
    pub(crate) fn named_texts(
        &mut self,
        section: &Section<'_, '_>,
    ) -> Vec<(String, Span, Written<String>)> {
        let mut found = Vec::new();
        for (name, value) in section.table.iter() {
            let key = name.get_ref().to_string();
            let named_at = self.span(&name.span());
            let at = self.span(&value.span());
            if let Some(Scalar::Text(text)) = self.decode_text(&key, value) {
                found.push((key, named_at, Written { value: text, at: Some(at) }));
            }
        }
        found
    }

    fn scalar(&mut self, section: &Section<'_, '_>, key: &str) -> Option<(Scalar, Span)> {
        let field = fields::field(section.pattern, key);
        debug_assert!(field.is_some(), "{}.{key} is not in the list of fields", section.pattern);
        let (field, value) = (field?, section.table.get(key)?);
        let scalar = match field.takes {
            Type::Text | Type::Texts => {
                self.check_token(key, value);
                self.decode_text(key, value)
            }
            Type::Choice(words) => self.decode_choice(field, value, words),
            Type::Boolean => self.decode_boolean(key, value),
            Type::Integer { min, max } => self.decode_integer(key, value, min, max),
            Type::Cpus { min, max } => self.decode_cpus(key, value, min, max),
            Type::Duration { min, max } => {
                let period = self.decode_unit(field, value, "a length of time")?;
                self.bounded(key, value, period, min, max).map(Scalar::Period)
            }
            Type::Size { min, max } => {
                let size = self.decode_unit(field, value, "a size")?;
                self.bounded(key, value, size, min, max).map(Scalar::Size)
            }
        };
        Some((scalar?, self.span(&value.span())))
    }

    fn decode_text(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Scalar> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a string, in quotes");
            return None;
        };
        if text.len() > TEXT_LENGTH_MAX {
            let at = self.span(&value.span());
            self.note(
                Diagnostic::new(
                    Code::TextTooLong,
                    format!("{} is {} bytes long", quote(key), text.len()),
                )
                .at(at, "too long")
                .helped(format!("a string has at most {TEXT_LENGTH_MAX} bytes")),
            );
            return None;
        }
        Some(Scalar::Text(text.to_owned()))
    }

    /// Notes a string that looks like a known kind of token, and does not repeat it.
    fn check_token(&mut self, key: &str, value: &Spanned<DeValue<'_>>) {
        if value.get_ref().as_str().is_some_and(token::has_token) {
            let at = self.span(&value.span());
            self.note(
                Diagnostic::new(
                    Code::SecretLiteral,
                    format!("the value of {} looks like a secret", quote(key)),
                )
                .at(at, "a secret?")
                .helped("remove it; if the file was shared, replace the secret"),
            );
        }
    }

    fn decode_choice(
        &mut self,
        field: &Field,
        value: &Spanned<DeValue<'_>>,
        words: &[&'static str],
    ) -> Option<Scalar> {
        let key = field.key();
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, &format!("one of {}", in_quotes(words)));
            return None;
        };
        if words.contains(&text) {
            return Some(Scalar::Text(text.to_owned()));
        }
        let at = self.span(&value.span());
        let label = closest(text, words.iter().copied()).map_or_else(
            || "not known here".to_owned(),
            |meant| format!("did you mean \"{meant}\"?"),
        );
        self.note(
            Diagnostic::new(Code::UnknownWord, format!("{} cannot be {}", quote(key), quote(text)))
                .at(at, label)
                .helped(
                    habits::word(&field.path, text)
                        .unwrap_or_else(|| format!("`{key}` takes {}", in_quotes(words))),
                ),
        );
        None
    }

    fn decode_boolean(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Scalar> {
        if let Some(value) = value.get_ref().as_bool() {
            return Some(Scalar::Boolean(value));
        }
        self.wrong_type(key, value, "`true` or `false`, without quotes");
        None
    }

    fn decode_integer(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        min: u64,
        max: u64,
    ) -> Option<Scalar> {
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number, without quotes");
            return None;
        };
        let digits = number.as_str().trim_start_matches('+');
        match u64::from_str_radix(digits, number.radix()) {
            Ok(number) => self.bounded(key, value, number, min, max).map(Scalar::Integer),
            Err(_) => {
                self.out_of_bounds(key, value, &min, &max);
                None
            }
        }
    }

    fn decode_cpus(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        min: MilliCpus,
        max: MilliCpus,
    ) -> Option<Scalar> {
        let number: f64 = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok()?,
            DeValue::Float(number) => number.as_str().parse().ok()?,
            _ => {
                self.wrong_type(key, value, "a number of cores, such as 2 or 0.5, without quotes");
                return None;
            }
        };
        let thousandths = number * 1000.0;
        let (least, most) = (f64::from(min.0), f64::from(max.0));
        if !(least..=most).contains(&thousandths) {
            self.out_of_bounds(key, value, &min, &max);
            return None;
        }
        // Within the bounds it fits: both are far below what u32 and f64 hold exactly.
        Some(Scalar::Cpus(MilliCpus(thousandths.round() as u32)))
    }

    fn decode_unit<T>(
        &mut self,
        field: &Field,
        value: &Spanned<DeValue<'_>>,
        what: &str,
    ) -> Option<T>
    where
        T: std::str::FromStr<Err = crate::unit::UnitError>,
    {
        let expected = format!("{what} with its unit, in quotes, such as `{}`", field.sample);
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(field.key(), value, &expected);
            return None;
        };
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let at = self.span(&value.span());
                self.note(
                    Diagnostic::new(
                        Code::BadUnit,
                        format!("{} is not {what}: {error}", quote(text)),
                    )
                    .at(at, format!("not {what}"))
                    .helped(format!("`{}` takes {expected}", field.key())),
                );
                None
            }
        }
    }

    fn bounded<T: PartialOrd + Display>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        number: T,
        min: T,
        max: T,
    ) -> Option<T> {
        if number < min || number > max {
            self.out_of_bounds(key, value, &min, &max);
            return None;
        }
        Some(number)
    }

    fn out_of_bounds(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        min: &dyn Display,
        max: &dyn Display,
    ) {
        let at = self.span(&value.span());
        self.note(
            Diagnostic::new(Code::OutOfBounds, format!("`{key}` is out of bounds"))
                .at(at, "out of bounds")
                .helped(format!("`{key}` is at least {min} and at most {max}")),
        );
    }

    /// Notes a value of another type; `expected` is that type and, after a comma, how to write it.
    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let short = expected.split(", ").next().unwrap_or(expected);
        let at = self.span(&value.span());
        self.note(
            Diagnostic::new(
                Code::WrongType,
                format!("{} must be {short}, not {}", quote(key), article(value)),
            )
            .at(at, format!("this is {}", article(value)))
            .helped(format!("{} takes {expected}", quote(key))),
        );
    }
}

/// The table that an unknown key belongs under: one within this table, or one without names.
fn elsewhere(section: &Section<'_, '_>, key: &str) -> Option<String> {
    let takes = |table: &&&str| fields::KNOWN_KEYS[**table].contains(&key) && !table.is_empty();
    let mut tables = fields::KNOWN_KEYS.keys().filter(takes);
    tables
        .find_map(|table| match table.strip_prefix(section.pattern) {
            Some(rest) if !section.pattern.is_empty() && !rest.contains('<') => {
                Some(format!("{}{rest}", section.path))
            }
            _ => None,
        })
        .or_else(|| {
            let mut tables = fields::KNOWN_KEYS.keys().filter(takes);
            tables.find(|table| !table.contains('<')).map(|table| (*table).to_owned())
        })
}

/// A path with one more word.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of a table in the list of fields, by its parent's and the start of its key.
fn known_table(parent: &str, key: &str) -> &'static str {
    let wanted = |table: &&&'static str| {
        let rest = if parent.is_empty() {
            Some(**table)
        } else {
            table.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.'))
        };
        rest.is_some_and(|rest| {
            rest == key || (key == "<" && rest.starts_with('<') && !rest.contains('.'))
        })
    };
    let found = fields::KNOWN_KEYS.keys().find(wanted).copied();
    debug_assert!(found.is_some(), "{parent}.{key} is not in the list of fields");
    found.unwrap_or_default()
}

fn is_table_list(value: &Spanned<DeValue<'_>>) -> bool {
    value
        .get_ref()
        .as_array()
        .is_some_and(|items| items.iter().next().is_some_and(|item| item.get_ref().is_table()))
}

fn article(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) if is_table_list(value) => "a list of tables",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn in_quotes(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
}
