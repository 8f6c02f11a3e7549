//! A plan in the making: one verdict for each resource, then what depends on several.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Desired, Doubt, Wanted};
use crate::manifest::Span;
use crate::name::GroupName;
use crate::observed::{
    AgentSeen, Availability, Controller, Known, Observed, Owner, SandboxSeen, Seen,
};
use crate::plan::containers::{self, Sandboxes, Wish};
use crate::plan::risk::{self, Sides};
use crate::plan::{Action, FieldChange, Note, NoteKind, Plan, Step, Work, record};
use crate::resource::{
    self, ContainerSpec, GroupSpec, ImageSpec, ModelSpec, ResourceId, Risk, RuntimeKind, Spec,
    UserId,
};

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
#[allow(clippy::large_enum_variant, reason = "one is made, and taken apart at once")]
enum Verdict {
    Nothing,
    Do(StepDraft),
    Unknown(String),
    /// Somebody else has to get it, and this says how.
    Missing(String),
}

/// A step before it knows its place, its fields' risks and its id.
struct StepDraft {
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
                    self.note(NoteKind::Unknown, id, format!("unknown: {why}"));
                }
                Verdict::Missing(how) => {
                    self.held.insert(id.clone());
                    self.note(NoteKind::Missing, id, how);
                }
                Verdict::Do(change) => match self.in_the_way(id, &wanted.spec) {
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
            (ResourceId::Image(_), Spec::Image(spec)) => image(spec, before, look),
            (ResourceId::GlobalMemory, Spec::GlobalMemory) => global_memory(before, look),
            (ResourceId::Folder(group), Spec::Folder) => folder(group, None, before, look),
            (ResourceId::Folder(group), Spec::GivenFolder(owner)) => {
                folder(group, Some(*owner), before, look)
            }
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
            work: change.work,
        }
    }

    /// Says of a field that the environment decides it.
    fn mark_overrides(&self, id: &ResourceId, fields: &mut [FieldChange]) {
        if !matches!(id, ResourceId::Group(_) | ResourceId::Image(_)) {
            return;
        }
        for field in fields {
            let over = self.desired.overrides.iter().find(|over| over.path == field.path);
            field.meaning = over.map(|over| format!("from {}", over.variable));
        }
    }

    fn remove(&mut self) {
        let gone = self.before.keys().filter(|id| !self.desired.resources.contains_key(id));
        let in_use = self.in_use();
        for id in gone {
            match id {
                ResourceId::Group(group) => {
                    self.removals.insert(id.clone(), removal(id, Risk::Destructive));
                    let text = format!("kept: groups/{group}, its sessions and its messages");
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
                // See `contain` and `remove_images`: they are looked for, not only recorded.
                ResourceId::Container(_) | ResourceId::Image(_) => {}
            }
        }
    }

    /// The images, models and channels of groups that stay as they were applied, and one of those groups.
    fn in_use(&self) -> BTreeMap<ResourceId, ResourceId> {
        let held = self.held.iter().filter_map(|id| Some((id, self.before.get(id)?)));
        let mut in_use = BTreeMap::new();
        for (id, spec) in held {
            if let Spec::Group(group) = spec {
                in_use.insert(ResourceId::Model(group.model.clone()), id.clone());
                let image = group.image.clone().map(ResourceId::Image);
                in_use.extend(image.map(|image| (image, id.clone())));
                for binding in &group.bind {
                    in_use.insert(ResourceId::Channel(binding.channel.clone()), id.clone());
                }
            }
        }
        in_use
    }

    /// With a controller, agents are its own, and it is told what to do with them; without one they
    /// are left over; where there may be one, they may be either.
    fn contain(&mut self) {
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
            let ours: Vec<_> = sandboxes(Some(look)).iter().filter(|s| is_ours(s)).collect();
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
                self.note(NoteKind::Unknown, id, format!("unknown: {why}"));
            }
            for stranger in sandboxes(Some(look)).iter().filter(|sandbox| !is_ours(sandbox)) {
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
            let verdict = Sandboxes { group, seen: sandboxes(look), agent, wish }.verdict();
            let at = wanted.and_then(|wanted| wanted.at);
            self.take_verdict(&id, at, verdict);
        }
    }

    fn take_verdict(&mut self, id: &ResourceId, at: Option<Span>, verdict: containers::Verdict) {
        let change = match verdict {
            containers::Verdict::Nothing => return,
            containers::Verdict::Wait(text) => {
                return self.note(NoteKind::Waiting, id, text.to_owned());
            }
            containers::Verdict::Do(change) => change,
        };
        let verb = match &change.work {
            Work::StartAgent { .. } => Some("start"),
            Work::ReplaceAgent { .. } => Some("replace"),
            _ => None,
        };
        if let (Some(verb), Some(below)) = (verb, self.in_the_way_of_agent(id)) {
            return self.note(NoteKind::Waiting, id, format!("{verb} waits for {below}"));
        }
        let starts = matches!(change.work, Work::StartAgent { .. });
        let step = Step {
            id: id.clone(),
            action: change.action,
            reason: change.reason,
            risk: worst(if starts { Risk::Safe } else { Risk::Disruptive }, &change.fields),
            fields: change.fields,
            at,
            work: change.work,
        };
        let steps = if step.takes_away() { &mut self.removals } else { &mut self.build };
        steps.insert(id.clone(), step);
    }

    /// What an agent stands on that is left alone, where it is to start.
    fn in_the_way_of_agent(&self, id: &ResourceId) -> Option<ResourceId> {
        let group = ResourceId::Group(id.group()?.clone());
        let wanted = self.desired.resources.get(&group)?;
        let mut below = foundations(&group, &wanted.spec);
        below.push(group);
        below.into_iter().find(|below| self.held.contains(below))
    }

    /// What the generation comes to record if all that is planned so far is done.
    fn outcome(&self) -> BTreeMap<ResourceId, Spec> {
        record(self.before, self.removals.values().chain(self.build.values()))
    }

    /// Images of ours that nothing stands on any more: those that are there, and those that are
    /// only recorded.
    fn remove_images(&mut self) {
        let in_use = self.in_use();
        let images = |id: &&ResourceId| matches!(id, ResourceId::Image(_));
        let found = self.observed.looks.keys().chain(self.before.keys()).filter(images);
        let old: BTreeSet<&ResourceId> =
            found.filter(|id| !self.desired.resources.contains_key(id)).collect();
        for id in old {
            let ResourceId::Image(tag) = id else { continue };
            let named = matches!(self.before.get(id), Some(Spec::Image(ImageSpec::Named { .. })));
            let there = match self.observed.looks.get(id) {
                Some(Known::Unknown(why)) => {
                    self.note(NoteKind::Unknown, id, format!("unknown: {why}"));
                    continue;
                }
                // An image that was not made here is nobody's to remove.
                Some(Known::Is(_)) => !named,
                Some(Known::Absent) | None => false,
            };
            let user = in_use.get(id).cloned();
            if let Some(user) = user.or_else(|| there.then(|| self.user_of_old_images()).flatten())
            {
                let text = format!("remove waits for {user}, which may still use it");
                self.note(NoteKind::Waiting, id, text);
            } else if there {
                let mut step = removal(id, Risk::Safe);
                step.reason = "no longer in use".to_owned();
                step.work = Work::RemoveImage { tag: tag.clone() };
                self.removals.insert(id.clone(), step);
            } else if self.before.contains_key(id) {
                self.removals.insert(id.clone(), removal(id, Risk::Safe));
            }
        }
    }

    /// A group whose sandbox is not known to be made from what is asked for, and is not ended
    /// before images are removed.
    fn user_of_old_images(&self) -> Option<ResourceId> {
        let specs = resource::containers(&self.outcome());
        let looks = self.observed.looks.iter();
        looks
            .filter(|(id, look)| {
                let ResourceId::Container(group) = id else { return false };
                if matches!(look, Known::Unknown(_)) {
                    return true;
                }
                let fresh = specs.get(group).map(ContainerSpec::digest);
                let ended = self.removals.get(id).map(|step| &step.work);
                sandboxes(Some(look)).iter().filter(|sandbox| is_ours(sandbox)).any(|sandbox| {
                    let ends = match ended {
                        Some(Work::RemoveSandboxes { sandboxes, .. }) => {
                            sandboxes.contains(&sandbox.id)
                        }
                        Some(_) => true,
                        None => false,
                    };
                    // One without a digest is of a runtime that has no images.
                    !ends && sandbox.digest.is_some() && sandbox.digest != fresh
                })
            })
            .map(|(id, _)| id.clone())
            .next()
    }

    /// Says it wherever an agent comes to run without a wall: on its group's own step, or on its
    /// model's where the group itself stays as it was.
    fn mark_missing_walls(&mut self) {
        let outcome = self.outcome();
        for (id, spec) in &outcome {
            let (ResourceId::Group(name), Spec::Group(group)) = (id, spec) else { continue };
            let before = match self.before.get(id) {
                Some(Spec::Group(group)) => Some(&**group),
                _ => None,
            };
            let unwalled = |group, specs| risk::unwalled(group, specs);
            let comes = !before.is_some_and(|before| unwalled(before, self.before))
                && unwalled(group, &outcome);
            let weaker = before.is_some_and(|before| group.runtime < before.runtime);
            let doubted = before.is_none()
                && group.runtime == RuntimeKind::None
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

    fn remark(&mut self) {
        if let Controller::Unknown(why) = &self.observed.controller {
            let text = format!("could not check for a controller: {why}");
            self.notes.push(Note { kind: NoteKind::Unknown, ids: Vec::new(), text });
        }
        for (id, wanted) in &self.desired.resources {
            match &wanted.spec {
                Spec::Model(ModelSpec::Ollama { url, model, context, .. }) => {
                    self.remark_on_model(id, url, model, *context);
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

    fn remark_on_model(&mut self, id: &ResourceId, url: &str, model: &str, context: u32) {
        match self.observed.looks.get(id) {
            Some(Known::Is(Seen::Model(Availability::Present))) => {}
            Some(Known::Is(Seen::Model(Availability::Limited { tools, context_max }))) => {
                if !tools {
                    let text = "cannot use tools: its groups can talk, and do nothing else";
                    self.note(NoteKind::Limited, id, text.to_owned());
                }
                if let Some(max) = context_max {
                    let text = format!(
                        "has a context of {max} tokens at most: `context = {context}` gives no more"
                    );
                    self.note(NoteKind::Limited, id, text);
                }
            }
            Some(Known::Is(Seen::Model(Availability::Missing)) | Known::Absent) => {
                let text = format!("not on {url}: {}", pull(url, model));
                self.note(NoteKind::Missing, id, text);
            }
            Some(Known::Is(Seen::Model(Availability::Elsewhere))) => {
                let text = format!(
                    "{url} would send it to the cloud, which babybot refuses: choose a model that runs on your own server"
                );
                self.note(NoteKind::Missing, id, text);
            }
            look => {
                let why = why_unknown(look);
                self.note(NoteKind::Unknown, id, format!("could not check {url}: {why}"));
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
            let text = "starts with `babybot up`".to_owned();
            self.notes.push(Note { kind: NoteKind::Starts, ids, text });
        }
    }

    fn note(&mut self, kind: NoteKind, id: &ResourceId, text: String) {
        self.notes.push(Note { kind, ids: vec![id.clone()], text });
    }

    fn finish(mut self, parent: Option<u64>) -> Plan {
        self.notes.sort_by(|one, two| (one.kind, &one.ids).cmp(&(two.kind, &two.ids)));
        let removals = self.removals.into_values().rev();
        let image = |step: &Step| matches!(step.id, ResourceId::Image(_));
        let (images, removals): (Vec<Step>, Vec<Step>) = removals.partition(image);
        Plan {
            parent,
            steps: removals.into_iter().chain(self.build.into_values()).chain(images).collect(),
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
        Some(Known::Absent) if before.is_some() => mend("the file is missing", None, work),
        Some(Known::Absent) => create(work),
        Some(Known::Is(Seen::Wrong { why })) => make_way(why, before, Spec::GlobalMemory, work),
        look => unknown(look),
    }
}

fn image(spec: &ImageSpec, before: Option<&Spec>, look: Option<&Known<Seen>>) -> Verdict {
    let work = || Work::BuildImage { image: spec.clone() };
    match (spec, look) {
        (_, Some(Known::Is(Seen::Image))) if before.is_some() => Verdict::Nothing,
        // What is in it has to be approved all the same.
        (_, Some(Known::Is(Seen::Image))) => Verdict::Do(StepDraft {
            action: Action::Adopt,
            reason: "the image is already there".to_owned(),
            from: None,
            work: Work::Record { spec: Spec::Image(spec.clone()) },
            risk: Risk::Safe,
        }),
        (ImageSpec::Named { reference }, Some(Known::Absent)) => {
            Verdict::Missing(format!("there is no image {reference}: `docker pull {reference}`"))
        }
        (ImageSpec::Built { content, .. }, Some(Known::Absent)) if content.is_empty() => {
            let why =
                "no Linux babybot was found for the image; name one with runtime.image.binary";
            Verdict::Missing(why.to_owned())
        }
        (ImageSpec::Built { .. }, Some(Known::Absent)) => match before {
            Some(before) => mend("the image is missing", Some(before.clone()), work()),
            None => create(work()),
        },
        (_, look) => unknown(look),
    }
}

fn folder(
    group: &GroupName,
    owner: Option<UserId>,
    before: Option<&Spec>,
    look: Option<&Known<Seen>>,
) -> Verdict {
    let spec = owner.map_or(Spec::Folder, Spec::GivenFolder);
    let work = Work::MakeFolders { group: group.clone(), owner };
    let listed = |paths: &BTreeSet<String>| {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        paths.join(", ")
    };
    let (missing, foreign) = match look {
        Some(Known::Is(Seen::Folder { missing, foreign })) => (missing, foreign),
        Some(Known::Is(Seen::Wrong { why })) => return make_way(why, before, spec, work),
        Some(Known::Absent) if before.is_some() => {
            return mend("its folders are missing", None, work);
        }
        Some(Known::Absent) => return create(work),
        look => return unknown(look),
    };
    let given = owner.is_some() && !foreign.is_empty();
    match before {
        Some(before) if *before != spec => change("another owner", Some(before.clone()), work),
        None | Some(_) if missing.is_empty() && !given => {
            adopt_unless(before, "the folders are already there", spec)
        }
        // The folder that people know is there; what babybot keeps beside it is made.
        None if !missing.contains(&format!("groups/{group}")) => {
            let reason = "the folder is already there".to_owned();
            let from = Some(if given { Spec::Folder } else { spec });
            Verdict::Do(StepDraft { action: Action::Adopt, reason, from, work, risk: Risk::Safe })
        }
        _ if !missing.is_empty() => mend(&format!("without {}", listed(missing)), Some(spec), work),
        _ => mend(&format!("wrong owner: {}", listed(foreign)), Some(Spec::Folder), work),
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
        Some(Known::Is(Seen::Wrong { why })) => make_way(why, before, wanted, work),
        Some(Known::Absent) => match before {
            None => create(work),
            Some(_) if unchanged => mend("the file is missing", None, work),
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
                None => Verdict::Do(StepDraft {
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
            change("takes effect when the agent next starts", Some(before.clone()), work)
        }
        (Some(before), _) => change("takes effect with the next turn", Some(before.clone()), work),
    }
}

fn create(work: Work) -> Verdict {
    let (action, reason) = (Action::Create, String::new());
    Verdict::Do(StepDraft { action, reason, from: None, work, risk: Risk::Safe })
}

fn change(reason: &str, from: Option<Spec>, work: Work) -> Verdict {
    let reason = reason.to_owned();
    Verdict::Do(StepDraft { action: Action::Change, reason, from, work, risk: Risk::Safe })
}

fn mend(reason: &str, from: Option<Spec>, work: Work) -> Verdict {
    let reason = reason.to_owned();
    Verdict::Do(StepDraft { action: Action::Mend, reason, from, work, risk: Risk::Safe })
}

/// Moves aside whatever is in the way. Of what was never applied, a person may have put it there.
fn make_way(why: &str, before: Option<&Spec>, wanted: Spec, work: Work) -> Verdict {
    match before {
        Some(before) if *before == wanted => mend(why, None, work),
        Some(before) => change(why, Some(before.clone()), work),
        None => Verdict::Do(StepDraft {
            action: Action::Change,
            reason: format!("{why}; it is moved aside"),
            from: None,
            work,
            risk: Risk::Destructive,
        }),
    }
}

fn adopt_unless(before: Option<&Spec>, reason: &str, spec: Spec) -> Verdict {
    if before.is_some() {
        return Verdict::Nothing;
    }
    let (from, work) = (Some(spec.clone()), Work::Record { spec });
    let reason = reason.to_owned();
    Verdict::Do(StepDraft { action: Action::Adopt, reason, from, work, risk: Risk::Safe })
}

fn unknown(look: Option<&Known<Seen>>) -> Verdict {
    Verdict::Unknown(why_unknown(look))
}

fn why_unknown(look: Option<&Known<Seen>>) -> String {
    match look {
        None => "not checked".to_owned(),
        Some(Known::Unknown(why)) => why.clone(),
        Some(Known::Is(_) | Known::Absent) => "not checked".to_owned(),
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
        reason: format!("left over from an earlier run, {processes} process{plural}"),
        fields: Vec::new(),
        risk: Risk::Disruptive,
        at: None,
        work: Work::StopLeftover { group: group.clone() },
    }
}

/// The sandboxes that a look shows.
fn sandboxes(look: Option<&Known<Seen>>) -> &[SandboxSeen] {
    match look {
        Some(Known::Is(Seen::Container { sandboxes })) => sandboxes,
        _ => &[],
    }
}

fn is_ours(sandbox: &SandboxSeen) -> bool {
    sandbox.owner == Owner::Ours
}

/// What a resource stands on.
fn foundations(id: &ResourceId, spec: &Spec) -> Vec<ResourceId> {
    match (id, spec) {
        (ResourceId::Settings(group), _) => vec![ResourceId::Folder(group.clone())],
        (ResourceId::Group(name), Spec::Group(group)) => {
            let image = group.image.clone().map(ResourceId::Image);
            let others = [
                ResourceId::Model(group.model.clone()),
                ResourceId::GlobalMemory,
                ResourceId::Folder(name.clone()),
                ResourceId::Settings(name.clone()),
            ];
            image.into_iter().chain(others).collect()
        }
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
