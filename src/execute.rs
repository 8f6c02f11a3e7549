//! Carrying a plan out: one attempt, step by step, nothing left to decide.
//!
//! [`Change`] is the only way in which babybot changes what a plan is about, and
//! only [`execute`] is given it. Every step is idempotent. A failed step holds
//! back the steps of its group that come after it and no others; trying again
//! is up to the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::name::{GroupName, ImageTag, InstanceId, SandboxId};
use crate::observed::Owner;
use crate::plan::{Plan, Step, Work};
use crate::project::repair::InPlace;
use crate::project::{Folder, Project, SettingsFile};
use crate::resource::{ImageSpec, ResourceId, RuntimeRef, Spec, UserId};
use crate::runtime::{Binary, Runtimes};

/// How long a leftover agent may take to end by itself.
const LEFTOVER_MAX: Duration = Duration::from_secs(3);

/// What a new global memory holds.
const GLOBAL_MEMORY: &str = "# For every group\n";

/// The ways to change the world. Each is one attempt, and doing it twice is doing it once.
pub trait Change: Send + Sync {
    /// Makes those folders of a group that are not there or not usable, and gives all of them to
    /// `owner`. Whatever else is in their place is moved aside.
    fn make_folders<'a>(
        &'a self,
        group: &'a GroupName,
        owner: Option<UserId>,
    ) -> BoxFuture<'a, Result<(), String>>;
    /// Writes `groups/global/MEMORY.md` if it is not there. Whatever else is in its place is moved
    /// aside.
    fn write_global_memory(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Writes a group's settings file over the one that is there. Whatever else is in its place is
    /// moved aside.
    fn write_settings<'a>(
        &'a self,
        group: &'a GroupName,
        env: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), String>>;
    /// Ends a group's agent that no controller knows, with all its processes.
    fn stop_leftover<'a>(&'a self, group: &'a GroupName) -> BoxFuture<'a, Result<(), String>>;
    /// Builds an image unless it is there.
    fn build_image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<(), String>>;
    /// Removes an image of ours.
    fn remove_image<'a>(&'a self, tag: &'a ImageTag) -> BoxFuture<'a, Result<(), String>>;
    /// Has the controller do something with a group's agent.
    fn direct<'a>(
        &'a self,
        group: &'a GroupName,
        order: AgentOrder,
    ) -> BoxFuture<'a, Result<(), String>>;
    /// Removes sandboxes that no controller is attached to.
    fn remove_sandboxes<'a>(
        &'a self,
        group: &'a GroupName,
        sandboxes: &'a [SandboxId],
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// What a plan can ask of a controller for one of its agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentOrder {
    /// Start it.
    Start,
    /// End it, and start another.
    Replace,
    /// End it; the next message starts another.
    Stop,
}

/// How a step came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It was done.
    Done,
    /// It failed, for this reason.
    Failed(String),
    /// It was not begun, because this step failed before it.
    HeldBack(ResourceId),
}

/// What became of every step, in the plan's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Step by step.
    pub steps: Vec<(ResourceId, StepOutcome)>,
}

impl Report {
    /// The resources whose steps were done.
    #[must_use]
    pub fn done(&self) -> BTreeSet<ResourceId> {
        let done = self.steps.iter().filter(|(_, outcome)| *outcome == StepOutcome::Done);
        done.map(|(id, _)| id.clone()).collect()
    }

    /// Whether everything was done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(|(_, outcome)| *outcome == StepOutcome::Done)
    }
}

/// Carries a plan out, telling `progress` of each step as it ends.
pub async fn execute(
    plan: &Plan,
    change: &dyn Change,
    mut progress: impl FnMut(&ResourceId, &StepOutcome),
) -> Report {
    let mut report = Report::default();
    let mut failed: Vec<ResourceId> = Vec::new();
    for step in &plan.steps {
        let outcome = match failed.iter().find(|failed| holds_back(failed, step)) {
            Some(failed) => StepOutcome::HeldBack(failed.clone()),
            None => match carry_out(&step.work, change).await {
                Ok(()) => StepOutcome::Done,
                Err(why) => {
                    failed.push(step.id.clone());
                    StepOutcome::Failed(why)
                }
            },
        };
        progress(&step.id, &outcome);
        report.steps.push((step.id.clone(), outcome));
    }
    report
}

