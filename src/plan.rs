//! The difference between what should be and what is, as a list of steps.
//!
//! Planning is a pure function: no clock, no disk, no network. All it needs is
//! in its two arguments and all it decides is in its return value, so a plan
//! can be printed, stored, tested and explained before anything changes.
//!
//! Invariants: once a plan has been applied, planning again finds nothing to
//! do; what is unknown is never created, changed or removed; no step removes
//! what a group has written.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::manifest::Span;
use crate::name::{GroupName, ImageTag, SandboxId};
use crate::observed::{Known, Observed};
use crate::resource::{ImageSpec, ResourceId, Risk, Spec, UserId};

mod build;
mod channel;
pub mod check;
mod container;
mod draft;
mod folder;
mod group;
mod image;
mod instance;
mod memory;
mod model;
pub mod render;
mod risk;
mod settings;
mod verdict;
mod wall;

/// An ordered list of steps from the observed state to the desired one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The generation it starts from; `None` where none was ever applied.
    pub parent: Option<u64>,
    /// Removals from the roof down, then the rest from the ground up, and images that nothing
    /// stands on any more at the very end: until then, something may.
    pub steps: Vec<Step>,
    /// What is held back, what it waits for, and what else a reader should know.
    pub notes: Vec<Note>,
}

/// One change, complete enough that the executor has nothing left to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it changes.
    pub id: ResourceId,
    /// What becomes of it, in one word.
    pub action: Action,
    /// Why, for a person.
    pub reason: String,
    /// What differs, field by field; on creation all fields.
    pub fields: Vec<FieldChange>,
    /// The worst of it.
    pub risk: Risk,
    /// The place of the resource's name in the manifest.
    #[serde(with = "place")]
    pub at: Option<Span>,
    /// The steps that have to be done before it, those of its own group aside: if one of them is
    /// not, it is held back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<ResourceId>,
    /// What is to be done.
    pub work: Work,
}

/// What becomes of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It comes to be.
    Create,
    /// It is already there and becomes ours as it is.
    Adopt,
    /// The manifest asks for something else than before.
    Change,
    /// The world drifted from what was applied and is put right.
    Mend,
    /// The manifest no longer asks for it.
    Remove,
    /// A leftover is ended.
    Stop,
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path in the manifest's words.
    pub path: String,
    /// What it was; `None` where there was nothing.
    pub from: Option<String>,
    /// What it becomes; `None` where nothing is left.
    pub to: Option<String>,
    /// What this means, where the values alone do not say it.
    pub meaning: Option<String>,
    /// Where it is written.
    #[serde(with = "place")]
    pub at: Option<Span>,
    /// How much it may hurt.
    pub risk: Risk,
}

/// What the executor does for a step, once, in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Work {
    /// Makes those of a group's folders that are not there or not usable, and gives all of them to
    /// their owner. Whatever else is in their place is moved aside.
    MakeFolders {
        /// The group.
        group: GroupName,
        /// Whom they are given to; `None`: whoever makes them.
        owner: Option<UserId>,
        /// Whether `groups/global` is given away with them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        global: bool,
    },
    /// Builds an image, or finds that it is there.
    BuildImage {
        /// What it is made of.
        image: ImageSpec,
    },
    /// Removes an image of ours that nothing stands on any more.
    RemoveImage {
        /// Its tag.
        tag: ImageTag,
    },
    /// Has the controller start a group's agent.
    StartAgent {
        /// The group.
        group: GroupName,
    },
    /// Has the controller end a group's agent and start another. Whatever turn is under way goes
    /// on in the new one.
    ReplaceAgent {
        /// The group.
        group: GroupName,
    },
    /// Has the controller end a group's agent, which starts again with the next message.
    StopAgent {
        /// The group.
        group: GroupName,
    },
    /// Removes sandboxes of a group that no controller is attached to.
    RemoveSandboxes {
        /// The group.
        group: GroupName,
        /// Which of them.
        sandboxes: Vec<SandboxId>,
    },
    /// Writes `groups/global/MEMORY.md` if it is not there. Whatever else is in its place is moved
    /// aside.
    WriteGlobalMemory,
    /// Writes a group's settings file over the one that is there. Whatever else is in its place is
    /// moved aside.
    WriteSettings {
        /// The group.
        group: GroupName,
        /// The environment of its tools.
        env: BTreeMap<String, String>,
    },
    /// Touches nothing: the generation records the spec.
    Record {
        /// What it records.
        spec: Spec,
    },
    /// Touches nothing: the generation no longer records the resource.
    Forget,
    /// Stops a group's agent that no controller knows, with all its processes.
    StopLeftover {
        /// The group.
        group: GroupName,
    },
}

