//! A second opinion on a finished plan, before it runs.
//!
//! Shares nothing with the planner but the types: what the planner finds by
//! printed field, this finds by comparing specs, so that one mistake has to be
//! made twice before it does harm. A finding is a defect in babybot or a plan
//! that was tampered with, except for [`Problem::StrangerUnwalled`], which a
//! manifest can ask for and a policy refuses.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod below;
mod risk;
mod wall;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

use crate::desired::Desired;
use crate::name::{ChannelName, GroupName};
use crate::observed::{Known, Observed};
use crate::plan::{Action, Plan, Step, Work};
use crate::resource::{
    self, Binding, ChannelSpec, ContainerSpec, GroupSpec, ResourceId, Risk, Spec,
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
    /// A step does not wait for another that it builds on.
    #[error("does not wait for {0}")]
    DoesNotWait(ResourceId),
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
        if let Some(below) = self.unheld(step) {
            problems.push(Problem::DoesNotWait(below));
        }
        let needed = self.needed(step);
        if step.risk < needed {
            problems.push(Problem::RiskUnderstated { said: step.risk, needed });
        }
        problems
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
