//! A plan in the making: what is planned so far, what is left alone, and what is noted.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Desired;
use crate::observed::{Controller, Observed};
use crate::plan::verdict::removal;
use crate::plan::{FieldChange, Note, NoteKind, Plan, Step, Work, record};
use crate::resource::{self, ResourceId, Risk, Spec};

/// The specs on either side of a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides<'a> {
    /// What was applied.
    pub(super) before: &'a BTreeMap<ResourceId, Spec>,
    /// What is asked for.
    pub(super) after: &'a BTreeMap<ResourceId, Spec>,
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) before: &'a BTreeMap<ResourceId, Spec>,
    pub(super) after: BTreeMap<ResourceId, Spec>,
    pub(super) build: BTreeMap<ResourceId, Step>,
    pub(super) removals: BTreeMap<ResourceId, Step>,
    /// Resources that are left alone, so that nothing is changed that stands on them.
    pub(super) held: BTreeSet<ResourceId>,
    notes: Vec<Note>,
}

impl<'a> Draft<'a> {
    /// Nothing is planned yet.
    pub(super) fn new(
        desired: &'a Desired,
        observed: &'a Observed,
        before: &'a BTreeMap<ResourceId, Spec>,
    ) -> Self {
        let after = desired.resources.iter().map(|(id, wanted)| (id.clone(), wanted.spec.clone()));
        Self {
            desired,
            observed,
            before,
            after: after.collect(),
            build: BTreeMap::new(),
            removals: BTreeMap::new(),
            held: BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    /// What a resource stands on that is left alone or not asked for.
    pub(super) fn in_the_way(&self, id: &ResourceId) -> Option<ResourceId> {
        let ready = |below: &ResourceId| {
            self.desired.resources.contains_key(below) && !self.held.contains(below)
        };
        resource::stands_on(id, &self.after).into_iter().find(|below| !ready(below))
    }

    /// Says of a field that the environment decides it.
    pub(super) fn mark_overrides(&self, id: &ResourceId, fields: &mut [FieldChange]) {
        if !matches!(id, ResourceId::Instance | ResourceId::Group(_) | ResourceId::Image(_)) {
            return;
        }
        for field in fields {
            let over = self.desired.overrides.iter().find(|over| over.path == field.path);
            field.meaning = over.map(|over| format!("from {}", over.variable));
        }
    }

    pub(super) fn remove(&mut self) {
        let gone = self.before.keys().filter(|id| !self.desired.resources.contains_key(id));
        let in_use = self.in_use();
        for id in gone {
            match id {
                ResourceId::Model(_) | ResourceId::Channel(_) => self.forget(id, in_use.get(id)),
                ResourceId::Group(group) => self.remove_group(id, group),
                // It is always asked for.
                ResourceId::Instance => {}
                // What a group has written outlives it, and the generation goes on knowing it.
                ResourceId::GlobalMemory | ResourceId::Folder(_) | ResourceId::Settings(_) => {}
                // See `contain` and `remove_images`: they are looked for, not only recorded.
                ResourceId::Container(_) | ResourceId::Image(_) => {}
            }
        }
    }

    /// Takes what only the generation knows out of it, unless it is still in use.
    fn forget(&mut self, id: &ResourceId, user: Option<&ResourceId>) {
        match user {
            Some(user) => {
                let text = format!("removed later, because {user} still uses it");
                self.note(NoteKind::Waiting, id, text);
            }
            None => {
                self.removals.insert(id.clone(), removal(id, Risk::Safe));
            }
        }
    }

    /// The images, models and channels of groups that stay as they were applied, and one of those groups.
    pub(super) fn in_use(&self) -> BTreeMap<ResourceId, ResourceId> {
        let held = self.held.iter().filter_map(|id| Some((id, self.before.get(id)?)));
        let each = held
            .flat_map(|(id, spec)| resource::uses(spec).into_iter().map(|used| (used, id.clone())));
        each.collect()
    }

    /// What the generation comes to record if all that is planned so far is done.
    pub(super) fn outcome(&self) -> BTreeMap<ResourceId, Spec> {
        record(self.before, self.removals.values().chain(self.build.values()))
    }

    pub(super) fn remark(&mut self) {
        if let Controller::Unknown(why) = &self.observed.controller {
            let text = format!("could not check for a controller: {why}");
            self.notes.push(Note { kind: NoteKind::Unknown, ids: Vec::new(), text });
        }
        self.remark_on_models();
        if self.observed.controller == Controller::Absent {
            self.remark_on_starts();
        }
        for remark in &self.desired.remarks {
            let (ids, text) = (remark.ids.clone(), remark.text.clone());
            self.notes.push(Note { kind: NoteKind::Standing, ids, text });
        }
    }

    fn remark_on_starts(&mut self) {
        let ids: Vec<ResourceId> = self
            .desired
            .resources
            .keys()
            .filter_map(|id| match id {
                // A process is no container.
                ResourceId::Group(group) => match self.desired.containers.get(group) {
                    Some(spec) if !spec.capabilities().images => Some(id.clone()),
                    _ => Some(ResourceId::Container(group.clone())),
                },
                ResourceId::Channel(_) => Some(id.clone()),
                _ => None,
            })
            .collect();
        if !ids.is_empty() {
            let verb = if ids.len() == 1 { "starts" } else { "start" };
            let text = format!("{verb} with `babybot up`");
            self.notes.push(Note { kind: NoteKind::Starts, ids, text });
        }
    }

    pub(super) fn note(&mut self, kind: NoteKind, id: &ResourceId, text: String) {
        self.notes.push(Note { kind, ids: vec![id.clone()], text });
    }

    pub(super) fn finish(mut self, parent: Option<u64>) -> Plan {
        self.notes.sort_by(|one, two| (one.kind, &one.ids).cmp(&(two.kind, &two.ids)));
        let removals = self.removals.into_values().rev();
        let image = |step: &Step| matches!(step.id, ResourceId::Image(_));
        let (images, removals): (Vec<Step>, Vec<Step>) = removals.partition(image);
        let mut steps: Vec<Step> =
            removals.into_iter().chain(self.build.into_values()).chain(images).collect();
        let planned: BTreeSet<ResourceId> = steps.iter().map(|step| step.id.clone()).collect();
        for step in &mut steps {
            step.needs = needs(step, &planned, &self.after);
        }
        Plan { parent, steps, notes: self.notes }
    }
}

/// Which of the planned steps have to be done before this one.
fn needs(
    step: &Step,
    planned: &BTreeSet<ResourceId>,
    specs: &BTreeMap<ResourceId, Spec>,
) -> Vec<ResourceId> {
    let mut needs = match (&step.id, &step.work) {
        // A group that could not be changed goes on with the image that it had.
        (ResourceId::Image(_), _) if step.takes_away() => {
            let users = planned.iter();
            let users =
                users.filter(|id| matches!(id, ResourceId::Group(_) | ResourceId::Container(_)));
            users.cloned().collect()
        }
        // Ending an agent needs nothing.
        (ResourceId::Container(_), Work::StopAgent { .. }) => Vec::new(),
        _ if step.takes_away() => Vec::new(),
        (id, _) => resource::stands_on(id, specs),
    };
    needs.retain(|id| planned.contains(id));
    needs
}
