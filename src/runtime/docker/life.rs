//! A container from its making to its removal.
//!
//! A guardian, a task of its own, waits for each container that was started. It
//! closes stdin when the link is dropped, ends the container if it does not end by
//! itself, asks how it ended, and removes it.

use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::call::{understood, within};
use super::create;
use super::failure::{Failure, Reach};
use super::others::{self, TRIES_MAX};
use super::streams::{self, Input, Of, Returned};
use super::{CREATE_DEADLINE, Docker, GROUP, INSTANCE, LIST_DEADLINE, image_name, mounts};
use crate::name::SandboxId;
use crate::runtime::{Exit, RuntimeError, Sandbox, SandboxSpec};

/// How long an agent whose link was closed may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// How long a removal may take.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// Answers to a stop come this much later than its grace is over, at the latest.
const STOP_SLACK: Duration = Duration::from_secs(5);
/// How long an engine that went away is waited for, to take away what is left.
const RETURN_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const RETURN_INTERVAL: Duration = Duration::from_millis(500);
/// Signals have numbers up to this one; an exit code of 128 and more is one of them.
const SIGNAL_MAX: i64 = 64;

/// Makes a container, attaches to it and starts it. What fails leaves nothing behind.
pub(super) async fn launch(docker: Docker, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
    let client = &docker.client;
    let image = spec
        .container
        .image
        .as_ref()
        .map(|image| image_name(Some(&spec.instance), image))
        .ok_or_else(|| RuntimeError::Launch("the container has no image".to_owned()))?;
    let folders = spec.mounts.clone();
    // A file system far away may not answer.
    let check = tokio::task::spawn_blocking(move || mounts::check(&folders));
    let late = |_| RuntimeError::Launch("a mounted folder does not respond".to_owned());
    tokio::time::timeout(LIST_DEADLINE, check)
        .await
        .map_err(late)?
        .map_err(|error| RuntimeError::Failed(error.to_string()))?
        .map_err(RuntimeError::Refused)?;

    let mut tries = 1;
    loop {
        let id = create(&docker, &spec, &image).await?;
        let failure = match start(client, &id).await {
            Ok(sandbox) => return Ok(sandbox),
            Err(failure) => failure,
        };
        // Whoever prunes an engine takes each container away that does not run at the moment.
        let taken_away = matches!(failure, Failure::Changed(_) | Failure::UnderWay(_))
            || is_gone(client, &id).await;
        if let Err(left) = remove(client, &id).await {
            let why = left.words();
            tracing::warn!(%id, why, "a container that did not start could not be removed");
        }
        match failure {
            Failure::Unreachable { .. } | Failure::Late { .. } => return Err(docker.lost(failure)),
            _ if taken_away && tries < TRIES_MAX => {}
            other => return Err(RuntimeError::Launch(other.words())),
        }
        others::pause(tries).await;
        tries += 1;
    }
}

async fn is_gone(client: &Client, id: &str) -> bool {
    let call = || client.inspect_container(id, None);
    let found = understood("looking at the container", LIST_DEADLINE, call).await;
    matches!(found, Err(Failure::NotFound(_)))
}

async fn create(docker: &Docker, spec: &SandboxSpec, image: &str) -> Result<String, RuntimeError> {
    let client = &docker.client;
    let name = create::name(&spec.instance, &spec.group);
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let covers = covers(docker, spec, image).await?;
    let body = create::body(spec, image, &docker.agent, covers);
    let make = || {
        let call = client.create_container(Some(options.clone()), body.clone());
        within("making the container", CREATE_DEADLINE, call)
    };
    match others::despite(make).await {
        Ok(made) => Ok(made.id),
        Err(Failure::NameTaken(_)) => Err(RuntimeError::NameTaken { name }),
        Err(Failure::ImageMissing(_)) => Err(RuntimeError::ImageMissing(image.to_owned())),
        Err(failure) if failure.is_uncertain() => {
            forget(client, spec, &name).await;
            Err(docker.lost(failure))
        }
        Err(failure) => Err(RuntimeError::Launch(failure.words())),
    }
}

