//! What a person wrote: `babybot.toml` as checked values that know their place.
//!
//! [`parse`] takes text and gives either a [`Manifest`] without a doubt in it
//! or every problem at once, each with its span. It reads no files, knows no
//! machine and decides nothing: what a manifest means is `desired`'s business.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod channels;
pub mod codes;
mod decode;
pub mod diagnostic;
pub mod fields;
mod groups;
mod habits;
mod hidden;
mod limits;
mod models;
mod names;
mod overrides;
mod place;
mod read;
pub mod reference;
pub mod render;
mod runtime;
pub mod schema;
mod scope;
mod secrets;
mod senders;
mod spelling;
pub mod starter;
mod syntax;
mod token;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::name::{ChannelName, GroupName, ModelName, ProjectName, SecretName};
use crate::resource::{
    Binding, ChannelSpec, Lifecycle, Limits, ModelSpec, RuntimeKind, SecretSource, Senders,
};

use codes::Code;
pub use diagnostic::{Diagnostic, Label};
pub use overrides::{Override, OverrideProblem, overrides};
use syntax::{FaultKind, Mended, SyntaxFault};

/// Reads a manifest.
///
/// # Errors
/// Every problem there is, in the order of the text. A problem that may only
/// be the consequence of another is left out until that one is mended.
pub fn parse(text: &str) -> Result<Manifest, Vec<Diagnostic>> {
    if text.trim().is_empty() {
        return Err(vec![
            Diagnostic::new(Code::Empty, "the manifest is empty")
                .helped("remove the file and write a new one with `babybot init`"),
        ]);
    }
    if text.len() > fields::MANIFEST_BYTES_MAX {
        return Err(vec![too_large()]);
    }
    let lines = place::Lines::new(text);
    let (tree, errors) = DeTable::parse_recoverable(text);
    let sound = errors.is_empty();
    if !sound && let Some(problem) = habits::other_language(text, &lines) {
        return Err(vec![problem]);
    }
    let mended = if sound { Mended::default() } else { Mended::new(text) };
    let tree = if sound { tree } else { DeTable::parse_recoverable(&mended.text).0 };
    let mut decoder = decode::Decoder::new(&lines, &mended);
    let manifest = read::manifest(&mut decoder, tree.get_ref());
    let mut problems = decoder.problems;
    if let Some(doubtful) = mended.doubtful_from {
        problems.retain(|problem| {
            let sure = !matches!(
                problem.code,
                Code::MissingKey
                    | Code::NoGroups
                    | Code::NoModel
                    | Code::UnknownModel
                    | Code::UnknownChannel
            );
            sure && problem.span().is_some_and(|span| span.offset < doubtful)
        });
    }
    problems.extend(mended.faults.iter().map(|fault| syntax_problem(fault, text, &lines)));
    problems.sort_by_key(|problem| (problem.span().map(|span| span.offset), problem.code));
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(problems),
    }
}

/// The problem of a manifest over [`fields::MANIFEST_BYTES_MAX`].
pub(crate) fn too_large() -> Diagnostic {
    Diagnostic::new(Code::TooLarge, "the manifest is larger than 4 MiB")
        .helped("name the right file with --manifest, or make it smaller")
}

fn syntax_problem(fault: &SyntaxFault, text: &str, lines: &place::Lines<'_>) -> Diagnostic {
    let line = &text[lines.range(lines.line(fault.at.start))];
    let at = lines.span(fault.at.clone());
    match &fault.kind {
        FaultKind::NoValue => Diagnostic::new(Code::NoValue, "a key has no value")
            .at(at, "this needs a value")
            .helped("write `key = value`"),
        FaultKind::Duplicate(first) => {
            let problem = Diagnostic::new(Code::DuplicateKey, fault.message.clone())
                .at(at, "written again here")
                .helped("every key and every table is written once: remove one, or merge the two");
            match first {
                Some(first) => problem.at(lines.span(first.clone()), "first here"),
                None => problem,
            }
        }
        FaultKind::ForeignLetter => {
            let header = line.trim().strip_prefix('[').and_then(|line| line.split(']').next());
            let name = header.and_then(|header| header.trim_start_matches('[').split('.').nth(1));
            let help = match (habits::line(line), name.and_then(spelling::plain_name)) {
                (Some(help), _) => help.to_owned(),
                (None, Some(plain)) => format!("names are a-z, 0-9 and -, for example `{plain}`"),
                (None, None) => "names are a-z, 0-9 and -, as in `[groups.kitchen]`".to_owned(),
            };
            Diagnostic::new(Code::Syntax, "this character is not allowed in a key or name")
                .at(at, "not allowed in a key or name")
                .helped(help)
        }
        FaultKind::Other => {
            let unquoted = fault.message.starts_with("string values must be quoted");
            let help = match habits::line(line) {
                Some(help) => help,
                None if unquoted => {
                    "write a string in quotes, and `true`, `false` and numbers without"
                }
                None => "write strings in quotes, and close every quote and bracket",
            };
            Diagnostic::new(Code::Syntax, fault.message.clone())
                .at(at, "cannot be read")
                .helped(help)
        }
    }
}

