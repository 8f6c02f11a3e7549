//! What a manifest means: the resources that should be, each with its spec and its places.
//!
//! A valid manifest goes in, defaults filled in, with what was settled about the
//! machine: which runtime, which user, which program. Looks at nothing itself;
//! of what was applied before it knows only what [`choose`] is told.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod channel;
mod choice;
mod container;
mod folder;
mod group;
mod image;
mod instance;
mod memory;
mod model;
mod remark;
mod settings;
mod users;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::{Declared, Manifest, Override, Span};
use crate::name::{GroupName, ProjectName};
use crate::resource::{
    self, Capabilities, ContainerSpec, GroupSpec, ResourceId, RuntimeKind, Spec, UserId,
};

pub use choice::{Choice, Doubt, NoRuntime, choose};
pub use image::USER_DEFAULT;
pub use remark::Remark;
pub use users::claim_users;

/// The state a manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The project as the manifest calls it.
    pub name: ProjectName,
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

/// What decides, beside the manifest, what it means on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// What sandboxes are made with.
    pub runtime: Choice,
    /// What the runtimes that were asked can do.
    pub capabilities: BTreeMap<RuntimeKind, Capabilities>,
    /// Whom agents of containers run as.
    pub user: Option<UserId>,
    /// Who of them has a user of its own.
    pub users: BTreeMap<GroupName, UserId>,
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
    /// Whether agents without a container run as root.
    pub root: bool,
}

impl Desired {
    /// Works out what a manifest asks for on a machine like this.
    #[must_use]
    pub fn new(manifest: &Manifest, setting: &Setting) -> Self {
        let mut resources = BTreeMap::from([instance::wanted(manifest, setting), memory::wanted()]);
        let image = image::wanted(manifest, setting);
        let tag = image.as_ref().map(|(tag, _)| tag.clone());
        resources.extend(image.map(|(tag, wanted)| (ResourceId::Image(tag), wanted)));
        resources.extend(model::wanted(manifest));
        for (name, group) in &manifest.groups {
            resources.extend([
                folder::wanted(name, group, setting),
                settings::wanted(name, group),
                group::wanted(name, group, manifest, setting, tag.as_ref()),
            ]);
        }
        resources.extend(channel::wanted(manifest));
        Self {
            name: manifest.name.value.clone(),
            runtime: choice::chosen(manifest, setting),
            containers: container::wanted(&resources),
            remarks: remark::remarks(manifest, setting),
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
        let instance = resource::instance(specs).map(|instance| instance.runtime.kind);
        let kind = instance.unwrap_or(Choice::default().kind);
        Self {
            name,
            runtime: Choice { kind, reason: "as it was applied".to_owned(), doubt: None },
            containers: container::wanted(&resources),
            remarks: Vec::new(),
            overrides: Vec::new(),
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
