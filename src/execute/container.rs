//! The sandboxes of groups: started, replaced and stopped by their controller, and removed where
//! nobody is attached to them.

use std::time::Duration;

use super::{AgentOrder, HostChange};
use crate::name::{GroupName, InstanceId, SandboxId};
use crate::observed::Owner;

/// How long a leftover agent may take to end by itself.
const LEFTOVER_MAX: Duration = Duration::from_secs(3);

impl HostChange {
    /// Has the controller do something with a group's agent.
    pub(super) async fn direct(&self, group: &GroupName, order: AgentOrder) -> Result<(), String> {
        match &self.tools.agents {
            Some(agents) => agents.direct(group, order).await,
            None => Err("no controller is running".to_owned()),
        }
    }

    /// Ends a group's agent that no controller knows, with all its processes.
    pub(super) async fn stop_leftover(&self, group: &GroupName) -> Result<(), String> {
        let Some(instance) = self.instance().await? else { return Ok(()) };
        self.stop_ours(&instance, group, |_| true).await?;
        for runtime in self.runtimes.all() {
            // What an agent left behind, and what a list shows as one of several.
            runtime.sweep(&instance, group).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Removes sandboxes that no controller is attached to.
    pub(super) async fn remove_sandboxes(
        &self,
        group: &GroupName,
        sandboxes: &[SandboxId],
    ) -> Result<(), String> {
        let Some(instance) = self.instance().await? else { return Ok(()) };
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
            // One that cannot be asked is not where it was seen.
            let Ok(mut all) = runtime.list(instance).await else { continue };
            let ours = all.remove(group).unwrap_or_default();
            for sandbox in ours {
                if sandbox.owner == Owner::Ours && chosen(&sandbox.id) {
                    let stopped = runtime.stop(&sandbox.id, LEFTOVER_MAX).await;
                    stopped.map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }
}
