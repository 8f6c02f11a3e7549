//! Carrying a plan out: one attempt, step by step, nothing left to decide.
//!
//! [`Change`] is the only way in which babybot changes what a plan is about, and
//! only [`execute`] is given it. Every step is idempotent. A failed step holds
//! back the steps of its group that come after it, and those that need it;
//! trying again is up to the caller. Each kind of resource has a file of its
//! own with what is done for it.

mod channel;
mod container;
mod folder;
mod group;
mod image;
mod instance;
mod memory;
mod model;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::name::{GroupName, InstanceId};
use crate::plan::{Plan, Step, Work};
use crate::project::{Folder, Project};
use crate::resource::{ImageSpec, ResourceId};
use crate::runtime::{Binary, Runtimes};

/// The way to change the world.
pub trait Change: Send + Sync {
    /// Does what a step says: one attempt, and doing it twice is doing it once.
    fn carry_out<'a>(&'a self, work: &'a Work) -> BoxFuture<'a, Result<(), String>>;
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
    let mut failures = Failures::default();
    for step in &plan.steps {
        let outcome = match failures.below(step) {
            Some(failed) => StepOutcome::HeldBack(failed.clone()),
            None => match change.carry_out(&step.work).await {
                Ok(()) => StepOutcome::Done,
                Err(why) => StepOutcome::Failed(why),
            },
        };
        failures.note(&step.id, &outcome);
        progress(&step.id, &outcome);
        report.steps.push((step.id.clone(), outcome));
    }
    report
}

/// The steps that failed, and those that were held back for one of them.
#[derive(Default)]
struct Failures {
    failed: Vec<ResourceId>,
    held_back: BTreeMap<ResourceId, ResourceId>,
}

impl Failures {
    /// The failed step because of which this one is held back.
    fn below(&self, step: &Step) -> Option<&ResourceId> {
        let group = step.id.group();
        let mine = |failed: &&ResourceId| group.is_some() && failed.group() == group;
        let needed = |needed| {
            let failed = self.failed.iter().find(|failed| *failed == needed);
            failed.or_else(|| self.held_back.get(needed))
        };
        let own = self.failed.iter().find(mine);
        own.or_else(|| step.needs.iter().find_map(needed))
    }

    fn note(&mut self, id: &ResourceId, outcome: &StepOutcome) {
        match outcome {
            StepOutcome::Done => {}
            StepOutcome::Failed(_) => self.failed.push(id.clone()),
            StepOutcome::HeldBack(failed) => {
                self.held_back.insert(id.clone(), failed.clone());
            }
        }
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

    /// Does to the project's files what may wait for a disk, where it keeps nobody waiting.
    async fn on_disk(
        &self,
        work: impl FnOnce(&Project) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        self.project.blocking(work).await.map_err(|error| error.to_string())?
    }

    async fn instance(&self) -> Result<Option<InstanceId>, String> {
        let read = |project: &Project| project.known_instance().map_err(|error| error.to_string());
        self.project.blocking(read).await.map_err(|error| error.to_string())?
    }
}

impl Change for HostChange {
    fn carry_out<'a>(&'a self, work: &'a Work) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match work {
                Work::BuildImage { image } => self.build_image(image).await,
                Work::RemoveImage { tag } => self.remove_image(tag).await,
                Work::WriteGlobalMemory => self.on_disk(memory::write).await,
                Work::MakeFolders { group, owner, global } => {
                    let (group, owner, global) = (group.clone(), *owner, *global);
                    let make =
                        move |project: &Project| folder::make(project, &group, owner, global);
                    self.on_disk(make).await
                }
                Work::WriteSettings { group, env } => {
                    let (group, env) = (group.clone(), env.clone());
                    self.on_disk(move |project| settings::write(project, &group, env)).await
                }
                Work::StartAgent { group } => self.direct(group, AgentOrder::Start).await,
                Work::ReplaceAgent { group } => self.direct(group, AgentOrder::Replace).await,
                Work::StopAgent { group } => self.direct(group, AgentOrder::Stop).await,
                Work::StopLeftover { group } => self.stop_leftover(group).await,
                Work::RemoveSandboxes { group, sandboxes } => {
                    self.remove_sandboxes(group, sandboxes).await
                }
                // The generation is what changes, and it is written at the end.
                Work::Record { .. } | Work::Forget => Ok(()),
            }
        })
    }
}

/// Whom a file is made for in a folder that may have been given away.
fn owner_like(folder: &Folder) -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let owner = folder.owner()?;
    Ok((owner.uid != 0).then_some((owner.uid, owner.gid)))
}
