//! How much the change of a field may hurt.
//!
//! Works on the fields as they are printed, path by path, and calls a path it
//! does not know privileged: a new field has to be judged before it is safe.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use crate::desired::Wanted;
use crate::plan::draft::Sides;
use crate::plan::{FieldChange, channel, folder, group, image, instance, model, settings};
use crate::resource::{Risk, Spec};

/// Lists the fields that differ, each with its place and risk.
pub(super) fn changes(from: Option<&Spec>, wanted: &Wanted, sides: Sides<'_>) -> Vec<FieldChange> {
    let to = &wanted.spec;
    let before = from.map(Spec::fields).unwrap_or_default();
    let after = to.fields();
    let value = |fields: &[(String, String)], path: &str| {
        fields.iter().find(|(name, _)| name == path).map(|(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(path, _)| value(&after, path).is_none());
    let mut changes: Vec<FieldChange> = after
        .iter()
        .chain(gone)
        .map(|(path, _)| FieldChange {
            from: value(&before, path),
            to: value(&after, path),
            meaning: None,
            at: wanted.fields.get(path).copied(),
            risk: field(path, from, wanted, sides),
            path: path.clone(),
        })
        .filter(|change| change.from != change.to || group::relisted(&change.path, from, to))
        .collect();
    if changes.is_empty() && from.is_some_and(|from| from != to) {
        changes.push(unnamed());
    }
    changes
}

fn field(path: &str, from: Option<&Spec>, wanted: &Wanted, sides: Sides<'_>) -> Risk {
    match &wanted.spec {
        Spec::Instance(_) => instance::risk(path, from, wanted.fields.contains_key(path)),
        Spec::Image(image) => image::risk(path, image, sides.before),
        Spec::Model(model) => model::risk(path, model),
        Spec::Folder | Spec::GivenFolder(_) | Spec::MainFolder(_) => folder::risk(path),
        Spec::Settings { .. } => settings::risk(),
        Spec::Group(group) => group::risk(path, from, group, sides),
        Spec::Channel(channel) => channel::risk(path, from, channel),
        // It has no fields.
        Spec::GlobalMemory => Risk::Privileged,
    }
}

fn unnamed() -> FieldChange {
    FieldChange {
        path: "spec".to_owned(),
        from: None,
        to: None,
        meaning: Some("differs in a field that this version does not know".to_owned()),
        at: None,
        risk: Risk::Privileged,
    }
}
