//! What `plan`, `apply` and `up` begin with: the machine looked at, the plan made.

use std::collections::BTreeSet;

use crate::cli::Context;
use crate::cli::join::{control_error, join};
use crate::control::client::Client;
use crate::desired::Desired;
use crate::error::{Error, Exit};
use crate::machine::{Environment, HostContext};
use crate::observe::{self, Holder};
use crate::observed::Observed;
use crate::plan::check::{self, Problem};
use crate::plan::render::{self, Color, Heading};
use crate::plan::{Plan, plan};
use crate::project::Relocation;
use crate::resource::Risk;
use crate::source::Source;

/// A plan and what it was made from.
#[derive(Debug)]
pub struct Preview {
    /// The project, and what of this machine matters to it.
    pub ground: HostContext,
    /// The controller that runs, if one does: it made the look, and it has to make the changes.
    pub controller: Option<Client>,
    /// What the manifest asks for.
    pub desired: Desired,
    /// What was found.
    pub observed: Observed,
    /// What would be done.
    pub plan: Plan,
    /// What is printed above it.
    pub heading: Heading,
    /// Whether every field is printed.
    verbose: bool,
    /// What a person says of a project that was moved or copied.
    pub relocation: Option<Relocation>,
}

impl Preview {
    /// Looks at the machine and plans.
    ///
    /// # Errors
    /// When the project cannot be opened or is a copy, or the manifest asks for what cannot be here.
    pub async fn make(source: &Source, context: &Context) -> Result<Self, Error> {
        let (_, controller) = join(context).await?;
        Self::with(source, controller, context).await
    }

    /// Looks through a controller, where there is one, and plans.
    ///
    /// # Errors
    /// As [`Preview::make`].
    pub async fn with(
        source: &Source,
        controller: Option<Client>,
        context: &Context,
    ) -> Result<Self, Error> {
        Self::on(HostContext::of_project(context.project())?, source, controller, context).await
    }

    /// As [`Preview::with`], for a project that was opened already.
    ///
    /// # Errors
    /// As [`Preview::make`].
    pub async fn on(
        mut ground: HostContext,
        source: &Source,
        controller: Option<Client>,
        context: &Context,
    ) -> Result<Self, Error> {
        let desired = ground.resolve(&source.manifest, Environment::Own).await?;
        let observed = match &controller {
            Some(client) => client
                .observe(&desired)
                .await
                .map_err(|error| control_error("ask the controller what is there", &error))?,
            None => observe::observe(&desired, &ground.look(Holder::Another)).await,
        };
        let plan = plan(&desired, &observed);
        let heading = Heading {
            manifest: source.name.clone(),
            runtime: desired.runtime.kind,
            reason: desired.runtime.reason.clone(),
        };
        Ok(Self {
            ground,
            controller,
            desired,
            observed,
            plan,
            heading,
            relocation: None,
            verbose: context.verbose > 0,
        })
    }

    /// The risks that have to be approved.
    #[must_use]
    pub fn risks(&self) -> BTreeSet<Risk> {
        let steps = self.plan.steps.iter().map(|step| step.risk);
        // Another's containers, messages and approvals may be reached by it.
        steps.chain(self.relocation.as_ref().map(|_| Risk::Privileged)).collect()
    }

    /// The risks that a bare `--yes` does not cover.
    #[must_use]
    pub fn risks_to_name(&self) -> BTreeSet<Risk> {
        self.risks().into_iter().filter(|risk| *risk > Risk::Disruptive).collect()
    }

    /// How many changes have to be approved.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.plan.steps.len() + usize::from(self.relocation.is_some())
    }

    /// The plan for a person.
    #[must_use]
    pub fn text(&self, color: Color) -> String {
        if self.verbose {
            return render::full_text(&self.plan, &self.heading, color);
        }
        render::text(&self.plan, &self.heading, color)
    }

    /// The plan for a person who is about to be asked, without the command that would ask again.
    #[must_use]
    pub fn text_for_apply(&self, color: Color) -> String {
        let text = self.text(color);
        let lines = text.lines().filter(|line| !line.starts_with("Next: "));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// A second opinion on the plan, before anybody is asked to approve it.
    ///
    /// # Errors
    /// [`Exit::Refused`] if the manifest lets strangers drive an agent without a wall, and
    /// [`Exit::Failed`] if the plan has a defect.
    pub fn refuse_strangers(&self) -> Result<(), Error> {
        let Err(findings) = check::check(&self.plan, &self.desired, &self.observed) else {
            return Ok(());
        };
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let strangers = findings.iter().all(|f| matches!(f.problem, Problem::StrangerUnwalled(_)));
        let exit = if strangers { Exit::Refused } else { Exit::Failed };
        Err(Error::new(exit, format!("the plan is refused: {}", lines.join("; "))))
    }
}

/// The error where something unknown is in the way.
#[must_use]
pub fn held_back() -> Error {
    Error::new(Exit::Failed, "part of the machine could not be checked")
        .hinted("fix the problem above, then try again")
}