/// Where the image's own volumes are covered.
async fn covers(
    docker: &Docker,
    spec: &SandboxSpec,
    image: &str,
) -> Result<Vec<String>, RuntimeError> {
    let call = || docker.client.inspect_image(image);
    let found = match understood("looking at the image", LIST_DEADLINE, call).await {
        Ok(found) => found,
        Err(Failure::ImageMissing(_) | Failure::NotFound(_)) => {
            return Err(RuntimeError::ImageMissing(image.to_owned()));
        }
        Err(failure) => return Err(docker.lost(failure)),
    };
    let volumes = found.config.and_then(|config| config.volumes).unwrap_or_default();
    create::covers(&volumes, &spec.mounts).map_err(|volume| {
        RuntimeError::Refused(format!(
            "the image {image} declares a volume at {volume}, which would be a writable folder of \
             this machine, and cannot be covered there: use an image without it"
        ))
    })
}

/// Removes a container whose making nobody acknowledged: it is of this instance, and never ran.
async fn forget(client: &Client, spec: &SandboxSpec, name: &str) {
    let call = client.inspect_container(name, None);
    let Ok(found) = within("looking at the container", LIST_DEADLINE, call).await else { return };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    let never_ran = found.state.is_some_and(|state| {
        state.status == Some(bollard::models::ContainerStateStatusEnum::CREATED)
    });
    let ours = is(INSTANCE, spec.instance.as_str()) && is(GROUP, spec.group.as_str());
    if let Some(id) = found.id.filter(|_| ours && never_ran) {
        let _ = remove(client, &id).await;
    }
}

async fn start(client: &Client, id: &str) -> Result<Sandbox, Failure> {
    // Attached before it starts: not one byte of what it says is missed.
    let options = AttachContainerOptionsBuilder::default()
        .stdin(true)
        .stdout(true)
        .stderr(true)
        .stream(true)
        .logs(false)
        .build();
    let call = client.attach_container(id, Some(options));
    let attached = within("attaching to the container", CREATE_DEADLINE, call).await?;
    let call = client.start_container(id, None);
    within("starting the container", CREATE_DEADLINE, call).await?;

    let sandbox = SandboxId::new(id)
        .map_err(|error| Failure::Nonsense(format!("the engine calls it {id:?}: {error}")))?;
    let (input, returned) = Returned::new(attached.input);
    let outputs = streams::apart(attached.output, Of::Agent);
    let (ended, exit) = oneshot::channel();
    tokio::spawn(guard(client.clone(), id.to_owned(), returned, ended));
    Ok(Sandbox {
        id: sandbox,
        process: None,
        link: Box::new(tokio::io::join(outputs.stdout, input)),
        log: outputs.stderr,
        exit: Box::pin(async move {
            exit.await.unwrap_or_else(|_| Exit::Lost("the wait for its end broke off".to_owned()))
        }),
    })
}

/// Waits for a container's end, brings it about once the link is gone, and removes what is left.
async fn guard(
    client: Client,
    id: String,
    mut returned: oneshot::Receiver<Input>,
    ended: oneshot::Sender<Exit>,
) {
    let exit = {
        let wait = wait(&client, &id);
        tokio::pin!(wait);
        tokio::select! {
            exit = &mut wait => exit,
            input = &mut returned => {
                let close = async {
                    if let Ok(mut input) = input {
                        let _ = input.shutdown().await;
                    }
                };
                let _ = tokio::time::timeout(LAST_WORDS, close).await;
                match tokio::time::timeout(LAST_WORDS, &mut wait).await {
                    Ok(exit) => exit,
                    // Removing it ends it.
                    Err(_) => Ok(Exit::Signal(9)),
                }
            }
        }
    };
    let exit = match exit {
        Ok(exit) => verdict(&client, &id, exit).await,
        Err(failure) => Exit::Lost(format!("the container disappeared: {}", failure.words())),
    };
    let removed = remove(&client, &id).await;
    let _ = ended.send(exit);
    if removed.is_err() {
        take_away(&client, &id).await;
    }
}