/// Something a reader should know that is not a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What sort of thing.
    pub kind: NoteKind,
    /// The resources it is about; none: the whole instance.
    pub ids: Vec<ResourceId>,
    /// What to know.
    pub text: String,
}

/// What sort of thing a note says. The order is the order in which notes are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// A look failed: the resource is left alone.
    Unknown,
    /// A change is held back by another resource.
    Waiting,
    /// Something outside babybot is needed, and the note says how to get it.
    Missing,
    /// It works, with less than was asked for.
    Limited,
    /// Something stays although its resource goes.
    Retained,
    /// It is not a change that this is not running.
    Starts,
    /// It holds for as long as the manifest says so.
    Standing,
}

/// How many steps add, change, remove and adopt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// [`Action::Create`].
    pub add: usize,
    /// [`Action::Change`] and [`Action::Mend`].
    pub change: usize,
    /// [`Action::Remove`] and [`Action::Stop`].
    pub remove: usize,
    /// [`Action::Adopt`].
    pub adopt: usize,
}

/// Compares the two states and returns what would make them equal.
///
/// Total, deterministic and synchronous. A resource may rely only on the kinds
/// declared above it in [`ResourceId`], so removals run from the roof down and
/// the rest from the ground up: nothing is created before what it stands on, or
/// removed before what stands on it. An old image goes last, since a group that
/// cannot be changed goes on with it.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    match &observed.applied {
        Known::Is(applied) => build::plan(desired, observed, Some(applied.number), &applied.specs),
        Known::Absent => build::plan(desired, observed, None, &BTreeMap::new()),
        // Without the last generation, everything that was removed from the manifest looks as
        // if it had never been, and everything approved as if it never was.
        Known::Unknown(why) => {
            let text = format!("the last applied generation could not be checked: {why}");
            let note = Note { kind: NoteKind::Unknown, ids: Vec::new(), text };
            Plan { parent: None, steps: Vec::new(), notes: vec![note] }
        }
    }
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether a look that failed, or what waits for one, may hide something that is to be done:
    /// then even an empty plan does not mean that the machine matches.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        let outside =
            |id: &ResourceId| matches!(id, ResourceId::Model(_) | ResourceId::Container(_));
        self.notes.iter().any(|note| match note.kind {
            NoteKind::Waiting => true,
            NoteKind::Unknown => !note.ids.iter().any(outside),
            _ => false,
        })
    }

    /// The number of the generation that carrying this out makes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.parent.map_or(1, |parent| parent + 1)
    }

    /// How many steps there are of each risk; a step counts once, under its worst.
    #[must_use]
    pub fn risks(&self) -> BTreeMap<Risk, usize> {
        let mut risks = BTreeMap::new();
        for step in &self.steps {
            *risks.entry(step.risk).or_default() += 1;
        }
        risks
    }

    /// The risks that a bare `--yes` does not cover: a human has to name them.
    #[must_use]
    pub fn risks_to_name(&self) -> BTreeSet<Risk> {
        self.steps.iter().map(|step| step.risk).filter(|risk| *risk > Risk::Disruptive).collect()
    }

    /// How many steps do what.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for step in &self.steps {
            match step.action {
                Action::Create => counts.add += 1,
                Action::Change | Action::Mend => counts.change += 1,
                Action::Remove | Action::Stop => counts.remove += 1,
                Action::Adopt => counts.adopt += 1,
            }
        }
        counts
    }

    /// What the generation records once the steps on these resources were carried out.
    #[must_use]
    pub fn recorded(
        &self,
        applied: &BTreeMap<ResourceId, Spec>,
        done: &BTreeSet<ResourceId>,
    ) -> BTreeMap<ResourceId, Spec> {
        let done = |step: &&Step| done.contains(&step.id);
        record(applied, self.steps.iter().filter(done))
    }

    /// Whether carrying out either plan does and risks the same.
    ///
    /// Words and places may differ: a comment added to the manifest while a
    /// human was thinking makes no difference.
    #[must_use]
    pub fn same_work(&self, other: &Self) -> bool {
        self.parent == other.parent
            && self.steps.len() == other.steps.len()
            && self.steps.iter().zip(&other.steps).all(|(one, two)| one.same_work(two))
    }
}

