//! Images of agents: what is in them, how they are built, and which are this instance's.
//!
//! A build's context is made in memory, so that no file of the machine gets
//! into it but the one binary. The classic builder is used, because every engine
//! has it; it runs all stages of a Dockerfile in order, so it is given only one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Component, Path};
use std::time::Duration;

use bollard::Docker as Client;
use bollard::errors::Error;
use bollard::models::{BuildInfo, ContainerCreateBody, ImageInspect};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder,
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};

use super::binary::BINARY_MAX;
use super::call::{self, understood, within};
use super::failure::Failure;
use super::names::image_name;
use super::others::{self, TRIES_MAX};
use super::{CONTENT, CREATE_DEADLINE, Docker, INSTANCE, LIST_DEADLINE, life};
use crate::line::Lines;
use crate::name::{ImageTag, InstanceId};
use crate::resource::{GROUP_USERS, IMAGE_REPOSITORY, ImageSpec, UserId, digest};
use crate::runtime::{Binary, RuntimeError};

/// All stages; see there.
const DOCKERFILE: &str = include_str!("../../../container/Dockerfile");
/// How long a builder may say nothing.
const BUILD_IDLE: Duration = Duration::from_secs(300);
/// The name that the newest image has as well, as it had before there were tags.
const LATEST: (&str, &str) = ("babybot-agent", "latest");
/// Where a source is built: nothing else is called so.
const SOURCE_REPOSITORY: &str = "localhost/babybot-source";

/// How lines begin that a builder says of itself.
const BUILDERS_OWN: &[&str] = &["Step ", "---> ", "Removing intermediate container "];

/// Folders of an image that others are mounted into.
const MOUNT_POINTS: &[(&str, u32)] = &[
    ("home", 0o755),
    ("home/agent", 0o755),
    // A tmpfs over it takes its mode, whatever the engine was told.
    ("tmp", 0o1777),
    ("workspace", 0o755),
    ("workspace/extra", 0o755),
    ("workspace/global", 0o755),
    ("workspace/group", 0o755),
    ("workspace/ipc", 0o755),
    ("workspace/memory", 0o755),
    ("workspace/project", 0o755),
    ("workspace/skills", 0o755),
];

/// What of a checkout a build from source takes; the rest cannot change what is built.
const SOURCES: &[&str] =
    &["src", "Cargo.toml", "Cargo.lock", ".cargo", "container", "skills", "README.md"];
/// Files and bytes of a checkout, together.
const SOURCE_FILES_MAX: usize = 5_000;
const SOURCE_BYTES_MAX: usize = 64 << 20;

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
async fn untag(client: &Client, reference: &str) -> Result<(), Failure> {
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
enum Cache {
    Used,
    Unused,
}

/// Does work that builds on a base. Where somebody else took something away meanwhile, the base or
/// what was being built among it, does it again, without what the builder remembers.
async fn on_base<T, W>(
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

/// What an image is built from.
struct Recipe<'a> {
    base: &'a str,
    packages: &'a [String],
    user: UserId,
}

impl Recipe<'_> {
    fn arguments(&self) -> HashMap<&'static str, String> {
        HashMap::from([
            ("BASE", self.base.to_owned()),
            ("PACKAGES", self.packages.join(" ")),
            ("AGENT_UID", self.user.uid.to_string()),
            ("AGENT_GID", self.user.gid.to_string()),
            ("AGENT_USERS", self.users().to_string()),
        ])
    }

    /// How many users have a name in it, from its own on.
    fn users(&self) -> u32 {
        match self.user.uid == *GROUP_USERS.start() {
            true => GROUP_USERS.end() - GROUP_USERS.start() + 1,
            false => 1,
        }
    }

    /// Everything that the builder gets. The same for the same, byte by byte.
    fn context(&self, binary: &[u8]) -> io::Result<Vec<u8>> {
        let empty = self.base == "scratch";
        let mut context = Context::default();
        context.reserve(binary.len() + OTHERS_ROOM);
        context.file(
            "Dockerfile",
            0o644,
            stage(if empty { "empty" } else { "agent" }).as_bytes(),
        )?;
        context.folder("root", 0o755)?;
        for (path, mode) in MOUNT_POINTS {
            context.folder(&format!("root/{path}"), *mode)?;
        }
        if empty {
            let UserId { uid, gid } = self.user;
            let root = if uid == 0 { "" } else { "root:x:0:0:root:/:/sbin/nologin\n" };
            let mut users = root.to_owned();
            let mut groups = if gid == 0 { "" } else { "root:x:0:\n" }.to_owned();
            for next in 0..self.users() {
                let (uid, gid) = (uid + next, gid + next);
                let _ = writeln!(users, "agent:x:{uid}:{gid}:agent:/home/agent:/bin/sh");
                let _ = writeln!(groups, "agent:x:{gid}:");
            }
            context.folder("root/etc", 0o755)?;
            context.file("root/etc/passwd", 0o644, users.as_bytes())?;
            context.file("root/etc/group", 0o644, groups.as_bytes())?;
        }
        context.file("babybot", 0o755, binary)?;
        context.finish()
    }
}

