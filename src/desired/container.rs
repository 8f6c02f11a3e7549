//! What the sandbox of each group is made of, whenever it has one.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use super::Wanted;
use crate::name::GroupName;
use crate::resource::{self, ContainerSpec, ResourceId};

pub(super) fn wanted(
    resources: &BTreeMap<ResourceId, Wanted>,
) -> BTreeMap<GroupName, ContainerSpec> {
    let specs = resources.iter().map(|(id, wanted)| (id.clone(), wanted.spec.clone()));
    resource::containers(&specs.collect())
}
