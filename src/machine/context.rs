//! A machine, as far as it matters to one project.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{project_error, records};
use crate::error::Error;
use crate::gateway::Gateway;
use crate::name::GroupName;
use crate::observe::{self, Holder};
use crate::observed::{Applied, Known};
use crate::project::Project;
use crate::resource::{Capabilities, RuntimeRef};
use crate::runtime::docker::find::{self, Found};
use crate::runtime::docker::places::Places;
use crate::runtime::{self, RuntimeInfo, Runtimes};
use crate::store::{Reader, Store};

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
    pub(super) asked: Option<Places>,
    /// What the sandboxes of each group were made with last.
    pub(super) used: BTreeMap<GroupName, RuntimeRef>,
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
        let none = runtime::open(&RuntimeRef::NONE, "", &records(&project));
        let runtimes = Runtimes::new(none);
        Ok(Self {
            project,
            gateway,
            runtimes,
            docker: Known::Absent,
            info: None,
            asked: None,
            used: BTreeMap::new(),
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
        match find::find(places).await {
            Found::Is(engine, info) => {
                self.runtimes.retain(|other| !Capabilities::expected(other.kind).images);
                self.runtimes.add(Arc::new(engine));
                let version = if info.version.is_empty() { "docker" } else { &info.version };
                self.docker = Known::Is(format!("{version} at {}", info.endpoint));
                self.info = Some(info);
            }
            Found::Absent => self.docker = Known::Absent,
            Found::Unknown(why) => {
                if elsewhere {
                    // Nothing is asked of the one before it.
                    self.runtimes.retain(|other| !Capabilities::expected(other.kind).images);
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
            .expecting(self.used.clone())
    }

    /// What was applied last, read without a controller.
    pub async fn applied(&self) -> Option<Applied> {
        let applied = self.read(|reader| reader.applied().ok()?).await?;
        Some(Applied { number: applied.number, specs: applied.specs })
    }

    /// Whether sandboxes were ever made at an engine.
    pub(super) async fn used_engines(&self) -> bool {
        let endpoints = self.read(|reader| reader.endpoints().ok()).await;
        endpoints.is_some_and(|endpoints| !endpoints.is_empty())
    }

    /// Reads the store, where there is one that can be read.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let read = |project: &Project| read(&Store::read_only(&project.database()).ok()??);
        self.project.blocking(read).await.ok()?
    }
}
