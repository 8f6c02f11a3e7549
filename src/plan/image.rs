//! The image that agents run from: built, adopted, and removed once nothing stands on it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::fields::IMAGE_SCRATCH;
use crate::observed::{Known, Seen};
use crate::plan::draft::Draft;
use crate::plan::verdict::{StepDraft, Verdict, create, mend, removal, unknown};
use crate::plan::{Action, NoteKind, Work, container};
use crate::resource::{self, ContainerSpec, ImageSpec, ResourceId, Risk, Spec};

pub(super) fn verdict(
    spec: &ImageSpec,
    before: Option<&Spec>,
    look: Option<&Known<Seen>>,
) -> Verdict {
    let work = || Work::BuildImage { image: spec.clone() };
    match (spec, look) {
        (_, Some(Known::Is(Seen::Image))) if before.is_some() => Verdict::Nothing,
        // What is in it has to be approved all the same.
        (_, Some(Known::Is(Seen::Image))) => Verdict::Do(StepDraft {
            action: Action::Adopt,
            reason: "the image is already there".to_owned(),
            from: None,
            work: Work::Record { spec: Spec::Image(spec.clone()) },
            risk: Risk::Safe,
        }),
        (ImageSpec::Named { reference }, Some(Known::Absent)) => {
            Verdict::Missing(format!("there is no image {reference}: `docker pull {reference}`"))
        }
        (ImageSpec::Built { content, .. }, Some(Known::Absent)) if content.is_empty() => {
            let why =
                "no Linux babybot was found for the image; name one with runtime.image.binary";
            Verdict::Missing(why.to_owned())
        }
        (ImageSpec::Built { .. }, Some(Known::Absent)) => match before {
            Some(before) => mend("the image is missing", Some(before.clone()), work()),
            None => create(work()),
        },
        (_, look) => unknown(look),
    }
}

impl Draft<'_> {
    /// Images of ours that nothing stands on any more: those that are there, and those that are
    /// only recorded.
    pub(super) fn remove_images(&mut self) {
        let in_use = self.in_use();
        let images = |id: &&ResourceId| matches!(id, ResourceId::Image(_));
        let found = self.observed.looks.keys().chain(self.before.keys()).filter(images);
        let old: BTreeSet<&ResourceId> =
            found.filter(|id| !self.desired.resources.contains_key(id)).collect();
        for id in old {
            let ResourceId::Image(tag) = id else { continue };
            let named = matches!(self.before.get(id), Some(Spec::Image(ImageSpec::Named { .. })));
            let there = match self.observed.looks.get(id) {
                Some(Known::Unknown(why)) => {
                    self.note(NoteKind::Unknown, id, format!("could not be checked: {why}"));
                    continue;
                }
                // An image that was not made here is nobody's to remove.
                Some(Known::Is(_)) => !named,
                Some(Known::Absent) | None => false,
            };
            let user = in_use.get(id).cloned();
            if let Some(user) = user.or_else(|| there.then(|| self.user_of_old_images()).flatten())
            {
                let text = format!("removed later, because {user} may still use it");
                self.note(NoteKind::Waiting, id, text);
            } else if there {
                let mut step = removal(id, Risk::Safe);
                step.reason = "no longer in use".to_owned();
                step.work = Work::RemoveImage { tag: tag.clone() };
                self.removals.insert(id.clone(), step);
            } else if self.before.contains_key(id) {
                self.removals.insert(id.clone(), removal(id, Risk::Safe));
            }
        }
    }

    /// A group whose sandbox is not known to be made from what is asked for, and is not ended
    /// before images are removed.
    fn user_of_old_images(&self) -> Option<ResourceId> {
        let specs = resource::containers(&self.outcome());
        let looks = self.observed.looks.iter();
        looks
            .filter(|(id, look)| {
                let ResourceId::Container(group) = id else { return false };
                if matches!(look, Known::Unknown(_)) {
                    return true;
                }
                let fresh = specs.get(group).map(ContainerSpec::digest);
                let ended = self.removals.get(id).map(|step| &step.work);
                container::ours(Some(look)).any(|sandbox| {
                    let ends = match ended {
                        Some(Work::RemoveSandboxes { sandboxes, .. }) => {
                            sandboxes.contains(&sandbox.id)
                        }
                        Some(_) => true,
                        None => false,
                    };
                    // One without a digest is of a runtime that has no images.
                    !ends && sandbox.digest.is_some() && sandbox.digest != fresh
                })
            })
            .map(|(id, _)| id.clone())
            .next()
    }
}

/// Whatever is in an image runs with the agent.
pub(super) fn risk(path: &str, to: &ImageSpec, before: &BTreeMap<ResourceId, Spec>) -> Risk {
    let mut before = before.values().filter_map(|spec| match spec {
        Spec::Image(image) => Some(image),
        _ => None,
    });
    let known = match (path, to) {
        ("base", ImageSpec::Built { base, .. }) => {
            let same = |image: &ImageSpec| matches!(image, ImageSpec::Built { base: old, .. } if old == base);
            base == IMAGE_SCRATCH || before.any(same)
        }
        ("ref", ImageSpec::Named { .. }) => before.any(|image| image == to),
        // Packages come from the base's own distribution.
        ("packages" | "binary" | "user", ImageSpec::Built { .. }) => true,
        _ => false,
    };
    if known { Risk::Safe } else { Risk::Privileged }
}
