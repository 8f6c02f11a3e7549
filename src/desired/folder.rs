//! The folders of a group, and whom they are given to.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use super::{Setting, Wanted, choice};
use crate::manifest::Group;
use crate::name::GroupName;
use crate::resource::{Capabilities, ResourceId, Spec};

pub(super) fn wanted(name: &GroupName, group: &Group, setting: &Setting) -> (ResourceId, Wanted) {
    // A plain process has no other user.
    let images = Capabilities::expected(choice::of_group(group, setting)).images;
    let spec = setting.owner.filter(|_| images).map_or(Spec::Folder, Spec::GivenFolder);
    let wanted = Wanted { spec, at: Some(group.at), fields: BTreeMap::new() };
    (ResourceId::Folder(name.clone()), wanted)
}
