//! `babybot apply`: makes the machine match the manifest, once a human agreed.

use crate::cli::approve::{self, ApprovalArgs};
use crate::cli::load::load;
use crate::cli::preview;
use crate::cli::preview::{Preview, held_back, project_error};
use crate::cli::{Context, Outcome, print, tell};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Exit};
use crate::execute::{self, Outcome as StepOutcome};
use crate::observe::{self, Holder};
use crate::plan::render::{self, Color};
use crate::project::{InstanceLock, Project};
use crate::reconcile::{self, ApplyError, Approved};
use crate::source::Source;
use crate::store::{Store, StoreError};

/// Makes the machine match babybot.toml: plans, asks, looks again, carries out, records.
///
/// Without a terminal, --yes has to say what is approved. Ends with 4 if only part of the plan
/// could be carried out, with 5 if the machine changed while you were deciding, with 6 if
/// another babybot is at work here, with 7 if nobody approved.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// What is approved.
    #[command(flatten)]
    pub approval: ApprovalArgs,
}

/// Plans, asks and applies.
///
/// # Errors
/// Whatever keeps the machine from matching.
pub async fn run(args: &ApplyArgs, context: &Context) -> Outcome {
    let source = match load(context) {
        Ok(source) => source,
        Err(exit) => return Ok(exit),
    };
    let preview = Preview::make(&source, context).await?;
    print(&preview.text_for_apply(context.stdout_color()))?;
    preview.refuse_strangers()?;
    if preview.plan.is_empty() {
        return if preview.plan.is_held_back() { Err(held_back()) } else { Ok(Exit::Ok) };
    }
    let risks = approve::approve(&preview, &args.approval, context)?;
    let lock = preview.project.lock("apply", SystemClock.now()).map_err(project_error)?;
    let store = open_store(&preview.project, &lock)?;
    carry_out(&source, &preview, risks, &lock, &store, context).await
}

/// Opens the store of an instance whose lock is held.
///
/// # Errors
/// When it cannot be opened.
pub fn open_store(project: &Project, _lock: &InstanceLock) -> Result<Store, Error> {
    project.instance(&SystemClock).map_err(project_error)?;
    let store =
        Store::open(&project.database()).map_err(|error| store_error("open the store", &error))?;
    project.give_database().map_err(project_error)?;
    Ok(store)
}

/// A store's error at the front door.
#[must_use]
pub fn store_error(doing: &str, error: &StoreError) -> Error {
    let failed = Error::failed(doing, error);
    match error.hint() {
        Some(hint) => failed.hinted(hint),
        None => failed,
    }
}

/// Carries an approved plan out and says how it went.
///
/// # Errors
/// Whatever kept it from being carried out.
pub async fn carry_out(
    source: &Source,
    preview: &Preview,
    risks: Vec<crate::resource::Risk>,
    _lock: &InstanceLock,
    store: &Store,
    context: &Context,
) -> Outcome {
    let look = observe::Machine::new(
        preview.project.clone(),
        preview.gateway.clone(),
        preview::runtimes(),
        Holder::Ourselves,
    );
    let change = execute::Machine::new(
        preview.project.clone(),
        preview::runtimes(),
        execute::Tools::default(),
    );
    let approved =
        Approved { desired: &preview.desired, text: &source.text, plan: &preview.plan, risks };
    let progress = |id: &crate::resource::ResourceId, outcome: &StepOutcome| match outcome {
        StepOutcome::Done => context.progress(&format!("  ✓ {id}\n")),
        StepOutcome::Failed(why) => tell(&format!("  ✗ {id}: {why}\n")),
        StepOutcome::HeldBack(by) => tell(&format!("  ↷ {id}: not begun, because {by} failed\n")),
    };
    let applied = reconcile::apply(&approved, &look, &change, store, &SystemClock, progress)
        .await
        .map_err(|error| apply_error(error, preview, context))?;
    if !applied.report.is_complete() {
        let text = format!("generation {} is applied in part", applied.generation);
        return Err(Error::new(Exit::PartlyApplied, text)
            .hinted("mend what is named above and run `babybot apply` again"));
    }
    if !applied.left.is_empty() {
        tell(&render::text(&applied.left, &preview.heading, Color::Never));
        return Err(Error::new(Exit::PartlyApplied, "something changed while it was applied")
            .hinted("run `babybot apply` again"));
    }
    context.progress(&format!("Applied generation {}.\n", applied.generation));
    if applied.left.is_held_back() {
        let text = "what waits for something unknown was not applied";
        return Err(Error::new(Exit::PartlyApplied, text)
            .hinted("mend what is unknown above and run `babybot apply` again"));
    }
    Ok(Exit::Ok)
}

fn apply_error(error: ApplyError, preview: &Preview, context: &Context) -> Error {
    match error {
        ApplyError::Stale(now) => {
            tell("The plan is now:\n");
            tell(&render::text(&now, &preview.heading, context.stderr_color()));
            Error::new(Exit::PlanStale, ApplyError::Stale(now).to_string())
                .hinted("look at the new plan and run the command again")
        }
        ApplyError::Refused(findings) => {
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            Error::new(Exit::Failed, format!("the plan is refused: {}", lines.join("; ")))
        }
        ApplyError::Store(error) => store_error("record the generation", &error),
    }
}
