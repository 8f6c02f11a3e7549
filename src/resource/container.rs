//! What the sandbox of a group is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Capabilities, GroupSpec, InstanceSpec, MilliCpus, ResourceId, RuntimeKind, RuntimeRef, Spec,
    UserId, digest,
};
use crate::name::GroupName;
use crate::unit::ByteSize;

/// What the sandbox of a group is made of. Any change of it replaces the sandbox; nothing of a
/// sandbox is updated in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What it is made with.
    pub runtime: RuntimeKind,
    /// The image, as [`super::ImageSpec::reference`] has it; `None` where there are no images.
    pub image: Option<String>,
    /// Whom the agent runs as, where the runtime is told.
    pub user: Option<UserId>,
    /// Whether it is the main group's, which is given more to read.
    pub main: bool,
    /// Processor time, where the runtime enforces it.
    pub cpus: Option<MilliCpus>,
    /// Memory, where the runtime enforces it.
    pub memory: Option<ByteSize>,
    /// Processes and threads, where the runtime enforces it.
    pub pids: Option<u32>,
    /// Where its container engine is; `None`: it has none, or was recorded before engines were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
}

impl ContainerSpec {
    /// The sandbox of a group among these specs.
    #[must_use]
    pub fn of(group: &GroupSpec, specs: &BTreeMap<ResourceId, Spec>) -> Self {
        let able = group.capabilities;
        let id = group.image.clone().map(ResourceId::Image);
        let image = match id.and_then(|id| specs.get(&id)) {
            Some(Spec::Image(image)) => Some(image.reference()),
            _ => None,
        };
        Self {
            runtime: group.runtime,
            image,
            user: group.user,
            main: group.main,
            cpus: able.limits.cpus.then_some(group.limits.cpus),
            memory: able.limits.memory.then_some(group.limits.memory),
            pids: able.limits.pids.then_some(group.limits.pids),
            engine: group.engine.clone().filter(|_| able.images),
        }
    }

    /// The runtime that it is made with.
    #[must_use]
    pub fn reference(&self) -> RuntimeRef {
        RuntimeRef { kind: self.runtime, endpoint: self.engine.clone() }
    }

    /// What its runtime can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::expected(self.runtime)
    }

    /// The digest that a running sandbox is labelled with. The version in front is that of this
    /// form: another form by itself replaces nothing.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        format!("{DIGEST_FORM}:{}", &digest(&text)["sha256:".len()..][..16])
    }

    /// Whether a sandbox with this label was made from something else. A digest of another form
    /// cannot be compared; what was changed of such a sandbox is seen by looking at it.
    #[must_use]
    pub fn differs_from(&self, label: &str) -> bool {
        let form = label.split_once(':').map_or("", |(form, _)| form);
        let is_form = |number: &str| !number.is_empty() && number.parse::<u32>().is_ok();
        let other = form != DIGEST_FORM && form.strip_prefix('v').is_some_and(is_form);
        !other && label != self.digest()
    }
}

/// The version of the digest's form.
const DIGEST_FORM: &str = "v1";

/// The sandboxes of all groups among these specs.
#[must_use]
pub fn containers(specs: &BTreeMap<ResourceId, Spec>) -> BTreeMap<GroupName, ContainerSpec> {
    let groups = specs.iter().filter_map(|(id, spec)| match (id, spec) {
        (ResourceId::Group(name), Spec::Group(group)) => {
            Some((name.clone(), ContainerSpec::of(group, specs)))
        }
        _ => None,
    });
    groups.collect()
}

/// The runtimes that the sandboxes of these specs are made with, by group.
#[must_use]
pub fn runtimes(specs: &BTreeMap<ResourceId, Spec>) -> BTreeMap<GroupName, RuntimeRef> {
    let groups = specs.iter().filter_map(|(id, spec)| match (id, spec) {
        (ResourceId::Group(name), Spec::Group(group)) => Some((name.clone(), group.reference())),
        _ => None,
    });
    groups.collect()
}

/// Where the container engine of these specs is, if they say so.
#[must_use]
pub fn engine(specs: &BTreeMap<ResourceId, Spec>) -> Option<String> {
    runtimes(specs).into_values().find_map(|reference| reference.endpoint)
}

/// What all groups share among these specs; `None` where nothing was applied.
#[must_use]
pub fn instance(specs: &BTreeMap<ResourceId, Spec>) -> Option<&InstanceSpec> {
    match specs.get(&ResourceId::Instance) {
        Some(Spec::Instance(instance)) => Some(instance),
        _ => None,
    }
}
