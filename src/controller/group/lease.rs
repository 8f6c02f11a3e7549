//! An agent that is kept while somebody looks inside its sandbox.

use std::sync::Arc;

use super::{GroupCommand, GroupHandle};
use crate::control::{Lease, LeasedPlace};

/// A lease that is given back when it is dropped, wherever it is by then.
#[derive(Debug)]
pub(in crate::controller) struct Leased {
    pub(in crate::controller) lease: Lease,
    handle: Arc<GroupHandle>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        let (handle, marker) = (Arc::clone(&self.handle), self.lease.place.marker.clone());
        tokio::spawn(async move {
            if handle.ask(GroupCommand::Return(marker.clone())).await.is_err() {
                // The group is served no more; what was started under the lease may still run.
                handle.give_back(marker);
            }
        });
    }
}

/// A lease of the agent that runs.
pub(super) fn lease_of(handle: &Arc<GroupHandle>) -> Result<Leased, String> {
    let agent_handle = handle.agent().agent_handle().cloned();
    let agent_handle = agent_handle.ok_or("the agent is starting or stopping")?;
    let number = {
        let mut state = handle.state();
        state.leases += 1;
        state.leased += 1;
        state.leased
    };
    let place = agent_handle.place().clone();
    let place = LeasedPlace {
        // All that is marked as the agent's is ended with it, and this is too.
        marker: format!("{}/lease-{number}/", place.marker),
        workdir: place.workdir,
        home: place.home,
        user: place.user,
        env: place.env,
    };
    let sandbox = agent_handle.sandbox().clone();
    let lease = Lease { runtime: agent_handle.runtime(), sandbox, place };
    Ok(Leased { lease, handle: Arc::clone(handle) })
}
