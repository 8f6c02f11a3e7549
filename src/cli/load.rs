//! What every verb that needs the manifest begins with.

use crate::cli::{Context, print_json, tell};
use crate::error::{Error, Exit};
use crate::manifest::render::Colors;
use crate::source::{self, Source};

/// Reads the manifest that the command line names.
///
/// # Errors
/// [`Exit::ManifestInvalid`], with every problem already told on stderr.
pub fn load(context: &Context) -> Result<Source, Exit> {
    source::read(&context.manifest).map_err(|report| {
        tell(&report.human(stderr_colors(context)));
        Exit::ManifestInvalid
    })
}

/// As [`load`], where a program reads: what is wrong with the manifest is printed to stdout as JSON.
///
/// # Errors
/// When stdout cannot be written.
pub fn load_for_program(context: &Context) -> Result<Result<Source, Exit>, Error> {
    match source::read(&context.manifest) {
        Ok(source) => Ok(Ok(source)),
        Err(report) => {
            print_json(&report.json())?;
            Ok(Err(Exit::ManifestInvalid))
        }
    }
}

/// The colours that stderr takes.
pub(crate) fn stderr_colors(context: &Context) -> Colors {
    if context.color_stderr { Colors::Ansi } else { Colors::Plain }
}
