//! What a controller says of itself: made anew whenever something may have changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::group::GroupHandle;
use super::{DRIFT_SHOWN, Shared};
use crate::clock::Timestamp;
use crate::control::{
    AgentState, Condition, ConditionStatus, GroupStatus, Role, RuntimeStatus, Status,
};
use crate::host::Host;
use crate::name::GroupName;
use crate::reconcile::mend::CRASH_LOOP;
use crate::resource::{GroupSpec, Lifecycle, ModelSpec, ResourceId, Spec};
use crate::store::Backlog;

/// Changes within this time are told together.
const TOGETHER: Duration = Duration::from_millis(20);

/// What a controller says before it has looked.
pub(super) fn first(
    host: &Host,
    role: Role,
    since: Timestamp,
    runtimes: &[RuntimeStatus],
) -> Status {
    Status {
        instance: host.instance().clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role,
        pid: std::process::id(),
        since,
        generation: Some(host.generation()).filter(|number| *number > 0),
        draining: false,
        runtimes: runtimes.to_vec(),
        pending: None,
        channels: BTreeMap::new(),
        groups: BTreeMap::new(),
        drift: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Keeps the status up to date, for as long as the controller lasts.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        make(&shared).await;
        tokio::select! {
            () = shared.stale.notified() => {}
            () = shared.closed.cancelled() => return,
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

async fn make(shared: &Shared) {
    let before = shared.status.borrow().clone();
    let now = shared.clock().now();
    let host = shared.host();
    let mut groups = BTreeMap::new();
    let mut work = host.parts().store.backlog().await.unwrap_or_default();
    for handle in shared.groups() {
        let spec = match host.specs().get(&ResourceId::Group(handle.group.clone())) {
            Some(Spec::Group(spec)) => &**spec,
            _ => continue,
        };
        let backlog = work.remove(&handle.group).unwrap_or_default();
        let status =
            group(shared, &handle, spec, &host, backlog, before.groups.get(&handle.group), now);
        groups.insert(handle.group.clone(), status);
    }
    let channels = shared.channel_statuses(&host).await;
    let known = shared.known();
    // What a status shows of a channel by itself says why it does not serve.
    let hidden = known.channels.iter().filter(|(name, _)| !channels.contains_key(*name));
    let hidden: Vec<String> = hidden
        .filter_map(|(name, how)| Some(format!("channel {name}: {}", how.as_ref().err()?)))
        .collect();
    let status = Status {
        generation: Some(host.generation()).filter(|number| *number > 0),
        draining: shared.closing.is_cancelled(),
        runtimes: known.runtimes.clone(),
        pending: known.pending.clone(),
        channels,
        groups,
        drift: known.drift.iter().rev().take(DRIFT_SHOWN).rev().cloned().collect(),
        warnings: known
            .runtimes
            .iter()
            .flat_map(|status| &status.warnings)
            .chain(&known.warnings)
            .chain(&known.unread)
            .cloned()
            .chain(hidden)
            .collect(),
        ..(*before).clone()
    };
    drop(known);
    if status != *before {
        shared.status.send_replace(Arc::new(status));
    }
}

fn group(
    shared: &Shared,
    handle: &GroupHandle,
    spec: &GroupSpec,
    host: &Host,
    backlog: Backlog,
    before: Option<&GroupStatus>,
    now: Timestamp,
) -> GroupStatus {
    let Backlog { waiting: messages, turn } = backlog;
    let state = handle.state().clone();
    let sandbox = handle.agent().sandbox();
    let troubles = Troubles::of(shared, &handle.group, spec);
    let conditions = conditions(shared, &state, sandbox.is_some(), &troubles, before, now);
    let model = match host.specs().get(&ResourceId::Model(spec.model.clone())) {
        Some(Spec::Model(ModelSpec::Ollama { model, .. })) => format!("{} ({model})", spec.model),
        _ => spec.model.to_string(),
    };
    let model_id = ResourceId::Model(spec.model.clone());
    let limited = shared.known().limited.clone();
    let limited = limited.into_iter().filter(|(id, _)| *id == model_id);
    GroupStatus {
        conditions,
        stage: stage(state.stage, turn.is_some()),
        waits_for: state.waits_for.or(troubles.waiting),
        lifecycle: spec.lifecycle,
        model,
        held: state.held,
        messages,
        turn,
        sandbox,
        limit_hits: state.limit_hits,
        remarks: limited.map(|(id, text)| format!("{id} {text}")).collect(),
    }
}

/// A group's stage. One that waits for its next attempt at a turn is not without work.
fn stage(stage: AgentState, has_turn: bool) -> AgentState {
    match stage {
        AgentState::Asleep | AgentState::Idle if has_turn => AgentState::Queued,
        stage => stage,
    }
}

/// What is wrong with a group and what it stands on.
struct Troubles {
    drifted: Option<String>,
    waiting: Option<String>,
    crashing: Option<String>,
    /// Why its model cannot be used.
    unavailable: Option<String>,
    /// Why its runtime does not answer.
    silent: Option<String>,
    missing_agent: bool,
}

impl Troubles {
    fn of(shared: &Shared, group: &GroupName, spec: &GroupSpec) -> Self {
        let known = shared.known();
        let mut own = vec![
            ResourceId::Folder(group.clone()),
            ResourceId::Settings(group.clone()),
            ResourceId::Group(group.clone()),
            ResourceId::Container(group.clone()),
            ResourceId::GlobalMemory,
        ];
        own.extend(spec.image.clone().map(ResourceId::Image));
        let find = |all: &BTreeMap<ResourceId, String>| {
            own.iter().find_map(|id| all.get(id).map(|why| format!("{id}: {why}")))
        };
        let model = ResourceId::Model(spec.model.clone());
        let attempts = known.attempts.get(&ResourceId::Container(group.clone()));
        let crashing = attempts.filter(|attempts| attempts.count >= CRASH_LOOP).map(|attempts| {
            format!("crash loop: {} starts, next at {}", attempts.count, attempts.not_before)
        });
        Self {
            unavailable: known.troubles.get(&model).or(known.waiting.get(&model)).cloned(),
            drifted: find(&known.troubles),
            waiting: find(&known.waiting),
            crashing,
            silent: known
                .runtime(&spec.reference())
                .filter(|status| !status.answers)
                .map(|status| status.detail.clone()),
            missing_agent: spec.lifecycle == Lifecycle::Always,
        }
    }
}

fn conditions(
    shared: &Shared,
    state: &super::group::State,
    runs: bool,
    troubles: &Troubles,
    before: Option<&GroupStatus>,
    now: Timestamp,
) -> BTreeMap<Condition, ConditionStatus> {
    let known = shared.known();
    let moving =
        matches!(state.stage, AgentState::Starting | AgentState::Draining | AgentState::Queued);
    // One that runs after all has left its crashes behind, until the next.
    let wrong = troubles
        .crashing
        .clone()
        .filter(|_| !runs)
        .or_else(|| state.failure.clone())
        .or_else(|| troubles.unavailable.clone())
        .or_else(|| troubles.silent.clone());
    let degraded = wrong.clone().or_else(|| state.unmeasured.clone());
    let absent = troubles.missing_agent && !runs && !state.held;
    let ready = if state.held {
        Err("paused".to_owned())
    } else if let Some(wrong) = &wrong {
        Err(wrong.clone())
    } else if absent {
        Err("its agent is not running yet".to_owned())
    } else {
        Ok(())
    };
    let pending = known.pending.as_ref().map(|pending| match pending.valid {
        true if pending.changes == 1 => "1 change is not applied".to_owned(),
        true => format!("{} changes are not applied", pending.changes),
        false => "the manifest is not valid".to_owned(),
    });
    let draining = state.stage == AgentState::Draining || shared.closing.is_cancelled();
    let all = [
        (Condition::Ready, ready.is_ok(), ready.err()),
        (Condition::Progressing, moving, state.waits_for.clone()),
        (Condition::Degraded, degraded.is_some(), degraded),
        (Condition::Drifted, troubles.drifted.is_some(), troubles.drifted.clone()),
        (Condition::Draining, draining, None),
        (Condition::PendingChanges, pending.is_some(), pending),
    ];
    let since = |condition: Condition, holds: bool| {
        let before = before.and_then(|before| before.conditions.get(&condition));
        before.filter(|before| before.holds == holds).map_or(now, |before| before.since)
    };
    let made = all.into_iter().map(|(condition, holds, reason)| {
        let reason = reason.unwrap_or_default();
        (condition, ConditionStatus { holds, since: since(condition, holds), reason })
    });
    made.collect()
}
