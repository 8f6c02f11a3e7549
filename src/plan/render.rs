//! A plan as a person reads it, and as a program does: the same facts twice.
//!
//! Decides nothing. Whatever comes from a manifest or from the machine is
//! printed with its control characters made visible, so that no value can
//! rewrite the line that asks for approval.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::plan::{Action, Counts, FieldChange, Note, NoteKind, Plan, Step};
use crate::resource::{ResourceId, Risk, RuntimeKind};
use crate::visible;

/// The version of the JSON form; the second number grows with additions.
pub const FORMAT: &str = "1.2";

/// What stands above a plan and is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    /// The manifest's path as typed.
    pub manifest: String,
    /// What sandboxes are made with.
    pub runtime: RuntimeKind,
    /// Why these; empty where there was no choice.
    pub reason: String,
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// With ANSI escapes.
    Always,
    /// Plain; nothing is lost.
    Never,
}

/// Why a text is not a plan.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It is not the JSON form.
    #[error("not a plan")]
    Json(#[from] serde_json::Error),
    /// It has a format that this version does not know.
    #[error("the plan has format {0}, this version reads {FORMAT}")]
    Format(String),
}

/// The JSON form: the plan, and what a reader would otherwise have to work out.
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    manifest: &'a str,
    runtime: RuntimeKind,
    reason: &'a str,
    generation: Generations,
    #[serde(flatten)]
    plan: &'a Plan,
    changes: usize,
    counts: Counts,
    risks: BTreeMap<Risk, usize>,
    approval: BTreeSet<Risk>,
}

#[derive(Serialize)]
struct Generations {
    from: Option<u64>,
    to: u64,
}

#[derive(Deserialize)]
struct Format {
    format: String,
}

/// Prints a plan for a program, as one JSON object.
///
/// # Errors
/// Never in practice: every part of a plan has a JSON form.
pub fn json(plan: &Plan, heading: &Heading) -> Result<String, serde_json::Error> {
    let to = if plan.is_empty() { plan.parent.unwrap_or(0) } else { plan.generation() };
    let mut text = serde_json::to_string_pretty(&Document {
        format: FORMAT,
        manifest: &heading.manifest,
        runtime: heading.runtime,
        reason: &heading.reason,
        generation: Generations { from: plan.parent, to },
        plan,
        changes: plan.steps.len(),
        counts: plan.counts(),
        risks: plan.risks(),
        approval: plan.risks_to_name(),
    })?;
    text.push('\n');
    Ok(text)
}

/// Reads a plan back from its JSON form.
///
/// # Errors
/// [`ReadError`], where the text is something else or of another format.
pub fn from_json(text: &str) -> Result<Plan, ReadError> {
    let Format { format } = serde_json::from_str(text)?;
    if format.split('.').next() != FORMAT.split('.').next() {
        return Err(ReadError::Format(format));
    }
    Ok(serde_json::from_str(text)?)
}

/// Prints a plan for a person, without the defaults of what is new.
#[must_use]
pub fn text(plan: &Plan, heading: &Heading, color: Color) -> String {
    page(&Page { plan, heading, color, detail: Detail::Short })
}

/// Prints a plan for a person, with every field.
#[must_use]
pub fn full_text(plan: &Plan, heading: &Heading, color: Color) -> String {
    page(&Page { plan, heading, color, detail: Detail::Full })
}

/// Prints the steps that a bare yes does not cover, each with the fields that make it so.
#[must_use]
pub fn grave(plan: &Plan, heading: &Heading, color: Color) -> String {
    let page = Page { plan, heading, color, detail: Detail::Short };
    let is_grave = |step: &&Step| step.risk > Risk::Disruptive;
    let columns = page.columns();
    let mut text = String::new();
    for step in plan.steps.iter().filter(is_grave) {
        let fields = step.fields.iter().filter(|field| field.risk > Risk::Disruptive);
        page.line(&mut text, step, &words(step), &columns);
        page.fields(&mut text, &fields.collect::<Vec<_>>());
    }
    text
}

