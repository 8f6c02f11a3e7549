//! The sandboxes of all groups: with a controller it is told what to do with its agents; without one
//! they are left over.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod sandboxes;

use std::collections::BTreeSet;

use crate::manifest::Span;
use crate::name::GroupName;
use crate::observed::{AgentSeen, Controller, Known, Owner, SandboxSeen, Seen};
use crate::plan::draft::Draft;
use crate::plan::verdict::worst;
use crate::plan::{Action, NoteKind, Step, Work};
use crate::resource::{self, ResourceId, Risk, Spec};
use sandboxes::{Sandboxes, Wish};

impl Draft<'_> {
    /// With a controller, agents are its own, and it is told what to do with them; without one they
    /// are left over; where there may be one, they may be either.
    pub(super) fn contain(&mut self) {
        self.remark_on_containers();
        match self.observed.controller {
            Controller::Absent => self.stop_leftovers(),
            Controller::Running => self.direct_agents(),
            Controller::Unknown(_) => {}
        }
    }

    fn stop_leftovers(&mut self) {
        for (id, look) in &self.observed.looks {
            let ResourceId::Container(group) = id else { continue };
            let ours: Vec<_> = ours(Some(look)).collect();
            if !ours.is_empty() {
                let processes = ours.iter().filter_map(|sandbox| sandbox.processes).sum();
                let step = leftover(id, group, processes);
                self.removals.insert(id.clone(), step);
            }
        }
    }

    fn remark_on_containers(&mut self) {
        for (id, look) in &self.observed.looks {
            if !matches!(id, ResourceId::Container(_)) {
                continue;
            }
            if let Known::Unknown(why) = look {
                self.note(NoteKind::Unknown, id, format!("could not be checked: {why}"));
            }
            for stranger in seen_in(Some(look)).iter().filter(|sandbox| !is_ours(sandbox)) {
                let text = format!(
                    "{} belongs to someone else; the group cannot start until you rename or remove that container",
                    stranger.name
                );
                self.note(NoteKind::Missing, id, text);
            }
        }
    }

    fn direct_agents(&mut self) {
        let outcome = self.outcome();
        let (specs, specs_before) =
            (resource::containers(&outcome), resource::containers(self.before));
        let nobody = AgentSeen::default();
        let looked = self.observed.looks.keys().filter_map(|id| match id {
            ResourceId::Container(group) => Some(group),
            _ => None,
        });
        let groups: BTreeSet<&GroupName> = looked.chain(specs.keys()).collect();
        for group in groups {
            let id = ResourceId::Container(group.clone());
            let look = self.observed.looks.get(&id);
            if matches!(look, Some(Known::Unknown(_))) {
                continue;
            }
            let group_id = ResourceId::Group(group.clone());
            let wanted = self.desired.resources.get(&group_id);
            let wish = match (specs.get(group), outcome.get(&group_id), wanted) {
                (Some(spec), Some(Spec::Group(settled)), Some(wanted)) => Wish::Like {
                    lifecycle: settled.lifecycle,
                    spec,
                    before: specs_before.get(group),
                    places: Some(&wanted.fields),
                },
                (_, _, Some(_)) => Wish::Held,
                (_, _, None) => Wish::Gone,
            };
            let agent = self.observed.agents.get(group).unwrap_or(&nobody);
            let verdict = Sandboxes { group, seen: seen_in(look), agent, wish }.verdict();
            let at = wanted.and_then(|wanted| wanted.at);
            self.take_verdict(&id, at, verdict);
        }
    }

    fn take_verdict(&mut self, id: &ResourceId, at: Option<Span>, verdict: sandboxes::Verdict) {
        let change = match verdict {
            sandboxes::Verdict::Nothing => return,
            sandboxes::Verdict::Wait(text) => {
                return self.note(NoteKind::Waiting, id, text.to_owned());
            }
            sandboxes::Verdict::Do(change) => change,
        };
        let verb = match &change.work {
            Work::StartAgent { .. } => Some("started"),
            Work::ReplaceAgent { .. } => Some("replaced"),
            _ => None,
        };
        if let (Some(verb), Some(below)) = (verb, self.in_the_way_of_agent(id)) {
            return self.note(
                NoteKind::Waiting,
                id,
                format!("{verb} later, because it needs {below}"),
            );
        }
        let starts = matches!(change.work, Work::StartAgent { .. });
        let step = Step {
            id: id.clone(),
            action: change.action,
            reason: change.reason,
            risk: worst(if starts { Risk::Safe } else { Risk::Disruptive }, &change.fields),
            fields: change.fields,
            at,
            needs: Vec::new(),
            work: change.work,
        };
        let steps = if step.takes_away() { &mut self.removals } else { &mut self.build };
        steps.insert(id.clone(), step);
    }

    /// What an agent stands on that is left alone, where it is to start.
    fn in_the_way_of_agent(&self, id: &ResourceId) -> Option<ResourceId> {
        let group = ResourceId::Group(id.group()?.clone());
        self.desired.resources.get(&group)?;
        resource::stands_on(id, &self.after).into_iter().find(|below| self.held.contains(below))
    }
}

fn leftover(id: &ResourceId, group: &GroupName, processes: u32) -> Step {
    let plural = if processes == 1 { "" } else { "es" };
    Step {
        id: id.clone(),
        action: Action::Stop,
        reason: format!("left over from an earlier run, {processes} process{plural}"),
        fields: Vec::new(),
        risk: Risk::Disruptive,
        at: None,
        needs: Vec::new(),
        work: Work::StopLeftover { group: group.clone() },
    }
}

/// The sandboxes that a look shows.
fn seen_in(look: Option<&Known<Seen>>) -> &[SandboxSeen] {
    match look {
        Some(Known::Is(Seen::Container { sandboxes })) => sandboxes,
        _ => &[],
    }
}

/// Those of them that are ours.
pub(super) fn ours(look: Option<&Known<Seen>>) -> impl Iterator<Item = &SandboxSeen> {
    seen_in(look).iter().filter(|sandbox| is_ours(sandbox))
}

fn is_ours(sandbox: &SandboxSeen) -> bool {
    sandbox.owner == Owner::Ours
}
