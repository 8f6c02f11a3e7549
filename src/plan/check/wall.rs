//! Whether an agent comes to run without a wall, and a privileged line says so.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Problem, Review, is_terminal, strangers};
use crate::desired::Doubt;
use crate::plan::Step;
use crate::resource::{GroupSpec, ModelSpec, ResourceId, Risk, Spec, Wall};

impl Review<'_> {
    pub(super) fn walls(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (id, spec) in &self.after {
            let (ResourceId::Group(_), Spec::Group(group)) = (id, spec) else { continue };
            let finding = |problem| Finding { id: Some(id.clone()), problem };
            if group.capabilities.wall != Wall::None {
                continue;
            }
            let before = match self.unwalled_before(id) {
                Some(_) => self.strangers_before(id),
                None => BTreeSet::new(),
            };
            let mut now = strangers(group, &self.after).into_iter();
            if let Some(stranger) = now.find(|stranger| !before.contains(stranger)) {
                findings.push(finding(Problem::StrangerUnwalled(stranger)));
            }
            let overridden = matches!(self.desired.runtime.doubt, Some(Doubt::Environment(_)));
            let doubted = overridden && !self.before.contains_key(id);
            let weaker = self.before.contains_key(id) && self.unwalled_before(id).is_none();
            let needed = doubted || weaker || !self.owner_rehearses(group, &self.after);
            if needed && !self.wall_said(id, group) {
                findings.push(finding(Problem::WallUnsaid));
            }
        }
        findings
    }

    /// What the last generation says of a group, if it had no wall then.
    fn unwalled_before(&self, id: &ResourceId) -> Option<&GroupSpec> {
        match self.before.get(id) {
            Some(Spec::Group(before)) if before.capabilities.wall == Wall::None => Some(&**before),
            _ => None,
        }
    }

    fn owner_rehearses(&self, group: &GroupSpec, specs: &BTreeMap<ResourceId, Spec>) -> bool {
        let model = specs.get(&ResourceId::Model(group.model.clone()));
        let rehearses = matches!(model, Some(Spec::Model(ModelSpec::Rehearsal { .. })));
        rehearses && group.bind.iter().all(|binding| is_terminal(&binding.channel, specs))
    }

    /// Whether a privileged line says that this group has no wall, or it had none before.
    fn wall_said(&self, id: &ResourceId, group: &GroupSpec) -> bool {
        if self.unwalled_before(id).is_some_and(|before| !self.owner_rehearses(before, self.before))
        {
            return true;
        }
        let own =
            |step: &&Step| step.id == *id || step.id == ResourceId::Model(group.model.clone());
        self.plan.steps.iter().filter(own).any(|step| {
            let line = if step.id == *id {
                "runtime".to_owned()
            } else {
                id.group().map(|name| format!("groups.{name}.runtime")).unwrap_or_default()
            };
            step.fields.iter().any(|field| field.path == line && field.risk == Risk::Privileged)
        })
    }
}
