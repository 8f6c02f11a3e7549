//! What a manifest means: the resources that should be, each with its spec and its places.
//!
//! A valid manifest goes in, defaults filled in, with what was settled about the
//! machine: which runtime, which user, which program. Looks at nothing itself;
//! of what was applied before it knows only what [`choose`] is told.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::manifest::{
    Declared, Fallback, Group, ImageSource, KindWish, Manifest, Override, RuntimeWish, Span,
};
use crate::name::{ChannelName, GroupName, ImageTag, ProjectName};
use crate::observed::Known;
use crate::resource::{
    self, ChannelSpec, ContainerSpec, GroupSpec, ImageSpec, ResourceId, RuntimeKind, Spec, UserId,
};

/// The state a manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The project as the manifest calls it.
    pub name: ProjectName,
    /// What the assistant is called.
    pub assistant: String,
    /// Its time zone, an IANA name; `None`: the machine's own.
    pub timezone: Option<String>,
    /// What sandboxes are made with, and why.
    pub runtime: Choice,
    /// Everything that should be, in build order.
    pub resources: BTreeMap<ResourceId, Wanted>,
    /// What the sandbox of each group is made of, whenever it has one.
    pub containers: BTreeMap<GroupName, ContainerSpec>,
    /// What holds of this state and no field of it says.
    pub remarks: Vec<Remark>,
    /// What the environment said instead of the manifest.
    pub overrides: Vec<Override>,
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

/// What decides, beside the manifest, what it means on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// What sandboxes are made with.
    pub runtime: Choice,
    /// Whom agents of containers run as.
    pub user: Option<UserId>,
    /// Whom the folders of groups are given to; `None`: whoever makes them keeps them.
    pub owner: Option<UserId>,
    /// Where the container engine is, where that is known.
    pub engine: Option<String>,
    /// The digest of the babybot that images are built around and of how they are put together,
    /// as `sha256:…`; `None`: there is none that fits.
    pub binary: Option<String>,
    /// What a reader should know about the walls of the runtime.
    pub warnings: Vec<String>,
    /// What the environment said instead of the manifest.
    pub overrides: Vec<Override>,
}

/// What sandboxes are made with, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The runtime.
    pub kind: RuntimeKind,
    /// Why this one, for a person; empty where there was no choice.
    pub reason: String,
    /// Why it may be weaker than it should be.
    pub doubt: Option<Doubt>,
}

/// Why a choice may be weaker than it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "text", rename_all = "snake_case")]
pub enum Doubt {
    /// An engine was found that does not answer: its words, and how to start it. Matters only where
    /// others than the owner drive an agent, or its model decides for itself.
    Silent(String),
    /// The environment says so and not the manifest: always needs approval.
    Environment(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(text) | Self::Environment(text) => f.write_str(text),
        }
    }
}

impl Default for Choice {
    fn default() -> Self {
        Self { kind: RuntimeKind::None, reason: String::new(), doubt: None }
    }
}

/// There is no container runtime, and the manifest wants nothing less.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`runtime.fallback = \"error\"` needs a container engine, and {found}")]
pub struct NoRuntime {
    /// What was found instead.
    pub found: String,
}

/// Chooses a runtime: what is named, or the strongest there is, but never a weaker one than what
/// was applied because something stopped.
///
/// `docker` says where an engine was found and of which version, `applied` what the last
/// generation was applied with.
///
/// # Errors
/// [`NoRuntime`], where the manifest would rather have an error than a plain process.
pub fn choose(
    wish: &RuntimeWish,
    docker: &Known<String>,
    applied: Option<RuntimeKind>,
) -> Result<Choice, NoRuntime> {
    let choice = |kind, reason: String| Choice { kind, reason, doubt: None };
    match wish.kind.value {
        KindWish::None => return Ok(choice(RuntimeKind::None, "named".to_owned())),
        KindWish::Docker => {
            let reason = match docker {
                Known::Is(engine) => format!("named: {engine}"),
                Known::Absent => "named, but no engine was found".to_owned(),
                Known::Unknown(why) => format!("named, but it does not answer: {why}"),
            };
            return Ok(choice(RuntimeKind::Docker, reason));
        }
        KindWish::Auto => {}
    }
    let found = match docker {
        Known::Is(engine) => return Ok(choice(RuntimeKind::Docker, format!("auto: {engine}"))),
        Known::Absent => {
            "no container engine was found; install Docker or Podman to isolate agents".to_owned()
        }
        Known::Unknown(why) => format!("docker was found and does not answer: {why}"),
    };
    if applied == Some(RuntimeKind::Docker) {
        let reason = format!("auto: docker is applied, but {found}");
        return Ok(choice(RuntimeKind::Docker, reason));
    }
    if wish.fallback == Fallback::Error {
        return Err(NoRuntime { found });
    }
    let first = applied.is_none() && matches!(docker, Known::Unknown(_));
    Ok(Choice {
        kind: RuntimeKind::None,
        reason: format!("auto: {found}"),
        doubt: first.then_some(Doubt::Silent(found)),
    })
}

