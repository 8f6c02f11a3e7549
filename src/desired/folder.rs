//! The folders of a group, and whom they are given to.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use super::{Setting, Wanted, choice};
use crate::manifest::Group;
use crate::name::GroupName;
use crate::resource::{ResourceId, Spec};

pub(super) fn wanted(name: &GroupName, group: &Group, setting: &Setting) -> (ResourceId, Wanted) {
    // A plain process has no other user.
    let images = choice::capabilities(group, setting).images;
    let owner = setting.owner.filter(|_| images);
    let owner = owner.map(|owner| setting.users.get(name).copied().unwrap_or(owner));
    let spec = match owner {
        None => Spec::Folder,
        Some(owner) if group.main => Spec::MainFolder(owner),
        Some(owner) => Spec::GivenFolder(owner),
    };
    let wanted = Wanted { spec, at: Some(group.at), fields: BTreeMap::new() };
    (ResourceId::Folder(name.clone()), wanted)
}
