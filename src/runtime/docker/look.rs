//! What an engine says of itself, of its containers and of what happens to them.
//!
//! Changes nothing. A list is complete or a failure: an engine that cannot be
//! understood is asked again, and after that nobody knows.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::models::{
    ContainerSummary, ContainerSummaryStateEnum as State, EventMessage, SystemInfo, SystemVersion,
};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::call::{self, within};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::{GROUP, INSTANCE, LIST_DEADLINE, SPEC, create, edits};
use crate::name::{GroupName, InstanceId, SandboxId};
use crate::observed::{Owner, SandboxSeen, SandboxState};
use crate::resource::{Capabilities, EnforcedLimits};
use crate::runtime::{RuntimeEvent, RuntimeInfo};

/// What happens to a container and can matter to whoever looks at it. What happens within it, or
/// who attaches to it, does not.
const EVENTS: &[&str] = &[
    "create", "start", "restart", "die", "died", "kill", "oom", "stop", "pause", "unpause",
    "update", "rename", "destroy", "remove",
];

/// How an engine says that its filter of system calls lets all of them through.
const UNCONFINED: &str = "profile=unconfined";

/// What the engine is, and what a reader should know about its walls.
pub(super) async fn engine(
    client: &Client,
    endpoint: &Endpoint,
    deadline: Duration,
) -> Result<RuntimeInfo, Failure> {
    let ask = async {
        client.ping().await?;
        let version = client.version().await?;
        if version.api_version.is_some() {
            // The clones of a client share what it comes to.
            client.clone().negotiate_version().await?;
        }
        Ok((version, client.info().await?))
    };
    let (version, info) = within("asking the engine what it is", deadline, ask).await?;
    describe(&version, &info, endpoint).map_err(Failure::Refused)
}

fn describe(
    version: &SystemVersion,
    info: &SystemInfo,
    endpoint: &Endpoint,
) -> Result<RuntimeInfo, String> {
    let options = info.security_options.as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option.split(',').any(|part| part == name));
    if info.os_type.as_deref().is_some_and(|system| system != "linux") {
        return Err("the engine runs Windows containers: switch it to Linux containers".to_owned());
    }
    if has("name=userns") {
        let why = "the engine maps users (`userns-remap`), so that an agent could not write to its \
                   own folders: use an engine without it, or a rootless one";
        return Err(why.to_owned());
    }
    let podman = version.components.iter().flatten().any(|part| part.name == "Podman Engine");
    let product = if podman { "Podman" } else { "Docker" };
    let limits = limits(info);
    let number = version.version.clone().unwrap_or_else(|| "of an unknown version".to_owned());
    Ok(RuntimeInfo {
        version: format!("{product} {number}"),
        endpoint: format!("{} ({})", endpoint.url, endpoint.reason),
        user: has("name=rootless").then_some((0, 0)),
        architecture: architecture(info, version),
        capabilities: Capabilities::container(limits),
        warnings: warnings(info, limits),
    })
}

/// The engine's architecture, as Rust calls it. Engines use two names for each.
fn architecture(info: &SystemInfo, version: &SystemVersion) -> String {
    let named = info.architecture.clone().filter(|name| !name.is_empty());
    let name = named.or_else(|| version.arch.clone()).unwrap_or_default();
    match name.as_str() {
        "amd64" | "x86_64" => "x86_64".to_owned(),
        "arm64" | "aarch64" | "armv8" => "aarch64".to_owned(),
        _ => name,
    }
}

/// The limits that the engine does not forget when a container is made.
fn limits(info: &SystemInfo) -> EnforcedLimits {
    let edits::Enforced { cpus, memory, pids, swap: _ } = edits::Enforced::new(info);
    EnforcedLimits { cpus, memory, pids }
}

fn warnings(info: &SystemInfo, limits: EnforcedLimits) -> Vec<String> {
    let options = info.security_options.as_deref().unwrap_or_default();
    let named = |name: &str| options.iter().find(|option| option.split(',').any(|p| p == name));
    let seccomp = named("name=seccomp");
    let unconfined = seccomp.is_some_and(|option| option.split(',').any(|p| p == UNCONFINED));
    let walls = [
        (seccomp.is_some(), "the engine does not filter system calls (no seccomp)"),
        (
            !unconfined,
            "the engine does not filter system calls (its seccomp profile is `unconfined`)",
        ),
        (
            named("name=selinux").is_none(),
            "SELinux is switched off for agents: it would deny them their folders",
        ),
    ];
    let walls = walls.into_iter().filter(|(holds, _)| !holds).map(|(_, text)| text.to_owned());
    let missing = |limit| format!("{limit} is not enforced: the engine does not support it");
    walls.chain(limits.missing().map(missing)).collect()
}

