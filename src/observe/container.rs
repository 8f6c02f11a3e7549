//! Sandboxes: what there is is listed, whether it is asked for or not.

use std::collections::BTreeMap;

use super::{Found, HostLook};
use crate::name::GroupName;
use crate::observed::{SandboxSeen, Seen};
use crate::resource::{ResourceId, RuntimeRef};

impl HostLook {
    /// The sandboxes of this instance, and what has their names.
    pub(super) async fn find_sandboxes(&self) -> Found {
        let Some(instance) = self.instance().await? else { return Ok(BTreeMap::new()) };
        // Where one that was used cannot be asked, what is there is not known.
        if let Some(kind) = self.expected {
            let used = RuntimeRef { kind, endpoint: None };
            self.runtimes.get(&used).map_err(|error| error.to_string())?;
        }
        let mut all: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
        for runtime in self.runtimes.all() {
            let found = runtime.list(&instance).await;
            for (group, sandboxes) in found.map_err(|error| error.to_string())? {
                all.entry(group).or_default().extend(sandboxes);
            }
        }
        let seen =
            |(group, sandboxes)| (ResourceId::Container(group), Seen::Container { sandboxes });
        Ok(all.into_iter().map(seen).collect())
    }
}
