//! A group: only the generation knows of it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod senders;

use crate::name::{GroupName, ModelName};
use crate::plan::NoteKind;
use crate::plan::channel::terminals;
use crate::plan::draft::{Draft, Sides};
use crate::plan::model::rehearsal;
use crate::plan::verdict::{self, Verdict, removal};
use crate::resource::{Binding, GroupSpec, ResourceId, Risk, Spec};

pub(super) fn verdict(spec: &Spec, before: Option<&Spec>) -> Verdict {
    verdict::recorded(spec, before, "takes effect when the agent next starts")
}

impl Draft<'_> {
    pub(super) fn remove_group(&mut self, id: &ResourceId, group: &GroupName) {
        self.removals.insert(id.clone(), removal(id, Risk::Destructive));
        let text = format!("kept: groups/{group}, its sessions and its messages");
        self.note(NoteKind::Retained, id, text);
    }
}

pub(super) fn risk(path: &str, from: Option<&Spec>, to: &GroupSpec, sides: Sides<'_>) -> Risk {
    let from = match from {
        Some(Spec::Group(group)) => Some(&**group),
        _ => None,
    };
    let owner_only = terminals(to.bind.iter(), sides.after);
    match path {
        // Its sandbox is made elsewhere from now on; that an engine is named stands on the instance's.
        "runtime.docker.host" if from.is_some_and(|from| from.engine.is_some()) => Risk::Disruptive,
        "main" if to.main => Risk::Privileged,
        "bind" => bindings(from.map_or(&[], |from| &from.bind), &to.bind, sides),
        // Every message of its chats wakes the agent from now on.
        "requires_trigger" if !to.requires_trigger && !owner_only => Risk::Privileged,
        // The word that people know no longer wakes it.
        "trigger" if from.is_some() && !owner_only => Risk::Disruptive,
        "senders.allow" | "senders.mode" => senders::risk(path, from, to, sides),
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
        "main" | "requires_trigger" | "trigger" | "lifecycle" => Risk::Safe,
        "runtime" | "runtime.docker.host" => Risk::Safe,
        _ if path.starts_with("limits.") => Risk::Safe,
        _ => Risk::Privileged,
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

/// Two lists of bindings or of senders can read the same: a name in them may contain a comma.
pub(super) fn relisted(path: &str, from: Option<&Spec>, to: &Spec) -> bool {
    match (path, from, to) {
        ("bind", Some(Spec::Group(from)), Spec::Group(to)) => from.bind != to.bind,
        ("senders.allow", Some(Spec::Group(from)), Spec::Group(to)) => {
            let allow = |group: &GroupSpec| group.senders.clone().map(|senders| senders.allow);
            allow(from) != allow(to)
        }
        _ => false,
    }
}
