//! `bb_write_file`: a file of text, whole or not at all.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

use super::files::replace_within;
use super::tool::{Bounds, CallOutcome, CallPlace, Tool, on_files, parse, refused};
use super::workbench::Workbench;
use crate::protocol::ParameterKind::String as Text;
use crate::protocol::ToolSpec;

/// The tool.
#[derive(Debug)]
pub(super) struct WriteFile {
    spec: ToolSpec,
    bench: Arc<Workbench>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    path: String,
    content: String,
}

impl WriteFile {
    pub(super) fn new(bench: Arc<Workbench>) -> Self {
        let about = "Write a file of text; an existing file is replaced.";
        let spec = ToolSpec::new("bb_write_file", about)
            .required("path", Text, "the file")
            .required("content", Text, "all of its new content");
        Self { spec, bench }
    }
}

impl Tool for WriteFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(
        &'a self,
        arguments: &'a Value,
        _: CallPlace<'a>,
        bounds: Bounds<'a>,
    ) -> BoxFuture<'a, CallOutcome> {
        Box::pin(async move {
            let Arguments { path: written, content } = match parse(&self.spec, arguments) {
                Ok(arguments) => arguments,
                Err(why) => return refused(why),
            };
            let (bench, disk, room) = (Arc::clone(&self.bench), bounds.disk.clone(), bounds.room);
            let write = move || {
                let path = bench.resolve(&written)?;
                replace_within(&path, &written, content.as_bytes(), (&disk, room))?;
                Ok(format!("wrote {} bytes to {written}", content.len()))
            };
            on_files(bounds.cancel, write).await
        })
    }
}
