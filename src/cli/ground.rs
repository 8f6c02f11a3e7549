//! What verbs stand on: the project, the runtimes of this machine, and what the manifest means here.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::preview::project_error;
use crate::desired::{self, Choice, Desired, Setting};
use crate::error::{Error, Exit};
use crate::execute::{BinarySource, Lines};
use crate::file;
use crate::gateway::Gateway;
use crate::machine;
use crate::manifest::{self, ImageSource, KindWish, Manifest};
use crate::observe::{self, Holder};
use crate::observed::{Applied, Known};
use crate::process::SELF;
use crate::project::Project;
use crate::resource::{
    self, Capabilities, EnforcedLimits, ImageSpec, ResourceId, RuntimeKind, RuntimeRef, Spec,
    UserId,
};
use crate::runtime;
use crate::runtime::docker::endpoint::{self, Endpoint, Found, HostEnvironment, Places};
use crate::runtime::docker::{self, Docker, binary};
use crate::runtime::{Binary, RuntimeInfo, Runtimes};
use crate::store::Store;

/// What the image was built around that was applied.
fn content_of(specs: &BTreeMap<ResourceId, Spec>) -> Option<String> {
    specs.values().find_map(|spec| match spec {
        Spec::Image(ImageSpec::Built { content, .. }) => Some(content.clone()),
        _ => None,
    })
}

/// The image in which babybot is built from its source, where nothing else is to be had.
const RUST_IMAGE: &str = "rust:1.95-slim";
/// What is read of a binary to see whether it can be used: its headers.
const HEADERS: u64 = 64 << 10;
/// What is read of a `Cargo.toml` to see whose it is.
const CARGO_MAX: u64 = 64 << 10;

/// A machine, as far as it matters to one project.
#[derive(Clone, Debug)]
pub struct HostContext {
    /// The project's folders.
    pub project: Project,
    /// The way to the models.
    pub gateway: Gateway,
    /// The runtimes that were found.
    pub runtimes: Runtimes,
    /// Whether there is a Docker engine, and which.
    pub docker: Known<String>,
    /// What the engine says of itself.
    pub info: Option<RuntimeInfo>,
    /// Where an engine was looked for last; `None`: none was looked for.
    asked: Option<Places>,
    applied_kind: Option<RuntimeKind>,
}

/// Where the binary comes from that an image is built around.
#[derive(Clone, Debug)]
enum Origin {
    File(PathBuf),
    Source(PathBuf),
}

impl HostContext {
    /// Looks at the project alone: no runtime is asked anything.
    ///
    /// # Errors
    /// When the project cannot be opened or is a copy.
    pub fn of_project(folder: &Path) -> Result<Self, Error> {
        Self::of(Project::open(folder).map_err(project_error)?)
    }

    /// As [`HostContext::of_project`], for a project that is open already.
    ///
    /// # Errors
    /// When the project was moved or copied.
    pub fn of(project: Project) -> Result<Self, Error> {
        project.known_instance().map_err(project_error)?;
        let gateway = Gateway::new(project.root().to_path_buf())
            .map_err(|error| Error::failed("reach models", &error))?;
        let none = runtime::open(&RuntimeRef::NONE, "", &machine::records(&project));
        let runtimes = Runtimes::new(none);
        Ok(Self {
            project,
            gateway,
            runtimes,
            docker: Known::Absent,
            info: None,
            asked: None,
            applied_kind: None,
        })
    }

    /// Where the engine is that was found.
    #[must_use]
    pub fn endpoint(&self) -> Option<String> {
        self.runtimes.get(&RuntimeRef::docker(None)).ok()?.reference().endpoint
    }

    /// Looks for the Docker engine at these places, unless it was found there already.
    pub async fn need_docker(&mut self, places: Places) {
        let same = self.asked.as_ref() == Some(&places);
        let there = places.only().is_some_and(|url| self.endpoint().as_deref() == Some(url));
        if !(same || there) || !matches!(self.docker, Known::Is(_)) {
            self.find_docker(places).await;
        }
    }

    /// Looks for the Docker engine at these places anew.
    pub async fn find_docker(&mut self, places: Places) {
        let elsewhere = places.only().is_some_and(|url| self.endpoint().as_deref() != Some(url));
        self.asked = Some(places.clone());
        match endpoint::find(places).await {
            Found::Is(engine, info) => {
                self.runtimes.retain(|other| other.kind != RuntimeKind::Docker);
                self.runtimes.add(Arc::new(engine));
                let version = if info.version.is_empty() { "docker" } else { &info.version };
                self.docker = Known::Is(format!("{version} at {}", info.endpoint));
                self.info = Some(info);
            }
            Found::Absent => self.docker = Known::Absent,
            Found::Unknown(why) => {
                if elsewhere {
                    // Nothing is asked of the one before it.
                    self.runtimes.retain(|other| other.kind != RuntimeKind::Docker);
                    self.runtimes.lack(RuntimeRef::docker(None), why.clone());
                    self.info = None;
                }
                self.docker = Known::Unknown(why);
            }
        }
    }

    /// A look at this machine.
    #[must_use]
    pub fn look(&self, holder: Holder) -> observe::HostLook {
        let runtimes = self.runtimes.clone();
        observe::HostLook::new(self.project.clone(), self.gateway.clone(), runtimes, holder)
            .expecting(self.applied_kind)
    }

