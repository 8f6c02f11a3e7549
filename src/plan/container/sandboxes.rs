//! What becomes of the sandboxes of one group while a controller runs.
//!
//! Decides by what was seen and what the controller knows. Whatever it decides,
//! there is never a second sandbox: one that nobody holds is removed before
//! another is started, and where a stranger has the name, nothing is started.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::manifest::Span;
use crate::name::GroupName;
use crate::observed::{AgentSeen, Owner, SandboxSeen, SandboxState};
use crate::plan::{Action, FieldChange, Work};
use crate::resource::{ContainerSpec, Lifecycle, Risk};

/// A group's sandboxes, and what is known of them.
#[derive(Debug)]
pub(super) struct Sandboxes<'a> {
    pub(super) group: &'a GroupName,
    /// Those that carry its name, ours or not.
    pub(super) seen: &'a [SandboxSeen],
    /// What the controller knows.
    pub(super) agent: &'a AgentSeen,
    pub(super) wish: Wish<'a>,
}

/// What a group asks for.
#[derive(Debug)]
pub(super) enum Wish<'a> {
    /// It is not asked for.
    Gone,
    /// It is asked for and held back, so that its agent stays as it is.
    Held,
    /// A sandbox like this.
    Like {
        lifecycle: Lifecycle,
        spec: &'a ContainerSpec,
        /// What it was made from before, if that was another.
        before: Option<&'a ContainerSpec>,
        /// The places of what is written of the group.
        places: Option<&'a BTreeMap<String, Span>>,
    },
}

/// What is to become of them.
#[derive(Debug)]
pub(super) enum Verdict {
    Nothing,
    Wait(&'static str),
    Do(SandboxStep),
}

/// A step on the sandboxes of a group.
#[derive(Debug)]
pub(super) struct SandboxStep {
    pub(super) action: Action,
    pub(super) reason: String,
    pub(super) fields: Vec<FieldChange>,
    pub(super) work: Work,
}

const STOP_WAITS: &str = "will stop when the current work is done";
const REPLACE_WAITS: &str = "will be replaced when the current work is done";
const START_WAITS: &str = "cannot start: another container has this name";

impl Sandboxes<'_> {
    pub(super) fn verdict(&self) -> Verdict {
        let ours = || self.seen.iter().filter(|sandbox| sandbox.owner == Owner::Ours);
        let known = |sandbox: &&SandboxSeen| Some(&sandbox.id) == self.agent.sandbox.as_ref();
        let strays: Vec<_> = ours().filter(|sandbox| !known(sandbox)).collect();
        // One of them may be the very one that is being started; what is in its way is found when
        // it did not start.
        if !strays.is_empty() && self.agent.starting {
            return Verdict::Nothing;
        }
        if !strays.is_empty() {
            let plural = if strays.len() == 1 { "" } else { "s" };
            let reason = format!("{} leftover container{plural} without an agent", strays.len());
            let sandboxes = strays.into_iter().map(|sandbox| sandbox.id.clone()).collect();
            let work = Work::RemoveSandboxes { group: self.group.clone(), sandboxes };
            return self.change(Action::Stop, reason, Vec::new(), work);
        }
        match ours().find(known) {
            Some(known) => self.verdict_on(known),
            None => self.verdict_on_nothing(),
        }
    }

    /// Without a sandbox: what a controller lost, it notices by itself.
    fn verdict_on_nothing(&self) -> Verdict {
        let wanted = matches!(self.wish, Wish::Like { lifecycle: Lifecycle::Always, .. });
        let comes = self.agent.sandbox.is_some() || self.agent.starting;
        if !wanted || comes || self.agent.held {
            return Verdict::Nothing;
        }
        if !self.seen.is_empty() {
            return Verdict::Wait(START_WAITS);
        }
        let work = Work::StartAgent { group: self.group.clone() };
        self.change(Action::Create, String::new(), Vec::new(), work)
    }

