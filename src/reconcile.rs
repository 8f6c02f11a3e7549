//! Making the machine match: look again, check, carry out, record, look once more.
//!
//! Whoever calls this has shown the plan to a human where one had to see it and
//! holds the instance's lock. If the world or the manifest moved since, nothing
//! is done.

pub mod mend;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::clock::Clock;
use crate::desired::Desired;
use crate::execute::{self, Change, Report, StepOutcome};
use crate::observe::{self, Look};
use crate::observed::Known;
use crate::plan::check::{self, Finding};
use crate::plan::{Plan, plan};
use crate::resource::{self, ResourceId, Risk, Spec};
use crate::store::{self, NewGeneration, Store, StoreError};

/// Why nothing, or not all, was done.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The plan that was approved is not the plan any more.
    #[error("the machine or the manifest changed since the plan was made")]
    Stale(Box<Plan>),
    /// The plan does not stand up to its check.
    #[error("the plan is refused")]
    Refused(Vec<Finding>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an apply did.
#[derive(Debug)]
pub struct ApplyReport {
    /// The generation that now holds.
    pub generation: u64,
    /// Every resource as it recorded it.
    pub specs: BTreeMap<ResourceId, Spec>,
    /// Step by step.
    pub report: Report,
    /// What is left to do: empty, unless something failed or moved meanwhile.
    pub left: Plan,
}

/// What is applied, and who said so.
#[derive(Debug)]
pub struct Approved<'a> {
    /// What the manifest asks for.
    pub desired: &'a Desired,
    /// The manifest's text, for history.
    pub text: &'a str,
    /// The plan that was approved.
    pub plan: &'a Plan,
    /// The risks that were approved.
    pub risks: Vec<Risk>,
}

/// Applies an approved plan. The instance's lock must be held.
///
/// # Errors
/// [`ApplyError::Stale`] and [`ApplyError::Refused`] before anything was done,
/// [`ApplyError::Store`] when it could not be recorded.
pub async fn apply(
    approved: &Approved<'_>,
    look: &dyn Look,
    change: &dyn Change,
    store: &Store,
    clock: &dyn Clock,
    progress: impl FnMut(&ResourceId, &StepOutcome),
) -> Result<ApplyReport, ApplyError> {
    let observed = observe::observe(approved.desired, look).await;
    let now = plan(approved.desired, &observed);
    if !now.same_work(approved.plan) {
        return Err(ApplyError::Stale(Box::new(now)));
    }
    check::check(&now, approved.desired, &observed).map_err(ApplyError::Refused)?;
    let report = execute::execute(&now, change, progress).await;
    let before = match &observed.applied {
        Known::Is(applied) => applied.specs.clone(),
        // `plan` has no steps where this is unknown, so nothing is recorded over it.
        Known::Absent | Known::Unknown(_) => Default::default(),
    };
    let specs = now.recorded(&before, &report.done());
    let generation = store
        .record_generation(NewGeneration {
            parent: now.parent,
            at: clock.now(),
            digest: resource::digest(approved.text.as_bytes()),
            manifest: approved.text.to_owned(),
            specs: specs.clone(),
            plan: serde_json::to_string(&now).unwrap_or_default(),
            approved: approved.risks.clone(),
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            outcome: if report.is_complete() {
                store::ApplyOutcome::Applied
            } else {
                store::ApplyOutcome::Partial
            },
        })
        .await?;
    let observed = observe::observe(approved.desired, look).await;
    Ok(ApplyReport { generation, specs, report, left: plan(approved.desired, &observed) })
}