/// Waits until a container does not run any more.
///
/// It was started before, and nothing but its guardian removes it, so there is no moment at which
/// its end could be missed; a wait that was opened before the start would have to be for the
/// next end, and hang where that was over already.
async fn wait(client: &Client, id: &str) -> Result<Exit, Failure> {
    loop {
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let answer = client.wait_container(id, Some(options)).next().await;
        let code = match answer {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            // The client's own patience with an engine that sends no header; it still runs.
            Some(Err(Error::RequestTimeoutError)) => continue,
            Some(Err(error)) => return Err(error.into()),
            None => {
                return Err(Failure::Unreachable {
                    why: "the engine broke off the wait".to_owned(),
                    reach: Reach::Silent,
                });
            }
        };
        return Ok(match code - 128 {
            signal @ 1..=SIGNAL_MAX => Exit::Signal(i32::try_from(signal).unwrap_or_default()),
            _ => Exit::Code(i32::try_from(code).unwrap_or(i32::MAX)),
        });
    }
}

/// How a container ended: an engine knows whether memory was why.
async fn verdict(client: &Client, id: &str, exit: Exit) -> Exit {
    let call = || client.inspect_container(id, None);
    let found = understood("looking at the container", LIST_DEADLINE, call).await;
    let state = found.ok().and_then(|found| found.state);
    let memory = state.and_then(|state| state.oom_killed).unwrap_or_default();
    // A tool that was killed for memory leaves the mark as well; then the agent ended as it says.
    if memory && exit == Exit::Signal(9) { Exit::OutOfMemory } else { exit }
}

/// Removes a container once its engine is back.
async fn take_away(client: &Client, id: &str) {
    let deadline = Instant::now() + RETURN_DEADLINE;
    while Instant::now() < deadline {
        tokio::time::sleep(RETURN_INTERVAL).await;
        if remove(client, id).await.is_ok() {
            return;
        }
    }
    tracing::warn!(id, "a container that ended could not be removed");
}

/// Ends a container by asking first, and removes it. One that is gone is no error.
pub(super) async fn stop(client: &Client, id: &str, grace: Duration) -> Result<(), Failure> {
    let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::default().t(seconds).build();
    let limit = grace.saturating_add(STOP_SLACK);
    let call = client.stop_container(id, Some(options));
    match within("stopping the container", limit, call).await {
        Ok(()) => {}
        Err(Failure::NotFound(_)) => return Ok(()),
        Err(failure) if failure.is_uncertain() => return Err(failure),
        // What cannot be stopped may still be removed, which ends it by force.
        Err(failure) => tracing::debug!(id, why = failure.words(), "a container was not stopped"),
    }
    remove(client, id).await
}

/// Removes a container by force, and waits until it is gone. One that is gone is no error.
pub(super) async fn remove(client: &Client, id: &str) -> Result<(), Failure> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let take = || {
        let call = client.remove_container(id, Some(options.clone()));
        within("removing the container", REMOVE_DEADLINE, call)
    };
    match others::despite(take).await {
        Ok(()) | Err(Failure::NotFound(_)) => Ok(()),
        Err(Failure::UnderWay(_)) => gone(client, id).await,
        Err(failure) => Err(failure),
    }
}

/// Waits for a removal that somebody else began.
async fn gone(client: &Client, id: &str) -> Result<(), Failure> {
    let options = WaitContainerOptionsBuilder::default().condition("removed").build();
    let mut wait = client.wait_container(id, Some(options));
    let call = async { wait.next().await.transpose() };
    match within("removing the container", REMOVE_DEADLINE, call).await {
        Err(failure @ Failure::Late { .. }) => Err(failure),
        // It says how the container ended, or that there is none: both are its end.
        _ => Ok(()),
    }
}
