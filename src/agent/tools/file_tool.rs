//! A tool that works on files: what it does with its arguments blocks, and is cancelled all the same.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::disk::{Disk, Room};
use super::tool::{Bounds, CallOutcome, CallPlace, Tool, parse, refused};
use super::workbench::Workbench;
use crate::protocol::ToolSpec;

/// The work of a call, with the room that is left on the disk.
type Work<A> = fn(&Workbench, &A, (&Disk, Room)) -> Result<String, String>;

/// The tool, by its arguments.
pub(super) struct FileTool<A> {
    spec: ToolSpec,
    bench: Arc<Workbench>,
    work: Work<A>,
}

impl<A> FileTool<A> {
    pub(super) fn new(spec: ToolSpec, bench: Arc<Workbench>, work: Work<A>) -> Self {
        Self { spec, bench, work }
    }
}

impl<A> fmt::Debug for FileTool<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTool").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl<A: DeserializeOwned + Send + 'static> Tool for FileTool<A> {
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
            let arguments: A = match parse(&self.spec, arguments) {
                Ok(arguments) => arguments,
                Err(why) => return refused(why),
            };
            let (bench, disk, room) = (Arc::clone(&self.bench), bounds.disk.clone(), bounds.room);
            let work = self.work;
            on_files(bounds.cancel, move || work(&bench, &arguments, (&disk, room))).await
        })
    }
}

/// Runs a call that blocks on files. A slow disk must hold up neither a cancellation nor the link.
async fn on_files(
    cancel: &CancellationToken,
    work: impl FnOnce() -> Result<String, String> + Send + 'static,
) -> CallOutcome {
    tokio::select! {
        () = cancel.cancelled() => CallOutcome::Cancelled,
        result = tokio::task::spawn_blocking(work) => {
            match result.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(result) => CallOutcome::Result(result),
                Err(why) => refused(why),
            }
        }
    }
}