/// One stage of the Dockerfile, with the arguments that stand before the first.
fn stage(name: &str) -> String {
    let (head, stages) = DOCKERFILE.split_once("\nFROM ").unwrap_or((DOCKERFILE, ""));
    let mut all = stages.split("\nFROM ");
    let ending = format!(" AS {name}");
    let one = all.find(|stage| stage.lines().next().is_some_and(|line| line.ends_with(&ending)));
    let arguments = head.lines().filter(|line| line.starts_with("ARG "));
    let arguments: String = arguments.map(|line| format!("{line}\n")).collect();
    format!("{arguments}FROM {}\n", one.unwrap_or_default())
}

/// What all else in a context takes beside the binary, in bytes.
const OTHERS_ROOM: usize = 128 << 10;

/// A tar archive whose entries have neither time nor owner.
#[derive(Default)]
struct Context {
    archive: Option<tar::Builder<Vec<u8>>>,
}

impl Context {
    /// Has room for so many bytes from the start.
    fn reserve(&mut self, bytes: usize) {
        self.archive = Some(tar::Builder::new(super::binary::roomy(bytes)));
    }

    fn add(&mut self, path: &str, header: &mut tar::Header, bytes: &[u8]) -> io::Result<()> {
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        let archive = self.archive.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        archive.append_data(header, path, bytes)
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        self.add(path, &mut header, bytes)
    }

    fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        self.add(&format!("{path}/"), &mut header, b"")
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        self.archive.map_or_else(|| Ok(Vec::new()), tar::Builder::into_inner)
    }
}

/// Refuses what a shell or a package manager would read as something else than a package.
fn check_packages(base: &str, packages: &[String]) -> Result<(), RuntimeError> {
    if base == "scratch" && !packages.is_empty() {
        let why = "runtime.image.packages needs a base: there is nothing in \"scratch\" that \
                   could install them";
        return Err(RuntimeError::Failed(why.to_owned()));
    }
    let plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:=~".contains(c))
    };
    match packages.iter().find(|name| !plain(name)) {
        Some(name) => Err(RuntimeError::Failed(format!("{name:?} is not the name of a package"))),
        None => Ok(()),
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
async fn follow_build(
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

/// The digest of everything that an image is made of but for its base and packages: the binary,
/// by its digest, and how it is put together.
#[must_use]
pub fn content(binary: &str) -> String {
    digest(format!("{binary}\n{DOCKERFILE}").as_bytes())
}

/// The digest of a checkout of babybot's source, as far as it is built from.
///
/// # Errors
/// When it is none, or cannot be read.
pub fn source_digest(source: &Path) -> io::Result<String> {
    Ok(digest(&checkout_context(source)?))
}

/// Builds babybot for the engine's own architecture from a checkout of its source, in an image
/// with Rust, and gives the binary.
///
/// # Errors
/// [`RuntimeError::Failed`] with what the build said, or with the ways out where the image with
/// Rust is neither there nor can it be pulled.
pub async fn build_binary_from_source(
    docker: &Docker,
    source: &Path,
    rust: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Binary, RuntimeError> {
    let checkout = source.to_owned();
    let context = tokio::task::spawn_blocking(move || checkout_context(&checkout))
        .await
        .map_err(|error| RuntimeError::Failed(error.to_string()))?
        .map_err(|error| RuntimeError::Failed(format!("{}: {error}", source.display())))?;
    let tag = &digest(&context)["sha256:".len()..][..12];
    let reference = format!("{SOURCE_REPOSITORY}:{tag}");
    let (client, context) = (&docker.client, Bytes::from(context));
    let (reference, context) = (&reference, &context);
    let work = |cache| async move {
        let options = BuildImageOptionsBuilder::default()
            .dockerfile("Dockerfile.source")
            .t(reference)
            .rm(true)
            .forcerm(true)
            .nocache(cache == Cache::Unused)
            .buildargs(&HashMap::from([("RUST", rust)]))
            .build();
        let body = bollard::body_full(context.clone());
        follow_build(client.build_image(options, None, Some(body)), progress).await?;
        // Another project with the same source may be done with it, and take its name away.
        let binary = taken_out(client, reference).await;
        let _ = untag(client, reference).await;
        binary
    };
    on_base(docker, rust, "babybot", progress, work).await
}

/// The binary out of an image in which it was built. The container for it never runs.
async fn taken_out(client: &Client, reference: &str) -> Result<Binary, Failure> {
    let body = ContainerCreateBody {
        image: Some(reference.to_owned()),
        cmd: Some(vec!["/babybot".to_owned()]),
        network_disabled: Some(true),
        ..ContainerCreateBody::default()
    };
    let call = client.create_container(None, body);
    let id = within("making the container", CREATE_DEADLINE, call).await?.id;
    let options = DownloadFromContainerOptionsBuilder::default().path("/babybot").build();
    let mut size = 0;
    let pieces = client
        .download_from_container(&id, Some(options))
        .map_err(Failure::from)
        .map(|piece| {
            let piece: Bytes = piece?;
            size += piece.len() as u64;
            if size > BINARY_MAX {
                return Err(Failure::Refused("the build produced no program".to_owned()));
            }
            Ok(piece)
        })
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        });
    let archive = tokio::time::timeout(BUILD_IDLE, pieces)
        .await
        .unwrap_or(Err(Failure::Late { what: "copying the binary", limit: BUILD_IDLE }));
    let removed = life::remove(client, &id).await;
    let archive = archive?;
    removed?;
    first_file(&archive).map_err(|error| Failure::Nonsense(error.to_string()))
}

fn first_file(archive: &[u8]) -> io::Result<Binary> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes)?;
            return Ok(Binary { bytes: bytes.into() });
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "there is no file in the archive"))
}

