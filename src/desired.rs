//! What a manifest means: the resources that should be, each with its spec and its places.
//!
//! A valid manifest goes in, defaults filled in; nothing here can fail. Knows
//! nothing of what is on the machine and nothing of what was applied before.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::{Declared, Group, Manifest, Span};
use crate::name::{ChannelName, GroupName, ProjectName};
use crate::resource::{ChannelSpec, GroupSpec, ResourceId, RuntimeKind, Spec};

/// The state a manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The project as the manifest calls it.
    pub name: ProjectName,
    /// What the assistant is called.
    pub assistant: String,
    /// Its time zone, an IANA name; `None`: the machine's own.
    pub timezone: Option<String>,
    /// What sandboxes are made with.
    pub runtime: RuntimeKind,
    /// Everything that should be, in build order.
    pub resources: BTreeMap<ResourceId, Wanted>,
    /// What holds of this state and no field of it says.
    pub remarks: Vec<Remark>,
}

/// A resource that should be, and where the manifest asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// What was asked for.
    pub spec: Spec,
    /// The place of its name; `None` for what is there without being written.
    pub at: Option<Span>,
    /// The places of the fields that were written, by their path in [`Spec::fields`].
    pub fields: BTreeMap<String, Span>,
}

/// Something a reader should know about some resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The resources it is about.
    pub ids: Vec<ResourceId>,
    /// What to know.
    pub text: String,
}

impl Desired {
    /// Works out what a manifest asks for.
    #[must_use]
    pub fn new(manifest: &Manifest) -> Self {
        let mut resources = BTreeMap::new();
        resources.insert(ResourceId::GlobalMemory, Wanted::unwritten(Spec::GlobalMemory));
        for (name, model) in &manifest.models {
            let wanted = Wanted::declared(Spec::Model(model.spec.clone()), model);
            resources.insert(ResourceId::Model(name.clone()), wanted);
        }
        for (name, group) in &manifest.groups {
            resources.extend(group_resources(name, group, manifest));
        }
        resources.extend(channels(manifest));
        Self {
            name: manifest.name.value.clone(),
            assistant: manifest.assistant.value.clone(),
            timezone: manifest.timezone.as_ref().map(|zone| zone.value.clone()),
            runtime: manifest.runtime.value,
            remarks: remarks(manifest),
            resources,
        }
    }
}

impl Wanted {
    fn unwritten(spec: Spec) -> Self {
        Self { spec, at: None, fields: BTreeMap::new() }
    }

    fn declared<T>(spec: Spec, declared: &Declared<T>) -> Self {
        Self { spec, at: Some(declared.at), fields: declared.fields.clone() }
    }
}

fn group_resources(
    name: &GroupName,
    group: &Group,
    manifest: &Manifest,
) -> [(ResourceId, Wanted); 3] {
    let at = Some(group.at);
    let (env, mut fields): (BTreeMap<_, _>, BTreeMap<_, _>) = group
        .fields
        .iter()
        .map(|(path, span)| (path.clone(), *span))
        .partition(|(path, _)| path == "env" || path.starts_with("env."));
    let zone = manifest.timezone.as_ref().and_then(|zone| zone.at);
    let shared = [
        ("runtime", manifest.runtime.at),
        ("assistant.name", manifest.assistant.at),
        ("assistant.timezone", zone),
    ];
    for (path, span) in shared {
        if let Some(span) = span {
            fields.entry(path.to_owned()).or_insert(span);
        }
    }
    let spec = Spec::Group(Box::new(group_spec(group, manifest)));
    let settings = Spec::Settings { env: group.env.clone() };
    [
        (
            ResourceId::Folder(name.clone()),
            Wanted { spec: Spec::Folder, at, fields: BTreeMap::new() },
        ),
        (ResourceId::Settings(name.clone()), Wanted { spec: settings, at, fields: env }),
        (ResourceId::Group(name.clone()), Wanted { spec, at, fields }),
    ]
}

fn group_spec(group: &Group, manifest: &Manifest) -> GroupSpec {
    // The order in which bindings are written means nothing, so that moving one is no change.
    let mut bind = group.bind.clone();
    bind.sort();
    bind.dedup();
    GroupSpec {
        assistant: manifest.assistant.value.clone(),
        timezone: manifest.timezone.as_ref().map(|zone| zone.value.clone()),
        main: group.main,
        bind,
        trigger: group.trigger.clone(),
        requires_trigger: group.requires_trigger,
        model: group.model.clone(),
        lifecycle: group.lifecycle,
        runtime: manifest.runtime.value,
        image: None,
        user: None,
        engine: None,
        parallel: crate::resource::PARALLEL_DEFAULT,
        limits: group.limits,
    }
}

/// The declared channels, and the built-in terminal where a group binds it.
fn channels(manifest: &Manifest) -> BTreeMap<ResourceId, Wanted> {
    let mut channels: BTreeMap<ResourceId, Wanted> = manifest
        .channels
        .iter()
        .map(|(name, channel)| {
            let wanted = Wanted::declared(Spec::Channel(channel.spec), channel);
            (ResourceId::Channel(name.clone()), wanted)
        })
        .collect();
    let terminal = ChannelName::terminal();
    let mut bindings = manifest.groups.values().flat_map(|group| &group.bind);
    if bindings.any(|binding| binding.channel == terminal) {
        channels
            .entry(ResourceId::Channel(terminal))
            .or_insert_with(|| Wanted::unwritten(Spec::Channel(ChannelSpec::Terminal)));
    }
    channels
}

fn remarks(manifest: &Manifest) -> Vec<Remark> {
    let ids: Vec<ResourceId> = manifest.groups.keys().cloned().map(ResourceId::Group).collect();
    if ids.is_empty() {
        return Vec::new();
    }
    match manifest.runtime.value {
        RuntimeKind::Docker => Vec::new(),
        RuntimeKind::None => {
            let remark = |text: &str| Remark { ids: ids.clone(), text: text.to_owned() };
            vec![
                remark("runtime none does not isolate: the agent runs as you, on this machine"),
                remark(
                    "limits.cpus, limits.memory and limits.pids are not enforced by runtime none",
                ),
            ]
        }
    }
}