/// Whether a step stands on a resource whose own step failed.
fn holds_back(failed: &ResourceId, step: &Step) -> bool {
    let starts = matches!(step.work, Work::StartAgent { .. } | Work::ReplaceAgent { .. });
    let runs_from_image = match &step.work {
        Work::Record { spec: Spec::Group(group) } => group.image.is_some(),
        _ => starts,
    };
    match (failed, &step.id) {
        // A group that could not be changed goes on with the image that it had.
        (_, ResourceId::Image(_)) => step.takes_away(),
        (ResourceId::Image(_), _) => runs_from_image,
        // Every group reads the global memory.
        (ResourceId::GlobalMemory, id) => starts || matches!(id, ResourceId::Group(_)),
        (failed, id) => failed.group().is_some() && failed.group() == id.group(),
    }
}

async fn carry_out(work: &Work, change: &dyn Change) -> Result<(), String> {
    match work {
        Work::MakeFolders { group, owner } => change.make_folders(group, *owner).await,
        Work::BuildImage { image } => change.build_image(image).await,
        Work::RemoveImage { tag } => change.remove_image(tag).await,
        Work::StartAgent { group } => change.direct(group, AgentOrder::Start).await,
        Work::ReplaceAgent { group } => change.direct(group, AgentOrder::Replace).await,
        Work::StopAgent { group } => change.direct(group, AgentOrder::Stop).await,
        Work::RemoveSandboxes { group, sandboxes } => {
            change.remove_sandboxes(group, sandboxes).await
        }
        Work::WriteGlobalMemory => change.write_global_memory().await,
        Work::WriteSettings { group, env } => change.write_settings(group, env).await,
        Work::StopLeftover { group } => change.stop_leftover(group).await,
        // The generation is what changes, and it is written at the end.
        Work::Record { .. } | Work::Forget => Ok(()),
    }
}

/// Changes this machine.
#[derive(Clone)]
pub struct HostChange {
    project: Project,
    runtimes: Runtimes,
    tools: Tools,
}

/// What some changes need and not every caller has.
#[derive(Clone, Default)]
pub struct Tools {
    /// Where the binary comes from that images are built around.
    pub binary: Option<BinarySource>,
    /// Who directs the agents of a controller that runs in this process.
    pub agents: Option<Arc<dyn Direct>>,
    /// Who hears what takes long, line by line.
    pub lines: Option<Lines>,
}

/// Reads the binary that images are built around, or has it built, which is told line by line.
pub type BinarySource =
    Arc<dyn Fn(&ImageSpec, Lines) -> BoxFuture<'static, Result<Binary, String>> + Send + Sync>;

/// Hears lines.
pub type Lines = Arc<dyn Fn(&str) + Send + Sync>;

/// Directs the agents of a controller.
pub trait Direct: Send + Sync {
    /// Has an order carried out, and waits until it is.
    fn direct<'a>(
        &'a self,
        group: &'a GroupName,
        order: AgentOrder,
    ) -> BoxFuture<'a, Result<(), String>>;
}

impl fmt::Debug for HostChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostChange").field("project", &self.project).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

impl HostChange {
    /// Changes to this project. The instance's lock must be held.
    #[must_use]
    pub fn new(project: Project, runtimes: Runtimes, tools: Tools) -> Self {
        Self { project, runtimes, tools }
    }

    fn make_folders(&self, group: &GroupName, owner: Option<UserId>) -> Result<(), String> {
        self.project.prepare().map_err(|error| error.to_string())?;
        let [own, session, mailbox] = self.project.folders(group);
        self.project.repair_folder(&own).map_err(|error| error.to_string())?;
        for folder in [session, mailbox] {
            self.project.repair_private(&folder).map_err(|error| error.to_string())?;
        }
        let folders = self.project.folders(group);
        // The main group keeps what all read.
        for path in folders.into_iter().chain([self.project.global()]) {
            let given = self.project.folder(&path).and_then(|folder| match owner {
                Some(owner) => folder.give_all(owner),
                None => self.give_back(&folder),
            });
            given.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Gives a folder that was given to the agents of another runtime back to the project's owner,
    /// as whom agents run where nobody has to be given anything.
    fn give_back(&self, folder: &Folder) -> std::io::Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let (uid, gid) = self.project.owner().unwrap_or((0, 0));
        match folder.owner()? {
            present if present.uid == uid => Ok(()),
            _ => folder.give_all(UserId { uid, gid }),
        }
    }

    fn write_global_memory(&self) -> Result<(), String> {
        let path = self.project.global();
        self.project.repair_folder(&path).map_err(|error| error.to_string())?;
        let write = || {
            let folder = self.project.folder(&path)?;
            folder.make_way_for_file("MEMORY.md")?;
            if let InPlace::Right(()) = folder.place_of_file("MEMORY.md")? {
                return Ok(());
            }
            folder.write("MEMORY.md", GLOBAL_MEMORY.as_bytes(), 0o644, self.owner_like(&folder)?)
        };
        write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
    }

    fn write_settings(
        &self,
        group: &GroupName,
        env: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let path = self.project.session(group);
        let write = || {
            let mut text = serde_json::to_vec_pretty(&SettingsFile { env: env.clone() })?;
            text.push(b'\n');
            let home = self.project.folder(&path)?;
            let owner = self.owner_like(&home)?;
            home.make_way_for_folder(".ollama")?;
            let folder = home.child_or_make(".ollama", owner)?;
            folder.make_way_for_file("settings.json")?;
            folder.write("settings.json", &text, 0o600, owner)
        };
        write().map_err(|error: std::io::Error| {
            format!("{}: {error}", path.join(".ollama/settings.json").display())
        })
    }

    /// Whom a file is made for in a folder that may have been given away.
    fn owner_like(&self, folder: &Folder) -> std::io::Result<Option<(u32, u32)>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let owner = folder.owner()?;
        Ok((owner.uid != 0).then_some((owner.uid, owner.gid)))
    }

