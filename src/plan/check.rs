//! A second opinion on a finished plan, before it runs.
//!
//! Shares nothing with the planner but the types: what the planner finds by
//! printed field, this finds by comparing specs, so that one mistake has to be
//! made twice before it does harm. A finding is a defect in babybot or a plan
//! that was tampered with, except for [`Problem::StrangerUnwalled`], which a
//! manifest can ask for and a policy refuses.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

use crate::desired::{Desired, Doubt};
use crate::name::{ChannelName, GroupName, ImageTag, SandboxId};
use crate::observed::{
    AgentSeen, Controller, Known, Observed, Owner, SandboxSeen, SandboxState, Seen,
};
use crate::plan::{Action, Plan, Step, Work};
use crate::resource::{
    self, Binding, ChannelSpec, ContainerSpec, GroupSpec, ImageSpec, Lifecycle, ModelSpec,
    ResourceId, Risk, RuntimeKind, Spec, WebhookSpec,
};

/// Something that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The resource; `None`: the plan as a whole.
    pub id: Option<ResourceId>,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The plan was made from another generation than the one that is applied.
    #[error("does not start from the applied generation")]
    Parent,
    /// The last generation is unknown, and still something is planned.
    #[error("the last applied generation is unknown")]
    GenerationUnknown,
    /// Two steps change one resource.
    #[error("has two steps")]
    TwoSteps,
    /// A step comes before what it stands on, or is removed after it.
    #[error("is out of order")]
    Order,
    /// A step changes what nobody could see, or what stands on such.
    #[error("is planned although {0} could not be checked")]
    LookUnknown(ResourceId),
    /// The resource is neither asked for, nor recorded, nor found.
    #[error("is not ours")]
    Foreign,
    /// The manifest asks for what is removed, or does not ask for what is made.
    #[error("contradicts the manifest")]
    Contrary,
    /// The step removes an image that an agent may still run from.
    #[error("may still be in use")]
    InUse,
    /// The step removes what a group or a person has written.
    #[error("removes data that must stay")]
    RemovesData,
    /// Action, work and resource do not belong together, or the work is not what was asked for.
    #[error("does not do what it says")]
    Work,
    /// The step hurts more than it says.
    #[error("has risk {said} and needs {needed}")]
    RiskUnderstated {
        /// What the step says.
        said: Risk,
        /// What it is.
        needed: Risk,
    },
    /// An agent comes to run without a wall, and no privileged line says so.
    #[error("would run without isolation, and no line says so")]
    WallUnsaid,
    /// A chat that others can write to drives an agent without a wall.
    #[error(
        "is bound to {0}, where others can write, and is not isolated: \
         remove that binding, or use a runtime that isolates, such as docker"
    )]
    StrangerUnwalled(Binding),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{id} {}", self.problem),
            None => write!(f, "the plan {}", self.problem),
        }
    }
}

/// Looks over a plan and lists everything that is wrong with it.
///
/// # Errors
/// All findings, if there is one.
pub fn check(plan: &Plan, desired: &Desired, observed: &Observed) -> Result<(), Vec<Finding>> {
    let nothing = BTreeMap::new();
    let (parent, before) = match &observed.applied {
        Known::Is(applied) => (Some(applied.number), &applied.specs),
        Known::Absent | Known::Unknown(_) => (None, &nothing),
    };
    let everything: BTreeSet<ResourceId> = plan.steps.iter().map(|step| step.id.clone()).collect();
    let after = plan.recorded(before, &everything);
    let containers = resource::containers(&after);
    let review = Review { plan, desired, observed, before, after, containers };

    let mut findings = Vec::new();
    let whole = |problem| Finding { id: None, problem };
    if plan.parent != parent {
        findings.push(whole(Problem::Parent));
    }
    if matches!(observed.applied, Known::Unknown(_)) && !plan.steps.is_empty() {
        findings.push(whole(Problem::GenerationUnknown));
    }
    for step in &plan.steps {
        let problems = review.step(step).into_iter();
        findings.extend(problems.map(|problem| Finding { id: Some(step.id.clone()), problem }));
    }
    findings.extend(review.order());
    findings.extend(review.walls());
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

struct Review<'a> {
    plan: &'a Plan,
    desired: &'a Desired,
    observed: &'a Observed,
    before: &'a BTreeMap<ResourceId, Spec>,
    after: BTreeMap<ResourceId, Spec>,
    /// The sandboxes that come to be asked for.
    containers: BTreeMap<GroupName, ContainerSpec>,
}

