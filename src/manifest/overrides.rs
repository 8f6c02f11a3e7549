//! What the environment says instead of the manifest.
//!
//! The variables are those of the systems that babybot replaces. Each one that
//! is set is shown with its effect; one that cannot be used is an error, never
//! passed over. Reads no environment itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::diagnostic::quote;
use super::fields::{TURN_MAX, TURN_MIN};
use super::runtime::is_reference;
use super::{ImageSource, ImageWish, KindWish, Manifest, Written};
use crate::unit::Period;

/// The image that the older systems name by default: here, the one that babybot builds.
const IMAGE_OF_OLD: &str = "babybot-agent:latest";

/// Something that the environment said instead of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The variable.
    pub variable: String,
    /// What it is set to.
    pub set: String,
    /// What that means, as the manifest would write it.
    pub value: String,
    /// The field that it stands for, as a plan calls it.
    pub path: String,
}

impl Override {
    /// The key of the manifest that it stands for.
    #[must_use]
    pub fn key(&self) -> &str {
        match self.path.as_str() {
            "runtime" => "runtime.kind",
            "ref" => "runtime.image.ref",
            path => path,
        }
    }
}

/// A variable of the environment that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{variable} in the environment cannot be {}: {reason}", quote(value))]
pub struct OverrideProblem {
    /// The variable.
    pub variable: &'static str,
    /// What it says.
    pub value: String,
    /// Why that cannot be used, and what can.
    pub reason: String,
}

/// The manifest as the environment changes it, and each change; `get` is the environment.
///
/// # Errors
/// Every variable that cannot be used.
pub fn overrides(
    manifest: &Manifest,
    get: &dyn Fn(&str) -> Option<String>,
) -> Result<(Manifest, Vec<Override>), Vec<OverrideProblem>> {
    let mut manifest = manifest.clone();
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (variable, read) in VARIABLES {
        // A variable without a value is how many shells unset one.
        let Some(value) = get(variable).filter(|value| !value.is_empty()) else { continue };
        match read(&mut manifest, &value) {
            Ok(None) => {}
            Ok(Some((path, meaning))) => found.push(Override {
                variable: (*variable).to_owned(),
                set: value,
                value: meaning,
                path: path.to_owned(),
            }),
            Err(reason) => problems.push(OverrideProblem { variable, value, reason }),
        }
    }
    if problems.is_empty() { Ok((manifest, found)) } else { Err(problems) }
}

/// Changes a manifest, and says which key now has which value; `None`: nothing is changed.
type Read = fn(&mut Manifest, &str) -> Result<Option<(&'static str, String)>, String>;

const VARIABLES: &[(&str, Read)] =
    &[("CONTAINER_RUNTIME", runtime), ("CONTAINER_IMAGE", image), ("CONTAINER_TIMEOUT", turn)];

fn runtime(manifest: &mut Manifest, value: &str) -> Result<Option<(&'static str, String)>, String> {
    if value == "apple-container" {
        return Err("it is not available in this release; auto, docker and none are".to_owned());
    }
    let kind = KindWish::named(value).ok_or("it takes auto, docker or none")?;
    if kind == manifest.runtime.kind.value {
        return Ok(None);
    }
    manifest.runtime.kind = Written { value: kind, at: None };
    Ok(Some(("runtime", value.to_owned())))
}

fn image(manifest: &mut Manifest, value: &str) -> Result<Option<(&'static str, String)>, String> {
    if value == IMAGE_OF_OLD {
        return Ok(None);
    }
    if !is_reference(value) {
        return Err("it takes what a container engine calls an image".to_owned());
    }
    let source = ImageSource::Named(value.to_owned());
    manifest.runtime.image = ImageWish { at: None, source, fields: BTreeMap::new() };
    Ok(Some(("ref", value.to_owned())))
}

fn turn(manifest: &mut Manifest, value: &str) -> Result<Option<(&'static str, String)>, String> {
    let plain = value.bytes().all(|digit| digit.is_ascii_digit());
    let turn: Period = plain
        .then(|| format!("{value}ms").parse().ok())
        .flatten()
        .filter(|turn| (TURN_MIN..=TURN_MAX).contains(turn))
        .ok_or_else(|| format!("it takes a number of milliseconds, {TURN_MIN} to {TURN_MAX}"))?;
    for group in manifest.groups.values_mut() {
        group.limits.turn = turn;
        group.fields.remove("limits.turn");
    }
    Ok(Some(("limits.turn", turn.to_string())))
}