/// Every container of an instance, and every other that has a name that one of its would have.
pub(super) async fn containers(
    client: &Client,
    instance: &InstanceId,
) -> Result<BTreeMap<GroupName, Vec<SandboxSeen>>, Failure> {
    let prefix = create::name_prefix(instance);
    let labelled = listed(client, "label", vec![label(instance)]);
    let named = listed(client, "name", vec![prefix.clone()]);
    let (labelled, named) = tokio::try_join!(labelled, named)?;
    let mut all: BTreeMap<String, ContainerSummary> = BTreeMap::new();
    for container in labelled.into_iter().chain(named) {
        all.insert(container.id.clone().unwrap_or_default(), container);
    }
    let mut groups: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
    for container in all.values() {
        if let Some((group, sandbox)) = seen(container, instance, &prefix)? {
            groups.entry(group).or_default().push(sandbox);
        }
    }
    Ok(groups)
}

/// The ids of every container of an instance.
pub(super) async fn ours(client: &Client, instance: &InstanceId) -> Result<Vec<String>, Failure> {
    let found = listed(client, "label", vec![label(instance), GROUP.to_owned()]).await?;
    let ours = found.into_iter().filter(|container| group_of(container, instance).is_some());
    Ok(ours.filter_map(|container| container.id).collect())
}

fn label(instance: &InstanceId) -> String {
    format!("{INSTANCE}={instance}")
}

/// Its group, if a container is this instance's: it carries the labels of both, and what it names
/// can be a group.
fn group_of(container: &ContainerSummary, instance: &InstanceId) -> Option<GroupName> {
    let labels = container.labels.as_ref()?;
    labels.get(INSTANCE).filter(|found| found.as_str() == instance.as_str())?;
    GroupName::new(labels.get(GROUP)?.as_str()).ok()
}

/// A container as whoever looks sees it; `None` if it is neither ours nor has a name of ours.
fn seen(
    container: &ContainerSummary,
    instance: &InstanceId,
    prefix: &str,
) -> Result<Option<(GroupName, SandboxSeen)>, Failure> {
    let names = container.names.as_deref().unwrap_or_default();
    let mut names = names.iter().map(|name| name.trim_start_matches('/'));
    let group_of = group_of(container, instance);
    let named = names.clone().find(|name| name.starts_with(prefix));
    let ours = group_of.is_some();
    let by_name = || GroupName::new(&named?[prefix.len()..]).ok();
    // Where no group of ours can be called so, nothing of ours is in its way.
    let Some(group) = group_of.or_else(by_name) else { return Ok(None) };
    let id = container.id.as_deref().unwrap_or_default();
    let id = SandboxId::new(id)
        .map_err(|error| Failure::Nonsense(format!("a container is called {id:?}: {error}")))?;
    let labels = container.labels.as_ref();
    let digest = labels.and_then(|labels| labels.get(SPEC)).filter(|_| ours);
    let own = format!("{prefix}{group}");
    let renamed = ours && named.is_none_or(|name| name != own);
    let sandbox = SandboxSeen {
        name: named.or_else(|| names.next()).unwrap_or(id.as_str()).to_owned(),
        id,
        owner: if ours { Owner::Ours } else { Owner::Stranger },
        state: state(container.state)?,
        digest: digest.cloned(),
        edits: if renamed { vec![format!("its name is no longer {own}")] } else { Vec::new() },
        processes: None,
    };
    Ok(Some((group, sandbox)))
}

fn state(state: Option<State>) -> Result<SandboxState, Failure> {
    match state {
        Some(State::CREATED) => Ok(SandboxState::Created),
        Some(State::RUNNING | State::RESTARTING) => Ok(SandboxState::Running),
        Some(State::PAUSED) => Ok(SandboxState::Paused),
        Some(State::EXITED | State::REMOVING | State::DEAD | State::STOPPING) => {
            Ok(SandboxState::Ended)
        }
        None | Some(State::EMPTY) => {
            Err(Failure::Nonsense("the engine does not say what a container does".to_owned()))
        }
    }
}

