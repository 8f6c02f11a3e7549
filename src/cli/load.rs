//! What every verb that needs the manifest begins with.

use crate::cli::{Context, tell};
use crate::error::Exit;
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

/// The colours that stderr takes.
pub(crate) fn stderr_colors(context: &Context) -> Colors {
    if context.color_stderr { Colors::Ansi } else { Colors::Plain }
}