/// What of a checkout is built.
fn checkout_context(source: &Path) -> io::Result<Vec<u8>> {
    let mut context = Context::default();
    context.file("Dockerfile.source", 0o644, stage("source").as_bytes())?;
    let mut open: Vec<_> = SOURCES.iter().map(|name| source.join(name)).collect();
    let (mut files, mut bytes) = (0, 0);
    while let Some(path) = open.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            let entries = path.read_dir()?.map(|entry| Ok(entry?.path()));
            let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
            entries.sort();
            open.append(&mut entries);
            continue;
        }
        // A link would take in what is not of the checkout.
        let Some(inner) = inner(&path, source).filter(|_| metadata.is_file()) else { continue };
        let content = std::fs::read(&path)?;
        (files, bytes) = (files + 1, bytes + content.len());
        if files > SOURCE_FILES_MAX || bytes > SOURCE_BYTES_MAX {
            return Err(io::Error::other("this is more than the source of babybot"));
        }
        context.file(&inner, 0o644, &content)?;
    }
    if source.join("Cargo.toml").is_file() && source.join("src/main.rs").is_file() {
        return context.finish();
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "this is no checkout of babybot's source"))
}

fn inner(path: &Path, root: &Path) -> Option<String> {
    let inner = path.strip_prefix(root).ok()?;
    let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
    inner.to_str().filter(|_| plain).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_cut_out_with_its_arguments() {
        for (name, from) in [("empty", "scratch"), ("agent", "${BASE}"), ("source", "${RUST}")] {
            let text = stage(name);
            let froms: Vec<&str> = text.lines().filter(|line| line.starts_with("FROM")).collect();
            assert_eq!(froms, [format!("FROM {from} AS {name}")]);
            assert!(text.starts_with("ARG BASE="), "{text}");
        }
    }

    #[test]
    fn the_same_context_is_the_same_bytes() {
        let user = UserId { uid: 1000, gid: 1000 };
        let recipe = Recipe { base: "scratch", packages: &[], user };
        assert_eq!(recipe.context(b"x").unwrap(), recipe.context(b"x").unwrap());
    }

    #[test]
    fn a_package_is_not_an_option_nor_a_command() {
        let check = |name: &str| check_packages("debian", &[name.to_owned()]).is_ok();
        assert!(check("g++") && check("python3-dev") && check("git=1:2.39~1"));
        assert!(!check("-o") && !check("a b") && !check("$(id)") && !check("a;b") && !check(""));
        assert!(check_packages("scratch", &["git".to_owned()]).is_err());
    }

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(plain("\x1b[91mno such package\x1b[0m\n"), "no such package");
    }
}