/// Whom agents of containers run as where nobody says it: nobody in particular.
pub const USER_DEFAULT: UserId = UserId { uid: 10_001, gid: 10_001 };

impl Desired {
    /// Works out what a manifest asks for on a machine like this.
    #[must_use]
    pub fn new(manifest: &Manifest, setting: &Setting) -> Self {
        let mut resources = BTreeMap::new();
        resources.insert(ResourceId::GlobalMemory, Wanted::unwritten(Spec::GlobalMemory));
        let image = image(manifest, setting);
        let tag = image.as_ref().map(|(tag, _)| tag.clone());
        resources.extend(image.map(|(tag, wanted)| (ResourceId::Image(tag), wanted)));
        for (name, model) in &manifest.models {
            let wanted = Wanted::declared(Spec::Model(model.spec.clone()), model);
            resources.insert(ResourceId::Model(name.clone()), wanted);
        }
        for (name, group) in &manifest.groups {
            resources.extend(group_resources(name, group, manifest, setting, tag.as_ref()));
        }
        resources.extend(channels(manifest));
        Self {
            name: manifest.name.value.clone(),
            assistant: manifest.assistant.value.clone(),
            timezone: manifest.timezone.as_ref().map(|zone| zone.value.clone()),
            runtime: chosen(manifest, setting),
            containers: containers_of(&resources),
            remarks: remarks(manifest, setting),
            overrides: setting.overrides.clone(),
            resources,
        }
    }

    /// What was applied, as a state to keep: without places, and without what only outlives its
    /// group.
    #[must_use]
    pub fn of_applied(name: ProjectName, specs: &BTreeMap<ResourceId, Spec>) -> Self {
        let groups: BTreeMap<&GroupName, &GroupSpec> = specs
            .iter()
            .filter_map(|(id, spec)| match (id, spec) {
                (ResourceId::Group(name), Spec::Group(group)) => Some((name, &**group)),
                _ => None,
            })
            .collect();
        let kept = |id: &ResourceId| match id {
            ResourceId::Image(tag) => {
                groups.values().any(|group| group.image.as_ref() == Some(tag))
            }
            id => id.group().is_none_or(|group| groups.contains_key(group)),
        };
        let resources: BTreeMap<ResourceId, Wanted> = specs
            .iter()
            .filter(|(id, _)| kept(id))
            .map(|(id, spec)| (id.clone(), Wanted::unwritten(spec.clone())))
            .collect();
        let any = groups.values().next();
        let kind = any.map_or(RuntimeKind::None, |group| group.runtime);
        Self {
            name,
            assistant: any.map_or_else(String::new, |group| group.assistant.clone()),
            timezone: any.and_then(|group| group.timezone.clone()),
            runtime: Choice { kind, reason: "as it was applied".to_owned(), doubt: None },
            containers: containers_of(&resources),
            remarks: Vec::new(),
            overrides: Vec::new(),
            resources,
        }
    }
}

/// The choice, with what the environment adds to its doubt.
fn chosen(manifest: &Manifest, setting: &Setting) -> Choice {
    let mut choice = setting.runtime.clone();
    let over = setting.overrides.iter().find(|over| over.path == "runtime");
    if let (None, KindWish::None, Some(over)) = (&choice.doubt, manifest.runtime.kind.value, over) {
        let text = format!("{} says so, not the manifest", over.variable);
        choice.doubt = Some(Doubt::Environment(text));
    }
    choice
}

fn containers_of(resources: &BTreeMap<ResourceId, Wanted>) -> BTreeMap<GroupName, ContainerSpec> {
    let specs = resources.iter().map(|(id, wanted)| (id.clone(), wanted.spec.clone()));
    resource::containers(&specs.collect())
}

