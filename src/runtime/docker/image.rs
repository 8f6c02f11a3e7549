//! Images of agents: what is in them, how they are built, and which are this instance's.
//!
//! A build's context is made in memory, so that no file of the machine gets
//! into it but the one binary. The classic builder is used, because every engine
//! has it; it runs all stages of a Dockerfile in order, so it is given only one.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::models::{BuildInfo, ImageInspect};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder,
    ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::{Stream, StreamExt as _};

use super::call::{self, understood, within};
use super::failure::Failure;
use super::names::image_name;
use super::others::{self, TRIES_MAX};
use super::recipe::{Recipe, check_packages};
use super::{CONTENT, CREATE_DEADLINE, Docker, INSTANCE, LIST_DEADLINE};
use crate::line::Lines;
use crate::name::{ImageTag, InstanceId};
use crate::resource::{IMAGE_REPOSITORY, ImageSpec};
use crate::runtime::{Binary, RuntimeError};

/// How long a builder may say nothing.
pub(super) const BUILD_IDLE: Duration = Duration::from_secs(300);
/// The name that the newest image has as well, as it had before there were tags.
const LATEST: (&str, &str) = ("babybot-agent", "latest");

/// How lines begin that a builder says of itself.
const BUILDERS_OWN: &[&str] = &["Step ", "---> ", "Removing intermediate container "];

/// Whether the engine has an image of this name.
pub(super) async fn has(client: &Client, reference: &str) -> Result<bool, Failure> {
    Ok(inspect(client, reference).await?.is_some())
}

