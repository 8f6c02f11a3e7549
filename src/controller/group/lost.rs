//! The agents that a turn loses.

use crate::host::Agent;
use crate::name::SandboxId;
use crate::session::Progress;

/// The agents that a turn loses, so that each is told of once another is in its place.
#[derive(Default)]
pub(super) struct Lost {
    why: Option<String>,
    sandbox: Option<SandboxId>,
    /// Whoever ends this one tells of it.
    pub(super) expected: bool,
}

impl Lost {
    pub(super) fn of(agent: &Agent) -> Self {
        Self { sandbox: agent.sandbox(), ..Self::default() }
    }

    pub(super) fn take_note(&mut self, step: &Progress) {
        if let Progress::Retry { why, .. } = step {
            self.why = Some(why.clone());
        }
    }

    /// What there is to tell once this is the turn's agent.
    pub(super) fn replaced(&mut self, agent: &Agent) -> Option<String> {
        let sandbox = agent.sandbox()?;
        let before = self.sandbox.replace(sandbox.clone());
        let why = self.why.take()?;
        let expected = std::mem::take(&mut self.expected);
        let another = before.is_some_and(|before| before != sandbox);
        (another && !expected).then(|| format!("{why}; the agent was replaced"))
    }
}
