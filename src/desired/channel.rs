//! The declared channels, and the built-in terminal where a group binds it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use super::Wanted;
use crate::manifest::Manifest;
use crate::name::ChannelName;
use crate::resource::{ChannelSpec, ResourceId, Spec};

pub(super) fn wanted(manifest: &Manifest) -> BTreeMap<ResourceId, Wanted> {
    let mut channels: BTreeMap<ResourceId, Wanted> = manifest
        .channels
        .iter()
        .map(|(name, channel)| {
            let wanted = Wanted::declared(Spec::Channel(channel.spec.clone()), channel);
            (ResourceId::Channel(name.clone()), wanted)
        })
        .collect();
    let terminal = ChannelName::terminal();
    let mut bindings = manifest.groups.values().flat_map(|group| &group.bind);
    if bindings.any(|binding| binding.channel == terminal) {
        channels
            .entry(ResourceId::Channel(terminal))
            .or_insert_with(|| Wanted::unwritten(Spec::Channel(ChannelSpec::Terminal)));
    }
    channels
}
