//! A project that was moved or copied: what a person may say of it, and what follows.

use crate::cli::Context;
use crate::cli::preview::Preview;
use crate::clock::SystemClock;
use crate::control::client::Client;
use crate::error::{Error, Exit};
use crate::machine::HostContext;
use crate::machine::project_error;
use crate::project::{Claim, Project, Relocation};
use crate::source::Source;

/// What is said of a project folder that is not where it was first applied.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ClaimArgs {
    /// This is the same project, moved or restored: keep its identity, containers and images. Only
    /// where the original does not run any more
    #[arg(long)]
    pub reclaim: bool,
    /// This is a copy: give it an identity of its own. Containers and images of the original stay
    /// the original's
    #[arg(long, conflicts_with = "reclaim")]
    pub new_instance: bool,
}

impl ClaimArgs {
    fn claim(self) -> Option<Claim> {
        match self {
            Self { reclaim: true, .. } => Some(Claim::Moved),
            Self { new_instance: true, .. } => Some(Claim::Copy),
            _ => None,
        }
    }
}

/// Looks and plans as the project will be with what is said of it.
///
/// # Errors
/// As [`Preview::make`], and when the original still runs or is still where it was.
pub async fn preview(
    args: ClaimArgs,
    source: &Source,
    context: &Context,
) -> Result<Preview, Error> {
    let Some(claim) = args.claim() else { return Preview::make(source, context).await };
    let project = Project::open(context.project()).map_err(project_error)?;
    let relocation = project.relocation(claim, &SystemClock).map_err(project_error)?;
    let Some(relocation) = relocation else {
        context.note("note: this project was neither moved nor copied: it keeps its identity\n");
        return Preview::make(source, context).await;
    };
    if claim == Claim::Moved {
        refuse_running(&project, &relocation).await?;
    }
    let ground = HostContext::of(project.claimed_by(&relocation))?;
    let mut preview = Preview::on(ground, source, None, context).await?;
    preview.relocation = Some(relocation);
    Ok(preview)
}

/// Refuses to take over from a controller that goes on.
async fn refuse_running(project: &Project, relocation: &Relocation) -> Result<(), Error> {
    let original = Client::connect(&project.data(), &relocation.was).await;
    let Ok(Some(original)) = original else { return Ok(()) };
    let pid = original.hello().pid;
    Err(Error::new(Exit::Locked, format!("the original of this project still runs (pid {pid})"))
        .hinted("stop it with `babybot down` in its folder, or use --new-instance for a copy"))
}

/// What a claim does, and its risk, as it is shown above the plan.
#[must_use]
pub fn text(relocation: &Relocation) -> String {
    let Relocation { claim, was, origin, becomes } = relocation;
    let (was, becomes) = (was.short(), becomes.short());
    match claim {
        Claim::Moved => format!(
            "This folder takes over instance {was}, which was made {origin}.\n\
             privileged: its containers, images, messages and approvals go on here. If the \
             original runs anywhere,\n            both would stop each other's containers.\n\n"
        ),
        Claim::Copy => format!(
            "This folder is a copy of instance {was}, which was made {origin}. It becomes instance \
             {becomes}.\n\
             privileged: messages, memory and approvals of the copy are used here as well. The \
             original keeps\n            its containers and images.\n\n"
        ),
    }
}
