//! `babybot apply`: makes the machine match the manifest after approval.

mod report;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

pub use self::report::{ApplyFormat, Report};
use crate::cli::approve::{self, ApprovalArgs};
use crate::cli::claim::{self, ClaimArgs};
use crate::cli::join::{busy, control_error, join};
use crate::cli::load::{load, load_for_program};
use crate::cli::preview::{Preview, held_back};
use crate::cli::progress::Build;
use crate::cli::{Context, VerbResult, print, tell};
use crate::clock::{Clock, SystemClock};
use crate::control::client::Client;
use crate::control::{ApplyEvent, ApplyRequest};
use crate::error::{Error, Exit};
use crate::execute::{self, StepOutcome};
use crate::machine::HostContext;
use crate::machine::project_error;
use crate::observe::Holder;
use crate::plan::render::{self, Color};
use crate::plan::{NoteKind, Plan, Step};
use crate::project::{InstanceLock, Project};
use crate::reconcile::{self, ApplyError, Approved};
use crate::resource::{ResourceId, Risk};
use crate::source::Source;
use crate::store::{Store, StoreError};

/// How long what was interrupted may take to say so itself.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// Makes the machine match babybot.toml: plans, asks for approval, checks again and applies.
///
/// Without a terminal, --yes gives the approval. Exits with 4 if the plan was partly applied, with
/// 5 if the machine changed while you were deciding, with 6 if another babybot command is changing
/// this project, with 7 if approval is missing, and with 8 if the project was moved or copied and you
/// did not say which. With --format json, each line is an object with an `event`: first `plan`, as
/// `babybot plan` prints it; then `done`, `failed` (with `why`) or `skipped` (with `by`) for each step,
/// by its `id`; at last `applied`, with `generation`, `complete` and the ids that are `left` to do.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The approval.
    #[command(flatten)]
    pub approval: ApprovalArgs,
    /// What is said of a project that was moved or copied.
    #[command(flatten)]
    pub claim: ClaimArgs,
    /// How to say how it goes: for a person, or one JSON object a line
    #[arg(long, value_enum, default_value_t = ApplyFormat::Human)]
    pub format: ApplyFormat,
}

/// Plans, asks and applies.
///
/// # Errors
/// Whatever keeps the machine from matching.
pub async fn run(args: &ApplyArgs, context: &Context) -> VerbResult {
    unless_stopped("apply", context, Box::pin(apply(args, context))).await
}

/// Does this, unless Ctrl-C comes.
///
/// # Errors
/// Those of the work, and that it was stopped.
pub async fn unless_stopped<T>(
    verb: &str,
    context: &Context,
    mut work: Pin<Box<impl Future<Output = Result<T, Error>>>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        outcome = &mut work => return outcome,
        _ = tokio::signal::ctrl_c() => {}
    }
    // A question that is open hears of it too, in no order, and says itself what came of it.
    match tokio::time::timeout(ANSWER_MAX, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(stopped(verb, context).await),
    }
}

/// The error where Ctrl-C came while something was applied: steps may be done, and no generation
/// is recorded. A controller goes on with what it was given.
async fn stopped(verb: &str, context: &Context) -> Error {
    let interrupted = |text: String| Error::new(Exit::Interrupted, text);
    if matches!(join(context).await, Ok((_, Some(_)))) {
        return interrupted("stopped waiting; the controller finishes an apply that began".into())
            .hinted("run `babybot status` to see it");
    }
    let applied = match HostContext::of_project(context.project()) {
        Ok(ground) => ground.applied().await,
        Err(error) => return error,
    };
    let text = match applied {
        Some(applied) => format!("stopped; generation {} is still applied", applied.number),
        None => "stopped; nothing is applied yet".to_owned(),
    };
    interrupted(text).hinted(format!("run `babybot {verb}{}` again", context.manifest_argument()))
}

async fn apply(args: &ApplyArgs, context: &Context) -> VerbResult {
    let loaded = match args.format {
        ApplyFormat::Human => load(context),
        ApplyFormat::Json => load_for_program(context)?,
    };
    let source = match loaded {
        Ok(source) => source,
        Err(exit) => return Ok(exit),
    };
    let report = Report::new(context, args.format);
    let preview = claim::preview(args.claim, &source, context).await?;
    // A plan made beside somebody who is changing the machine is none to approve.
    if preview.controller.is_none()
        && let Some(holder) = preview.ground.project.lock_holder().map_err(project_error)?
    {
        return Err(busy(&holder));
    }
    let above = preview.relocation.as_ref().map(claim::text).unwrap_or_default();
    match args.format {
        ApplyFormat::Human => print(&above)?,
        ApplyFormat::Json => tell(&above),
    }
    report.plan(&preview)?;
    preview.refuse_strangers()?;
    if preview.plan.is_empty() && preview.relocation.is_none() {
        return if preview.plan.is_held_back() { Err(held_back()) } else { Ok(Exit::Ok) };
    }
    let risks = approve::approve(&preview, &args.approval, context).await?;
    match preview.controller.clone() {
        Some(client) => through(&client, &source, &preview, risks, &report).await,
        None => {
            let project = &preview.ground.project;
            let lock = project.lock("apply", SystemClock.now()).map_err(project_error)?;
            if let Some(relocation) = &preview.relocation {
                project.relocate(relocation, &lock).map_err(project_error)?;
                let instance = relocation.becomes.short().to_owned();
                context.progress(&format!("This folder is instance {instance} now.\n"));
                if preview.plan.is_empty() {
                    return if preview.plan.is_held_back() {
                        Err(held_back())
                    } else {
                        Ok(Exit::Ok)
                    };
                }
            }
            let store = open_store(project, &lock)?;
            apply_plan(&source, &preview, risks, &lock, &store, &report).await
        }
    }
}

