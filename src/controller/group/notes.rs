//! What a status shows of a turn under way.

use super::GroupHandle;
use crate::control::LimitHit;
use crate::controller::Shared;
use crate::session::Progress;

/// Limits that struck and are remembered.
const STRIKES_KEPT: usize = 5;

impl Shared {
    /// Takes note of what a turn reports of limits.
    pub(super) fn take_note(&self, handle: &GroupHandle, progress: &Progress) {
        match progress {
            Progress::Struck(limit) => {
                let at = self.clock().now();
                tracing::info!(group = %handle.group, limit, "a limit was reached");
                let mut state = handle.state();
                state.limit_hits.push(LimitHit { limit: (*limit).to_owned(), at });
                let extra = state.limit_hits.len().saturating_sub(STRIKES_KEPT);
                state.limit_hits.drain(..extra);
            }
            Progress::Retry { why, wait } => {
                tracing::info!(group = %handle.group, why, wait = wait.as_secs(), "trying a turn again");
                {
                    let mut state = handle.state();
                    state.failure = Some(why.clone());
                    state.waits_for = Some(format!("another attempt, in {} s", wait.as_secs()));
                }
                // Whatever keeps it from starting may be something to mend.
                self.wake.notify_one();
            }
            Progress::Waits(why) => {
                tracing::info!(group = %handle.group, why, "a turn waits");
                {
                    let mut state = handle.state();
                    state.away = Some(why.clone());
                    state.failure = Some(why.clone());
                    state.waits_for = Some(why.clone());
                }
                // Whatever is not there may be something to repair.
                self.wake.notify_one();
            }
            Progress::Back | Progress::Tool { .. } | Progress::Text { .. } => {
                let mut state = handle.state();
                state.away = None;
                // Told only of what changed: a text comes in many pieces.
                if state.failure.take().is_none() & state.waits_for.take().is_none() {
                    return;
                }
            }
            Progress::Measured(why) => {
                let mut state = handle.state();
                if state.unmeasured == *why {
                    return;
                }
                state.unmeasured.clone_from(why);
            }
            Progress::Waking | Progress::Thinking | Progress::ToolEnded | Progress::Note(_) => {
                return;
            }
        }
        self.tell();
    }
}
