//! A plan in the making: one verdict for each resource, then what depends on several.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Desired, Wanted};
use crate::name::GroupName;
use crate::observed::{Availability, Controller, Known, Observed, Seen};
use crate::plan::risk::{self, Sides};
use crate::plan::{Action, FieldChange, Note, NoteKind, Plan, Step, Work, record};
use crate::resource::{GroupSpec, ModelSpec, ResourceId, Risk, Spec};

struct Draft<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    before: &'a BTreeMap<ResourceId, Spec>,
    after: BTreeMap<ResourceId, Spec>,
    build: BTreeMap<ResourceId, Step>,
    removals: BTreeMap<ResourceId, Step>,
    /// Resources that are left alone, so that nothing is changed that stands on them.
    held: BTreeSet<ResourceId>,
    notes: Vec<Note>,
}

/// What is to become of one desired resource.
enum Verdict {
    Nothing,
    Change(Change),
    Unknown(String),
}

/// A step before it knows its place, its fields' risks and its id.
struct Change {
    action: Action,
    reason: String,
    /// What the fields are compared with; not always what was applied.
    from: Option<Spec>,
    work: Work,
    /// What the action risks by itself, whatever the fields are.
    risk: Risk,
}

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    parent: Option<u64>,
    before: &BTreeMap<ResourceId, Spec>,
) -> Plan {
    let after = desired.resources.iter().map(|(id, wanted)| (id.clone(), wanted.spec.clone()));
    let mut draft = Draft {
        desired,
        observed,
        before,
        after: after.collect(),
        build: BTreeMap::new(),
        removals: BTreeMap::new(),
        held: BTreeSet::new(),
        notes: Vec::new(),
    };
    draft.build();
    draft.remove();
    draft.stop_leftovers();
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
                    self.note(NoteKind::Unknown, id, format!("unknown: {why}"));
                }
                Verdict::Change(change) => match self.in_the_way(id, &wanted.spec) {
                    Some(below) => {
                        self.held.insert(id.clone());
                        self.note(
                            NoteKind::Waiting,
                            id,
                            format!("{} waits for {below}", change.action.word()),
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
            (ResourceId::GlobalMemory, Spec::GlobalMemory) => global_memory(before, look),
            (ResourceId::Folder(group), Spec::Folder) => folder(group, before, look),
            (ResourceId::Settings(group), Spec::Settings { env }) => {
                settings(group, env, before, look)
            }
            (ResourceId::Model(_) | ResourceId::Group(_) | ResourceId::Channel(_), spec) => {
                recorded(spec, before)
            }
            _ => Verdict::Nothing,
        }
    }

    /// What a resource stands on that is left alone or not asked for.
    fn in_the_way(&self, id: &ResourceId, spec: &Spec) -> Option<ResourceId> {
        let ready = |below: &ResourceId| {
            self.desired.resources.contains_key(below) && !self.held.contains(below)
        };
        foundations(id, spec).into_iter().find(|below| !ready(below))
    }

    fn step(&self, id: &ResourceId, wanted: &Wanted, change: Change) -> Step {
        let sides = Sides { before: self.before, after: &self.after };
        let fields = risk::changes(change.from.as_ref(), wanted, sides);
        Step {
            id: id.clone(),
            action: change.action,
            reason: change.reason,
            risk: worst(change.risk, &fields),
            fields,
            at: wanted.at,
            work: change.work,
        }
    }

    fn remove(&mut self) {
        let gone = self.before.keys().filter(|id| !self.desired.resources.contains_key(id));
        let in_use = self.in_use();
        for id in gone {
            match id {
                ResourceId::Group(group) => {
                    self.removals.insert(id.clone(), removal(id, Risk::Destructive));
                    let text = format!("retained: groups/{group}, its sessions and its messages");
                    self.note(NoteKind::Retained, id, text);
                }
                ResourceId::Model(_) | ResourceId::Channel(_) => match in_use.get(id) {
                    Some(user) => {
                        let text = format!("remove waits for {user}, which still uses it");
                        self.note(NoteKind::Waiting, id, text);
                    }
                    None => {
                        self.removals.insert(id.clone(), removal(id, Risk::Safe));
                    }
                },
                // What a group has written outlives it, and the generation goes on knowing it.
                ResourceId::GlobalMemory | ResourceId::Folder(_) | ResourceId::Settings(_) => {}
                ResourceId::Container(_) | ResourceId::Image(_) => {}
            }
        }
    }

    /// The models and channels of groups that stay as they were applied, and one of those groups.
    fn in_use(&self) -> BTreeMap<ResourceId, ResourceId> {
        let held = self.held.iter().filter_map(|id| Some((id, self.before.get(id)?)));
        let mut in_use = BTreeMap::new();
        for (id, spec) in held {
            if let Spec::Group(group) = spec {
                in_use.insert(ResourceId::Model(group.model.clone()), id.clone());
                for binding in &group.bind {
                    in_use.insert(ResourceId::Channel(binding.channel.clone()), id.clone());
                }
            }
        }
        in_use
    }

    /// With a controller, agents are its own; where there may be one, they may be.
    fn stop_leftovers(&mut self) {
        for (id, look) in &self.observed.looks {
            let ResourceId::Container(group) = id else { continue };
            match (look, &self.observed.controller) {
                (Known::Is(Seen::Container { sandboxes }), Controller::Absent) => {
                    let step =
                        leftover(id, group, sandboxes.iter().filter_map(|s| s.processes).sum());
                    self.removals.insert(id.clone(), step);
                }
                (Known::Unknown(why), _) => {
                    self.note(NoteKind::Unknown, id, format!("unknown: {why}"));
                }
                _ => {}
            }
        }
    }

    /// Says it wherever an agent comes to run without a wall: on its group's own step, or on its
    /// model's where the group itself stays as it was.
    fn mark_missing_walls(&mut self) {
        let steps = self.removals.values().chain(self.build.values());
        let outcome = record(self.before, steps);
        for (id, spec) in &outcome {
            let (ResourceId::Group(name), Spec::Group(group)) = (id, spec) else { continue };
            let before = match self.before.get(id) {
                Some(Spec::Group(group)) => risk::unwalled(group, self.before),
                _ => false,
            };
            if !before && risk::unwalled(group, &outcome) {
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
        let at = self.desired.resources.get(id).and_then(|wanted| wanted.fields.get("runtime"));
        let rehearsed = match self.before.get(id) {
            Some(Spec::Group(before)) => risk::rehearsal(&before.model, self.before),
            _ => false,
        };
        let meaning = if rehearsed && !risk::rehearsal(&group.model, outcome) {
            risk::NO_WALL_ANY_MORE
        } else {
            risk::NO_WALL
        };
        let line = |path: String| FieldChange {
            path,
            from: Some(group.runtime.word().to_owned()),
            to: Some(group.runtime.word().to_owned()),
            meaning: Some(meaning.to_owned()),
            at: at.copied(),
            risk: Risk::Privileged,
        };
        if let Some(step) = self.build.get_mut(id) {
            match step.fields.iter_mut().find(|field| field.path == "runtime") {
                Some(field) => {
                    field.meaning = Some(meaning.to_owned());
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

    fn remark(&mut self) {
        if let Controller::Unknown(why) = &self.observed.controller {
            let text = format!("unknown: whether a controller runs: {why}");
            self.notes.push(Note { kind: NoteKind::Unknown, ids: Vec::new(), text });
        }
        for (id, wanted) in &self.desired.resources {
            match &wanted.spec {
                Spec::Model(ModelSpec::Ollama { url, model, .. }) => {
                    self.remark_on_model(id, url, model);
                }
                Spec::Model(ModelSpec::Rehearsal { .. }) => self.remark_on_rehearsal(id),
                _ => {}
            }
        }
        if self.observed.controller == Controller::Absent {
            self.remark_on_starts();
        }
        for remark in &self.desired.remarks {
            let (ids, text) = (remark.ids.clone(), remark.text.clone());
            self.notes.push(Note { kind: NoteKind::Standing, ids, text });
        }
    }

    fn remark_on_model(&mut self, id: &ResourceId, url: &str, model: &str) {
        match self.observed.looks.get(id) {
            Some(Known::Is(Seen::Model(Availability::Present))) => {}
            Some(Known::Is(Seen::Model(Availability::Missing)) | Known::Absent) => {
                let text = format!("{url} does not have it: {}", pull(url, model));
                self.note(NoteKind::Missing, id, text);
            }
            Some(Known::Is(Seen::Model(Availability::Elsewhere))) => {
                let text = format!(
                    "{url} has it answered in the cloud, and the gateway refuses it: choose a model that runs on your own server"
                );
                self.note(NoteKind::Missing, id, text);
            }
            look => {
                let why = why_unknown(look);
                self.note(NoteKind::Unknown, id, format!("unknown whether {url} has it: {why}"));
            }
        }
    }

    /// Only its script can keep a rehearsal from answering.
    fn remark_on_rehearsal(&mut self, id: &ResourceId) {
        if let Some(Known::Unknown(why)) = self.observed.looks.get(id) {
            self.note(NoteKind::Unknown, id, format!("cannot answer: {why}"));
        }
    }

    fn remark_on_starts(&mut self) {
        let ids: Vec<ResourceId> = self
            .desired
            .resources
            .keys()
            .filter_map(|id| match id {
                ResourceId::Group(group) => Some(ResourceId::Container(group.clone())),
                ResourceId::Channel(_) => Some(id.clone()),
                _ => None,
            })
            .collect();
        if !ids.is_empty() {
            let text = "starts with `babybot chat`".to_owned();
            self.notes.push(Note { kind: NoteKind::Starts, ids, text });
        }
    }

    fn note(&mut self, kind: NoteKind, id: &ResourceId, text: String) {
        self.notes.push(Note { kind, ids: vec![id.clone()], text });
    }

    fn finish(mut self, parent: Option<u64>) -> Plan {
        self.notes.sort_by(|one, two| (one.kind, &one.ids).cmp(&(two.kind, &two.ids)));
        let removals = self.removals.into_values().rev();
        Plan {
            parent,
            steps: removals.chain(self.build.into_values()).collect(),
            notes: self.notes,
        }
    }
}

fn global_memory(before: Option<&Spec>, look: Option<&Known<Seen>>) -> Verdict {
    let work = Work::WriteGlobalMemory;
    match look {
        Some(Known::Is(Seen::GlobalMemory)) => {
            adopt_unless(before, "the file is already there", Spec::GlobalMemory)
        }
        Some(Known::Absent) if before.is_some() => mend("the file is gone", None, work),
        Some(Known::Absent) => create(work),
        look => unknown(look),
    }
}

fn folder(group: &GroupName, before: Option<&Spec>, look: Option<&Known<Seen>>) -> Verdict {
    let work = Work::MakeFolders { group: group.clone(), owner: None };
    match look {
        Some(Known::Is(Seen::Folder { missing, .. })) if missing.is_empty() => {
            adopt_unless(before, "the folders are already there", Spec::Folder)
        }
        // The folder that people know is there; what babybot keeps beside it is made.
        Some(Known::Is(Seen::Folder { missing, .. }))
            if before.is_none() && !missing.contains(&format!("groups/{group}")) =>
        {
            let reason = "the folder is already there".to_owned();
            let from = Some(Spec::Folder);
            Verdict::Change(Change { action: Action::Adopt, reason, from, work, risk: Risk::Safe })
        }
        Some(Known::Is(Seen::Folder { missing, .. })) => {
            let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
            mend(&format!("without {}", missing.join(", ")), None, work)
        }
        Some(Known::Absent) if before.is_some() => mend("its folders are gone", None, work),
        Some(Known::Absent) => create(work),
        look => unknown(look),
    }
}

fn settings(
    group: &GroupName,
    env: &BTreeMap<String, String>,
    before: Option<&Spec>,
    look: Option<&Known<Seen>>,
) -> Verdict {
    let wanted = Spec::Settings { env: env.clone() };
    let work = Work::WriteSettings { group: group.clone(), env: env.clone() };
    let unchanged = before == Some(&wanted);
    match look {
        Some(Known::Absent) => match before {
            None => create(work),
            Some(_) if unchanged => mend("the file is gone", None, work),
            Some(before) => change("the manifest changed", Some(before.clone()), work),
        },
        Some(Known::Is(Seen::Settings { env: Some(found) })) if found == env => match before {
            Some(before) if !unchanged => {
                change("the manifest changed", Some(before.clone()), work)
            }
            _ => adopt_unless(before, "the file already says this", wanted),
        },
        Some(Known::Is(Seen::Settings { env: found })) => {
            let found = found.clone().map(|env| Spec::Settings { env });
            match before {
                Some(_) if unchanged => mend("the file was edited", found, work),
                Some(_) => change("the manifest changed", found, work),
                None if found.is_some() => change("an older file is there", found, work),
                None => Verdict::Change(Change {
                    action: Action::Change,
                    reason: "replaces a file that babybot did not write".to_owned(),
                    from: None,
                    work,
                    risk: Risk::Destructive,
                }),
            }
        }
        look => unknown(look),
    }
}

fn recorded(spec: &Spec, before: Option<&Spec>) -> Verdict {
    let work = Work::Record { spec: spec.clone() };
    match (before, spec) {
        (None, _) => create(work),
        (Some(before), _) if before == spec => Verdict::Nothing,
        (Some(before), Spec::Group(_)) => {
            change("effective at next wake", Some(before.clone()), work)
        }
        (Some(before), _) => change("effective at next turn", Some(before.clone()), work),
    }
}

fn create(work: Work) -> Verdict {
    let (action, reason) = (Action::Create, String::new());
    Verdict::Change(Change { action, reason, from: None, work, risk: Risk::Safe })
}

fn change(reason: &str, from: Option<Spec>, work: Work) -> Verdict {
    let reason = reason.to_owned();
    Verdict::Change(Change { action: Action::Change, reason, from, work, risk: Risk::Safe })
}

fn mend(reason: &str, from: Option<Spec>, work: Work) -> Verdict {
    let reason = reason.to_owned();
    Verdict::Change(Change { action: Action::Mend, reason, from, work, risk: Risk::Safe })
}

fn adopt_unless(before: Option<&Spec>, reason: &str, spec: Spec) -> Verdict {
    if before.is_some() {
        return Verdict::Nothing;
    }
    let (from, work) = (Some(spec.clone()), Work::Record { spec });
    let reason = reason.to_owned();
    Verdict::Change(Change { action: Action::Adopt, reason, from, work, risk: Risk::Safe })
}

fn unknown(look: Option<&Known<Seen>>) -> Verdict {
    Verdict::Unknown(why_unknown(look))
}

fn why_unknown(look: Option<&Known<Seen>>) -> String {
    match look {
        None => "nobody looked".to_owned(),
        Some(Known::Unknown(why)) => why.clone(),
        Some(Known::Is(_) | Known::Absent) => "the look says nothing about it".to_owned(),
    }
}

fn removal(id: &ResourceId, risk: Risk) -> Step {
    Step {
        id: id.clone(),
        action: Action::Remove,
        reason: "no longer in the manifest".to_owned(),
        fields: Vec::new(),
        risk,
        at: None,
        work: Work::Forget,
    }
}

fn leftover(id: &ResourceId, group: &GroupName, processes: u32) -> Step {
    let plural = if processes == 1 { "" } else { "es" };
    Step {
        id: id.clone(),
        action: Action::Stop,
        reason: format!("left over without a controller, {processes} process{plural}"),
        fields: Vec::new(),
        risk: Risk::Disruptive,
        at: None,
        work: Work::StopLeftover { group: group.clone() },
    }
}

/// What a resource stands on.
fn foundations(id: &ResourceId, spec: &Spec) -> Vec<ResourceId> {
    match (id, spec) {
        (ResourceId::Settings(group), _) => vec![ResourceId::Folder(group.clone())],
        (ResourceId::Group(name), Spec::Group(group)) => vec![
            ResourceId::Model(group.model.clone()),
            ResourceId::GlobalMemory,
            ResourceId::Folder(name.clone()),
            ResourceId::Settings(name.clone()),
        ],
        _ => Vec::new(),
    }
}

fn worst(risk: Risk, fields: &[FieldChange]) -> Risk {
    fields.iter().map(|field| field.risk).fold(risk, Risk::max)
}

/// The command that gets a model, for the server that is to have it.
fn pull(url: &str, model: &str) -> String {
    if url == "http://127.0.0.1:11434" {
        format!("`ollama pull {model}`")
    } else {
        format!("`OLLAMA_HOST={url} ollama pull {model}`")
    }
}