impl Step {
    fn same_work(&self, other: &Self) -> bool {
        let same_field = |(one, two): (&FieldChange, &FieldChange)| {
            (&one.path, &one.from, &one.to, one.risk) == (&two.path, &two.from, &two.to, two.risk)
        };
        (&self.id, self.action, self.risk, &self.work)
            == (&other.id, other.action, other.risk, &other.work)
            && self.fields.len() == other.fields.len()
            && self.fields.iter().zip(&other.fields).all(same_field)
    }

    /// Whether it takes away rather than builds.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        matches!(self.action, Action::Remove | Action::Stop)
    }
}

impl Action {
    /// The word used in plans.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Change => "change",
            Self::Mend => "repair",
            Self::Remove => "remove",
            Self::Stop => "stop",
        }
    }

    /// The word for what it was done to.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Adopt => "adopted",
            Self::Change => "changed",
            Self::Mend => "repaired",
            Self::Remove => "removed",
            Self::Stop => "stopped",
        }
    }
}

impl Work {
    /// The spec that the generation records once this is done.
    #[must_use]
    pub fn spec(&self) -> Option<Spec> {
        match self {
            Self::MakeFolders { owner: None, .. } => Some(Spec::Folder),
            Self::MakeFolders { owner: Some(owner), global: false, .. } => {
                Some(Spec::GivenFolder(*owner))
            }
            Self::MakeFolders { owner: Some(owner), global: true, .. } => {
                Some(Spec::MainFolder(*owner))
            }
            Self::BuildImage { image } => Some(Spec::Image(image.clone())),
            Self::WriteGlobalMemory => Some(Spec::GlobalMemory),
            Self::WriteSettings { env, .. } => Some(Spec::Settings { env: env.clone() }),
            Self::Record { spec } => Some(spec.clone()),
            Self::Forget
            | Self::RemoveImage { .. }
            | Self::StopLeftover { .. }
            | Self::StartAgent { .. }
            | Self::ReplaceAgent { .. }
            | Self::StopAgent { .. }
            | Self::RemoveSandboxes { .. } => None,
        }
    }
}

fn record<'a>(
    applied: &BTreeMap<ResourceId, Spec>,
    steps: impl Iterator<Item = &'a Step>,
) -> BTreeMap<ResourceId, Spec> {
    let mut specs = applied.clone();
    for step in steps {
        if let Some(spec) = step.work.spec() {
            specs.insert(step.id.clone(), spec);
        } else if matches!(step.work, Work::Forget | Work::RemoveImage { .. }) {
            specs.remove(&step.id);
        }
    }
    specs
}

/// How a place is written in JSON.
mod place {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::manifest::Span;

    #[derive(Serialize, Deserialize)]
    struct WrittenSpan {
        line: usize,
        column: usize,
        offset: usize,
        length: usize,
    }

    pub(super) fn serialize<S: Serializer>(at: &Option<Span>, to: S) -> Result<S::Ok, S::Error> {
        let place = |&Span { offset, length, line, column }: &Span| WrittenSpan {
            line,
            column,
            offset,
            length,
        };
        at.as_ref().map(place).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Span>, D::Error> {
        let place = Option::<WrittenSpan>::deserialize(from)?;
        Ok(place.map(|WrittenSpan { line, column, offset, length }| Span {
            offset,
            length,
            line,
            column,
        }))
    }
}
