//! What holds for the whole house: only the generation knows of it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use crate::plan::verdict::{self, Verdict};
use crate::resource::{InstanceSpec, Risk, Spec};

pub(super) fn verdict(spec: &InstanceSpec, before: Option<&Spec>) -> Verdict {
    // Places are taken one by one; all else is told to an agent when it starts.
    let places_alone = match before {
        Some(Spec::Instance(before)) => {
            *spec == InstanceSpec { parallel: spec.parallel, ..before.clone() }
        }
        _ => false,
    };
    let effect = if places_alone {
        "takes effect at once"
    } else {
        "takes effect when an agent next starts"
    };
    verdict::recorded(&Spec::Instance(spec.clone()), before, effect)
}

pub(super) fn risk(path: &str, from: Option<&Spec>, written: bool) -> Risk {
    let engine = match from {
        Some(Spec::Instance(from)) => from.runtime.endpoint.as_ref(),
        _ => None,
    };
    match path {
        // Whose word everything rests on from now on: whoever names an engine may name any, and what
        // is found at first is one of those that a machine usually has.
        "runtime.docker.host" if written => Risk::Privileged,
        "runtime.docker.host" if engine.is_some() => Risk::Disruptive,
        "runtime.docker.host" => Risk::Safe,
        // What it means for a group stands on the group's own step.
        "runtime" | "assistant.name" | "assistant.timezone" | "runtime.parallel"
        | "environment" => Risk::Safe,
        _ => Risk::Privileged,
    }
}
