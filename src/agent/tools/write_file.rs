//! `bb_write_file`: a file of text, whole or not at all.

use std::sync::Arc;

use serde::Deserialize;

use super::super::disk::{Disk, Room};
use super::file_tool::FileTool;
use super::files::replace_within;
use super::workbench::Workbench;
use crate::protocol::ParameterKind::String as Text;
use crate::protocol::ToolSpec;

/// The arguments of a call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    path: String,
    content: String,
}

/// The tool.
pub(super) fn tool(bench: Arc<Workbench>) -> FileTool<Arguments> {
    let spec =
        ToolSpec::new("bb_write_file", "Write a file of text; an existing file is replaced.")
            .required("path", Text, "the file")
            .required("content", Text, "all of its new content");
    FileTool::new(spec, bench, write)
}

fn write(
    bench: &Workbench,
    Arguments { path: written, content }: &Arguments,
    disk: (&Disk, Room),
) -> Result<String, String> {
    let path = bench.resolve(written)?;
    replace_within(&path, written, content.as_bytes(), disk)?;
    Ok(format!("wrote {} bytes to {written}", content.len()))
}
