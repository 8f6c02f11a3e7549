//! What a controller sees: the machine, and what only the controller knows of its agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Shared;
use crate::name::{GroupName, ImageTag};
use crate::observe::{self, Holder, Look};
use crate::observed::{
    AgentSeen, Applied, Controller, Known, Owner, SandboxSeen, SandboxState, Seen,
};
use crate::resource::{ImageSpec, ModelSpec, UserId};

/// Looks at the machine from within its controller.
pub(super) struct Eyes {
    shared: Arc<Shared>,
    machine: observe::Machine,
}

impl Eyes {
    /// A look from within this controller.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let parts = shared.parts();
        let machine = observe::Machine::new(
            parts.project.clone(),
            parts.gateway.clone(),
            parts.runtimes.clone(),
            Holder::Ourselves,
        );
        Self { shared: Arc::clone(shared), machine }
    }

    /// Adds to what a runtime shows of an agent what the controller knows of it.
    async fn complete(&self, group: &GroupName, seen: &mut SandboxSeen) {
        let Some(cell) = self.shared.cell(group) else { return };
        let (sandbox, container, displaced) = {
            let state = cell.state();
            (state.sandbox.clone(), state.container.clone(), state.displaced.clone())
        };
        let (Some(container), true) = (container, sandbox.as_ref() == Some(&seen.id)) else {
            return;
        };
        // A process carries no label.
        seen.digest.get_or_insert_with(|| container.digest());
        let gone = displaced.into_iter().map(|path| format!("{path} is another folder by now"));
        seen.edits.extend(gone);
        if seen.owner != Owner::Ours || seen.state != SandboxState::Running {
            return;
        }
        let Ok(runtime) = self.shared.parts().runtimes.get(container.runtime) else { return };
        match runtime.edits(&seen.id, &container).await {
            Ok(edits) => seen.edits.extend(edits),
            Err(error) => tracing::debug!(%group, %error, "whether it was edited is unknown"),
        }
    }
}

impl Look for Eyes {
    fn controller(&self) -> Controller {
        Controller::Running
    }

    fn applied(&self) -> Known<Applied> {
        self.machine.applied()
    }

    fn global_memory(&self) -> Known<Seen> {
        self.machine.global_memory()
    }

    fn folder(&self, group: &GroupName, owner: Option<UserId>) -> Known<Seen> {
        self.machine.folder(group, owner)
    }

    fn settings(&self, group: &GroupName) -> Known<Seen> {
        self.machine.settings(group)
    }

    fn containers(&self) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, String>> {
        Box::pin(async {
            let mut all = self.machine.containers().await?;
            for (group, sandboxes) in &mut all {
                for seen in sandboxes {
                    self.complete(group, seen).await;
                }
            }
            Ok(all)
        })
    }

    fn image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Known<Seen>> {
        self.machine.image(image)
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<ImageTag>, String>> {
        self.machine.images()
    }

    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        let cells = self.shared.cells().into_iter();
        let agents = cells.map(|cell| {
            let busy = cell.is_busy();
            // In this order: one that starts no longer has its sandbox known.
            let starting = cell.is_starting();
            let (sandbox, held) = (cell.sandbox(), cell.state().held);
            let seen = AgentSeen { sandbox, starting, busy, held };
            (cell.group.clone(), seen)
        });
        agents.collect()
    }

    fn model<'a>(&'a self, spec: &'a ModelSpec) -> BoxFuture<'a, Known<Seen>> {
        self.machine.model(spec)
    }
}
