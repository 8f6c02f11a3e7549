//! Carrying a plan out: one attempt, step by step, nothing left to decide.
//!
//! [`Change`] is the only way in which babybot changes what a plan is about, and
//! only [`execute`] is given it. Every step is idempotent. A failed step holds
//! back the steps of its group that come after it and no others; trying again
//! is up to the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::name::GroupName;
use crate::plan::{Plan, Work};
use crate::process;
use crate::project::{Project, SettingsFile};
use crate::resource::ResourceId;
use crate::runtime::process::{MARKER, is_agent_of};
use crate::store::Store;

/// How long a leftover agent may take to end by itself.
const LEFTOVER_MAX: Duration = Duration::from_secs(3);

/// What a new global memory holds.
const GLOBAL_MEMORY: &str = "# What every group should know\n";

/// The ways to change the world. Each is one attempt, and doing it twice is doing it once.
pub trait Change: Send + Sync {
    /// Makes those folders of a group that are not there.
    fn make_folders<'a>(&'a self, group: &'a GroupName) -> BoxFuture<'a, Result<(), String>>;
    /// Writes `groups/global/MEMORY.md` if it is not there.
    fn write_global_memory(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Writes a group's settings file, whatever stands in its place.
    fn write_settings<'a>(
        &'a self,
        group: &'a GroupName,
        env: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), String>>;
    /// Ends a group's agent that no controller knows, with all its processes.
    fn stop_leftover<'a>(&'a self, group: &'a GroupName) -> BoxFuture<'a, Result<(), String>>;
}

/// How a step came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
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
    pub steps: Vec<(ResourceId, Outcome)>,
}

impl Report {
    /// The resources whose steps were done.
    #[must_use]
    pub fn done(&self) -> BTreeSet<ResourceId> {
        let done = self.steps.iter().filter(|(_, outcome)| *outcome == Outcome::Done);
        done.map(|(id, _)| id.clone()).collect()
    }

    /// Whether everything was done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(|(_, outcome)| *outcome == Outcome::Done)
    }
}

/// Carries a plan out, telling `progress` of each step as it ends.
pub async fn execute(
    plan: &Plan,
    change: &dyn Change,
    mut progress: impl FnMut(&ResourceId, &Outcome),
) -> Report {
    let mut report = Report::default();
    let mut failed: Vec<ResourceId> = Vec::new();
    for step in &plan.steps {
        let outcome = match failed.iter().find(|failed| holds_back(failed, &step.id)) {
            Some(failed) => Outcome::HeldBack(failed.clone()),
            None => match carry_out(&step.work, change).await {
                Ok(()) => Outcome::Done,
                Err(why) => {
                    failed.push(step.id.clone());
                    Outcome::Failed(why)
                }
            },
        };
        progress(&step.id, &outcome);
        report.steps.push((step.id.clone(), outcome));
    }
    report
}

/// Whether a resource stands on one whose step failed.
fn holds_back(failed: &ResourceId, id: &ResourceId) -> bool {
    match failed.group() {
        Some(group) => id.group() == Some(group),
        // Every group reads the global memory.
        None => matches!(failed, ResourceId::GlobalMemory) && matches!(id, ResourceId::Group(_)),
    }
}

async fn carry_out(work: &Work, change: &dyn Change) -> Result<(), String> {
    match work {
        Work::MakeFolders { group } => change.make_folders(group).await,
        Work::WriteGlobalMemory => change.write_global_memory().await,
        Work::WriteSettings { group, env } => change.write_settings(group, env).await,
        Work::StopLeftover { group } => change.stop_leftover(group).await,
        // The generation is what changes, and it is written at the end.
        Work::Record { .. } | Work::Forget => Ok(()),
    }
}

/// Changes this machine.
#[derive(Debug)]
pub struct Machine {
    project: Project,
}

impl Machine {
    /// Changes to this project. The instance's lock must be held.
    #[must_use]
    pub fn new(project: Project) -> Self {
        Self { project }
    }

    fn make_folders(&self, group: &GroupName) -> Result<(), String> {
        self.project.prepare().map_err(|error| error.to_string())?;
        let [own, session, mailbox] = self.project.folders(group);
        self.project.make_folder(&own).map_err(|error| error.to_string())?;
        for folder in [session, mailbox] {
            self.project.make_private(&folder).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn write_global_memory(&self) -> Result<(), String> {
        let path = self.project.global();
        self.project.make_folder(&path).map_err(|error| error.to_string())?;
        let write = || {
            let folder = self.project.folder(&path)?;
            if folder.is_file("MEMORY.md")? {
                return Ok(());
            }
            folder.write("MEMORY.md", GLOBAL_MEMORY.as_bytes(), 0o644, self.project.owner())
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
            let owner = self.project.owner();
            let folder = self.project.folder(&path)?.child_or_make(".ollama", owner)?;
            folder.write("settings.json", &text, 0o600, owner)
        };
        write().map_err(|error: std::io::Error| {
            format!("{}: {error}", path.join(".ollama/settings.json").display())
        })
    }

    fn stop_leftover(&self, group: &GroupName) -> Result<(), String> {
        let Some(instance) = self.project.known_instance().map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        let remembered = Store::sandboxes_left(&self.project.database());
        let boot = process::boot_id();
        for sandbox in remembered.map_err(|error| error.to_string())? {
            let agent = sandbox.process_in(&boot).filter(|agent| is_agent_of(&instance, *agent));
            if let Some(agent) = agent
                && sandbox.group == *group
                && !agent.wait_gone(LEFTOVER_MAX)
            {
                process::kill_tree(agent);
            }
        }
        match process::kill_marked(MARKER, &format!("{instance}/{group}/")) {
            0 => Ok(()),
            left => Err(format!("{left} processes cannot be killed")),
        }
    }
}

impl Change for Machine {
    fn make_folders<'a>(&'a self, group: &'a GroupName) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { self.make_folders(group) })
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
        Box::pin(async { self.stop_leftover(group) })
    }
}