    /// What was applied last, read without a controller.
    #[must_use]
    pub fn applied(&self) -> Option<Applied> {
        let reader = Store::read_only(&self.project.database()).ok()??;
        let applied = reader.applied().ok()??;
        Some(Applied { number: applied.number, specs: applied.specs })
    }

    /// Whether sandboxes were ever made at an engine.
    fn used_engines(&self) -> bool {
        let reader = Store::read_only(&self.project.database());
        let endpoints = reader.ok().flatten().and_then(|reader| reader.endpoints().ok());
        endpoints.is_some_and(|endpoints| !endpoints.is_empty())
    }

    /// Works out what the manifest means on this machine, after looking for what it needs.
    ///
    /// # Errors
    /// When the environment says something that cannot be, when there is no runtime that the
    /// manifest takes, or no binary for an image.
    pub async fn resolve(&mut self, written: &Manifest) -> Result<Desired, Error> {
        let environment = |name: &str| std::env::var(name).ok();
        let (manifest, overrides) =
            manifest::overrides(written, &environment).map_err(|problems| {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Error::new(Exit::ManifestInvalid, lines.join("\n"))
                    .hinted("change the variable, or unset it")
            })?;
        let before = self.applied().map(|applied| applied.specs).unwrap_or_default();
        let (applied, recorded) = (resource::runtime(&before), resource::engine(&before));
        self.applied_kind = applied;
        let wish = &manifest.runtime;
        let named = wish.docker_host.as_ref().map(|host| host.value.as_str());
        // What was left at an engine is found, whatever is asked for now.
        if wish.kind.value != KindWish::None
            || applied == Some(RuntimeKind::Docker)
            || self.used_engines()
        {
            let places = endpoint::places(named, recorded.as_deref(), &HostEnvironment);
            self.need_docker(places).await;
        }
        let runtime = desired::choose(wish, &self.docker, applied).map_err(|error| {
            Error::new(Exit::Failed, error.to_string())
                .hinted("start or install Docker or Podman, or write `runtime.fallback = \"none\"`")
        })?;
        let info = self.info.as_ref().filter(|_| runtime.kind == RuntimeKind::Docker);
        let able = info.map(|info| info.capabilities);
        let able = able.unwrap_or_else(|| Capabilities::expected(runtime.kind));
        refuse_unenforced(&manifest, &runtime, able.limits)?;
        let warnings = info.map(|info| info.warnings.clone()).unwrap_or_default();
        let user = (runtime.kind == RuntimeKind::Docker).then(|| self.user());
        let setting = Setting {
            owner: user.filter(|user| self.has_to_give(*user)),
            user,
            engine: self.engine(recorded),
            // An engine that does not answer now is still what it was.
            binary: self.content(&manifest, runtime.kind)?.or_else(|| content_of(&before)),
            runtime,
            warnings,
            overrides,
        };
        Ok(Desired::new(&manifest, &setting))
    }

    /// Where the engine is: the one that was found, or the only place for it, or the one before.
    fn engine(&self, recorded: Option<String>) -> Option<String> {
        let only = || self.asked.as_ref()?.only().map(ToOwned::to_owned);
        self.endpoint().or_else(only).or(recorded)
    }

    /// Whom agents of containers run as.
    fn user(&self) -> UserId {
        if let Some((uid, gid)) = self.info.as_ref().and_then(|info| info.user) {
            return UserId { uid, gid };
        }
        if let Some((uid, gid)) = self.project.owner() {
            return UserId { uid, gid };
        }
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            return desired::USER_DEFAULT;
        }
        UserId { uid: uid.as_raw(), gid: gid.as_raw() }
    }

    /// Whether a group's folders would otherwise belong to somebody else than its agent.
    fn has_to_give(&self, user: UserId) -> bool {
        rustix::process::geteuid().is_root() && user.uid != 0
    }

    /// The digest of what an image is built around.
    fn content(&self, manifest: &Manifest, kind: RuntimeKind) -> Result<Option<String>, Error> {
        let ImageSource::Built { binary, .. } = &manifest.runtime.image.source else {
            return Ok(None);
        };
        let (RuntimeKind::Docker, Some(info)) = (kind, &self.info) else { return Ok(None) };
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

/// Refuses limits that are written where the choice came out as what cannot enforce them: by name,
/// this is a problem of the manifest alone.
fn refuse_unenforced(
    manifest: &Manifest,
    runtime: &Choice,
    enforced: EnforcedLimits,
) -> Result<(), Error> {
    let written = manifest.groups.iter().flat_map(|(group, wish)| {
        let missing = enforced.missing();
        missing.filter(|limit| wish.fields.contains_key(*limit)).map(move |limit| (group, limit))
    });
    let written: Vec<String> =
        written.map(|(group, limit)| format!("{limit} of {group}")).collect();
    if written.is_empty() {
        return Ok(());
    }
    let (kind, reason) = (runtime.kind, &runtime.reason);
    let text = format!("runtime {} cannot enforce {} ({reason})", kind.word(), written.join(", "));
    let hint = match kind {
        RuntimeKind::None => "leave it out, or start or install Docker or Podman",
        RuntimeKind::Docker => {
            "leave it out, or have the engine's machine provide its control group"
        }
    };
    Err(Error::new(Exit::ManifestInvalid, text).hinted(hint))
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
