//! What sandboxes are made with, and why.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Setting;
use crate::manifest::{Fallback, Group, KindWish, Manifest, RuntimeWish};
use crate::observed::Known;
use crate::resource::{Capabilities, RuntimeKind};

/// What sandboxes are made with, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The runtime.
    pub kind: RuntimeKind,
    /// Why this one, for a person; empty where there was no choice.
    pub reason: String,
    /// Why it may be weaker than it should be.
    pub doubt: Option<Doubt>,
}

/// Why a choice may be weaker than it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "text", rename_all = "snake_case")]
pub enum Doubt {
    /// An engine was found that does not answer: its words, and how to start it. Matters only where
    /// others than the owner drive an agent, or its model decides for itself.
    Silent(String),
    /// The environment says so and not the manifest: always needs approval.
    Environment(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(text) | Self::Environment(text) => f.write_str(text),
        }
    }
}

impl Default for Choice {
    fn default() -> Self {
        Self { kind: RuntimeKind::None, reason: String::new(), doubt: None }
    }
}

/// There is no container runtime, and the manifest wants nothing less.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`runtime.fallback = \"error\"` needs a container engine, and {found}")]
pub struct NoRuntime {
    /// What was found instead.
    pub found: String,
}

/// Chooses a runtime: what is named, or the strongest there is, but never a weaker one than what
/// was applied because something stopped.
///
/// `docker` says where an engine was found and of which version, `applied` what the last
/// generation was applied with.
///
/// # Errors
/// [`NoRuntime`], where the manifest would rather have an error than a plain process.
pub fn choose(
    wish: &RuntimeWish,
    docker: &Known<String>,
    applied: Option<RuntimeKind>,
) -> Result<Choice, NoRuntime> {
    let choice = |kind, reason: String| Choice { kind, reason, doubt: None };
    match wish.kind.value {
        KindWish::None => return Ok(choice(RuntimeKind::None, "named".to_owned())),
        KindWish::Docker => {
            let reason = match docker {
                Known::Is(engine) => format!("named: {engine}"),
                Known::Absent => "named, but no engine was found".to_owned(),
                Known::Unknown(why) => format!("named, but it does not answer: {why}"),
            };
            return Ok(choice(RuntimeKind::Docker, reason));
        }
        KindWish::Auto => {}
    }
    let found = match docker {
        Known::Is(engine) => return Ok(choice(RuntimeKind::Docker, format!("auto: {engine}"))),
        Known::Absent => {
            "no container engine was found; install Docker or Podman to isolate agents".to_owned()
        }
        Known::Unknown(why) => format!("docker does not answer: {why}"),
    };
    if applied == Some(RuntimeKind::Docker) {
        let reason = format!("auto: docker is applied, but {found}");
        return Ok(choice(RuntimeKind::Docker, reason));
    }
    if wish.fallback == Fallback::Error {
        return Err(NoRuntime { found });
    }
    let first = applied.is_none() && matches!(docker, Known::Unknown(_));
    Ok(Choice {
        kind: RuntimeKind::None,
        reason: format!("auto: {found}"),
        doubt: first.then_some(Doubt::Silent(found)),
    })
}

/// What the sandbox of a group is made with.
pub(super) fn of_group(group: &Group, setting: &Setting) -> RuntimeKind {
    group.runtime.unwrap_or(setting.runtime.kind)
}

/// What the runtime of a group can do.
pub(super) fn capabilities(group: &Group, setting: &Setting) -> Capabilities {
    let kind = of_group(group, setting);
    setting.capabilities.get(&kind).copied().unwrap_or(Capabilities::expected(kind))
}

/// The choice, with what the environment adds to its doubt.
pub(super) fn chosen(manifest: &Manifest, setting: &Setting) -> Choice {
    let mut choice = setting.runtime.clone();
    let over = setting.overrides.iter().find(|over| over.path == "runtime");
    if let (None, KindWish::None, Some(over)) = (&choice.doubt, manifest.runtime.kind.value, over) {
        let text = format!("{} says so, not the manifest", over.variable);
        choice.doubt = Some(Doubt::Environment(text));
    }
    choice
}
