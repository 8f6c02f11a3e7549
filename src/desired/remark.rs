//! What holds of a desired state and no field of it says.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use serde::{Deserialize, Serialize};

use super::{Setting, choice};
use crate::manifest::Manifest;
use crate::resource::{ResourceId, Wall};

/// Something a reader should know about some resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The resources it is about.
    pub ids: Vec<ResourceId>,
    /// What to know.
    pub text: String,
}

pub(super) fn remarks(manifest: &Manifest, setting: &Setting) -> Vec<Remark> {
    if manifest.groups.is_empty() {
        return Vec::new();
    }
    let (mut walled, mut open) = (Vec::new(), Vec::new());
    for (name, group) in &manifest.groups {
        let able = choice::capabilities(group, setting);
        let ids = if able.wall >= Wall::Container { &mut walled } else { &mut open };
        ids.push(ResourceId::Group(name.clone()));
    }
    let remark = |ids: &[ResourceId], text: &str| {
        let remark = || Remark { ids: ids.to_vec(), text: text.to_owned() };
        (!ids.is_empty()).then(remark)
    };
    let walls = "runtime docker isolates: no network, only its group's folders";
    let no_walls = [
        match setting.root {
            false => "runtime none does not isolate: the agent runs as your user",
            true => {
                "runtime none does not isolate: the agent runs as root, because root owns the project folder"
            }
        },
        "runtime none does not enforce limits.cpus, memory and pids",
    ];
    let mut remarks: Vec<Remark> = remark(&walled, walls).into_iter().collect();
    remarks.extend(setting.warnings.iter().filter_map(|warning| remark(&walled, warning)));
    remarks.extend(no_walls.into_iter().filter_map(|text| remark(&open, text)));
    remarks.extend(setting.overrides.iter().map(|over| Remark {
        ids: Vec::new(),
        text: format!("{} in the environment: {} is {}", over.variable, over.key(), over.value),
    }));
    remarks
}
