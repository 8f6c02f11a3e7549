//! The image that agents run from, where the runtime has images.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::{Setting, Wanted, choice};
use crate::manifest::{ImageSource, Manifest};
use crate::name::ImageTag;
use crate::resource::{ImageSpec, Spec, UserId};

/// Whom agents of containers run as where nobody says it: nobody in particular.
pub const USER_DEFAULT: UserId = UserId { uid: 10_001, gid: 10_001 };

/// The image that agents run from, where the runtime has images.
pub(super) fn wanted(manifest: &Manifest, setting: &Setting) -> Option<(ImageTag, Wanted)> {
    let mut groups = manifest.groups.values();
    if !groups.any(|group| choice::capabilities(group, setting).images) {
        return None;
    }
    let wish = &manifest.runtime.image;
    let spec = match &wish.source {
        ImageSource::Named(reference) => ImageSpec::Named { reference: reference.clone() },
        ImageSource::Built { base, packages, binary } => ImageSpec::Built {
            base: base.clone(),
            packages: packages.clone(),
            // Without a program there is no content: such an image is never built.
            content: setting.binary.clone().unwrap_or_default(),
            user: setting.user.unwrap_or(USER_DEFAULT),
            binary: binary.clone(),
        },
    };
    let tag = spec.tag();
    let wanted = Wanted { spec: Spec::Image(spec), at: wish.at, fields: wish.fields.clone() };
    Some((tag, wanted))
}
