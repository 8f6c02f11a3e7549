//! `babybot schema`: the JSON Schema of the manifest, for editors.

use crate::cli::{Context, VerbResult, print_json};
use crate::error::{Error, Exit};
use crate::manifest::schema;

/// Prints the JSON Schema of the manifest.
///
/// Write it beside the manifest with `babybot schema > babybot.schema.json`, and begin the
/// manifest with `#:schema ./babybot.schema.json`: editors then complete and check it.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(_args: &SchemaArgs, _context: &Context) -> VerbResult {
    let text = serde_json::to_string_pretty(&schema::json_schema())
        .map_err(|error| Error::failed("print the schema", &error))?;
    print_json(&format!("{text}\n"))?;
    Ok(Exit::Ok)
}
