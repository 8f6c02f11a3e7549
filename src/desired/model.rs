//! The declared models.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::Wanted;
use crate::manifest::Manifest;
use crate::resource::{ResourceId, Spec};

pub(super) fn wanted(manifest: &Manifest) -> impl Iterator<Item = (ResourceId, Wanted)> {
    manifest.models.iter().map(|(name, model)| {
        let wanted = Wanted::declared(Spec::Model(model.spec.clone()), model);
        (ResourceId::Model(name.clone()), wanted)
    })
}