/// The image that agents run from, where the runtime has images.
fn image(manifest: &Manifest, setting: &Setting) -> Option<(ImageTag, Wanted)> {
    if setting.runtime.kind != RuntimeKind::Docker {
        return None;
    }
    let wish = &manifest.runtime.image;
    let spec = match &wish.source {
        ImageSource::Named(reference) => ImageSpec::Named { reference: reference.clone() },
        ImageSource::Built { base, packages, binary } => ImageSpec::Built {
            base: base.clone(),
            packages: packages.clone(),
            // Without a program there is no content: such an image is never built.
            content: setting.binary.clone().unwrap_or_default(),
            user: setting.user.unwrap_or(USER_DEFAULT),
            binary: binary.clone(),
        },
    };
    let tag = spec.tag();
    let wanted = Wanted { spec: Spec::Image(spec), at: wish.at, fields: wish.fields.clone() };
    Some((tag, wanted))
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
    setting: &Setting,
    image: Option<&ImageTag>,
) -> [(ResourceId, Wanted); 3] {
    let at = Some(group.at);
    let (env, mut fields): (BTreeMap<_, _>, BTreeMap<_, _>) = group
        .fields
        .iter()
        .map(|(path, span)| (path.clone(), *span))
        .partition(|(path, _)| path == "env" || path.starts_with("env."));
    let zone = manifest.timezone.as_ref().and_then(|zone| zone.at);
    let shared = [
        ("runtime", manifest.runtime.kind.at),
        ("runtime.parallel", manifest.runtime.parallel.at),
        ("runtime.docker.host", manifest.runtime.docker_host.as_ref().and_then(|host| host.at)),
        ("assistant.name", manifest.assistant.at),
        ("assistant.timezone", zone),
    ];
    for (path, span) in shared {
        if let Some(span) = span {
            fields.entry(path.to_owned()).or_insert(span);
        }
    }
    let spec = Spec::Group(Box::new(group_spec(group, manifest, setting, image)));
    let folder = setting.owner.map_or(Spec::Folder, Spec::GivenFolder);
    let settings = Spec::Settings { env: group.env.clone() };
    [
        (ResourceId::Folder(name.clone()), Wanted { spec: folder, at, fields: BTreeMap::new() }),
        (ResourceId::Settings(name.clone()), Wanted { spec: settings, at, fields: env }),
        (ResourceId::Group(name.clone()), Wanted { spec, at, fields }),
    ]
}

fn group_spec(
    group: &Group,
    manifest: &Manifest,
    setting: &Setting,
    image: Option<&ImageTag>,
) -> GroupSpec {
    // The order in which bindings are written means nothing, so that moving one is no change.
    let mut bind = group.bind.clone();
    bind.sort();
    bind.dedup();
    let docker = setting.runtime.kind == RuntimeKind::Docker;
    let named = manifest.runtime.docker_host.as_ref().map(|host| host.value.clone());
    let engine = setting.engine.clone().or(named);
    GroupSpec {
        assistant: manifest.assistant.value.clone(),
        timezone: manifest.timezone.as_ref().map(|zone| zone.value.clone()),
        main: group.main,
        bind,
        trigger: group.trigger.clone(),
        requires_trigger: group.requires_trigger,
        model: group.model.clone(),
        lifecycle: group.lifecycle,
        runtime: setting.runtime.kind,
        image: image.cloned(),
        user: setting.user.filter(|_| docker),
        engine: engine.filter(|_| docker),
        parallel: manifest.runtime.parallel.value,
        limits: group.limits,
    }
}

/// The declared channels, and the built-in terminal where a group binds it.
fn channels(manifest: &Manifest) -> BTreeMap<ResourceId, Wanted> {
    let mut channels: BTreeMap<ResourceId, Wanted> = manifest
        .channels
        .iter()
        .map(|(name, channel)| {
            let wanted = Wanted::declared(Spec::Channel(channel.spec.clone()), channel);
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

fn remarks(manifest: &Manifest, setting: &Setting) -> Vec<Remark> {
    let ids: Vec<ResourceId> = manifest.groups.keys().cloned().map(ResourceId::Group).collect();
    if ids.is_empty() {
        return Vec::new();
    }
    let remark = |text: String| Remark { ids: ids.clone(), text };
    let mut remarks = Vec::new();
    match setting.runtime.kind {
        RuntimeKind::Docker => {
            remarks.push(remark(
                "runtime docker isolates: no network, only its group's folders".to_owned(),
            ));
            remarks.extend(setting.warnings.iter().cloned().map(remark));
        }
        RuntimeKind::None => {
            let texts = [
                "runtime none does not isolate: the agent runs as you, on this machine",
                "limits.cpus, limits.memory and limits.pids are not enforced by runtime none",
            ];
            remarks.extend(texts.map(|text| remark(text.to_owned())));
        }
    }
    remarks.extend(setting.overrides.iter().map(|over| Remark {
        ids: Vec::new(),
        text: format!("{} in the environment: {} is {}", over.variable, over.key(), over.value),
    }));
    remarks
}
