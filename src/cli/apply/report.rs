//! How an apply goes: in lines for a person, or as events for a program.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::preview::Preview;
use crate::cli::progress::Build;
use crate::cli::{Context, print, print_json, tell};
use crate::error::Error;
use crate::execute::StepOutcome;
use crate::plan::{Plan, render};
use crate::resource::ResourceId;

/// How `apply` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ApplyFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Says how an apply goes.
#[derive(Debug)]
pub struct Report<'a> {
    pub(super) context: &'a Context,
    format: ApplyFormat,
    build: Arc<Build>,
}

impl<'a> Report<'a> {
    /// A report that has said nothing yet.
    pub fn new(context: &'a Context, format: ApplyFormat) -> Self {
        Self { context, format, build: Arc::new(Build::new(context)) }
    }

    /// Shows the lines of builds.
    pub fn build(&self) -> &Arc<Build> {
        &self.build
    }

    /// Says what is going to be done.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn plan(&self, preview: &Preview) -> Result<(), Error> {
        match self.format {
            ApplyFormat::Human => print(&preview.text_for_apply(self.context.stdout_color())),
            ApplyFormat::Json => {
                let plan = render::json(&preview.plan, &preview.heading)
                    .and_then(|text| serde_json::from_str::<Value>(&text))
                    .map_err(|error| Error::failed("print the plan", &error))?;
                event(&json!({ "event": "plan", "plan": plan }))
            }
        }
    }

    /// Says how a step ended.
    pub fn step(&self, id: &ResourceId, outcome: &StepOutcome) {
        self.build.end(matches!(outcome, StepOutcome::Failed(_)));
        if self.format == ApplyFormat::Json {
            // Where nobody reads any more, the apply goes on.
            let _ = event(&match outcome {
                StepOutcome::Done => json!({ "event": "done", "id": id }),
                StepOutcome::Failed(why) => json!({ "event": "failed", "id": id, "why": why }),
                StepOutcome::HeldBack(by) => json!({ "event": "skipped", "id": id, "by": by }),
            });
            return;
        }
        match outcome {
            StepOutcome::Done => self.context.progress(&format!("  ✓ {id}\n")),
            StepOutcome::Failed(why) => tell(&format!("  ✗ {id}: {why}\n")),
            StepOutcome::HeldBack(by) => tell(&format!("  ↷ {id}: skipped, because {by} failed\n")),
        }
    }

    /// Says what is applied now, and what is left to do.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn applied(&self, generation: u64, complete: bool, left: &Plan) -> Result<(), Error> {
        match self.format {
            ApplyFormat::Human => Ok(()),
            ApplyFormat::Json => {
                let left: Vec<&ResourceId> = left.steps.iter().map(|step| &step.id).collect();
                event(&json!({
                    "event": "applied",
                    "generation": generation,
                    "complete": complete,
                    "left": left,
                }))
            }
        }
    }
}

fn event(event: &Value) -> Result<(), Error> {
    print_json(&format!("{event}\n"))
}
