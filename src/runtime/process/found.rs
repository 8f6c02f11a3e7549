//! The agents of an instance that run on this machine, and what they left behind.

use std::collections::{BTreeMap, BTreeSet};

use super::{MARKER, identify, is_agent_of};
use crate::name::{GroupName, InstanceId};
use crate::observed::{Owner, SandboxSeen, SandboxState};
use crate::process::{self, Process};

/// The agents of an instance that run, and what they left behind.
pub(super) fn found(
    instance: &InstanceId,
    known: Vec<(GroupName, Process)>,
) -> BTreeMap<GroupName, Vec<SandboxSeen>> {
    let mut agents: BTreeMap<GroupName, BTreeSet<Process>> = BTreeMap::new();
    let mut tools: BTreeMap<GroupName, BTreeSet<Process>> = BTreeMap::new();
    // An agent hides its environment; the store remembers its process.
    for (group, agent) in known {
        if is_agent_of(instance, agent) {
            agents.entry(group).or_default().insert(agent);
        }
    }
    for (process, value) in process::find_marked(MARKER, &format!("{instance}/")) {
        let group = value.split('/').nth(1).and_then(|group| GroupName::new(group).ok());
        let Some(group) = group else { continue };
        if !agents.get(&group).is_some_and(|agents| agents.contains(&process)) {
            tools.entry(group).or_default().insert(process);
        }
    }
    let mut all: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
    for (group, agents) in agents {
        let tools = tools.remove(&group).unwrap_or_default();
        for agent in agents {
            let count = u32::try_from(tools.len() + 1).unwrap_or(u32::MAX);
            all.entry(group.clone()).or_default().push(seen(&group, agent, count));
        }
    }
    // Without an agent: each of them is one of those that have to go.
    for (group, tools) in tools {
        let count = u32::try_from(tools.len()).unwrap_or(u32::MAX);
        all.entry(group.clone())
            .or_default()
            .extend(tools.first().map(|process| seen(&group, *process, count)));
    }
    all
}

fn seen(group: &GroupName, process: Process, processes: u32) -> SandboxSeen {
    SandboxSeen {
        id: identify(process),
        name: format!("pid {} of {group}", process.pid),
        owner: Owner::Ours,
        state: SandboxState::Running,
        digest: None,
        edits: Vec::new(),
        processes: Some(processes),
    }
}