async fn inspect(client: &Client, reference: &str) -> Result<Option<ImageInspect>, Failure> {
    let call = || client.inspect_image(reference);
    match understood("looking at the image", LIST_DEADLINE, call).await {
        Ok(found) => Ok(Some(found)),
        Err(Failure::NotFound(_) | Failure::ImageMissing(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The tags of the images that were built for an instance.
pub(super) async fn of_instance(
    client: &Client,
    instance: &InstanceId,
) -> Result<Vec<ImageTag>, Failure> {
    let filters = HashMap::from([("label", vec![format!("{INSTANCE}={instance}")])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let call = || client.list_images(Some(options.clone()));
    let found = call::listed("listing the images", LIST_DEADLINE, call).await?;
    let names = found.into_iter().flat_map(|image| image.repo_tags);
    let own = format!("{IMAGE_REPOSITORY}:{}-", instance.short());
    let tags = names.filter_map(|name| ImageTag::new(name.strip_prefix(&own)?).ok());
    let mut tags: Vec<ImageTag> = tags.collect();
    tags.sort();
    tags.dedup();
    Ok(tags)
}

/// Removes an image of an instance, unless a container stands on it.
pub(super) async fn remove(
    client: &Client,
    instance: &InstanceId,
    tag: &ImageTag,
) -> Result<(), Failure> {
    others::despite(|| remove_once(client, instance, tag)).await
}

async fn remove_once(
    client: &Client,
    instance: &InstanceId,
    tag: &ImageTag,
) -> Result<(), Failure> {
    let reference = image_name(Some(instance), &format!("{IMAGE_REPOSITORY}:{tag}"));
    let Some(found) = inspect(client, &reference).await? else { return Ok(()) };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    if labels.get(INSTANCE).is_none_or(|owner| owner != instance.as_str()) {
        return Err(Failure::Refused(format!("the image {reference} is not this instance's")));
    }
    let id = found.id.unwrap_or_default();
    let filters = HashMap::from([("ancestor", vec![id.clone()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let call = || client.list_containers(Some(options.clone()));
    // An engine takes a name away from an image even then, if it has another.
    if !call::listed("listing the containers", LIST_DEADLINE, call).await?.is_empty() {
        return Err(Failure::Refused(format!("a container uses the image {reference}")));
    }
    let latest = format!("{}:{}", LATEST.0, LATEST.1);
    if inspect(client, &latest).await?.is_some_and(|newest| newest.id.as_ref() == Some(&id)) {
        untag(client, &latest).await?;
    }
    untag(client, &reference).await
}

/// Takes a name away, and what no name is left of. Never by force.
pub(super) async fn untag(client: &Client, reference: &str) -> Result<(), Failure> {
    let options = RemoveImageOptionsBuilder::default().force(false).noprune(false).build();
    let call = client.remove_image(reference, Some(options), None);
    match within("removing the image", CREATE_DEADLINE, call).await {
        Ok(_) | Err(Failure::NotFound(_) | Failure::ImageMissing(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Builds an image, unless it is there.
pub(super) async fn build(
    docker: &Docker,
    instance: &InstanceId,
    image: &ImageSpec,
    binary: Binary,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), RuntimeError> {
    let client = &docker.client;
    let reference = image_name(Some(instance), &image.reference());
    if has(client, &reference).await.map_err(|failure| docker.lost(failure))? {
        return Ok(());
    }
    let ImageSpec::Built { base, packages, content, user, .. } = image else {
        return Err(RuntimeError::ImageMissing(reference));
    };
    check_packages(base, packages)?;
    let recipe = Recipe { base, packages, user: *user };
    let labels = HashMap::from([(INSTANCE, instance.as_str()), (CONTENT, content.as_str())]);
    let what = format!("the image on {base}");
    let (recipe, reference, labels, bytes) = (&recipe, &reference, &labels, &binary.bytes);
    let work = |cache| async move {
        let context = recipe
            .context(bytes)
            .map_err(|error| Failure::Refused(format!("its context cannot be packed: {error}")))?;
        let options = BuildImageOptionsBuilder::default()
            .dockerfile("Dockerfile")
            .t(reference)
            .rm(true)
            .forcerm(true)
            .nocache(cache == Cache::Unused)
            .labels(labels)
            .buildargs(&recipe.arguments())
            .build();
        let stream = client.build_image(options, None, Some(bollard::body_full(context.into())));
        follow_build(stream, progress).await?;
        let (repository, tag) = LATEST;
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        let call = client.tag_image(reference, Some(options));
        within("naming the image", LIST_DEADLINE, call).await
    };
    on_base(docker, base, &what, progress, work).await
}

/// Whether a builder may take what it built before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    Used,
    Unused,
}

/// Does work that builds on a base. Where somebody else took something away meanwhile, the base or
/// what was being built among it, does it again, without what the builder remembers.
pub(super) async fn on_base<T, W>(
    docker: &Docker,
    base: &str,
    what: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
    work: impl Fn(Cache) -> W,
) -> Result<T, RuntimeError>
where
    W: Future<Output = Result<T, Failure>>,
{
    let (mut cache, mut tries) = (Cache::Used, 1);
    loop {
        if base != "scratch" {
            provide(docker, base, progress).await?;
        }
        let failure = match work(cache).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let taken_away = match &failure {
            Failure::Changed(_) | Failure::ImageMissing(_) | Failure::NotFound(_) => true,
            // A builder pulls a base that has gone, and says only that it cannot.
            Failure::Refused(_) if base != "scratch" => {
                has(&docker.client, base).await.is_ok_and(|there| !there)
            }
            _ => false,
        };
        if !taken_away || tries == TRIES_MAX {
            return Err(explained(docker, failure, what));
        }
        tracing::debug!(why = failure.words(), tries, "it is built again without the cache");
        others::pause(tries).await;
        (cache, tries) = (Cache::Unused, tries + 1);
    }
}

/// Makes sure that the engine has an image, which may take a pull.
async fn provide(
    docker: &Docker,
    base: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), RuntimeError> {
    if has(&docker.client, base).await.map_err(|failure| docker.lost(failure))? {
        return Ok(());
    }
    progress(&format!("pulling {base}"));
    let mut tries = 1;
    loop {
        match pull(docker, base, progress).await {
            Err(why) if others::changed(&why) && tries < TRIES_MAX => {
                others::pause(tries).await;
                tries += 1;
            }
            pulled => return pulled.map_err(|why| no_base(base, &why)),
        }
    }
}

async fn pull(
    docker: &Docker,
    base: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), String> {
    let last = base.rsplit('/').next().unwrap_or(base);
    let mut options = CreateImageOptionsBuilder::default().from_image(base);
    if !last.contains([':', '@']) {
        // Without a tag, an engine pulls all there are.
        options = options.tag("latest");
    }
    let mut pull = docker.client.create_image(Some(options.build()), None, None);
    let mut said = String::new();
    loop {
        let step = match tokio::time::timeout(BUILD_IDLE, pull.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(step))) => step,
            Ok(Some(Err(error))) => return Err(Failure::from(error).words()),
            Err(_) => return Err("the pull does not progress".to_owned()),
        };
        if let Some(message) = step.error_detail.and_then(|detail| detail.message) {
            return Err(message);
        }
        // Each layer says the same again and again while it comes.
        let status = step.status.unwrap_or_default();
        if !status.is_empty() && status != said {
            progress(&status);
            said = status;
        }
    }
}

fn no_base(base: &str, why: &str) -> RuntimeError {
    RuntimeError::Failed(format!(
        "the image {base}, on which agents' images stand, is neither on this engine nor can it be \
         pulled: {why}; pull it where there is a network (`docker pull {base}`), or build on \
         nothing (runtime.image.base = \"scratch\"), or name an image that contains babybot \
         (runtime.image.ref)"
    ))
}

/// A failed build, in words of its own where the engine's say nothing.
fn explained(docker: &Docker, failure: Failure, what: &str) -> RuntimeError {
    match failure {
        Failure::Refused(why) | Failure::Changed(why) => {
            RuntimeError::Failed(format!("{what} cannot be built: {why}"))
        }
        other => docker.lost(other),
    }
}

/// Reads what a builder says to its end, line by line.
pub(super) async fn follow_build(
    stream: impl Stream<Item = Result<BuildInfo, Error>>,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), Failure> {
    tokio::pin!(stream);
    let mut lines = Lines::default();
    let mut last = String::new();
    let mut tell = |line: &[u8]| {
        let line = plain(&String::from_utf8_lossy(line));
        if !line.is_empty() {
            progress(&line);
            // What the builder says of itself is no reason.
            if !BUILDERS_OWN.iter().any(|own| line.starts_with(own)) {
                last = line;
            }
        }
    };
    loop {
        let step = within_idle(stream.next()).await?;
        let step = match step {
            None => break,
            Some(Ok(step)) => step,
            Some(Err(Error::DockerStreamError { error })) if !others::changed_midway(&error) => {
                lines.rest().iter().for_each(|line| tell(line));
                // The engine repeats the command; the command said why.
                let why = if error.contains("returned a non-zero code") { last } else { error };
                return Err(Failure::Refused(why));
            }
            Some(Err(error)) => return Err(error.into()),
        };
        lines.push(step.stream.or(step.status).unwrap_or_default().as_bytes());
        while let Some(line) = lines.take().map_err(|error| Failure::Nonsense(error.to_string()))? {
            tell(&line);
        }
    }
    lines.rest().iter().for_each(|line| tell(line));
    Ok(())
}

async fn within_idle<T>(step: impl Future<Output = T>) -> Result<T, Failure> {
    let late = |_| Failure::Late { what: "the build's next step", limit: BUILD_IDLE };
    tokio::time::timeout(BUILD_IDLE, step).await.map_err(late)
}

/// A line without the colours that a builder gives it.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(plain("\x1b[91mno such package\x1b[0m\n"), "no such package");
    }
}
