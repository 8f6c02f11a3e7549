//! The runtime `docker`: an agent in a container of a Docker engine.
//!
//! What makes a container is in `create`, its life in `life`, and how engines
//! are found in [`places`] and [`find`]. Here is the runtime itself: what of an engine's
//! containers is this instance's, and nothing else is ever touched. A container
//! is ours if it carries our instance's label and a group's: an image hands its
//! own labels, among them the first, on to whatever is made from it.

pub mod binary;
mod call;
mod create;
mod edits;
pub mod endpoint;
mod failure;
pub mod find;
mod image;
mod life;
mod look;
mod mounts;
mod names;
mod others;
pub mod places;
mod recipe;
mod run;
mod screen;
mod source;
mod streams;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker as Client};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::OnceCell;

use self::call::{understood, within};
use self::endpoint::Endpoint;
use self::failure::Failure;
use super::{
    Binary, Exec, ExecSpec, Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, Sandbox, SandboxSpec,
};
use crate::name::{GroupName, ImageTag, InstanceId, SandboxId};
use crate::observed::SandboxSeen;
use crate::resource::{ContainerSpec, ImageSpec, RuntimeKind, RuntimeRef};

pub use self::mounts::unmountable;

pub use self::names::image_name;
pub use self::recipe::content;
pub use self::source::{build_binary_from_source, source_digest};

/// The label of the installation that a container or an image belongs to.
pub const INSTANCE: &str = "io.babybot.instance";
/// The label of the group that a container serves.
pub const GROUP: &str = "io.babybot.group";
/// The label of the digest of what a container is made of.
pub const SPEC: &str = "io.babybot.spec";
/// The label of the generation that a container was started from.
pub const GENERATION: &str = "io.babybot.generation";
/// The label of the digest of what an image is made of.
pub const CONTENT: &str = "io.babybot.content";

/// How long an engine may take to say what it is.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a list or a look may take.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// How long each step of a start may take.
const CREATE_DEADLINE: Duration = Duration::from_secs(60);
/// How long the engine's first byte is waited for by the client itself: longer than any deadline
/// here, which are what counts.
const CLIENT_PATIENCE: u64 = 360;

/// The runtime `docker`, at one engine.
#[derive(Clone)]
pub struct Docker {
    client: Client,
    endpoint: Endpoint,
    agent: Vec<String>,
    /// The program and arguments that put a command of the operator behind the agent's walls.
    before_command: Vec<String>,
    /// Whether it maps root to a user outside; `None`: it was not asked.
    rootless: Option<bool>,
    /// Asked once: an engine is looked for anew often enough.
    enforced: Arc<OnceCell<edits::Enforced>>,
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Docker").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Docker {
    /// The engine at this place. Nothing is asked yet.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where there is nothing of the kind.
    pub fn new(endpoint: Endpoint) -> Result<Self, RuntimeError> {
        let client = match &endpoint.url {
            url if url.starts_with("tcp://") => {
                Client::connect_with_http(url, CLIENT_PATIENCE, API_DEFAULT_VERSION)
            }
            url => Client::connect_with_unix(url, CLIENT_PATIENCE, API_DEFAULT_VERSION),
        };
        let client = client.map_err(|error| endpoint.unavailable(Failure::from(error)))?;
        let agent = create::AGENT.map(ToOwned::to_owned).to_vec();
        let before_command = create::BEFORE_COMMAND.map(ToOwned::to_owned).to_vec();
        let enforced = Arc::default();
        Ok(Self { client, endpoint, agent, before_command, rootless: None, enforced })
    }

    /// The same engine, which said this of itself.
    fn described(self, info: &RuntimeInfo) -> Self {
        Self { rootless: Some(info.user.is_some()), ..self }
    }

    /// Refuses a sandbox that was meant for another engine: whom its agent is run as counts there,
    /// and who that is here, it does not say.
    fn refuse_strange(&self, spec: &SandboxSpec) -> Result<(), RuntimeError> {
        let container = &spec.container;
        let root = spec.user.map(|(uid, _)| uid).or(container.user.map(|user| user.uid));
        let root = root.map(|uid| uid == 0);
        let why = match (&container.engine, root, self.rootless) {
            (Some(meant), _, _) if *meant != self.endpoint.url => {
                format!("the applied engine is {meant}, and {} is another one", self.endpoint)
            }
            (_, Some(true), Some(false)) => {
                format!("{} is no longer rootless: agents would run as root", self.endpoint)
            }
            (_, Some(false), Some(true)) => {
                format!("{} is rootless, and the applied engine is not", self.endpoint)
            }
            _ => return Ok(()),
        };
        let why = format!("{why}; run `babybot plan` to see the change");
        Err(RuntimeError::Unavailable { runtime: RuntimeKind::Docker, why })
    }

    /// The same engine, where containers run something else than the agent: for tests of this
    /// room, whose images contain no babybot.
    #[must_use]
    pub fn with_agent(self, argv: Vec<String>) -> Self {
        Self { agent: argv, before_command: Vec::new(), ..self }
    }

    async fn containers(
        &self,
        instance: &InstanceId,
    ) -> Result<BTreeMap<GroupName, Vec<SandboxSeen>>, RuntimeError> {
        look::containers(&self.client, instance).await.map_err(|failure| self.lost(failure))
    }

