//! What holds of a desired state and no field of it says.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use serde::{Deserialize, Serialize};

use super::Setting;
use crate::manifest::Manifest;
use crate::resource::{ResourceId, RuntimeKind};

/// Something a reader should know about some resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The resources it is about.
    pub ids: Vec<ResourceId>,
    /// What to know.
    pub text: String,
}

pub(super) fn remarks(manifest: &Manifest, setting: &Setting) -> Vec<Remark> {
    let ids: Vec<ResourceId> = manifest.groups.keys().cloned().map(ResourceId::Group).collect();
    if ids.is_empty() {
        return Vec::new();
    }
    let remark = |text: String| Remark { ids: ids.clone(), text };
    let mut remarks = Vec::new();
    match setting.runtime.kind {
        RuntimeKind::Docker => {
            remarks.push(remark(
                "runtime docker isolates: no network, only its group's folders".to_owned(),
            ));
            remarks.extend(setting.warnings.iter().cloned().map(remark));
        }
        RuntimeKind::None => {
            let texts = [
                "runtime none does not isolate: the agent runs as you, on this machine",
                "limits.cpus, limits.memory and limits.pids are not enforced by runtime none",
            ];
            remarks.extend(texts.map(|text| remark(text.to_owned())));
        }
    }
    remarks.extend(setting.overrides.iter().map(|over| Remark {
        ids: Vec::new(),
        text: format!("{} in the environment: {} is {}", over.variable, over.key(), over.value),
    }));
    remarks
}
