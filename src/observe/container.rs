//! Sandboxes: what there is is listed, whether it is asked for or not.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::{Found, HostLook};
use crate::name::GroupName;
use crate::observed::{Known, SandboxSeen, Seen};
use crate::resource::{ResourceId, RuntimeRef};

impl HostLook {
    /// The sandboxes of this instance, and what has their names. A runtime that does not answer
    /// leaves unknown the groups that it was used for, and no others.
    pub(super) async fn find_sandboxes(&self) -> Found {
        let Some(instance) = self.instance().await? else { return Ok(BTreeMap::new()) };
        let runtimes = self.runtimes.all();
        // Who answers late keeps nobody else from being asked.
        let lists = runtimes
            .iter()
            .map(|runtime| async { (runtime.reference(), runtime.list(&instance).await) });
        let mut all: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
        let mut silent: BTreeMap<RuntimeRef, String> = BTreeMap::new();
        for (reference, found) in join_all(lists).await {
            match found {
                Ok(found) => {
                    for (group, sandboxes) in found {
                        all.entry(group).or_default().extend(sandboxes);
                    }
                }
                Err(error) => drop(silent.insert(reference, error.to_string())),
            }
        }
        if let (true, Some((_, why))) = (self.expected.is_empty(), silent.first_key_value()) {
            return Err(why.clone());
        }
        let seen = |(group, sandboxes)| {
            (ResourceId::Container(group), Known::Is(Seen::Container { sandboxes }))
        };
        let mut looks: BTreeMap<ResourceId, Known<Seen>> = all.into_iter().map(seen).collect();
        for (group, used) in &self.expected {
            // Where agents move to another engine, those that run at the old one are their
            // controller's to tell of.
            let moved = || self.runtimes.get(&RuntimeRef { kind: used.kind, endpoint: None });
            let why = match self.runtimes.get(used).or_else(|_| moved()) {
                Ok(runtime) => silent.get(&runtime.reference()).cloned(),
                Err(error) => Some(error.to_string()),
            };
            let id = || ResourceId::Container(group.clone());
            looks.extend(why.map(|why| (id(), Known::Unknown(why))));
        }
        Ok(looks)
    }
}
