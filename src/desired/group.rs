//! What a group asks for beside its folders and its sandbox.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use super::{Setting, Wanted, settings};
use crate::manifest::{Group, Manifest, Span};
use crate::name::{GroupName, ImageTag};
use crate::resource::{GroupSpec, ResourceId, RuntimeKind, Spec};

pub(super) fn wanted(
    name: &GroupName,
    group: &Group,
    manifest: &Manifest,
    setting: &Setting,
    image: Option<&ImageTag>,
) -> (ResourceId, Wanted) {
    let own = group.fields.iter().filter(|(path, _)| !settings::is_field(path));
    let mut fields: BTreeMap<String, Span> =
        own.map(|(path, span)| (path.clone(), *span)).collect();
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
    let spec = Spec::Group(Box::new(spec(group, manifest, setting, image)));
    (ResourceId::Group(name.clone()), Wanted { spec, at: Some(group.at), fields })
}

fn spec(
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