    async fn stop_leftover(&self, group: &GroupName) -> Result<(), String> {
        let Some(instance) = self.project.known_instance().map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        self.stop_ours(&instance, group, |_| true).await?;
        for runtime in self.runtimes.all() {
            // What an agent left behind, and what a list shows as one of several.
            runtime.sweep(&instance, group).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn remove_sandboxes(
        &self,
        group: &GroupName,
        sandboxes: &[SandboxId],
    ) -> Result<(), String> {
        let Some(instance) = self.project.known_instance().map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        self.stop_ours(&instance, group, |id| sandboxes.contains(id)).await
    }

    /// Ends those sandboxes of a group that are chosen and, as they are listed now, still ours: a
    /// name may be another's by now.
    async fn stop_ours(
        &self,
        instance: &InstanceId,
        group: &GroupName,
        chosen: impl Fn(&SandboxId) -> bool,
    ) -> Result<(), String> {
        for runtime in self.runtimes.all() {
            let all = runtime.list(instance).await;
            let ours = all.map_err(|error| error.to_string())?.remove(group).unwrap_or_default();
            for sandbox in ours {
                if sandbox.owner == Owner::Ours && chosen(&sandbox.id) {
                    let stopped = runtime.stop(&sandbox.id, LEFTOVER_MAX).await;
                    stopped.map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    async fn build_image(&self, image: &ImageSpec) -> Result<(), String> {
        let runtime =
            self.runtimes.get(&RuntimeRef::docker(None)).map_err(|error| error.to_string())?;
        let instance = self.project.known_instance().map_err(|error| error.to_string())?;
        let instance = instance.ok_or("this project has no identity yet")?;
        if runtime.has_image(Some(&instance), image).await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        if let ImageSpec::Named { reference } = image {
            return Err(format!("there is no image {reference}: `docker pull {reference}`"));
        }
        let source = self.tools.binary.as_ref().ok_or("there is no binary to build it around")?;
        let lines = self.tools.lines.clone().unwrap_or_else(|| Arc::new(|_: &str| {}));
        let binary = source(image, Arc::clone(&lines)).await?;
        runtime
            .build_image(&instance, image, binary, &*lines)
            .await
            .map_err(|error| error.to_string())
    }

    async fn remove_image(&self, tag: &ImageTag) -> Result<(), String> {
        let Ok(runtime) = self.runtimes.get(&RuntimeRef::docker(None)) else { return Ok(()) };
        let instance = self.project.known_instance().map_err(|error| error.to_string())?;
        let Some(instance) = instance else { return Ok(()) };
        runtime.remove_image(&instance, tag).await.map_err(|error| error.to_string())
    }
}

impl Change for HostChange {
    fn make_folders<'a>(
        &'a self,
        group: &'a GroupName,
        owner: Option<UserId>,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.make_folders(group, owner) })
    }

    fn write_global_memory(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.write_global_memory() })
    }

    fn write_settings<'a>(
        &'a self,
        group: &'a GroupName,
        env: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { self.write_settings(group, env) })
    }

    fn stop_leftover<'a>(&'a self, group: &'a GroupName) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.stop_leftover(group))
    }

    fn build_image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.build_image(image))
    }

    fn remove_image<'a>(&'a self, tag: &'a ImageTag) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.remove_image(tag))
    }

    fn direct<'a>(
        &'a self,
        group: &'a GroupName,
        order: AgentOrder,
    ) -> BoxFuture<'a, Result<(), String>> {
        match &self.tools.agents {
            Some(agents) => agents.direct(group, order),
            None => Box::pin(async { Err("no controller is running".to_owned()) }),
        }
    }

    fn remove_sandboxes<'a>(
        &'a self,
        group: &'a GroupName,
        sandboxes: &'a [SandboxId],
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.remove_sandboxes(group, sandboxes))
    }
}
