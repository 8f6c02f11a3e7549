//! What holds for the whole house and not for one group.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::{Setting, Wanted};
use crate::manifest::Manifest;
use crate::resource::{InstanceSpec, ResourceId, RuntimeKind, RuntimeRef, Spec};

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
    let spec = Spec::Instance(InstanceSpec {
        assistant: manifest.assistant.value.clone(),
        timezone: zone.map(|zone| zone.value.clone()),
        parallel: wish.parallel.value,
        runtime: runtime(manifest, setting),
    });
    let fields = written.into_iter().filter_map(|(path, at)| Some((path.to_owned(), at?)));
    (ResourceId::Instance, Wanted { spec, at: None, fields: fields.collect() })
}

/// What sandboxes are made with, and where that is.
pub(super) fn runtime(manifest: &Manifest, setting: &Setting) -> RuntimeRef {
    let named = manifest.runtime.docker_host.as_ref().map(|host| host.value.clone());
    match setting.runtime.kind {
        RuntimeKind::None => RuntimeRef::NONE,
        RuntimeKind::Docker => RuntimeRef::docker(setting.engine.clone().or(named)),
    }
}
