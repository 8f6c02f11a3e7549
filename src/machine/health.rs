//! How the runtimes are that an instance uses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::HostContext;
use crate::control::RuntimeStatus;
use crate::name::InstanceId;
use crate::observed::Known;
use crate::resource::{self, ResourceId, RuntimeKind, RuntimeRef, Spec};
use crate::runtime;
use crate::runtime::docker::places::{self, HostEnvironment, Places};

/// How long a runtime's word that it is well counts.
const WELL_FOR: Duration = Duration::from_secs(20);
/// How long an engine of old may take to say what is left there.
const OLD_ENGINE_MAX: Duration = Duration::from_secs(10);

/// How far an earlier word of a runtime counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// If it was well a short while ago, it is.
    Recent,
    /// It has to say so now.
    Nothing,
}

/// Turns to runtimes where agents are, and says how they are, but does not ask more often than it
/// has to.
#[derive(Debug)]
pub struct Health(Mutex<(HostContext, Option<Well>)>);

/// A runtime that answered, and when.
#[derive(Debug)]
struct Well {
    reference: RuntimeRef,
    since: Instant,
    status: RuntimeStatus,
}

impl Health {
    /// Of the runtimes of this machine.
    #[must_use]
    pub fn new(ground: HostContext) -> Self {
        Self(Mutex::new((ground, None)))
    }

    /// Turns to what these are made with, which is what agents are started with from then on.
    pub async fn turn_to(&self, specs: &BTreeMap<ResourceId, Spec>, trust: Trust) -> RuntimeStatus {
        let kind = resource::runtime(specs).unwrap_or(RuntimeKind::None);
        let reference = RuntimeRef { kind, endpoint: resource::engine(specs) };
        let mut state = self.0.lock().await;
        let (ground, well) = &mut *state;
        if let Some(well) = well
            && well.reference == reference
            && well.since.elapsed() < WELL_FOR
            && trust == Trust::Recent
        {
            return well.status.clone();
        }
        if kind == RuntimeKind::Docker {
            ground.find_docker(served_from(reference.endpoint.as_deref())).await;
        }
        let status = ground.status_of(kind);
        let since = Instant::now();
        *well = status.answers.then(|| Well { reference, since, status: status.clone() });
        status
    }
}

impl HostContext {
    /// How the runtime of this kind is, as it was found last.
    #[must_use]
    pub fn status_of(&self, kind: RuntimeKind) -> RuntimeStatus {
        let (answers, detail) = match (kind, &self.docker) {
            (RuntimeKind::None, _) => (true, "processes of this machine".to_owned()),
            (RuntimeKind::Docker, Known::Is(engine)) => (true, engine.clone()),
            (RuntimeKind::Docker, Known::Absent) => (false, "no engine was found".to_owned()),
            (RuntimeKind::Docker, Known::Unknown(why)) => (false, why.clone()),
        };
        let info = self.info.as_ref().filter(|_| kind == RuntimeKind::Docker);
        let warnings = info.map(|info| info.warnings.clone()).unwrap_or_default();
        RuntimeStatus { kind, detail, answers, warnings }
    }

    /// Turns to the engine of what is served.
    pub async fn serve_from(&mut self, recorded: Option<&str>) {
        self.need_docker(served_from(recorded)).await;
    }

    /// Ends what was left at engines that are not used any more.
    pub async fn reap_old_engines(
        &self,
        instance: &InstanceId,
        used: Vec<String>,
        present: Option<&str>,
    ) {
        for url in used.into_iter().filter(|url| Some(url.as_str()) != present) {
            let (reference, reason) =
                (RuntimeRef::docker(Some(url.clone())), "agents used to run there");
            let records = super::records(&self.project);
            let Ok(engine) = runtime::open(&reference, reason, &records) else { continue };
            let reaped = engine.reap(instance.clone());
            match tokio::time::timeout(OLD_ENGINE_MAX, reaped).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%url, %error, "cannot check for agents that were left there");
                }
                Err(_) => tracing::warn!(%url, "cannot check for agents that were left there"),
            }
        }
    }
}

/// Where a controller looks for its engine: where it was applied, whatever its own environment says.
fn served_from(recorded: Option<&str>) -> Places {
    match recorded {
        Some(url) => places::applied(url, &HostEnvironment),
        None => places::places(None, None, &HostEnvironment),
    }
}
