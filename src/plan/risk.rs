//! How much the change of a field may hurt.
//!
//! Works on the fields as they are printed, path by path, and calls a path it
//! does not know privileged: a new field has to be judged before it is safe.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::desired::Wanted;
use crate::manifest::fields::IMAGE_SCRATCH;
use crate::name::{ChannelName, ModelName};
use crate::plan::FieldChange;
use crate::resource::{
    Binding, ChannelSpec, GroupSpec, ImageSpec, ModelSpec, ResourceId, Risk, RuntimeKind, Spec,
    WebhookSpec,
};

/// What is said of a group whose agent nothing holds back and not only its owner drives.
pub(super) const NO_WALL: &str = "does not isolate: the agent runs as you, on this machine";

/// What is said of it where the model has just come to decide for itself what to do.
pub(super) const NO_WALL_ANY_MORE: &str = "does not isolate, and the model is no longer the rehearsal: \
    the agent runs as you, on this machine";

/// The specs on either side of a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides<'a> {
    /// What was applied.
    pub(super) before: &'a BTreeMap<ResourceId, Spec>,
    /// What is asked for.
    pub(super) after: &'a BTreeMap<ResourceId, Spec>,
}

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
        .filter(|change| change.from != change.to || rebound(&change.path, from, to))
        .collect();
    if changes.is_empty() && from.is_some_and(|from| from != to) {
        changes.push(unnamed());
    }
    changes
}

/// Whether an agent runs without a wall and more than its owner at a rehearsal drives it.
///
/// A model or channel that is not among the specs counts as the worst it could be.
pub(super) fn unwalled(group: &GroupSpec, specs: &BTreeMap<ResourceId, Spec>) -> bool {
    match group.runtime {
        RuntimeKind::Docker => false,
        RuntimeKind::None => {
            !rehearsal(&group.model, specs) || !terminals(group.bind.iter(), specs)
        }
    }
}

fn field(path: &str, from: Option<&Spec>, wanted: &Wanted, sides: Sides<'_>) -> Risk {
    match &wanted.spec {
        Spec::Model(model) => model_field(path, model),
        Spec::Group(group) => {
            let from = match from {
                Some(Spec::Group(group)) => Some(&**group),
                _ => None,
            };
            match path {
                "runtime.docker.host" => engine(from, wanted.fields.contains_key(path)),
                _ => group_field(path, from, group, sides),
            }
        }
        // Its variables are those of the agent's tools: they reach nothing by themselves.
        Spec::Settings { .. } => Risk::Safe,
        Spec::Channel(ChannelSpec::Terminal) => Risk::Safe,
        Spec::Channel(ChannelSpec::Webhook(webhook)) => match from {
            Some(Spec::Channel(ChannelSpec::Webhook(from))) => {
                webhook_field(path, Some(from), webhook)
            }
            _ => webhook_field(path, None, webhook),
        },
        Spec::Folder | Spec::GivenFolder(_) if path == "owner" => Risk::Safe,
        Spec::Image(image) => image_field(path, image, sides),
        Spec::GlobalMemory | Spec::Folder | Spec::GivenFolder(_) => Risk::Privileged,
    }
}

fn model_field(path: &str, to: &ModelSpec) -> Risk {
    match (path, to) {
        // Everything said in a chat goes to this server.
        ("kind" | "url", ModelSpec::Ollama { .. }) => Risk::Privileged,
        ("kind" | "url" | "model" | "context" | "keep_alive" | "script", _) => Risk::Safe,
        _ => Risk::Privileged,
    }
}

fn webhook_field(path: &str, from: Option<&WebhookSpec>, to: &WebhookSpec) -> Risk {
    let callback = from.and_then(|from| from.callback.as_ref());
    match path {
        "kind" => Risk::Safe,
        // Another machine reaches it from now on.
        "listen" if !to.listen.ip().is_loopback() => Risk::Privileged,
        // Whoever used the old address no longer reaches it.
        "listen" if from.is_some_and(|from| from.listen != to.listen) => Risk::Disruptive,
        "listen" => Risk::Safe,
        "token" if from.is_some_and(|from| from.token == to.token) => Risk::Safe,
        // Every reply goes there, signed with this secret.
        "callback.url" | "callback.secret" if to.callback.as_ref() == callback => Risk::Safe,
        // Whoever was told of replies no longer is.
        "callback.url" | "callback.secret" if to.callback.is_none() => Risk::Disruptive,
        _ => Risk::Privileged,
    }
}

