//! What a controller sees: the machine, and what only the controller knows of its agents.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use super::Shared;
use crate::desired::Desired;
use crate::host::Agent;
use crate::machine;
use crate::name::GroupName;
use crate::observe::{self, Found, Holder, Look};
use crate::observed::{
    AgentSeen, Applied, Controller, Known, Owner, SandboxSeen, SandboxState, Seen,
};
use crate::resource::{self, ResourceId, ResourceKind, RuntimeRef, Spec};
use crate::runtime::{self, RuntimeError, Runtimes};

/// Sandboxes that are looked at closely at once.
const LOOKS_AT_ONCE: usize = 8;

/// Looks at the machine from within its controller.
pub(super) struct ControllerLook {
    shared: Arc<Shared>,
    machine: observe::HostLook,
    runtimes: Runtimes,
    /// What was known of agents right after their sandboxes were listed.
    agents: Mutex<Option<BTreeMap<GroupName, AgentSeen>>>,
}

impl ControllerLook {
    /// A look from within this controller.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self::through(shared, shared.parts().runtimes)
    }

    /// The same before an apply of what may ask for another engine: there is looked, and no agent is
    /// started there yet.
    pub(super) fn toward(shared: &Arc<Shared>, desired: &Desired) -> Self {
        let here = shared.parts().runtimes;
        let specs = desired.resources.iter();
        let specs = specs.map(|(id, wanted)| (id.clone(), wanted.spec.clone())).collect();
        let wanted = resource::engine(&specs).map(|url| RuntimeRef::docker(Some(url)));
        let Some(wanted) = wanted.filter(|wanted| here.get(wanted).is_err()) else {
            return Self::through(shared, here);
        };
        let others = here.all().into_iter();
        let there = Runtimes::new(others.filter(|other| other.reference().kind != wanted.kind));
        let records = machine::records(&shared.parts().project);
        match runtime::open(&wanted, "as the manifest says", &records) {
            Ok(engine) => there.add(engine),
            Err(RuntimeError::Unavailable { why, .. }) => there.lack(wanted, why),
            Err(error) => there.lack(wanted, error.to_string()),
        }
        Self::through(shared, there)
    }

    fn through(shared: &Arc<Shared>, runtimes: Runtimes) -> Self {
        let parts = shared.parts();
        let machine = observe::HostLook::new(
            parts.project.clone(),
            parts.gateway.clone(),
            runtimes.clone(),
            Holder::Ourselves,
        );
        let machine = machine.expecting(resource::runtimes(shared.host().specs()));
        Self { shared: Arc::clone(shared), machine, runtimes, agents: Mutex::default() }
    }

    /// Agents at an engine that is not looked at: what is held is there all the same.
    fn add_elsewhere(&self, all: &mut BTreeMap<GroupName, Vec<SandboxSeen>>) {
        for handle in self.shared.groups() {
            let agent = handle.agent();
            let Some(agent_handle) = agent.agent_handle() else { continue };
            let looked_at = self.runtimes.get(&agent_handle.runtime()).is_ok();
            let seen = all.entry(handle.group.clone()).or_default();
            if !looked_at && !seen.iter().any(|seen| seen.id == *agent_handle.sandbox()) {
                seen.push(SandboxSeen {
                    id: agent_handle.sandbox().clone(),
                    name: agent_handle.sandbox().to_string(),
                    owner: Owner::Ours,
                    state: SandboxState::Running,
                    digest: Some(agent_handle.container().digest()),
                    edits: Vec::new(),
                    processes: None,
                });
            }
        }
    }

    /// What is known of agents at this moment.
    fn agents_now(&self) -> BTreeMap<GroupName, AgentSeen> {
        let groups = self.shared.groups().into_iter();
        let agents = groups.map(|handle| {
            let busy = handle.is_busy();
            let agent = handle.agent();
            let seen = AgentSeen {
                starting: matches!(agent, Agent::Starting),
                sandbox: agent.sandbox(),
                busy,
                held: handle.state().held,
            };
            (handle.group.clone(), seen)
        });
        agents.collect()
    }

    /// Adds to what a runtime shows of an agent what the controller knows of it.
    async fn complete(&self, group: &GroupName, seen: &mut SandboxSeen) {
        let Some(handle) = self.shared.handle(group) else { return };
        let agent = handle.agent();
        let Some(agent_handle) =
            agent.agent_handle().filter(|agent_handle| *agent_handle.sandbox() == seen.id)
        else {
            return;
        };
        let container = agent_handle.container();
        // A process carries no label.
        seen.digest.get_or_insert_with(|| container.digest());
        let gone = agent_handle.displaced().into_iter();
        let root = self.shared.parts().project.root().to_owned();
        let below = |path: &PathBuf| path.strip_prefix(&root).unwrap_or(path).display().to_string();
        let gone = gone.map(|path| format!("{} was deleted or replaced", below(&path)));
        seen.edits.extend(gone);
        if seen.owner != Owner::Ours || seen.state != SandboxState::Running {
            return;
        }
        let Ok(runtime) = self.runtimes.get(&agent_handle.runtime()) else { return };
        match runtime.edits(&seen.id, container).await {
            Ok(edits) => seen.edits.extend(edits),
            Err(error) => tracing::debug!(%group, %error, "cannot check if it was edited"),
        }
    }

    /// The sandboxes that are there, each with what is known of it.
    async fn find_sandboxes(&self) -> Found {
        let before = self.agents_now();
        let found = self.machine.find(ResourceKind::Container).await?;
        let mut all: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
        let mut unknown: BTreeMap<ResourceId, Known<Seen>> = BTreeMap::new();
        for (id, seen) in found {
            match (id, seen) {
                (ResourceId::Container(group), Known::Is(Seen::Container { sandboxes })) => {
                    all.insert(group, sandboxes);
                }
                (id, seen) => drop(unknown.insert(id, seen)),
            }
        }
        // Only what is known later than what was seen: whatever started meanwhile is no stray.
        let agents = self.agents_now();
        for (group, sandboxes) in &mut all {
            let sandbox = |agents: &BTreeMap<GroupName, AgentSeen>| {
                agents.get(group).and_then(|agent| agent.sandbox.clone())
            };
            let (old, new) = (sandbox(&before), sandbox(&agents));
            // One that ended meanwhile is none either.
            sandboxes.retain(|seen| old == new || old.as_ref() != Some(&seen.id));
        }
        self.add_elsewhere(&mut all);
        all.retain(|_, sandboxes| !sandboxes.is_empty());
        *self.agents.lock().unwrap_or_else(PoisonError::into_inner) = Some(agents);
        let each = all.iter_mut().flat_map(|(group, sandboxes)| {
            sandboxes.iter_mut().map(|seen| self.complete(group, seen))
        });
        // All at once would be a crowd at the engine.
        futures_util::stream::iter(each.collect::<Vec<_>>())
            .buffer_unordered(LOOKS_AT_ONCE)
            .collect::<()>()
            .await;
        let seen = |(group, sandboxes)| {
            (ResourceId::Container(group), Known::Is(Seen::Container { sandboxes }))
        };
        let mut looks: BTreeMap<ResourceId, Known<Seen>> = all.into_iter().map(seen).collect();
        looks.extend(unknown);
        Ok(looks)
    }
}

impl Look for ControllerLook {
    fn see<'a>(&'a self, id: &'a ResourceId, spec: &'a Spec) -> BoxFuture<'a, Known<Seen>> {
        self.machine.see(id, spec)
    }

    fn find(&self, kind: ResourceKind) -> BoxFuture<'_, Found> {
        match kind {
            ResourceKind::Container => Box::pin(self.find_sandboxes()),
            kind => self.machine.find(kind),
        }
    }

    fn applied(&self) -> BoxFuture<'_, Known<Applied>> {
        self.machine.applied()
    }

    fn controller(&self) -> BoxFuture<'_, Controller> {
        Box::pin(std::future::ready(Controller::Running))
    }

    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        let known = self.agents.lock().unwrap_or_else(PoisonError::into_inner).take();
        known.unwrap_or_else(|| self.agents_now())
    }
}
