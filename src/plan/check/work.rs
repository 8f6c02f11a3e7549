//! Whether a step does what it says, and what was asked for.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::Review;
use crate::name::{GroupName, ImageTag, SandboxId};
use crate::observed::{AgentSeen, Controller, Known, Owner, SandboxSeen, SandboxState, Seen};
use crate::plan::{Action, Step, Work};
use crate::resource::{ContainerSpec, ImageSpec, Lifecycle, ResourceId, Spec};

impl Review<'_> {
    pub(super) fn work_fits(&self, step: &Step) -> bool {
        let asked = self.desired.resources.get(&step.id).map(|wanted| &wanted.spec);
        let as_asked = step.work.spec().as_ref() == asked;
        match (&step.id, step.action, &step.work) {
            (ResourceId::Container(group), _, _) => self.agent_work_fits(group, step),
            (
                ResourceId::Image(tag),
                Action::Create | Action::Mend,
                Work::BuildImage { image: image @ ImageSpec::Built { content, .. } },
            ) => as_asked && *tag == image.tag() && !content.is_empty(),
            (ResourceId::Image(tag), Action::Remove, Work::RemoveImage { tag: removed }) => {
                let named =
                    matches!(self.before.get(&step.id), Some(Spec::Image(ImageSpec::Named { .. })));
                tag == removed && !named
            }
            (_, Action::Remove, Work::Forget) => true,
            (_, Action::Adopt, Work::Record { .. }) => as_asked,
            (
                ResourceId::Instance
                | ResourceId::Model(_)
                | ResourceId::Group(_)
                | ResourceId::Channel(_),
                Action::Create | Action::Change,
                Work::Record { .. },
            ) => as_asked,
            (_, Action::Stop | Action::Remove, _) => false,
            (ResourceId::Folder(group), _, Work::MakeFolders { group: made, .. }) => {
                as_asked && group == made
            }
            (_, Action::Adopt, _) => false,
            (ResourceId::GlobalMemory, _, Work::WriteGlobalMemory) => as_asked,
            (ResourceId::Settings(group), _, Work::WriteSettings { group: written, .. }) => {
                as_asked && group == written
            }
            _ => false,
        }
    }

    /// Whether what is done to a group's agent is what it says, and leads to one sandbox at most.
    fn agent_work_fits(&self, group: &GroupName, step: &Step) -> bool {
        let nobody = AgentSeen::default();
        let agent = self.observed.agents.get(group).unwrap_or(&nobody);
        let seen = match self.observed.looks.get(&step.id) {
            Some(Known::Is(Seen::Container { sandboxes })) => sandboxes.as_slice(),
            _ => &[],
        };
        let ours = |id: &SandboxId| seen.iter().any(|s| s.id == *id && s.owner == Owner::Ours);
        let known = agent.sandbox.as_ref().filter(|id| ours(id));
        let known = known.and_then(|known| seen.iter().find(|s| s.id == *known));
        let mine = seen.iter().filter(|sandbox| sandbox.owner == Owner::Ours).count();
        let stranger = mine < seen.len();
        let wanted = self.desired.containers.contains_key(group);
        let always = matches!(
            self.after.get(&ResourceId::Group(group.clone())),
            Some(Spec::Group(group)) if group.lifecycle == Lifecycle::Always
        );
        let running = self.observed.controller == Controller::Running;
        match (step.action, &step.work) {
            (Action::Stop, Work::StopLeftover { group: stopped }) => {
                let any = seen.iter().any(|sandbox| sandbox.owner == Owner::Ours);
                group == stopped && any && self.observed.controller == Controller::Absent
            }
            (Action::Stop, Work::RemoveSandboxes { group: of, sandboxes }) => {
                let held = |id: &SandboxId| agent.sandbox.as_ref() == Some(id);
                let each = sandboxes.iter().all(|id| ours(id) && !held(id));
                running && !agent.starting && group == of && !sandboxes.is_empty() && each
            }
            (Action::Stop, Work::StopAgent { group: of }) => {
                running && group == of && !wanted && known.is_some() && !agent.busy
            }
            (Action::Create, Work::StartAgent { group: of }) => {
                let nothing = seen.is_empty() && agent.sandbox.is_none() && !agent.starting;
                running && group == of && wanted && always && nothing && !agent.held
            }
            (
                Action::Change | Action::Mend,
                work @ (Work::ReplaceAgent { group: of } | Work::StopAgent { group: of }),
            ) => {
                let Some(known) = known else { return false };
                let halted = known.state == SandboxState::Paused;
                let again = always || agent.busy;
                let right = match work {
                    Work::ReplaceAgent { .. } => again && !agent.held && !stranger,
                    _ => !again || agent.held || stranger,
                };
                let cause = halted || self.differs(group, known);
                let free = !agent.busy || halted;
                running && group == of && wanted && mine == 1 && right && cause && free
            }
            _ => false,
        }
    }

    /// Whether a sandbox is not what comes to be asked for.
    fn differs(&self, group: &GroupName, sandbox: &SandboxSeen) -> bool {
        let stale = match (&sandbox.digest, self.containers.get(group)) {
            (Some(label), Some(spec)) => spec.differs_from(label),
            _ => false,
        };
        stale || !sandbox.edits.is_empty()
    }

    /// Whether a sandbox that stays until images are removed may be made from one of them.
    pub(super) fn may_use_old_images(&self, tag: &ImageTag) -> bool {
        let asked = self
            .after
            .values()
            .any(|spec| matches!(spec, Spec::Group(group) if group.image.as_ref() == Some(tag)));
        asked
            || self.observed.looks.iter().any(|(id, look)| {
                let ResourceId::Container(group) = id else { return false };
                let Known::Is(Seen::Container { sandboxes }) = look else {
                    return matches!(look, Known::Unknown(_));
                };
                let fresh = self.containers.get(group).map(ContainerSpec::digest);
                sandboxes.iter().any(|sandbox| {
                    let old = sandbox.digest.is_some() && sandbox.digest != fresh;
                    sandbox.owner == Owner::Ours && old && !self.ends(id, sandbox)
                })
            })
    }

    /// Whether a step that takes away ends this sandbox.
    fn ends(&self, id: &ResourceId, sandbox: &SandboxSeen) -> bool {
        let mut ending =
            self.plan.steps.iter().filter(|step| step.id == *id && step.action == Action::Stop);
        ending.any(|step| match &step.work {
            Work::RemoveSandboxes { sandboxes, .. } => sandboxes.contains(&sandbox.id),
            _ => true,
        })
    }
}