impl Review<'_> {
    fn step(&self, step: &Step) -> Vec<Problem> {
        let mut problems = Vec::new();
        let contained = match &step.id {
            ResourceId::Container(group) => self.desired.containers.contains_key(group),
            _ => false,
        };
        let wanted = contained || self.desired.resources.contains_key(&step.id);
        let recorded = self.before.contains_key(&step.id);
        let found = matches!(self.observed.looks.get(&step.id), Some(Known::Is(_)));
        if !wanted && !recorded && !found {
            problems.push(Problem::Foreign);
        } else if wanted == step.takes_away() && !matches!(step.id, ResourceId::Container(_)) {
            problems.push(Problem::Contrary);
        }
        if let Work::RemoveImage { tag } = &step.work
            && self.may_use_old_images(tag)
        {
            problems.push(Problem::InUse);
        }
        if step.action == Action::Remove && holds_data(&step.id) {
            problems.push(Problem::RemovesData);
        }
        if !self.work_fits(step) {
            problems.push(Problem::Work);
        }
        if let Some(unknown) = self.unknown_below(step) {
            problems.push(Problem::LookUnknown(unknown));
        }
        let needed = self.needed(step);
        if step.risk < needed {
            problems.push(Problem::RiskUnderstated { said: step.risk, needed });
        }
        problems
    }

    fn work_fits(&self, step: &Step) -> bool {
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
                ResourceId::Model(_) | ResourceId::Group(_) | ResourceId::Channel(_),
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
    fn may_use_old_images(&self, tag: &ImageTag) -> bool {
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

    /// What a step touches or builds on although nobody could see it.
    fn unknown_below(&self, step: &Step) -> Option<ResourceId> {
        let mut seen_first = vec![step.id.clone()];
        let image = |group: &GroupName| {
            let group = self.desired.resources.get(&ResourceId::Group(group.clone()));
            match group.map(|wanted| &wanted.spec) {
                Some(Spec::Group(group)) => group.image.clone().map(ResourceId::Image),
                _ => None,
            }
        };
        if let (ResourceId::Group(group), false) = (&step.id, step.takes_away()) {
            seen_first.extend(image(group));
        }
        match &step.id {
            // Only what the generation says of it changes.
            ResourceId::Image(_) if step.work == Work::Forget => seen_first.clear(),
            ResourceId::Container(group) if starts(&step.work) => {
                seen_first.extend(image(group));
                seen_first.extend([
                    ResourceId::GlobalMemory,
                    ResourceId::Folder(group.clone()),
                    ResourceId::Settings(group.clone()),
                ]);
            }
            ResourceId::Settings(group) => seen_first.push(ResourceId::Folder(group.clone())),
            ResourceId::Group(group) if !step.takes_away() => seen_first.extend([
                ResourceId::GlobalMemory,
                ResourceId::Folder(group.clone()),
                ResourceId::Settings(group.clone()),
            ]),
            _ => {}
        }
        seen_first.into_iter().find(|id| match (id, self.observed.looks.get(id)) {
            // These are what the generation says they are.
            (ResourceId::Model(_) | ResourceId::Group(_) | ResourceId::Channel(_), _) => false,
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
        })
    }

    /// The risk of a step, worked out from the specs on either side of it.
    fn needed(&self, step: &Step) -> Risk {
        let fields = step.fields.iter().map(|field| field.risk).max().unwrap_or(Risk::Safe);
        let before = self.before.get(&step.id);
        let own = match (&step.id, &step.work.spec()) {
            (ResourceId::Container(_), _) => match step.work {
                Work::StartAgent { .. } => Risk::Safe,
                _ => Risk::Disruptive,
            },
            (_, Some(Spec::Image(image))) => self.image_needs(image),
            (ResourceId::Group(_), None) => Risk::Destructive,
            (
                ResourceId::GlobalMemory | ResourceId::Folder(_) | ResourceId::Settings(_),
                Some(_),
            ) if self.overwrites(step) => Risk::Destructive,
            (_, Some(Spec::Model(model))) => model_needs(before, model),
            (_, Some(Spec::Group(group))) => self.group_needs(&step.id, group),
            (_, Some(Spec::Channel(ChannelSpec::Webhook(webhook)))) => {
                webhook_needs(before, webhook)
            }
            _ => Risk::Safe,
        };
        own.max(fields)
    }

    /// A base or an image that no generation knew brings in whatever is in it.
    fn image_needs(&self, image: &ImageSpec) -> Risk {
        let mut before = self.before.values();
        let known = match image {
            ImageSpec::Built { base, .. } if base == "scratch" => true,
            ImageSpec::Built { base, .. } => before.any(|spec| {
                matches!(spec, Spec::Image(ImageSpec::Built { base: old, .. }) if old == base)
            }),
            ImageSpec::Named { reference } => before.any(|spec| {
                matches!(spec, Spec::Image(ImageSpec::Named { reference: old }) if old == reference)
            }),
        };
        if known { Risk::Safe } else { Risk::Privileged }
    }

    /// Whether a step writes over, or moves aside, what no generation of ours has made.
    fn overwrites(&self, step: &Step) -> bool {
        let look = self.observed.looks.get(&step.id);
        !self.before.contains_key(&step.id)
            && matches!(look, Some(Known::Is(Seen::Settings { env: None } | Seen::Wrong { .. })))
    }

    fn group_needs(&self, id: &ResourceId, group: &GroupSpec) -> Risk {
        let then = self.strangers_before(id);
        let before = match self.before.get(id) {
            Some(Spec::Group(before)) => Some(&**before),
            _ => None,
        };
        let now = strangers(group, &self.desired_channels());
        let was = |fact: fn(&GroupSpec) -> bool| before.is_some_and(fact);
        let engine = before.and_then(|before| before.engine.as_ref());
        let moves = group.engine.as_ref() != engine;
        let wanted = self.desired.resources.get(id);
        let named = wanted.is_some_and(|wanted| wanted.fields.contains_key("runtime.docker.host"));
        let root = |group: &GroupSpec| group.user.is_some_and(|user| user.uid == 0);
        let mapped = before.is_some_and(|before| root(before) && !root(group));
        let weaker = before.is_some_and(|before| group.runtime < before.runtime);
        let stronger = before.is_some_and(|before| group.runtime > before.runtime);
        let privileged = weaker
            || (moves && named)
            || (mapped && group.runtime == RuntimeKind::Docker)
            || (group.main && !was(|before| before.main))
            || !now.is_subset(&then)
            || (!now.is_empty()
                && !group.requires_trigger
                && was(|before| before.requires_trigger));
        let disruptive = stronger
            || (moves && engine.is_some())
            || then.iter().any(|binding| !group.bind.contains(binding))
            || (!now.is_empty() && before.is_some_and(|before| before.trigger != group.trigger));
        match (privileged, disruptive) {
            (true, _) => Risk::Privileged,
            (false, true) => Risk::Disruptive,
            (false, false) => Risk::Safe,
        }
    }

    fn strangers_before(&self, id: &ResourceId) -> BTreeSet<Binding> {
        match self.before.get(id) {
            Some(Spec::Group(before)) => strangers(before, self.before),
            _ => BTreeSet::new(),
        }
    }

    fn desired_channels(&self) -> BTreeMap<ResourceId, Spec> {
        let channels = self
            .desired
            .resources
            .iter()
            .filter(|(id, _)| matches!(id, ResourceId::Channel(_)))
            .map(|(id, wanted)| (id.clone(), wanted.spec.clone()));
        channels.collect()
    }

    fn order(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut seen = BTreeSet::new();
        for step in &self.plan.steps {
            if !seen.insert(&step.id) {
                findings.push(Finding { id: Some(step.id.clone()), problem: Problem::TwoSteps });
            }
        }
        for pair in self.plan.steps.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            // An image that goes may be stood on until everything else is done.
            let last = |step: &Step| matches!(step.id, ResourceId::Image(_)) && step.takes_away();
            let legal = match (first.takes_away(), second.takes_away()) {
                _ if last(first) != last(second) => last(second),
                (true, true) => first.id >= second.id,
                (true, false) => true,
                (false, true) => false,
                (false, false) => first.id <= second.id,
            };
            if !legal {
                findings.push(Finding { id: Some(second.id.clone()), problem: Problem::Order });
            }
        }
        findings
    }

    fn walls(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (id, spec) in &self.after {
            let (ResourceId::Group(_), Spec::Group(group)) = (id, spec) else { continue };
            let finding = |problem| Finding { id: Some(id.clone()), problem };
            match group.runtime {
                RuntimeKind::Docker => continue,
                RuntimeKind::None => {
                    let before = match self.unwalled_before(id) {
                        Some(_) => self.strangers_before(id),
                        None => BTreeSet::new(),
                    };
                    let mut now = strangers(group, &self.after).into_iter();
                    if let Some(stranger) = now.find(|stranger| !before.contains(stranger)) {
                        findings.push(finding(Problem::StrangerUnwalled(stranger)));
                    }
                }
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
            Some(Spec::Group(before)) if before.runtime == RuntimeKind::None => Some(&**before),
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

/// Whether an agent comes to run by this.
fn starts(work: &Work) -> bool {
    matches!(work, Work::StartAgent { .. } | Work::ReplaceAgent { .. })
}

fn model_needs(before: Option<&Spec>, after: &ModelSpec) -> Risk {
    match (before, after) {
        (_, ModelSpec::Rehearsal { .. }) => Risk::Safe,
        (
            Some(Spec::Model(ModelSpec::Ollama { url: before, .. })),
            ModelSpec::Ollama { url, .. },
        ) if before == url => Risk::Safe,
        (_, ModelSpec::Ollama { .. }) => Risk::Privileged,
    }
}

/// The first use of a secret, a destination of replies and an address that others reach need approval.
fn webhook_needs(before: Option<&Spec>, after: &WebhookSpec) -> Risk {
    let Some(Spec::Channel(ChannelSpec::Webhook(before))) = before else {
        return Risk::Privileged;
    };
    let moves = before.listen != after.listen;
    let told = after.callback.is_some() && after.callback != before.callback;
    if before.token != after.token || told || (moves && !after.listen.ip().is_loopback()) {
        Risk::Privileged
    } else if moves || after.callback != before.callback {
        Risk::Disruptive
    } else {
        Risk::Safe
    }
}

/// The bindings through which others than the owner can write.
fn strangers(group: &GroupSpec, specs: &BTreeMap<ResourceId, Spec>) -> BTreeSet<Binding> {
    let strange = |binding: &&Binding| !is_terminal(&binding.channel, specs);
    group.bind.iter().filter(strange).cloned().collect()
}

fn is_terminal(channel: &ChannelName, specs: &BTreeMap<ResourceId, Spec>) -> bool {
    match specs.get(&ResourceId::Channel(channel.clone())) {
        Some(Spec::Channel(channel)) => matches!(channel, ChannelSpec::Terminal),
        Some(_) => false,
        None => *channel == ChannelName::terminal(),
    }
}

fn holds_data(id: &ResourceId) -> bool {
    matches!(id, ResourceId::GlobalMemory | ResourceId::Folder(_) | ResourceId::Settings(_))
}