fn page(page: &Page<'_>) -> String {
    if page.plan.is_empty() { page.nothing() } else { page.whole() }
}

struct Page<'a> {
    plan: &'a Plan,
    heading: &'a Heading,
    color: Color,
    detail: Detail,
}

/// How much of a plan is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// Defaults of what is new are only counted.
    Short,
    /// Every field.
    Full,
}

/// The width that sentences are broken at.
const COLUMNS: usize = 80;

/// Columns that all steps share.
struct Columns {
    id: usize,
    words: usize,
}

const BOLD_RED: &str = "1;31";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";
const DIM: &str = "2";

impl Page<'_> {
    fn nothing(&self) -> String {
        let mut page = String::new();
        let touching = self.plan.is_held_back();
        let manifest = shown(&self.heading.manifest);
        match (touching, self.plan.parent) {
            (false, Some(number)) => {
                let line =
                    format!("No changes. The machine matches {manifest} (generation {number}).");
                line_end(&mut page, &line);
            }
            (false, None) => line_end(&mut page, "No changes."),
            (true, _) if self.plan.notes.iter().any(|note| note.kind == NoteKind::Unknown) => {
                line_end(&mut page, "Part of the machine could not be checked. No other changes.");
            }
            (true, _) => line_end(&mut page, "No changes can be made yet."),
        }
        // What only holds or only waits for a start was said when it was applied.
        let urgent = |note: &&Note| note.kind <= NoteKind::Retained;
        self.notes(&mut page, self.plan.notes.iter().filter(urgent).collect());
        page
    }

    fn whole(&self) -> String {
        let mut page = String::new();
        let from = self.plan.parent.map_or("-".to_owned(), |number| number.to_string());
        let reason = match self.heading.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({})", shown(reason)),
        };
        let heading = format!(
            "manifest  {}   generation {from} → {}   runtime {}{reason}",
            shown(&self.heading.manifest),
            self.plan.generation(),
            self.heading.runtime.word()
        );
        wrapped(&mut page, "          ", &heading);
        page.push('\n');
        let columns = self.columns();
        for step in &self.plan.steps {
            self.step(&mut page, step, &columns);
        }
        self.notes(&mut page, self.plan.notes.iter().collect());
        page.push('\n');
        line_end(&mut page, &self.summary());
        let hidden: usize = self.plan.steps.iter().map(|step| self.split(step).1).sum();
        let hidden = match hidden {
            0 => String::new(),
            1 => "   (`plan -v` also shows 1 default)".to_owned(),
            many => format!("   (`plan -v` also shows {many} defaults)"),
        };
        let next = format!("Next: {}{}", self.next_command(), self.paint(&hidden, DIM));
        line_end(&mut page, &next);
        page
    }

    fn columns(&self) -> Columns {
        let width = |texts: &mut dyn Iterator<Item = String>, least| {
            texts.map(|text| text.chars().count()).fold(least, usize::max)
        };
        let steps = &self.plan.steps;
        Columns {
            id: width(&mut steps.iter().map(|step| step.id.to_string()), 16),
            words: width(&mut steps.iter().map(|step| self.words(step)), 32),
        }
    }

    /// The fields of a step that are printed, and how many are not.
    fn split<'s>(&self, step: &'s Step) -> (Vec<&'s FieldChange>, usize) {
        let all = self.detail == Detail::Full;
        let (shown, hidden): (Vec<_>, Vec<_>) =
            step.fields.iter().partition(|field| all || listed(step, field));
        (shown, hidden.len())
    }

    /// The one field of a new thing that needs no line of its own.
    fn only<'s>(&self, step: &'s Step) -> Option<&'s FieldChange> {
        match self.split(step).0[..] {
            [only] if step.action == Action::Create && is_plain(only) => Some(only),
            _ => None,
        }
    }

    fn words(&self, step: &Step) -> String {
        let Some(only) = self.only(step) else { return words(step) };
        let place = match place(only, &shown(&self.heading.manifest)).as_str() {
            "" => String::new(),
            place => format!(" ({place})"),
        };
        format!("{}: {} {}{place}", words(step), shown(&only.path), values(only))
    }

    fn step(&self, page: &mut String, step: &Step, columns: &Columns) {
        self.line(page, step, &self.words(step), columns);
        if self.only(step).is_none() {
            self.fields(page, &self.split(step).0);
        }
    }

    fn line(&self, page: &mut String, step: &Step, words: &str, columns: &Columns) {
        let (symbol, color) = symbol(step.action);
        let line = format!(
            " {}   {:id$}   {:words$}   {}",
            self.paint(symbol, color),
            step.id,
            words,
            self.risk(step.risk),
            id = columns.id,
            words = columns.words,
        );
        line_end(page, &line);
    }

    fn fields(&self, page: &mut String, fields: &[&FieldChange]) {
        let width = |text: fn(&FieldChange) -> String| {
            fields.iter().map(|field| text(field).chars().count()).max().unwrap_or(0)
        };
        let (paths, values, places) = (
            width(|field| shown(&field.path)),
            width(values),
            width(|field| self::place(field, "")) + shown(&self.heading.manifest).chars().count(),
        );
        for field in fields {
            let mut line = format!(
                "       {:paths$}   {:values$}   {:places$}",
                shown(&field.path),
                self::values(field),
                place(field, &shown(&self.heading.manifest)),
            );
            if field.risk > Risk::Safe {
                let _ = write!(line, "   {}", self.risk(field.risk));
            }
            line_end(page, &line);
            if let Some(meaning) = &field.meaning {
                wrapped(page, "         ", &format!("         {}", shown(meaning)));
            }
        }
    }

    fn notes(&self, page: &mut String, notes: Vec<&Note>) {
        if !notes.is_empty() {
            page.push('\n');
        }
        for note in notes {
            let (symbol, color) = match note.kind {
                NoteKind::Unknown => ("?", YELLOW),
                NoteKind::Waiting | NoteKind::Missing | NoteKind::Limited => ("!", YELLOW),
                NoteKind::Retained => ("=", CYAN),
                NoteKind::Starts | NoteKind::Standing => ("·", DIM),
            };
            let mut lines = String::new();
            let about = about(note);
            wrapped(&mut lines, "     ", &format!("     {about}: {}", shown(&note.text)));
            let _ = write!(page, " {}   {}", self.paint(symbol, color), lines.trim_start());
        }
    }

    fn summary(&self) -> String {
        let counts = self.plan.counts();
        let mut text = format!(
            "{} to add, {} to change, {} to remove",
            counts.add, counts.change, counts.remove
        );
        if counts.adopt > 0 {
            let _ = write!(text, ", {} to adopt", counts.adopt);
        }
        let risks: Vec<String> = self
            .plan
            .risks()
            .iter()
            .rev()
            .filter(|(risk, _)| **risk > Risk::Safe)
            .map(|(risk, count)| format!("{count} {risk}"))
            .collect();
        let risks = if risks.is_empty() { "all safe".to_owned() } else { risks.join(", ") };
        format!("{text}. Risk: {risks}")
    }

    fn next_command(&self) -> String {
        format!("babybot apply{}", manifest_argument(&self.heading.manifest))
    }

    /// A risk, louder the worse it is, with and without colour.
    fn risk(&self, risk: Risk) -> String {
        match risk {
            Risk::Safe => self.paint(risk.word(), DIM),
            Risk::Disruptive => self.paint(risk.word(), YELLOW),
            Risk::Destructive => self.paint(risk.word(), RED),
            Risk::Privileged => self.paint(&risk.word().to_uppercase(), BOLD_RED),
        }
    }

    fn paint(&self, text: &str, code: &str) -> String {
        match self.color {
            Color::Always => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Color::Never => text.to_owned(),
        }
    }
}

