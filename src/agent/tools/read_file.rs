//! `bb_read_file`: a file of text, or some lines of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::sync::Arc;

use serde::Deserialize;

use super::super::disk::{Disk, Room};
use super::file_tool::FileTool;
use super::files::{named, open, shown};
use super::workbench::Workbench;
use crate::protocol::ParameterKind::{Integer, String as Text};
use crate::protocol::ToolSpec;

/// How far into a file lines are counted, in bytes.
const SCAN_MAX: usize = 256 << 20;
/// Lines that are read where the model does not say.
const LINES_DEFAULT: u64 = 2_000;

/// The arguments of a call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    path: String,
    offset: Option<u64>,
    limit: Option<u64>,
}

/// The tool.
pub(super) fn tool(bench: Arc<Workbench>) -> FileTool<Arguments> {
    let spec = ToolSpec::new("bb_read_file", "Read a file of text.")
        .required("path", Text, "the file")
        .optional("offset", Integer, "first line to read, from 1")
        .optional("limit", Integer, "how many lines to read");
    FileTool::new(spec, bench, read)
}

fn read(bench: &Workbench, arguments: &Arguments, _: (&Disk, Room)) -> Result<String, String> {
    let file = open(&bench.resolve(&arguments.path)?).map_err(|e| named(&arguments.path, &e))?;
    let first = arguments.offset.unwrap_or(1).max(1);
    let limit = arguments.limit.unwrap_or(LINES_DEFAULT).max(1);
    let mut reader = BufReader::new(file);
    let mut text = String::new();
    let mut line = Vec::new();
    let mut number = 0;
    let mut scanned = 0;
    loop {
        line.clear();
        if scanned > SCAN_MAX {
            return Err(format!("{}: only its first {SCAN_MAX} bytes are read", arguments.path));
        }
        // A line longer than this is a file without lines: what follows is not shown.
        let count = (&mut reader)
            .take(1 << 20)
            .read_until(b'\n', &mut line)
            .map_err(|e| named(&arguments.path, &e))?;
        if count == 0 {
            break;
        }
        scanned += count;
        number += 1;
        if number < first {
            continue;
        }
        if number >= first + limit || text.len() >= bench.result_max {
            text.push_str(&format!("[more from line {number}: read with offset {number}]"));
            return Ok(text);
        }
        text.push_str(&shown(&line));
        text.push('\n');
    }
    match (number, text.is_empty()) {
        (0, _) => Ok("(empty file)".to_owned()),
        (lines, true) => Err(format!("{} has {lines} lines", arguments.path)),
        _ => Ok(text),
    }
}
