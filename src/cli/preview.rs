//! What `plan`, `apply` and `chat` begin with: the machine looked at, the plan made.

use std::io;
use std::sync::Arc;

use crate::cli::Context;
use crate::desired::{Choice, Desired, Remark};
use crate::error::{Error, Exit};
use crate::gateway::Gateway;
use crate::observe::{self, Holder, Look};
use crate::observed::Observed;
use crate::plan::check::{self, Problem};
use crate::plan::render::{self, Color, Heading};
use crate::plan::{Plan, plan};
use crate::project::{Project, ProjectError};
use crate::resource::ResourceId;
use crate::runtime::process::{ProcessRuntime, Strays};
use crate::runtime::{Runtime, Runtimes};
use crate::source::Source;

/// The runtimes of this machine.
#[must_use]
pub fn runtimes() -> Runtimes {
    let none = ProcessRuntime::new("/proc/self/exe".into(), Strays::Adopted);
    Runtimes::new([Arc::new(none) as Arc<dyn Runtime>])
}

/// A plan and what it was made from.
#[derive(Debug)]
pub struct Preview {
    /// The project's folders.
    pub project: Project,
    /// The way to the models.
    pub gateway: Gateway,
    /// What the manifest asks for.
    pub desired: Desired,
    /// What was found.
    pub observed: Observed,
    /// What would be done.
    pub plan: Plan,
    /// What is printed above it.
    pub heading: Heading,
}

impl Preview {
    /// Looks at the machine and plans.
    ///
    /// # Errors
    /// When the project cannot be opened or is a copy.
    pub async fn make(source: &Source, context: &Context) -> Result<Self, Error> {
        let project = Project::open(context.project()).map_err(project_error)?;
        project.known_instance().map_err(project_error)?;
        let gateway = Gateway::new(project.root().to_path_buf())
            .map_err(|error| Error::failed("reach models", &error))?;
        let mut desired = Desired::new(&source.manifest, &crate::desired::Setting::default());
        if rustix::process::geteuid().is_root() && project.owner().is_none() {
            desired.remarks.push(agents_are_root(&desired));
        }
        let look =
            observe::Machine::new(project.clone(), gateway.clone(), runtimes(), Holder::Another);
        let observed = observe::observe(&desired, &look as &dyn Look).await;
        let plan = plan(&desired, &observed);
        let Choice { kind, reason, .. } = desired.runtime.clone();
        let heading = Heading { manifest: source.name.clone(), runtime: kind, reason };
        Ok(Self { project, gateway, desired, observed, plan, heading })
    }

    /// The plan for a person.
    #[must_use]
    pub fn text(&self, color: Color) -> String {
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

/// What is said where something unknown is in the way.
#[must_use]
pub fn held_back() -> Error {
    Error::new(Exit::Failed, "it cannot be told whether the machine matches")
        .hinted("mend what is unknown above, then try again")
}

/// What has to be said where nobody else can be found for agents to run as.
fn agents_are_root(desired: &Desired) -> Remark {
    let groups = desired.resources.keys().filter(|id| matches!(id, ResourceId::Group(_)));
    Remark {
        ids: groups.cloned().collect(),
        text: "the agent runs as root (give the project folder to a user, and it runs as that one)"
            .to_owned(),
    }
}

/// A project's error at the front door.
#[must_use]
pub fn project_error(error: ProjectError) -> Error {
    match &error {
        ProjectError::Locked { .. } => {
            Error::new(Exit::Locked, error.to_string()).hinted("wait until it is done, or end it")
        }
        ProjectError::Copied { path } => Error::new(Exit::Refused, error.to_string())
            .hinted(format!("if this is to be an installation of its own: rm {}", path.display())),
        ProjectError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Error::failed("use this project", &error)
                .hinted("run babybot as the user that the project folder belongs to")
        }
        _ => Error::failed("use this project", &error),
    }
}
