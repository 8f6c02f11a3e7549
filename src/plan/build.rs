//! How a plan is made: one verdict for each resource, then what depends on several.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::desired::{Desired, Wanted};
use crate::observed::Observed;
use crate::plan::draft::{Draft, Sides};
use crate::plan::verdict::{StepDraft, Verdict, worst};
use crate::plan::{
    NoteKind, Plan, Step, channel, folder, group, image, instance, memory, model, risk, settings,
};
use crate::resource::{ResourceId, Spec};

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    parent: Option<u64>,
    before: &BTreeMap<ResourceId, Spec>,
) -> Plan {
    let mut draft = Draft::new(desired, observed, before);
    draft.build();
    draft.remove();
    draft.contain();
    draft.remove_images();
    draft.mark_missing_walls();
    draft.remark();
    draft.finish(parent)
}

impl Draft<'_> {
    fn build(&mut self) {
        for (id, wanted) in &self.desired.resources {
            match self.verdict(id, wanted) {
                Verdict::Nothing => {}
                Verdict::Unknown(why) => {
                    self.held.insert(id.clone());
                    self.note(NoteKind::Unknown, id, format!("could not be checked: {why}"));
                }
                Verdict::Missing(how) => {
                    self.held.insert(id.clone());
                    self.note(NoteKind::Missing, id, how);
                }
                Verdict::Do(change) => match self.in_the_way(id) {
                    Some(below) => {
                        self.held.insert(id.clone());
                        self.note(
                            NoteKind::Waiting,
                            id,
                            format!("{} later, because it needs {below}", change.action.done()),
                        );
                    }
                    None => {
                        let step = self.step(id, wanted, change);
                        self.build.insert(id.clone(), step);
                    }
                },
            }
        }
    }

    fn verdict(&self, id: &ResourceId, wanted: &Wanted) -> Verdict {
        let before = self.before.get(id);
        let look = self.observed.looks.get(id);
        match (id, &wanted.spec) {
            (_, Spec::Instance(spec)) => instance::verdict(spec, before),
            (ResourceId::Image(_), Spec::Image(spec)) => image::verdict(spec, before, look),
            (ResourceId::Model(_), spec) => model::verdict(spec, before),
            (ResourceId::GlobalMemory, _) => memory::verdict(before, look),
            (ResourceId::Folder(group), spec) => folder::verdict(group, spec, before, look),
            (ResourceId::Settings(group), Spec::Settings { env }) => {
                settings::verdict(group, env, before, look)
            }
            (ResourceId::Group(_), spec) => group::verdict(spec, before),
            (ResourceId::Channel(_), spec) => channel::verdict(spec, before),
            _ => Verdict::Nothing,
        }
    }

    fn step(&self, id: &ResourceId, wanted: &Wanted, change: StepDraft) -> Step {
        let sides = Sides { before: self.before, after: &self.after };
        let mut fields = risk::changes(change.from.as_ref(), wanted, sides);
        self.mark_overrides(id, &mut fields);
        Step {
            id: id.clone(),
            action: change.action,
            reason: change.reason,
            risk: worst(change.risk, &fields),
            fields,
            at: wanted.at,
            needs: Vec::new(),
            work: change.work,
        }
    }
}
