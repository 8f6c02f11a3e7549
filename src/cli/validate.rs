//! `babybot validate`: every problem of the manifest at once, or that there is none.

use crate::cli::load::stderr_colors;
use crate::cli::{Context, VerbResult, print, print_json, tell};
use crate::error::Exit;
use crate::manifest::Manifest;
use crate::manifest::render;
use crate::name::ChannelName;
use crate::source;

/// Checks the manifest: the file only, no runtime and no network.
///
/// Reports every problem at once, each with its place and a code that `babybot explain` knows.
/// Ends with 0 if the manifest is valid, with 3 if it is not.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    /// How to report: for a person (problems on stderr), or one JSON object on stdout
    #[arg(long, value_enum, default_value_t = ValidateFormat::Human)]
    pub format: ValidateFormat,
}

/// How `validate` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ValidateFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Checks the manifest.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &ValidateArgs, context: &Context) -> VerbResult {
    match (args.format, source::read(&context.manifest)) {
        (ValidateFormat::Human, Ok(source)) => {
            print(&format!("{} is valid: {}\n", source.name, counted(&source.manifest)))?;
            Ok(Exit::Ok)
        }
        (ValidateFormat::Human, Err(report)) => {
            tell(&report.human(stderr_colors(context)));
            Ok(Exit::ManifestInvalid)
        }
        (ValidateFormat::Json, Ok(source)) => {
            print_json(&render::json(&source.name, &[]))?;
            Ok(Exit::Ok)
        }
        (ValidateFormat::Json, Err(report)) => {
            print_json(&report.json())?;
            Ok(Exit::ManifestInvalid)
        }
    }
}

fn counted(manifest: &Manifest) -> String {
    // The terminal is a channel whether or not it is declared.
    let undeclared = !manifest.channels.contains_key(&ChannelName::terminal());
    let channels = manifest.channels.len() + usize::from(undeclared);
    format!(
        "{}, {}, {}",
        count(manifest.groups.len(), "group"),
        count(manifest.models.len(), "model"),
        count(channels, "channel")
    )
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