    /// Removes every container of this instance. One that cannot be removed keeps its name, which
    /// holds its group up, and nothing else.
    async fn remove_ours(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        // A list that failed removes nothing.
        let ours = look::ours(&self.client, instance).await;
        let ours = ours.map_err(|failure| self.lost(failure))?;
        let removals = ours.iter().map(async |id| (id, life::remove(&self.client, id).await));
        for (id, removed) in futures_util::future::join_all(removals).await {
            match removed {
                Ok(()) => {}
                Err(failure @ Failure::Unreachable { .. }) => return Err(self.lost(failure)),
                Err(failure) => {
                    let why = failure.words();
                    tracing::warn!(%id, why, "a container of an earlier run stays");
                }
            }
        }
        Ok(())
    }

    /// A failure of the whole engine, with where it is looked for.
    fn lost(&self, failure: Failure) -> RuntimeError {
        match failure {
            Failure::Unreachable { .. } => self.endpoint.unavailable(failure),
            other => other.into_error(),
        }
    }

    /// A failure of what was asked of one sandbox.
    fn lost_at(&self, id: &SandboxId, failure: Failure) -> RuntimeError {
        match failure {
            Failure::NotFound(_) => RuntimeError::NotFound(id.clone()),
            other => self.lost(other),
        }
    }

    async fn edits_of(
        &self,
        id: &SandboxId,
        spec: &ContainerSpec,
    ) -> Result<Vec<String>, RuntimeError> {
        let call = || self.client.inspect_container(id.as_str(), None);
        let found = understood("looking at the container", LIST_DEADLINE, call).await;
        let found = found.map_err(|failure| self.lost_at(id, failure))?;
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        let instance = labels.and_then(|labels| InstanceId::new(labels.get(INSTANCE)?).ok());
        let image = spec.image.as_ref().map(|image| image_name(instance.as_ref(), image));
        let spec = ContainerSpec { image, ..spec.clone() };
        Ok(edits::edits(&found, &spec, self.enforced().await?))
    }

    /// Which limits the engine enforces.
    async fn enforced(&self) -> Result<edits::Enforced, RuntimeError> {
        let ask = async || {
            let info = within("looking at the engine", LIST_DEADLINE, self.client.info()).await;
            Ok(edits::Enforced::new(&info.map_err(|failure| self.lost(failure))?))
        };
        self.enforced.get_or_try_init(ask).await.copied()
    }
}

impl Runtime for Docker {
    fn reference(&self) -> RuntimeRef {
        RuntimeRef::docker(Some(self.endpoint.url.clone()))
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        Box::pin(async move {
            let info = look::engine(&self.client, &self.endpoint, PROBE_DEADLINE).await;
            info.map_err(|failure| self.lost(failure))
        })
    }

    fn launch(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>> {
        Box::pin(async move {
            self.refuse_strange(&spec)?;
            // It runs to its end whether or not somebody still waits for it: a container that is
            // half made has nobody else to remove it.
            let launch = life::launch(self.clone(), spec);
            let launched = tokio::spawn(launch).await;
            launched.unwrap_or_else(|error| Err(RuntimeError::Launch(error.to_string())))
        })
    }

    fn list(
        &self,
        instance: &InstanceId,
    ) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, RuntimeError>> {
        let instance = instance.clone();
        Box::pin(async move { self.containers(&instance).await })
    }

    fn edits(
        &self,
        id: &SandboxId,
        spec: &ContainerSpec,
    ) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        let (id, spec) = (id.clone(), spec.clone());
        Box::pin(async move { self.edits_of(&id, &spec).await })
    }

    fn stop(&self, id: &SandboxId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let id = id.clone();
        Box::pin(async move {
            life::stop(&self.client, id.as_str(), grace).await.map_err(|failure| self.lost(failure))
        })
    }

    fn reap(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move { self.remove_ours(&instance).await })
    }

    fn watch(&self, instance: &InstanceId) -> BoxStream<'static, RuntimeEvent> {
        look::events(self.client.clone(), instance.clone())
    }

    fn exec(&self, id: &SandboxId, command: ExecSpec) -> BoxFuture<'_, Result<Exec, RuntimeError>> {
        let id = id.clone();
        let argv = self.before_command.iter().cloned().chain(command.argv).collect();
        let command = ExecSpec { argv, ..command };
        Box::pin(async move {
            let started = run::exec(&self.client, &self.endpoint, id.as_str(), command).await;
            started.map_err(|failure| self.lost_at(&id, failure))
        })
    }

    fn has_image(
        &self,
        instance: Option<&InstanceId>,
        image: &ImageSpec,
    ) -> BoxFuture<'_, Result<bool, RuntimeError>> {
        let reference = image_name(instance, &image.reference());
        Box::pin(async move {
            let found = image::has(&self.client, &reference).await;
            found.map_err(|failure| self.lost(failure))
        })
    }

    fn images(&self, instance: &InstanceId) -> BoxFuture<'_, Result<Vec<ImageTag>, RuntimeError>> {
        let instance = instance.clone();
        Box::pin(async move {
            let found = image::of_instance(&self.client, &instance).await;
            found.map_err(|failure| self.lost(failure))
        })
    }

    fn build_image<'a>(
        &'a self,
        instance: &'a InstanceId,
        image: &'a ImageSpec,
        binary: Binary,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(image::build(self, instance, image, binary, progress))
    }

    fn remove_image<'a>(
        &'a self,
        instance: &'a InstanceId,
        tag: &'a ImageTag,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            let removed = image::remove(&self.client, instance, tag).await;
            removed.map_err(|failure| self.lost(failure))
        })
    }
}
