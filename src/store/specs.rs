//! What a generation recorded, in the form of this version.
//!
//! Before there was an instance among the resources, each group had what all
//! groups share, and all of them the same. What a runtime can do was not
//! recorded, and is what was expected of its kind.

use std::collections::BTreeMap;

use rusqlite::Row;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rows;
use crate::resource::{
    Capabilities, InstanceSpec, PARALLEL_DEFAULT, ResourceId, RuntimeKind, RuntimeRef, Spec,
};

/// What a group had of the instance.
#[derive(Deserialize)]
struct OldGroup {
    assistant: String,
    timezone: Option<String>,
    #[serde(default = "parallel_default")]
    parallel: u32,
    runtime: RuntimeKind,
    #[serde(default)]
    engine: Option<String>,
}

#[derive(Deserialize)]
struct Recorded {
    spec: Option<Value>,
}

fn parallel_default() -> u32 {
    PARALLEL_DEFAULT
}

/// The specs in a row of the generations.
pub(super) fn of_row(row: &Row<'_>) -> rusqlite::Result<BTreeMap<ResourceId, Spec>> {
    let mut recorded: BTreeMap<String, Value> = rows::json(row, "specs")?;
    recorded.values_mut().for_each(add_capabilities);
    let recorded = Value::from_iter(recorded);
    let mut specs: BTreeMap<ResourceId, Spec> =
        serde_json::from_value(recorded).map_err(|error| rows::unreadable(row, "specs", error))?;
    if !specs.contains_key(&ResourceId::Instance) {
        let recorded: BTreeMap<ResourceId, Recorded> = rows::json(row, "specs")?;
        let instance = instance(recorded).map(Spec::Instance);
        specs.extend(instance.map(|instance| (ResourceId::Instance, instance)));
    }
    Ok(specs)
}

/// What was expected of a group's runtime, where nobody recorded what it can do.
fn add_capabilities(spec: &mut Value) {
    if spec["resource"] != "group" || !spec["spec"]["capabilities"].is_null() {
        return;
    }
    let runtime = spec["spec"]["runtime"].clone();
    if let Ok(kind) = serde_json::from_value(runtime) {
        spec["spec"]["capabilities"] = json!(Capabilities::expected(kind));
    }
}

/// The instance of groups that each had it; of several, that of the one that is isolated best.
fn instance(recorded: BTreeMap<ResourceId, Recorded>) -> Option<InstanceSpec> {
    let groups = recorded.into_iter().filter_map(|(id, recorded)| match id {
        ResourceId::Group(_) => serde_json::from_value::<OldGroup>(recorded.spec?).ok(),
        _ => None,
    });
    let group = groups.max_by_key(|group| Capabilities::expected(group.runtime).wall)?;
    Some(InstanceSpec {
        assistant: group.assistant,
        timezone: group.timezone,
        parallel: group.parallel,
        runtime: RuntimeRef { kind: group.runtime, endpoint: group.engine },
        environment: BTreeMap::new(),
    })
}
