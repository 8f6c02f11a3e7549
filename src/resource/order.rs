//! What stands on what.
//!
//! The order of [`ResourceId`] says which kind is built before which; this says
//! which resource needs which other one, and is the only place that does, but
//! for the second opinion of `plan/check`.

use std::collections::BTreeMap;

use super::{ResourceId, Spec};

/// What has to be right before a resource is made, changed or started, among these specs.
#[must_use]
pub fn stands_on(id: &ResourceId, specs: &BTreeMap<ResourceId, Spec>) -> Vec<ResourceId> {
    match id {
        ResourceId::Settings(group) => vec![ResourceId::Folder(group.clone())],
        ResourceId::Group(name) => {
            let (image, model) = match specs.get(id) {
                Some(Spec::Group(group)) => (group.image.clone(), Some(group.model.clone())),
                _ => (None, None),
            };
            let image = image.map(ResourceId::Image).into_iter();
            let own = [
                ResourceId::Instance,
                ResourceId::GlobalMemory,
                ResourceId::Folder(name.clone()),
                ResourceId::Settings(name.clone()),
            ];
            image.chain(model.map(ResourceId::Model)).chain(own).collect()
        }
        ResourceId::Container(name) => {
            let group = ResourceId::Group(name.clone());
            let mut below = stands_on(&group, specs);
            below.push(group);
            below
        }
        ResourceId::Instance
        | ResourceId::Image(_)
        | ResourceId::Model(_)
        | ResourceId::GlobalMemory
        | ResourceId::Folder(_)
        | ResourceId::Channel(_) => Vec::new(),
    }
}

/// What is in use for as long as this spec holds, and is not removed before.
#[must_use]
pub fn uses(spec: &Spec) -> Vec<ResourceId> {
    let Spec::Group(group) = spec else { return Vec::new() };
    let channels = group.bind.iter().map(|binding| ResourceId::Channel(binding.channel.clone()));
    let image = group.image.clone().map(ResourceId::Image);
    channels.chain(image).chain([ResourceId::Model(group.model.clone())]).collect()
}