/// Where something is written: byte offset and length, and line and column from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// `[runtime]`, but for its limits, which are the groups'.
    pub runtime: RuntimeWish,
    /// `[secrets]`.
    pub secrets: BTreeMap<SecretName, Written<SecretSource>>,
    /// `[models]`.
    pub models: BTreeMap<ModelName, Declared<ModelSpec>>,
    /// `[channels]`.
    pub channels: BTreeMap<ChannelName, Declared<ChannelSpec>>,
    /// `[groups]`.
    pub groups: BTreeMap<GroupName, Group>,
}

/// What sandboxes are to be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeWish {
    /// `runtime.kind`.
    pub kind: Written<KindWish>,
    /// `runtime.fallback`.
    pub fallback: Fallback,
    /// `runtime.parallel`.
    pub parallel: Written<u32>,
    /// `[runtime.image]`.
    pub image: ImageWish,
    /// `runtime.docker.host`; `None`: the engine that is found.
    pub docker_host: Option<Written<String>>,
}

impl Default for RuntimeWish {
    fn default() -> Self {
        let base = fields::IMAGE_BASE.to_owned();
        let source = ImageSource::Built { base, packages: Vec::new(), binary: None };
        Self {
            kind: Written { value: KindWish::Auto, at: None },
            fallback: Fallback::None,
            parallel: Written { value: crate::resource::PARALLEL_DEFAULT, at: None },
            image: ImageWish { at: None, source, fields: BTreeMap::new() },
            docker_host: None,
        }
    }
}

/// Which runtime is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindWish {
    /// The strongest there is.
    Auto,
    /// Docker, or what speaks its API.
    Docker,
    /// A plain process.
    None,
}

/// What `auto` may fall to where no container runtime is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// A plain process.
    None,
    /// Nothing.
    Error,
}

/// The image that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageWish {
    /// The place of the table's name.
    pub at: Option<Span>,
    /// How it is to be had.
    pub source: ImageSource,
    /// Where each key that was written stands.
    pub fields: BTreeMap<String, Span>,
}

/// How an image is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// babybot builds it.
    Built {
        /// On what; `scratch`: on nothing.
        base: String,
        /// What is installed into it, in order, each once.
        packages: Vec<String>,
        /// The program it is built around; `None`: this one.
        binary: Option<String>,
    },
    /// It exists.
    Named(String),
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

/// A group with its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The place of its name.
    pub at: Span,
    /// Whether it is the main group.
    pub main: bool,
    /// Where it listens.
    pub bind: Vec<Binding>,
    /// The word that wakes the agent.
    pub trigger: String,
    /// Whether only messages with the trigger wake it.
    pub requires_trigger: bool,
    /// Who may write to it, where that is said.
    pub senders: Option<Senders>,
    /// The model that answers.
    pub model: ModelName,
    /// When its agent runs.
    pub lifecycle: Lifecycle,
    /// What its sandbox is made with, where that is not what the others' are made with.
    pub runtime: Option<RuntimeKind>,
    /// What it may use.
    pub limits: Limits,
    /// Environment of the tools.
    pub env: BTreeMap<String, String>,
    /// Where each field that was written stands, by its path below the group (`limits.memory`,
    /// `env.LANG`); of a field taken from `[defaults.group]` or `[runtime.limits]`, the place there.
    pub fields: BTreeMap<String, Span>,
}
