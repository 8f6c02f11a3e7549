//! A tool of the host: a call is a request, and the host's answer is its result.
//!
//! The request is named by where the call stands, so that a call that is made again after a restart
//! is the same request, which the host carries out once.

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::tool::{Bounds, CallOutcome, CallPlace, Tool, refused};
use crate::link::client::Link;
use crate::protocol::{HostTool as Told, ToolSpec};

/// The tool.
#[derive(Debug)]
pub(super) struct HostTool {
    told: Told,
    link: Link,
}

impl HostTool {
    pub(super) fn new(told: Told, link: Link) -> Self {
        Self { told, link }
    }

    async fn ask(&self, arguments: &Value, place: CallPlace<'_>) -> CallOutcome {
        let Value::Object(arguments) = arguments else {
            return refused(format!("{}: {}", self.told.spec.name, self.told.spec.usage()));
        };
        let mut payload = arguments.clone();
        payload.insert("name".to_owned(), json!(self.told.command));
        let request = json!({"id": place.to_string(), "type": "command", "payload": payload});
        let answer = match self.link.request(&request).await {
            Ok(answer) => answer,
            Err(error) => return refused(error),
        };
        let message = answer["payload"]["message"].as_str().unwrap_or_default();
        match answer["type"].as_str() {
            Some("response") => CallOutcome::Result(message.to_owned()),
            _ => refused(format!("{message}; {}", self.told.spec.usage())),
        }
    }
}

impl Tool for HostTool {
    fn spec(&self) -> &ToolSpec {
        &self.told.spec
    }

    fn call<'a>(
        &'a self,
        arguments: &'a Value,
        place: CallPlace<'a>,
        bounds: Bounds<'a>,
    ) -> BoxFuture<'a, CallOutcome> {
        Box::pin(async move {
            tokio::select! {
                () = bounds.cancel.cancelled() => CallOutcome::Cancelled,
                outcome = self.ask(arguments, place) => outcome,
            }
        })
    }

    fn may_be_repeated(&self) -> bool {
        true
    }
}
