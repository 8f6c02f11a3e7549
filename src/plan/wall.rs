//! Where an agent comes to run without a wall: said on a privileged line.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::desired::Doubt;
use crate::name::GroupName;
use crate::plan::FieldChange;
use crate::plan::channel::terminals;
use crate::plan::draft::Draft;
use crate::plan::model::rehearsal;
use crate::resource::{GroupSpec, ResourceId, Risk, Spec, Wall};

/// What is said of a group whose agent nothing holds back and not only its owner drives.
const NO_WALL: &str = "does not isolate: the agent runs as you, on this machine";

/// What is said of it where the model has just come to decide for itself what to do.
const NO_WALL_ANY_MORE: &str = "does not isolate, and the model is no longer the rehearsal: \
    the agent runs as you, on this machine";

impl Draft<'_> {
    /// Says it wherever an agent comes to run without a wall: on its group's own step, or on its
    /// model's where the group itself stays as it was.
    pub(super) fn mark_missing_walls(&mut self) {
        let outcome = self.outcome();
        for (id, spec) in &outcome {
            let (ResourceId::Group(name), Spec::Group(group)) = (id, spec) else { continue };
            let before = match self.before.get(id) {
                Some(Spec::Group(group)) => Some(&**group),
                _ => None,
            };
            let comes = !before.is_some_and(|before| unwalled(before, self.before))
                && unwalled(group, &outcome);
            let wall = |group: &GroupSpec| group.capabilities.wall;
            let weaker = before.is_some_and(|before| wall(group) < wall(before));
            let doubted = before.is_none()
                && wall(group) == Wall::None
                && matches!(self.desired.runtime.doubt, Some(Doubt::Environment(_)));
            if comes || weaker || doubted {
                self.mark_missing_wall(id, name, group, &outcome);
            }
        }
    }

    fn mark_missing_wall(
        &mut self,
        id: &ResourceId,
        name: &GroupName,
        group: &GroupSpec,
        outcome: &BTreeMap<ResourceId, Spec>,
    ) {
        // Where nothing is written of the group itself, it is the house's choice.
        let places = [id, &ResourceId::Instance].map(|id| self.desired.resources.get(id));
        let at = places.into_iter().flatten().find_map(|wanted| wanted.fields.get("runtime"));
        let rehearsed = match self.before.get(id) {
            Some(Spec::Group(before)) => rehearsal(&before.model, self.before),
            _ => false,
        };
        let meaning =
            if rehearsed && !rehearsal(&group.model, outcome) { NO_WALL_ANY_MORE } else { NO_WALL };
        let meaning = match &self.desired.runtime.doubt {
            Some(doubt) => format!("{meaning}; {doubt}"),
            None => meaning.to_owned(),
        };
        let line = |path: String| FieldChange {
            path,
            from: Some(group.runtime.word().to_owned()),
            to: Some(group.runtime.word().to_owned()),
            meaning: Some(meaning.clone()),
            at: at.copied(),
            risk: Risk::Privileged,
        };
        if let Some(step) = self.build.get_mut(id) {
            match step.fields.iter_mut().find(|field| field.path == "runtime") {
                Some(field) => {
                    field.at = at.copied();
                    field.meaning = Some(meaning.clone());
                    field.risk = Risk::Privileged;
                }
                None => step.fields.push(line("runtime".to_owned())),
            }
            step.risk = Risk::Privileged;
        } else if let Some(step) = self.build.get_mut(&ResourceId::Model(group.model.clone())) {
            step.fields.push(line(format!("groups.{name}.runtime")));
            step.risk = Risk::Privileged;
        }
    }
}

/// Whether an agent runs without a wall and more than its owner at a rehearsal drives it.
///
/// A model or channel that is not among the specs counts as the worst it could be.
fn unwalled(group: &GroupSpec, specs: &BTreeMap<ResourceId, Spec>) -> bool {
    let owner_rehearses = || rehearsal(&group.model, specs) && terminals(group.bind.iter(), specs);
    group.capabilities.wall == Wall::None && !owner_rehearses()
}
