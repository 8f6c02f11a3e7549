//! What holds for the whole house and not for one group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Fields, RuntimeRef, field};

/// What all groups share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// What the assistant is called.
    pub assistant: String,
    /// The time zone of its prompts, an IANA name; `None`: the machine's own.
    pub timezone: Option<String>,
    /// How many agents of all groups are at work at once.
    pub parallel: u32,
    /// What sandboxes are made with where a group says nothing else: the one that is named, or the
    /// one that was found when it was applied first. The endpoint is that of the engine, where any
    /// group has one.
    pub runtime: RuntimeRef,
    /// What the environment said instead of the manifest when this was applied, by variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// How many agents are at work at once where nothing is said.
pub const PARALLEL_DEFAULT: u32 = 5;

impl InstanceSpec {
    /// What the environment said instead of the manifest, on one line; `None`: nothing.
    #[must_use]
    pub fn environment(&self) -> Option<String> {
        let set: Vec<String> = self
            .environment
            .iter()
            .map(|(variable, value)| format!("{variable}={value}"))
            .collect();
        (!set.is_empty()).then(|| set.join(" "))
    }

    pub(super) fn fields(&self) -> Fields {
        let timezone = self.timezone.as_deref().unwrap_or("the machine's");
        let mut fields = vec![
            field("assistant.name", &self.assistant),
            field("assistant.timezone", &timezone),
            field("runtime", &self.runtime.kind.word()),
            field("runtime.parallel", &self.parallel),
        ];
        let endpoint = self.runtime.endpoint.as_ref();
        fields.extend(endpoint.map(|endpoint| field("runtime.docker.host", endpoint)));
        fields.extend(self.environment().map(|set| field("environment", &set)));
        fields
    }
}
