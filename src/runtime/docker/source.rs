//! Babybot built for an engine's own architecture, from a checkout of its source.

use std::collections::HashMap;
use std::io;
use std::path::{Component, Path};

use bollard::Docker as Client;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{BuildImageOptionsBuilder, DownloadFromContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::binary::BINARY_MAX;
use super::call::within;
use super::failure::Failure;
use super::image::{BUILD_IDLE, Cache, follow_build, on_base, untag};
use super::recipe::{Context, stage};
use super::{CREATE_DEADLINE, Docker, life};
use crate::resource::digest;
use crate::runtime::{Binary, RuntimeError};

/// Where a source is built: nothing else is called so.
const SOURCE_REPOSITORY: &str = "localhost/babybot-source";
/// What of a checkout a build from source takes; the rest cannot change what is built.
const SOURCES: &[&str] =
    &["src", "Cargo.toml", "Cargo.lock", ".cargo", "container", "skills", "README.md"];
/// Files and bytes of a checkout, together.
const SOURCE_FILES_MAX: usize = 5_000;
const SOURCE_BYTES_MAX: usize = 64 << 20;

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