    fn verdict_on(&self, known: &SandboxSeen) -> Verdict {
        let (lifecycle, spec) = match &self.wish {
            Wish::Held => return Verdict::Nothing,
            Wish::Gone if self.agent.busy => return Verdict::Wait(STOP_WAITS),
            Wish::Gone => {
                let reason = "no longer in the manifest".to_owned();
                let work = Work::StopAgent { group: self.group.clone() };
                return self.change(Action::Stop, reason, Vec::new(), work);
            }
            Wish::Like { lifecycle, spec, .. } => (*lifecycle, *spec),
        };
        let stale = known.digest.as_ref().is_some_and(|label| spec.differs_from(label));
        match known.state {
            // One that ends or begins is the controller's own business.
            SandboxState::Created | SandboxState::Ended => Verdict::Nothing,
            // A turn that was halted never ends by itself, but goes on in another sandbox.
            SandboxState::Paused => {
                let again = lifecycle == Lifecycle::Always || self.agent.busy;
                self.renew(Action::Mend, "paused outside babybot", Vec::new(), again)
            }
            SandboxState::Running if !stale && known.edits.is_empty() => Verdict::Nothing,
            SandboxState::Running if self.agent.busy => Verdict::Wait(REPLACE_WAITS),
            SandboxState::Running => {
                let again = lifecycle == Lifecycle::Always;
                if stale {
                    self.renew(Action::Change, "", self.fields(known), again)
                } else {
                    self.renew(Action::Mend, &known.edits.join(", "), Vec::new(), again)
                }
            }
        }
    }

    /// Ends the sandbox that is there, and starts another at once or with the next message.
    fn renew(&self, action: Action, why: &str, fields: Vec<FieldChange>, again: bool) -> Verdict {
        let group = self.group.clone();
        let alone = self.seen.iter().all(|sandbox| sandbox.owner == Owner::Ours);
        let (how, work) = if again && alone && !self.agent.held {
            ("the agent is replaced", Work::ReplaceAgent { group })
        } else {
            let how = "the agent is stopped and starts again with the next message";
            (how, Work::StopAgent { group })
        };
        let reason = if why.is_empty() { how.to_owned() } else { format!("{why}; {how}") };
        self.change(action, reason, fields, work)
    }

    fn change(
        &self,
        action: Action,
        reason: String,
        fields: Vec<FieldChange>,
        work: Work,
    ) -> Verdict {
        Verdict::Do(SandboxStep { action, reason, fields, work })
    }

    /// What differs, where the sandbox is the one that was asked for before.
    fn fields(&self, known: &SandboxSeen) -> Vec<FieldChange> {
        let Wish::Like { spec, before: Some(before), places, .. } = &self.wish else {
            return Vec::new();
        };
        if known.digest.as_ref() != Some(&before.digest()) {
            return Vec::new();
        }
        let pairs = fields(before).into_iter().zip(fields(spec));
        pairs
            .filter(|((_, from), (_, to))| from != to)
            .map(|((path, from), (_, to))| FieldChange {
                path: path.to_owned(),
                from,
                to,
                meaning: None,
                at: places.and_then(|places| places.get(path)).copied(),
                // What it risks stands on the group's own step, or on the image's.
                risk: Risk::Safe,
            })
            .collect()
    }
}

/// A sandbox's fields in a fixed order, by their path in a group's.
fn fields(spec: &ContainerSpec) -> [(&'static str, Option<String>); 8] {
    [
        ("runtime", Some(spec.runtime.word().to_owned())),
        ("image", spec.image.clone()),
        ("user", spec.user.map(|user| user.to_string())),
        ("main", Some(spec.main.to_string())),
        ("limits.cpus", spec.cpus.map(|cpus| cpus.to_string())),
        ("limits.memory", spec.memory.map(|memory| memory.to_string())),
        ("limits.pids", spec.pids.map(|pids| pids.to_string())),
        ("runtime.docker.host", spec.engine.clone()),
    ]
}
