//! Whether what a step builds on was seen, and is waited for.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::Review;
use crate::name::GroupName;
use crate::observed::{Known, Seen};
use crate::plan::{Step, Work};
use crate::resource::{ResourceId, Spec};

impl Review<'_> {
    /// What a step touches or builds on although nobody could see it.
    pub(super) fn unknown_below(&self, step: &Step) -> Option<ResourceId> {
        let forgets = matches!(step.id, ResourceId::Image(_)) && step.work == Work::Forget;
        // Only what the generation says of it changes.
        let own = (!forgets).then(|| step.id.clone());
        own.into_iter().chain(self.below(step)).find(|id| self.is_unseen(step, id))
    }

    /// What a step builds on.
    fn below(&self, step: &Step) -> Vec<ResourceId> {
        let of_group = |group: &GroupName| {
            let own = [
                ResourceId::GlobalMemory,
                ResourceId::Folder(group.clone()),
                ResourceId::Settings(group.clone()),
            ];
            let wanted = self.desired.resources.get(&ResourceId::Group(group.clone()));
            let image = match wanted.map(|wanted| &wanted.spec) {
                Some(Spec::Group(group)) => group.image.clone().map(ResourceId::Image),
                _ => None,
            };
            image.into_iter().chain(own).collect()
        };
        match &step.id {
            ResourceId::Container(group) if starts(&step.work) => of_group(group),
            ResourceId::Group(group) if !step.takes_away() => of_group(group),
            ResourceId::Settings(group) => vec![ResourceId::Folder(group.clone())],
            _ => Vec::new(),
        }
    }

    /// A step that this one builds on, or that may still use what it takes away, and for which it
    /// does not wait.
    pub(super) fn unheld(&self, step: &Step) -> Option<ResourceId> {
        let users = |id: &ResourceId| matches!(id, ResourceId::Group(_) | ResourceId::Container(_));
        let removes_image = matches!(step.id, ResourceId::Image(_)) && step.takes_away();
        let below = self.below(step);
        let planned = self.plan.steps.iter().map(|step| &step.id);
        planned
            .filter(|id| below.contains(id) || removes_image && users(id))
            .find(|id| !step.needs.contains(id))
            .cloned()
    }

    fn is_unseen(&self, step: &Step, id: &ResourceId) -> bool {
        match (id, self.observed.looks.get(id)) {
            // These are what the generation says they are.
            (
                ResourceId::Instance
                | ResourceId::Model(_)
                | ResourceId::Group(_)
                | ResourceId::Channel(_),
                _,
            ) => false,
            // The look for them is a search: what it does not list, it did not find.
            (ResourceId::Container(_), look) => matches!(look, Some(Known::Unknown(_))),
            (ResourceId::Image(_), Some(Known::Is(Seen::Image))) => false,
            (ResourceId::Image(_), Some(Known::Absent)) => {
                matches!(step.work, Work::RemoveImage { .. })
            }
            // It is known to be wrong.
            (
                ResourceId::GlobalMemory | ResourceId::Folder(_) | ResourceId::Settings(_),
                Some(Known::Is(Seen::Wrong { .. })),
            ) => false,
            (ResourceId::GlobalMemory, Some(Known::Is(Seen::GlobalMemory) | Known::Absent)) => {
                false
            }
            (ResourceId::Folder(_), Some(Known::Is(Seen::Folder { .. }) | Known::Absent)) => false,
            (ResourceId::Settings(_), Some(Known::Is(Seen::Settings { .. }) | Known::Absent)) => {
                false
            }
            _ => true,
        }
    }
}

/// Whether an agent comes to run by this.
fn starts(work: &Work) -> bool {
    matches!(work, Work::StartAgent { .. } | Work::ReplaceAgent { .. })
}
