//! What images are called at an engine.

use crate::name::{ImageTag, InstanceId};
use crate::resource::IMAGE_REPOSITORY;

/// What an image is called at an engine. One that is built is its instance's alone: another project
/// may build the same, and remove it. Before there is an instance, there is no such image.
#[must_use]
pub fn image_name(instance: Option<&InstanceId>, reference: &str) -> String {
    match (instance, tag_of(reference)) {
        (Some(instance), Some(tag)) => format!("{IMAGE_REPOSITORY}:{}-{tag}", instance.short()),
        _ => reference.to_owned(),
    }
}

/// The tag of an image that is built, as a spec names it.
pub(super) fn tag_of(reference: &str) -> Option<ImageTag> {
    let tag = reference.strip_prefix(IMAGE_REPOSITORY)?.strip_prefix(':')?;
    ImageTag::new(tag).ok()
}