fn symbol(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::Create => ("+", GREEN),
        Action::Adopt => ("=", CYAN),
        Action::Change | Action::Mend => ("~", YELLOW),
        Action::Remove | Action::Stop => ("-", RED),
    }
}

fn words(step: &Step) -> String {
    if step.reason.is_empty() {
        return step.action.word().to_owned();
    }
    format!("{}: {}", step.action.word(), shown(&step.reason))
}

/// Whether a field fits behind the words of its step: safe, short, and in need of no explanation.
fn is_plain(field: &FieldChange) -> bool {
    const SHORT: usize = 24;
    field.risk == Risk::Safe && field.meaning.is_none() && values(field).chars().count() <= SHORT
}

/// Whether a field is worth a line: what changed, and of a new thing what makes it what it is.
fn listed(step: &Step, field: &FieldChange) -> bool {
    step.action != Action::Create
        || field.at.is_some()
        || field.risk > Risk::Safe
        || field.meaning.is_some()
        || match field.path.as_str() {
            "kind" | "model" | "bind" | "owner" | "base" | "ref" => true,
            // A group says it where it has another than the house.
            "runtime" => step.id == ResourceId::Instance,
            _ => false,
        }
}

fn values(field: &FieldChange) -> String {
    let value = |value: &str| if value.is_empty() { "(none)".to_owned() } else { shown(value) };
    match (&field.from, &field.to) {
        (None, Some(to)) => value(to),
        // What did not change is listed for what it comes to mean.
        (Some(from), Some(to)) if from == to && field.meaning.is_some() => {
            format!("{} (unchanged)", value(to))
        }
        (Some(from), Some(to)) if from == to => value(to),
        (Some(from), Some(to)) => format!("{} → {}", value(from), value(to)),
        (Some(from), None) => format!("{} → (none)", value(from)),
        (None, None) => String::new(),
    }
}

