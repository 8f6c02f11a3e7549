//! The settings of a group: the environment of its tools.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::Wanted;
use crate::manifest::Group;
use crate::name::GroupName;
use crate::resource::{ResourceId, Spec};

/// Whether a field of a group is one of these settings.
pub(super) fn is_field(path: &str) -> bool {
    path == "env" || path.starts_with("env.")
}

pub(super) fn wanted(name: &GroupName, group: &Group) -> (ResourceId, Wanted) {
    let fields = group.fields.iter().filter(|(path, _)| is_field(path));
    let wanted = Wanted {
        spec: Spec::Settings { env: group.env.clone() },
        at: Some(group.at),
        fields: fields.map(|(path, span)| (path.clone(), *span)).collect(),
    };
    (ResourceId::Settings(name.clone()), wanted)
}
