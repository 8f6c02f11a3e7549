//! What a session's turns used models for.
//!
//! The gateway counts; here it is put down to a turn and stored, behind the answer's
//! back: a model's answer waits for no report of its use.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::state::Shared;
use crate::{gateway, store};

/// Reports of usage that wait to be stored.
const USAGE_MAX: usize = 64;

/// Stores what models were used for.
pub(super) fn keep_usage(shared: Arc<Shared>) -> mpsc::Sender<gateway::Usage> {
    let (sender, mut inbox) = mpsc::channel::<gateway::Usage>(USAGE_MAX);
    tokio::spawn(async move {
        while let Some(usage) = inbox.recv().await {
            let turn = shared.account().clone();
            let kept = store::Usage {
                turn,
                group: shared.group.clone(),
                model: usage.model,
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                duration: usage.duration,
                outcome: match usage.outcome {
                    gateway::UsageOutcome::Done => store::UsageOutcome::Answered,
                    gateway::UsageOutcome::Cut => store::UsageOutcome::Cancelled,
                    gateway::UsageOutcome::Failed => store::UsageOutcome::Failed,
                },
                at: shared.clock.now(),
            };
            if let Err(error) = shared.store.record_usage(kept).await {
                tracing::warn!(%error, "cannot record the usage of a model");
            }
        }
    });
    sender
}
