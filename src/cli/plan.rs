//! `babybot plan`: what `apply` would change, and what it would newly allow.

use crate::cli::load::{load, load_for_program};
use crate::cli::preview::{Preview, held_back};
use crate::cli::{Context, VerbResult, print, print_json};
use crate::error::{Error, Exit};
use crate::plan::render;
use crate::resource::Risk;

/// Shows what `babybot apply` would change, field by field, and how much each change may hurt.
///
/// Looks at the manifest and the machine and changes neither. Ends with 0, also when there is
/// something to do, unless --detailed-exitcode or --fail-on says otherwise.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// How to print the plan, or the problems of the manifest: for a person, or as one JSON object
    #[arg(long, value_enum, default_value_t = PlanFormat::Human)]
    pub format: PlanFormat,
    /// End with 2 if there is something to do
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// End with 8 if a change has this risk or a worse one
    #[arg(long, value_name = "RISK", value_parser = crate::cli::approve::risk)]
    pub fail_on: Option<Risk>,
}

/// How `plan` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Plans and prints.
///
/// # Errors
/// When the machine cannot be looked at, or stdout cannot be written.
pub async fn run(args: &PlanArgs, context: &Context) -> VerbResult {
    let source = match args.format {
        PlanFormat::Human => load(context),
        PlanFormat::Json => load_for_program(context)?,
    };
    let source = match source {
        Ok(source) => source,
        Err(exit) => return Ok(exit),
    };
    let preview = Preview::make(&source, context).await?;
    match args.format {
        PlanFormat::Human => print(&preview.text(context.stdout_color()))?,
        PlanFormat::Json => {
            let text = render::json(&preview.plan, &preview.heading)
                .map_err(|error| Error::failed("print the plan", &error))?;
            print_json(&text)?;
        }
    }
    preview.refuse_strangers()?;
    let worst = preview.plan.steps.iter().map(|step| step.risk).max();
    if let (Some(limit), Some(worst)) = (args.fail_on, worst)
        && worst >= limit
    {
        return Err(Error::new(Exit::Refused, format!("the plan has a {worst} change"))
            .hinted(format!("--fail-on {limit} refuses it")));
    }
    match (args.detailed_exitcode, preview.plan.is_empty()) {
        (true, false) => Ok(Exit::ChangesPending),
        (true, true) if preview.plan.is_held_back() => Err(held_back()),
        _ => Ok(Exit::Ok),
    }
}
