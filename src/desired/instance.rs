//! What holds for the whole house and not for one group.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::{Setting, Wanted, choice};
use crate::manifest::Manifest;
use crate::resource::{Capabilities, InstanceSpec, ResourceId, RuntimeRef, Spec};

pub(super) fn wanted(manifest: &Manifest, setting: &Setting) -> (ResourceId, Wanted) {
    let wish = &manifest.runtime;
    let zone = manifest.timezone.as_ref();
    let host = wish.docker_host.as_ref();
    let written = [
        ("assistant.name", manifest.assistant.at),
        ("assistant.timezone", zone.and_then(|zone| zone.at)),
        ("runtime", wish.kind.at),
        ("runtime.parallel", wish.parallel.at),
        ("runtime.docker.host", host.and_then(|host| host.at)),
    ];
    let is_used = manifest
        .groups
        .values()
        .map(|group| choice::capabilities(group, setting))
        .chain([Capabilities::expected(setting.runtime.kind)])
        .any(|able| able.images);
    let spec = Spec::Instance(InstanceSpec {
        assistant: manifest.assistant.value.clone(),
        timezone: zone.map(|zone| zone.value.clone()),
        parallel: wish.parallel.value,
        runtime: RuntimeRef {
            kind: setting.runtime.kind,
            endpoint: engine(manifest, setting).filter(|_| is_used),
        },
        environment: setting
            .overrides
            .iter()
            .map(|over| (over.variable.clone(), over.set.clone()))
            .collect(),
    });
    let fields = written.into_iter().filter_map(|(path, at)| Some((path.to_owned(), at?)));
    (ResourceId::Instance, Wanted { spec, at: None, fields: fields.collect() })
}

/// Where the engine of whoever has one is.
pub(super) fn engine(manifest: &Manifest, setting: &Setting) -> Option<String> {
    let named = manifest.runtime.docker_host.as_ref().map(|host| host.value.clone());
    setting.engine.clone().or(named)
}
