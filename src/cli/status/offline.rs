//! What is known where no controller runs: what was applied, and what the manifest says now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::paused;
use super::table::{Row, table};
use crate::cli::apply::store_error;
use crate::cli::{Context, zone};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::name::GroupName;
use crate::resource::{self, GroupSpec, InstanceSpec, ResourceId, Spec};
use crate::source::{self, Source};
use crate::store::{AppliedGeneration, ApplyOutcome, Store};

/// What the last apply left.
pub(super) struct Left {
    applied: AppliedGeneration,
    outcome: ApplyOutcome,
    /// The manifest that was applied, as it was written.
    manifest: String,
    /// The groups that are paused.
    holds: BTreeMap<GroupName, Timestamp>,
}

impl Left {
    /// Reads it; `None` where nothing was applied.
    pub(super) fn read(database: &Path) -> Result<Option<Self>, Error> {
        let read = || {
            let Some(reader) = Store::read_only(database)? else { return Ok(None) };
            let Some(applied) = reader.applied()? else { return Ok(None) };
            let Some(generation) = reader.generation(applied.number)? else { return Ok(None) };
            Ok(Some(Self {
                applied,
                outcome: generation.summary.outcome,
                manifest: generation.manifest,
                holds: reader.holds()?,
            }))
        };
        read().map_err(|error| store_error("read what was applied", &error))
    }

    /// What was applied.
    pub(super) fn applied(&self) -> &AppliedGeneration {
        &self.applied
    }

    /// The instance as it was applied.
    pub(super) fn instance(&self) -> Option<&InstanceSpec> {
        resource::instance(&self.applied.specs)
    }

    fn groups(&self) -> impl Iterator<Item = (&GroupName, &GroupSpec)> {
        self.applied.specs.iter().filter_map(|(id, spec)| match (id, spec) {
            (ResourceId::Group(name), Spec::Group(spec)) => Some((name, &**spec)),
            _ => None,
        })
    }

    /// How the manifest differs from what was applied, as lines.
    fn pending(&self, context: &Context) -> Vec<String> {
        let argument = context.manifest_argument();
        let source = match source::read(&context.manifest) {
            Ok(source) => source,
            Err(report) if !context.manifest.exists() => {
                return vec![format!("{} is missing; what was applied stays", report.name)];
            }
            Err(report) => {
                return vec![format!(
                    "{} is not valid (`babybot validate{argument}`)",
                    report.name
                )];
            }
        };
        let changed = (source.text != self.manifest)
            .then(|| format!("{} has changed since (`babybot plan{argument}`)", source.name));
        let missing = self.missing(&source);
        let missing = missing.map(|name| format!("the group {name} is not applied yet"));
        changed.into_iter().chain(missing).collect()
    }

    /// The groups of this manifest that are not applied.
    fn missing<'a>(&'a self, source: &'a Source) -> impl Iterator<Item = &'a GroupName> {
        let written = source.manifest.groups.keys();
        written.filter(|name| self.groups().all(|(applied, _)| applied != *name))
    }

    /// Whether something of the manifest that was applied is left to do: a step failed, or a group
    /// waits for something.
    fn is_partial(&self, context: &Context) -> bool {
        let waits = || {
            source::read(&context.manifest).is_ok_and(|source| {
                source.text == self.manifest && self.missing(&source).next().is_some()
            })
        };
        self.outcome == ApplyOutcome::Partial || waits()
    }
}

/// What a person reads.
pub(super) fn page(holder: Option<&str>, left: Option<&Left>, context: &Context) -> String {
    let argument = context.manifest_argument();
    let mut text = match holder {
        Some(holder) => {
            format!("no controller answers; this project is in use by {holder}\n")
        }
        None if left.is_none() => "no controller is running\n".to_owned(),
        None => format!("no controller is running; start one with `babybot up{argument}`\n"),
    };
    let Some(left) = left else {
        let line = if context.manifest.exists() {
            format!("nothing is applied yet; next: `babybot apply{argument}`")
        } else {
            format!("there is no {} yet; next: `babybot init`", context.manifest.display())
        };
        let _ = writeln!(text, "{line}");
        return text;
    };
    let applied = &left.applied;
    let at = applied.at.local_named(&zone::of(Some(applied)));
    let how = match left.is_partial(context) {
        false => String::new(),
        true => format!(" in part; run `babybot apply{argument}` for the rest"),
    };
    let _ = writeln!(text, "generation {} was applied {at}{how}", applied.number);
    if let Some(set) = left.instance().and_then(InstanceSpec::environment) {
        let _ = writeln!(text, "with {set} from the environment");
    }
    for line in left.pending(context) {
        let _ = writeln!(text, "{line}");
    }
    let rows = left.groups().map(|(name, spec)| {
        let held = left.holds.contains_key(name);
        let held = held.then(|| paused(name, &argument));
        let lifecycle = spec.lifecycle.word().to_owned();
        (vec![name.to_string(), spec.model.to_string(), lifecycle], held.into_iter().collect())
    });
    let rows: Vec<Row> = rows.collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&["GROUP", "MODEL", "LIFECYCLE"], &rows, &|_, cell| cell.to_owned()));
    }
    text
}

/// What a program reads; times are milliseconds since 1970.
pub(super) fn document(left: Option<&Left>) -> Value {
    let groups: serde_json::Map<String, Value> = left
        .into_iter()
        .flat_map(|left| left.groups().map(move |(name, spec)| (left, name, spec)))
        .map(|(left, name, spec)| {
            let held = left.holds.contains_key(name);
            let about = json!({ "held": held, "lifecycle": spec.lifecycle, "model": spec.model });
            (name.to_string(), about)
        })
        .collect();
    json!({
        "controller": null,
        "generation": left.map(|left| left.applied.number),
        "environment": left.and_then(Left::instance).map(|instance| &instance.environment),
        "pending": null,
        "channels": {},
        "groups": groups,
        "drift": [],
        "warnings": [],
    })
}
