//! The preview of an answer while it grows.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::{answer, calls};
use crate::link::LinkError;
use crate::link::client::Link;
use crate::name::TurnId;
use crate::protocol::Event;

/// How often a growing answer is shown.
const PREVIEW_EVERY: Duration = Duration::from_millis(100);

/// Shows an answer while it grows, now and then.
pub(super) struct Preview<'a> {
    report: (&'a Link, &'a TurnId),
    schema: &'a Value,
    text: String,
    shown: String,
    last: Instant,
}

impl<'a> Preview<'a> {
    pub(super) fn new(report: (&'a Link, &'a TurnId), schema: &'a Value) -> Self {
        Self { report, schema, text: String::new(), shown: String::new(), last: Instant::now() }
    }

    /// Takes more of the answer.
    pub(super) async fn push(&mut self, text: &str) -> Result<(), LinkError> {
        self.text.push_str(text);
        if self.last.elapsed() < PREVIEW_EVERY {
            return Ok(());
        }
        self.last = Instant::now();
        let shown = calls::preview(&answer::visible(&self.text), self.schema);
        let (more, fresh) = match shown.strip_prefix(&*self.shown) {
            Some(more) => (more, self.shown.is_empty()),
            // Some words turned out to be a thought: what is left takes their place.
            None => (&*shown, true),
        };
        if more.is_empty() {
            return Ok(());
        }
        let text = more.to_owned();
        self.shown = shown;
        let (link, turn) = self.report;
        link.report(turn, &[Event::Text { text, fresh }]).await
    }
}