fn place(field: &FieldChange, manifest: &str) -> String {
    field.at.map_or(String::new(), |at| format!("{manifest}:{}", at.line))
}

/// What a note is about; of many resources only the first are named.
fn about(note: &Note) -> String {
    const NAMED_MAX: usize = 2;
    let names: Vec<String> = note.ids.iter().take(NAMED_MAX).map(ResourceId::to_string).collect();
    match note.ids.len() {
        0 => "instance".to_owned(),
        count if count > NAMED_MAX => {
            format!("{} and {} more", names.join(", "), count - NAMED_MAX)
        }
        _ => names.join(", "),
    }
}

/// A value with nothing in it that is not seen.
fn shown(text: &str) -> String {
    visible::line(text).into_owned()
}

/// ` --manifest PATH` where a command to be typed needs it.
#[must_use]
pub fn manifest_argument(manifest: &str) -> String {
    if manifest.strip_prefix("./").unwrap_or(manifest) == "babybot.toml" {
        String::new()
    } else {
        format!(" --manifest {}", quoted(&shown(manifest)))
    }
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// A sentence, broken at words, each further line behind an indent.
fn wrapped(page: &mut String, indent: &str, sentence: &str) {
    let options = textwrap::Options::new(COLUMNS).break_words(false);
    let options = options.subsequent_indent(indent);
    // A path or an address stays whole: neither a hyphen nor a slash breaks it.
    let options = options.word_splitter(textwrap::WordSplitter::NoHyphenation);
    let options = options.word_separator(textwrap::WordSeparator::AsciiSpace);
    for line in textwrap::wrap(&held_together(sentence), options) {
        line_end(page, &line.replace(HELD, " "));
    }
}

/// A space that no line is broken at.
const HELD: char = '\u{a0}';

/// A sentence in which a command can be copied from one line.
fn held_together(sentence: &str) -> String {
    let mut inside = false;
    let held = sentence.chars().map(|c| {
        inside ^= c == '`';
        if inside && c == ' ' { HELD } else { c }
    });
    held.collect()
}

fn line_end(page: &mut String, line: &str) {
    page.push_str(line.trim_end());
    page.push('\n');
}
