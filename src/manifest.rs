//! What a person wrote: `babybot.toml` as checked values that know their place.
//!
//! [`parse`] takes text and gives either a [`Manifest`] without a doubt in it
//! or every problem at once, each with its span. It reads no files, knows no
//! machine and decides nothing: what a manifest means is `desired`'s business.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::name::{ChannelName, GroupName, ModelName, ProjectName, SecretName};
use crate::resource::{Binding, ChannelSpec, Lifecycle, Limits, ModelSpec, RuntimeKind};

/// Where something is written: byte offset and length, and line and column from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Bytes before it.
    pub offset: usize,
    /// Its own bytes.
    pub length: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A value and where it was written; `None` for a default that nobody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// Its place, or `None` for a default.
    pub at: Option<Span>,
}

/// A valid manifest, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `name`.
    pub name: Written<ProjectName>,
    /// `assistant.name`.
    pub assistant: Written<String>,
    /// `assistant.timezone`, an IANA name; `None`: the machine's own.
    pub timezone: Option<Written<String>>,
    /// `runtime.kind`.
    pub runtime: Written<RuntimeKind>,
    /// `[secrets]`.
    pub secrets: BTreeMap<SecretName, Written<SecretSource>>,
    /// `[models]`.
    pub models: BTreeMap<ModelName, Declared<ModelSpec>>,
    /// `[channels]`.
    pub channels: BTreeMap<ChannelName, Declared<ChannelSpec>>,
    /// `[groups]`.
    pub groups: BTreeMap<GroupName, Group>,
}

/// Something declared under a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared<T> {
    /// The place of its name.
    pub at: Span,
    /// What was declared.
    pub spec: T,
    /// Where each field that was written stands, by its path below the name (`limits.memory`).
    pub fields: BTreeMap<String, Span>,
}

/// Where a secret's value is to be found. Never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable of the controller.
    Env(String),
    /// A file of the person's, `~` allowed.
    File(String),
}

/// A group with its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The place of its name.
    pub at: Span,
    /// Whether it administers the others.
    pub main: bool,
    /// Where it listens.
    pub bind: Vec<Binding>,
    /// The word that wakes the agent.
    pub trigger: String,
    /// Whether only messages with the trigger wake it.
    pub requires_trigger: bool,
    /// The model that answers.
    pub model: ModelName,
    /// When its agent runs.
    pub lifecycle: Lifecycle,
    /// What it may use.
    pub limits: Limits,
    /// Environment of the tools.
    pub env: BTreeMap<String, String>,
    /// Where each field that was written stands, by its path below the group (`limits.memory`,
    /// `env.LANG`); of a field taken from `[defaults.group]` or `[runtime.limits]`, the place there.
    pub fields: BTreeMap<String, Span>,
}
