//! What a group asks for beside its folders and its sandbox.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::{Setting, Wanted, choice, instance, settings};
use crate::manifest::{Group, Manifest};
use crate::name::{GroupName, ImageTag};
use crate::resource::{GroupSpec, ResourceId, Spec};

pub(super) fn wanted(
    name: &GroupName,
    group: &Group,
    manifest: &Manifest,
    setting: &Setting,
    image: Option<&ImageTag>,
) -> (ResourceId, Wanted) {
    let own = group.fields.iter().filter(|(path, _)| !settings::is_field(path));
    let fields = own.map(|(path, span)| (path.clone(), *span)).collect();
    let spec = Spec::Group(Box::new(spec(name, group, manifest, setting, image)));
    (ResourceId::Group(name.clone()), Wanted { spec, at: Some(group.at), fields })
}

fn spec(
    name: &GroupName,
    group: &Group,
    manifest: &Manifest,
    setting: &Setting,
    image: Option<&ImageTag>,
) -> GroupSpec {
    // The order in which bindings are written means nothing, so that moving one is no change.
    let mut bind = group.bind.clone();
    bind.sort();
    bind.dedup();
    let runtime = choice::of_group(group, setting);
    let capabilities = choice::capabilities(group, setting);
    let images = capabilities.images;
    GroupSpec {
        main: group.main,
        bind,
        trigger: group.trigger.clone(),
        requires_trigger: group.requires_trigger,
        senders: group.senders.clone(),
        model: group.model.clone(),
        lifecycle: group.lifecycle,
        runtime,
        capabilities,
        image: image.filter(|_| images).cloned(),
        user: setting.users.get(name).copied().or(setting.user).filter(|_| images),
        engine: instance::engine(manifest, setting).filter(|_| images),
        limits: group.limits,
    }
}