/// Whatever is in an image runs with the agent.
fn image_field(path: &str, to: &ImageSpec, sides: Sides<'_>) -> Risk {
    let mut before = sides.before.values().filter_map(|spec| match spec {
        Spec::Image(image) => Some(image),
        _ => None,
    });
    let known = match (path, to) {
        ("base", ImageSpec::Built { base, .. }) => {
            let same = |image: &ImageSpec| matches!(image, ImageSpec::Built { base: old, .. } if old == base);
            base == IMAGE_SCRATCH || before.any(same)
        }
        ("ref", ImageSpec::Named { .. }) => before.any(|image| image == to),
        // Packages come from the base's own distribution.
        ("packages" | "binary" | "user", ImageSpec::Built { .. }) => true,
        _ => false,
    };
    if known { Risk::Safe } else { Risk::Privileged }
}

fn group_field(path: &str, from: Option<&GroupSpec>, to: &GroupSpec, sides: Sides<'_>) -> Risk {
    let owner_only = terminals(to.bind.iter(), sides.after);
    match path {
        "main" if to.main => Risk::Privileged,
        "bind" => bindings(from.map_or(&[], |from| &from.bind), &to.bind, sides),
        // Every message of its chats wakes the agent from now on.
        "requires_trigger" if !to.requires_trigger && !owner_only => Risk::Privileged,
        // The word that people know no longer wakes it.
        "trigger" if from.is_some() && !owner_only => Risk::Disruptive,
        "model" => match from {
            Some(from) if acts(&from.model, &to.model, sides) => Risk::Privileged,
            _ => Risk::Safe,
        },
        // Whatever ran in the old one ends. That a weaker one is privileged depends on both sides,
        // and whether it is a wall on the whole group: see `unwalled`.
        "runtime" if from.is_some_and(|from| from.runtime != to.runtime) => Risk::Disruptive,
        // Root of a rootless engine is a user outside; whoever it is elsewhere, it is more.
        "user" if from.is_some_and(|from| from.is_rootless() && !to.is_rootless()) => {
            Risk::Privileged
        }
        "image" | "user" => Risk::Safe,
        "main" | "requires_trigger" | "trigger" | "lifecycle" | "runtime" => Risk::Safe,
        "assistant.name" | "assistant.timezone" | "runtime.parallel" => Risk::Safe,
        _ if path.starts_with("limits.") => Risk::Safe,
        _ => Risk::Privileged,
    }
}

/// Whose word everything rests on from now on: whoever names an engine may name any, and what is
/// found at first is one of those that a machine usually has.
fn engine(from: Option<&GroupSpec>, written: bool) -> Risk {
    match from.and_then(|from| from.engine.as_ref()) {
        _ if written => Risk::Privileged,
        Some(_) => Risk::Disruptive,
        None => Risk::Safe,
    }
}

fn bindings(from: &[Binding], to: &[Binding], sides: Sides<'_>) -> Risk {
    let added = to.iter().filter(|binding| !from.contains(binding));
    let lost = from.iter().filter(|binding| !to.contains(binding));
    if !terminals(added, sides.after) {
        Risk::Privileged
    } else if !terminals(lost, sides.before) {
        // Somebody who was answered no longer is.
        Risk::Disruptive
    } else {
        Risk::Safe
    }
}

/// Whether a rehearsal becomes a model that decides for itself what to do.
fn acts(from: &ModelName, to: &ModelName, sides: Sides<'_>) -> bool {
    let acted = sides.before.contains_key(&ResourceId::Model(from.clone()))
        && !rehearsal(from, sides.before);
    !acted && !rehearsal(to, sides.after)
}

pub(super) fn rehearsal(model: &ModelName, specs: &BTreeMap<ResourceId, Spec>) -> bool {
    match specs.get(&ResourceId::Model(model.clone())) {
        Some(Spec::Model(model)) => model.is_rehearsal(),
        _ => false,
    }
}

fn terminals<'a>(
    mut bindings: impl Iterator<Item = &'a Binding>,
    specs: &BTreeMap<ResourceId, Spec>,
) -> bool {
    bindings.all(|binding| terminal(&binding.channel, specs))
}

fn terminal(channel: &ChannelName, specs: &BTreeMap<ResourceId, Spec>) -> bool {
    match specs.get(&ResourceId::Channel(channel.clone())) {
        Some(Spec::Channel(channel)) => channel.is_owners_alone(),
        Some(_) => false,
        None => *channel == ChannelName::terminal(),
    }
}

/// Two lists of bindings can read the same: a chat's name may contain a comma.
fn rebound(path: &str, from: Option<&Spec>, to: &Spec) -> bool {
    match (path, from, to) {
        ("bind", Some(Spec::Group(from)), Spec::Group(to)) => from.bind != to.bind,
        _ => false,
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
