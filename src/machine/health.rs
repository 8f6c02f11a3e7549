//! How the runtimes are that an instance uses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::HostContext;
use crate::control::RuntimeStatus;
use crate::name::InstanceId;
use crate::observed::Known;
use crate::resource::{self, Capabilities, ResourceId, RuntimeRef, Spec};
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
    pub async fn turn_to(
        &self,
        specs: &BTreeMap<ResourceId, Spec>,
        trust: Trust,
    ) -> Vec<RuntimeStatus> {
        let mut state = self.0.lock().await;
        let (ground, well) = &mut *state;
        let runtimes: BTreeSet<RuntimeRef> = resource::runtimes(specs).into_values().collect();
        let mut all = Vec::new();
        for reference in runtimes {
            all.push(match well {
                Some(well)
                    if well.status.runtime == reference
                        && well.since.elapsed() < WELL_FOR
                        && trust == Trust::Recent =>
                {
                    well.status.clone()
                }
                _ => {
                    ground.turn_to(&reference).await;
                    let status = ground.status_of(&reference);
                    if Capabilities::expected(reference.kind).images {
                        let since = Instant::now();
                        *well = status.answers.then(|| Well { since, status: status.clone() });
                    }
                    status
                }
            });
        }
        all
    }
}

impl HostContext {
    /// Looks for a runtime again where it may be elsewhere, or gone.
    async fn turn_to(&mut self, reference: &RuntimeRef) {
        if Capabilities::expected(reference.kind).images {
            self.find_docker(served_from(reference.endpoint.as_deref())).await;
        }
    }

    /// How each of these runtimes is, as it was found last.
    #[must_use]
    pub fn statuses(&self, specs: &BTreeMap<ResourceId, Spec>) -> Vec<RuntimeStatus> {
        let runtimes: BTreeSet<RuntimeRef> = resource::runtimes(specs).into_values().collect();
        runtimes.iter().map(|reference| self.status_of(reference)).collect()
    }

    fn status_of(&self, reference: &RuntimeRef) -> RuntimeStatus {
        let runtime = reference.clone();
        if !Capabilities::expected(reference.kind).images {
            let detail = "processes of this machine".to_owned();
            return RuntimeStatus { runtime, detail, answers: true, warnings: Vec::new() };
        }
        let (answers, detail) = match &self.docker {
            Known::Is(engine) => (true, engine.clone()),
            Known::Absent => (false, "no engine was found".to_owned()),
            Known::Unknown(why) => (false, why.clone()),
        };
        let warnings = self.info.as_ref().map(|info| info.warnings.clone()).unwrap_or_default();
        RuntimeStatus { runtime, detail, answers, warnings }
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