/// What the engine lists under one filter.
async fn listed(
    client: &Client,
    filter: &str,
    values: Vec<String>,
) -> Result<Vec<ContainerSummary>, Failure> {
    let filters = HashMap::from([(filter, values)]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let call = || client.list_containers(Some(options.clone()));
    call::listed("listing the containers", LIST_DEADLINE, call).await
}

/// What happens to the containers of an instance, until the engine is lost.
pub(super) fn events(client: Client, instance: InstanceId) -> BoxStream<'static, RuntimeEvent> {
    let containers = stream(
        client.clone(),
        HashMap::from([("type", vec!["container".to_owned()]), ("label", vec![label(&instance)])]),
    );
    // Whoever puts a container into a network is told of as an event of the network, which carries
    // no label of the container.
    let networks = stream(
        client.clone(),
        HashMap::from([
            ("type", vec!["network".to_owned()]),
            ("event", vec!["connect".to_owned()]),
        ]),
    );
    let told = containers.map(|event| event.map(|event| told(&event)));
    let joined = networks.then(move |event| {
        let (client, instance) = (client.clone(), instance.clone());
        async move {
            match event {
                Ok(event) => Ok(joined(&client, &instance, &event).await),
                Err(error) => Err(error),
            }
        }
    });
    // Each says that it has ended: one alone would not be all that happens.
    let ending = |events: BoxStream<'static, Result<Option<RuntimeEvent>, Error>>| {
        events.map(Some).chain(futures_util::stream::iter([None]))
    };
    futures_util::stream::select(ending(told.boxed()), ending(joined.boxed()))
        .take_while(|event| {
            if let Some(Err(error)) = event {
                tracing::debug!(%error, "the engine's events stopped");
            }
            std::future::ready(matches!(event, Some(Ok(_))))
        })
        .filter_map(|event| std::future::ready(event.and_then(Result::ok).flatten()))
        .boxed()
}

/// The engine's own stream, which owns its client.
fn stream(
    client: Client,
    filters: HashMap<&str, Vec<String>>,
) -> BoxStream<'static, Result<EventMessage, Error>> {
    let options = EventsOptionsBuilder::default().filters(&filters).build();
    client.events(Some(options)).boxed()
}

/// What a container of ours was put into a network, by an event of that. A container enters the
/// network in which there is nothing whenever it starts.
async fn joined(
    client: &Client,
    instance: &InstanceId,
    event: &EventMessage,
) -> Option<RuntimeEvent> {
    let attributes = event.actor.as_ref()?.attributes.as_ref()?;
    if attributes.get("name").is_some_and(|name| name == create::NO_NETWORK) {
        return None;
    }
    let call = client.inspect_container(attributes.get("container")?, None);
    let found = within("looking at the container", LIST_DEADLINE, call).await.ok()?;
    let labels = found.config?.labels?;
    labels.get(INSTANCE).filter(|found| found.as_str() == instance.as_str())?;
    let group = GroupName::new(labels.get(GROUP)?.as_str()).ok()?;
    Some(RuntimeEvent { group: Some(group), what: event.action.clone()? })
}

fn told(event: &EventMessage) -> Option<RuntimeEvent> {
    let what = event.action.clone().filter(|action| EVENTS.contains(&action.as_str()))?;
    let attributes = event.actor.as_ref()?.attributes.as_ref()?;
    let group = GroupName::new(attributes.get(GROUP)?.as_str()).ok()?;
    Some(RuntimeEvent { group: Some(group), what })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bollard::ClientVersion;
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_older_engine_is_asked_in_its_own_version_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let text = match request.uri().path() {
                        "/version" => "{\"ApiVersion\": \"1.41\"}",
                        _ => "{}",
                    };
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        let url = format!("unix://{}", socket.display());
        let client = Client::connect_with_unix(&url, 10, bollard::API_DEFAULT_VERSION).unwrap();
        let endpoint = Endpoint { url, reason: "played".into() };
        engine(&client, &endpoint, LIST_DEADLINE).await.unwrap();
        let agreed = client.client_version();
        assert_eq!(agreed, ClientVersion { major_version: 1, minor_version: 41 });
    }
}
