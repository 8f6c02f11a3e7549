//! The binary that images are built around: where it comes from, and what it is.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::HostContext;
use crate::error::{Error, Exit};
use crate::execute::{BinarySource, Lines};
use crate::file;
use crate::manifest::{ImageSource, Manifest};
use crate::process::SELF;
use crate::resource::{self, ImageSpec, RuntimeRef};
use crate::runtime::Binary;
use crate::runtime::docker::endpoint::Endpoint;
use crate::runtime::docker::{self, Docker, binary};

/// The image in which babybot is built from its source, where nothing else is to be had.
const RUST_IMAGE: &str = "rust:1.95-slim";
/// What is read of a binary to see whether it can be used: its headers.
const HEADERS: u64 = 64 << 10;
/// What is read of a `Cargo.toml` to see whose it is.
const CARGO_MAX: u64 = 64 << 10;

/// Where the binary comes from that an image is built around.
#[derive(Clone, Debug)]
enum Origin {
    File(PathBuf),
    Source(PathBuf),
}

impl HostContext {
    /// The digest of what an image is built around.
    pub(super) fn content(
        &self,
        manifest: &Manifest,
        served: bool,
    ) -> Result<Option<String>, Error> {
        let ImageSource::Built { binary, .. } = &manifest.runtime.image.source else {
            return Ok(None);
        };
        let (true, Some(info)) = (served, &self.info) else { return Ok(None) };
        let origin = self.origin(binary.as_deref(), &info.architecture)?;
        let digest = match &origin {
            Origin::File(path) => {
                let cache = self.project.data().join("binary.json");
                binary::digest_cached(path, &cache)
            }
            Origin::Source(source) => docker::source_digest(source),
        };
        let digest =
            digest.map_err(|error| Error::failed("read the binary for the image", &error))?;
        Ok(Some(docker::content(&digest)))
    }

    /// Where the binary comes from: what is named, this executable, or a checkout of the source.
    fn origin(&self, named: Option<&str>, architecture: &str) -> Result<Origin, Error> {
        let path = named.map_or_else(|| SELF.into(), |named| self.path_of(named));
        let failed = |error: &std::io::Error| {
            Error::failed(&format!("read {}, the binary for the image", path.display()), error)
        };
        let head = head(&path).map_err(|error| failed(&error))?;
        let Err(problem) = binary::check(&head, architecture) else {
            return Ok(Origin::File(path));
        };
        let root = self.project.root();
        if named.is_none() && is_checkout(root) {
            return Ok(Origin::Source(root.to_path_buf()));
        }
        let what = named.map_or("this babybot".to_owned(), |named| format!("`{named}`"));
        Err(Error::new(Exit::Failed, format!("{what} cannot be put into an image: {problem}"))
            .hinted(problem.ways_out(architecture).replace('\n', "\n        ")))
    }

    fn path_of(&self, named: &str) -> PathBuf {
        match (named.strip_prefix("~/"), std::env::var_os("HOME")) {
            (Some(below), Some(home)) => PathBuf::from(home).join(below),
            _ => self.project.root().join(named),
        }
    }

    /// Reads the binary of an image, or has it built.
    #[must_use]
    pub fn binary(&self) -> BinarySource {
        let ground = self.clone();
        Arc::new(move |image: &ImageSpec, lines: Lines| {
            let (ground, image) = (ground.clone(), image.clone());
            Box::pin(async move { ground.read_binary(&image, &*lines).await })
        })
    }

    async fn read_binary(
        &self,
        image: &ImageSpec,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Binary, String> {
        let ImageSpec::Built { binary: named, content, .. } = image else {
            return Err("the image is not one that is built".to_owned());
        };
        // The engine that is in use by now: it may not have been there when this began.
        let engine =
            self.runtimes.get(&RuntimeRef::docker(None)).map_err(|error| error.to_string())?;
        let info = engine.probe().await.map_err(|error| error.to_string())?;
        let origin = self.origin(named.as_deref(), &info.architecture);
        let (binary, digest) = match origin.map_err(|error| error.to_string())? {
            Origin::File(path) => {
                let read = tokio::task::spawn_blocking(move || binary::read(&path)).await;
                let binary = read.map_err(|error| error.to_string())?;
                let binary = binary.map_err(|error| error.to_string())?;
                let digest = resource::digest(&binary.bytes);
                (binary, digest)
            }
            Origin::Source(source) => {
                let (url, reason) =
                    (engine.reference().endpoint.unwrap_or_default(), String::new());
                let engine = Docker::new(Endpoint { url, reason });
                let engine = engine.map_err(|error| error.to_string())?;
                let built =
                    docker::build_binary_from_source(&engine, &source, RUST_IMAGE, progress).await;
                let binary = built.map_err(|error| error.to_string())?;
                let digest = docker::source_digest(&source).map_err(|error| error.to_string())?;
                (binary, digest)
            }
        };
        if *content != docker::content(&digest) {
            return Err("this babybot is not the one that made the plan".to_owned());
        }
        Ok(binary)
    }
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    file::read(path, HEADERS)
}

/// Whether a folder is a checkout of babybot's own source.
fn is_checkout(root: &Path) -> bool {
    let cargo = file::read(&root.join("Cargo.toml"), CARGO_MAX).unwrap_or_default();
    let cargo = String::from_utf8_lossy(&cargo);
    let ours = cargo.lines().any(|line| line.trim() == "name = \"babybot\"");
    ours && root.join("container/Dockerfile").metadata().is_ok_and(|found| found.size() > 0)
}