/// Has the controller that runs carry an approved plan out, and says how it goes.
async fn through(
    client: &Client,
    source: &Source,
    preview: &Preview,
    risks: Vec<Risk>,
    report: &Report<'_>,
) -> VerbResult {
    let request = ApplyRequest {
        desired: preview.desired.clone(),
        text: source.text.clone(),
        plan: preview.plan.clone(),
        risks,
    };
    let failed = |error| control_error("apply through the controller", &error);
    let events = client.apply(&request).await.map_err(failed)?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event.map_err(failed)? {
            ApplyEvent::Line { text } => report.build().line(&text),
            ApplyEvent::Done { id } => report.step(&id, &StepOutcome::Done),
            ApplyEvent::Failed { id, why } => report.step(&id, &StepOutcome::Failed(why)),
            ApplyEvent::HeldBack { id, by } => report.step(&id, &StepOutcome::HeldBack(by)),
            ApplyEvent::Applied { generation, complete, left } => {
                return conclude(generation, complete, &left, preview, report);
            }
            ApplyEvent::Stale { plan } => {
                return Err(apply_error(ApplyError::Stale(plan), preview, report.context));
            }
            ApplyEvent::Error { why } => {
                return Err(Error::new(Exit::Failed, format!("not applied: {why}")));
            }
        }
    }
    Err(Error::new(Exit::Failed, "the controller stopped before the apply was done")
        .hinted("run `babybot plan` to see which changes are left"))
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
pub async fn apply_plan(
    source: &Source,
    preview: &Preview,
    risks: Vec<Risk>,
    _lock: &InstanceLock,
    store: &Store,
    report: &Report<'_>,
) -> VerbResult {
    let look = preview.ground.look(Holder::Ourselves);
    let change = executor(&preview.ground, report.build());
    let approved =
        Approved { desired: &preview.desired, text: &source.text, plan: &preview.plan, risks };
    let progress = |id: &ResourceId, outcome: &StepOutcome| report.step(id, outcome);
    let applied = reconcile::apply(&approved, &look, &change, store, &SystemClock, progress)
        .await
        .map_err(|error| apply_error(error, preview, report.context))?;
    let complete = applied.report.is_complete();
    conclude(applied.generation, complete, &applied.left, preview, report)
}

/// Changes the machine where no controller runs, and reports how a build goes.
pub fn executor(ground: &HostContext, build: &Arc<Build>) -> execute::HostChange {
    let told = Arc::clone(build);
    let tools = execute::Tools {
        binary: Some(ground.binary()),
        agents: None,
        lines: Some(Arc::new(move |line: &str| told.line(line))),
    };
    execute::HostChange::new(ground.project.clone(), ground.runtimes.clone(), tools)
}

/// Says how an apply came out.
fn conclude(
    generation: u64,
    complete: bool,
    left: &Plan,
    preview: &Preview,
    report: &Report<'_>,
) -> VerbResult {
    report.applied(generation, complete, left)?;
    if !complete {
        return Err(partly(generation));
    }
    // What follows from it, such as an image that nothing stands on any more, the controller does.
    let follows = |step: &Step| {
        preview.controller.is_some()
            && matches!(step.id, ResourceId::Container(_) | ResourceId::Image(_))
    };
    if !left.steps.iter().all(follows) {
        tell(&render::text(left, &preview.heading, Color::Never));
        return Err(Error::new(Exit::PartlyApplied, "something changed during the apply")
            .hinted("run `babybot apply` again"));
    }
    if left.is_held_back() {
        // What waits for the end of a turn is done by the controller, and needs nobody.
        let busy = left.notes.iter().all(|note| {
            note.kind != NoteKind::Waiting
                || note
                    .ids
                    .iter()
                    .all(|id| matches!(id, ResourceId::Container(_) | ResourceId::Image(_)))
        });
        if !busy || preview.controller.is_none() {
            tell(&render::text(left, &preview.heading, report.context.stderr_color()));
            return Err(partly(generation));
        }
    }
    report.context.progress(&format!("Applied generation {generation}.\n"));
    Ok(Exit::Ok)
}

fn partly(generation: u64) -> Error {
    Error::new(Exit::PartlyApplied, format!("generation {generation} is partly applied"))
        .hinted("fix the problem above and run `babybot apply` again")
}

fn apply_error(error: ApplyError, preview: &Preview, context: &Context) -> Error {
    match error {
        ApplyError::Stale(now) => {
            tell("The plan is now:\n");
            tell(&render::text(&now, &preview.heading, context.stderr_color()));
            Error::new(Exit::PlanStale, ApplyError::Stale(now).to_string())
                .hinted("check the new plan, then run the command again")
        }
        ApplyError::Refused(findings) => {
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            Error::new(Exit::Failed, format!("the plan is refused: {}", lines.join("; ")))
        }
        ApplyError::Store(error) => store_error("record the generation", &error),
    }
}
