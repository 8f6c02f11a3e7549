//! What a project has on record of the processes that are its agents.

use std::path::PathBuf;
use std::sync::Arc;

use crate::name::GroupName;
use crate::process::{self, Process};
use crate::project::Project;
use crate::runtime::process::Records;
use crate::store::Store;

/// The records of this project.
#[must_use]
pub fn records(project: &Project) -> Arc<dyn Records> {
    Arc::new(OfProject(project.clone()))
}

#[derive(Debug)]
struct OfProject(Project);

impl Records for OfProject {
    fn lock(&self, group: &GroupName) -> PathBuf {
        self.0.agent_lock(group)
    }

    fn agents(&self) -> Result<Vec<(GroupName, Process)>, String> {
        let left = Store::agents_left(&self.0.database(), &process::boot_id());
        left.map_err(|error| error.to_string())
    }
}
