//! Looking at the machine: what is there, what is not, and what cannot be told.
//!
//! [`Look`] only reads. What a look says about a resource is one value, and a
//! look that failed says so rather than nothing; what follows from it is
//! `plan`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use futures_util::future::{BoxFuture, join_all};

use crate::desired::Desired;
use crate::gateway::{Gateway, ModelFacts, ModelState};
use crate::name::GroupName;
use crate::name::ImageTag;
use crate::observed::{
    AgentSeen, Applied, Availability, Controller, Known, Observed, SandboxSeen, Seen,
};
use crate::project::repair::InPlace;
use crate::project::{Folder, Project, SettingsFile};
use crate::resource::{ImageSpec, ModelSpec, ResourceId, RuntimeKind, RuntimeRef, Spec, UserId};
use crate::runtime::Runtimes;
use crate::store::Store;
use crate::walk;

/// What is read of a settings file, in bytes.
const SETTINGS_MAX: u64 = 256 << 10;

/// The ways to look at the world. None of them changes it.
pub trait Look: Send + Sync {
    /// Whether a controller serves this instance.
    fn controller(&self) -> Controller;
    /// The last applied generation.
    fn applied(&self) -> Known<Applied>;
    /// `groups/global/MEMORY.md`.
    fn global_memory(&self) -> Known<Seen>;
    /// The folders of a group, and whether they belong to `owner`, where somebody has to own them.
    fn folder(&self, group: &GroupName, owner: Option<UserId>) -> Known<Seen>;
    /// The settings file of a group.
    fn settings(&self, group: &GroupName) -> Known<Seen>;
    /// The sandboxes of this instance, and what has their names, by group; an error if that
    /// cannot be told.
    fn containers(&self) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, String>>;
    /// Whether an engine has the image.
    fn image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Known<Seen>>;
    /// The tags of the images that were built for this instance, this one's and older.
    fn images(&self) -> BoxFuture<'_, Result<Vec<ImageTag>, String>>;
    /// What a controller in this process knows of its agents.
    fn agents(&self) -> BTreeMap<GroupName, AgentSeen>;
    /// Whether a model's server has it.
    fn model<'a>(&'a self, spec: &'a ModelSpec) -> BoxFuture<'a, Known<Seen>>;
}

/// Looks at everything that matters to `desired` and to what was applied.
pub async fn observe(desired: &Desired, look: &dyn Look) -> Observed {
    let applied = look.applied();
    let mut looks = BTreeMap::new();
    for id in of_interest(desired, &applied) {
        let seen = match &id {
            ResourceId::GlobalMemory => look.global_memory(),
            ResourceId::Folder(group) => look.folder(group, owner_of(desired, &id)),
            ResourceId::Settings(group) => look.settings(group),
            _ => continue,
        };
        looks.insert(id, seen);
    }
    let models = desired.resources.iter().filter_map(|(id, wanted)| match &wanted.spec {
        Spec::Model(spec) => Some(async move { (id.clone(), look.model(spec).await) }),
        _ => None,
    });
    // Who answers late keeps nobody else from being asked.
    let (models, containers, images) =
        tokio::join!(join_all(models), look.containers(), images(desired, look));
    looks.extend(models);
    match containers {
        Ok(found) => looks.extend(found.into_iter().map(|(group, sandboxes)| {
            (ResourceId::Container(group), Known::Is(Seen::Container { sandboxes }))
        })),
        Err(why) => looks.extend(
            groups(desired)
                .map(|group| (ResourceId::Container(group.clone()), Known::Unknown(why.clone()))),
        ),
    }
    looks.extend(images);
    // Last: a sandbox that was found is not taken for nobody's because its agent is just coming.
    let agents = look.agents();
    Observed { controller: look.controller(), applied, looks, agents }
}

/// The image that is asked for, and those that were built before.
async fn images(desired: &Desired, look: &dyn Look) -> BTreeMap<ResourceId, Known<Seen>> {
    let mut looks = BTreeMap::new();
    for (id, wanted) in &desired.resources {
        if let Spec::Image(image) = &wanted.spec {
            looks.insert(id.clone(), look.image(image).await);
        }
    }
    // What cannot be listed is not there to be removed.
    for tag in look.images().await.unwrap_or_default() {
        looks.entry(ResourceId::Image(tag)).or_insert(Known::Is(Seen::Image));
    }
    looks
}

fn of_interest(desired: &Desired, applied: &Known<Applied>) -> BTreeSet<ResourceId> {
    let mut ids: BTreeSet<ResourceId> = desired.resources.keys().cloned().collect();
    if let Known::Is(applied) = applied {
        ids.extend(applied.specs.keys().cloned());
    }
    ids
}

/// Whom the folders of a group are to be given to.
fn owner_of(desired: &Desired, id: &ResourceId) -> Option<UserId> {
    match desired.resources.get(id).map(|wanted| &wanted.spec) {
        Some(Spec::GivenFolder(owner)) => Some(*owner),
        _ => None,
    }
}

fn groups(desired: &Desired) -> impl Iterator<Item = &GroupName> {
    desired.resources.keys().filter_map(|id| match id {
        ResourceId::Group(group) => Some(group),
        _ => None,
    })
}

/// What the settings file says; nothing where it is not one of ours.
fn settings_in(folder: &Folder) -> io::Result<InPlace<Option<BTreeMap<String, String>>>> {
    match folder.read("settings.json", SETTINGS_MAX) {
        Ok(Some(bytes)) => {
            let file = serde_json::from_slice::<SettingsFile>(&bytes).ok();
            Ok(InPlace::Right(file.map(|file| file.env)))
        }
        Ok(None) => Ok(InPlace::Empty),
        // Too large, or something else since it was looked at.
        Err(error) if walk::is_in_the_files(&error) => Ok(InPlace::Right(None)),
        Err(error) => Err(error),
    }
}

fn known(look: io::Result<InPlace<Seen>>) -> Known<Seen> {
    match look {
        Ok(InPlace::Right(seen)) => Known::Is(seen),
        Ok(InPlace::Empty) => Known::Absent,
        Ok(InPlace::Wrong(why)) => Known::Is(Seen::Wrong { why }),
        Err(error) => Known::Unknown(error.to_string()),
    }
}

/// Looks at this machine.
#[derive(Debug)]
pub struct HostLook {
    project: Project,
    gateway: Gateway,
    runtimes: Runtimes,
    holder: Holder,
    /// What sandboxes were made with last.
    expected: Option<RuntimeKind>,
}

/// Who may hold the instance's lock while a machine is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process does.
    Ourselves,
    /// If anybody, then another process, which is the controller.
    Another,
}

impl HostLook {
    /// A look at this project.
    #[must_use]
    pub fn new(project: Project, gateway: Gateway, runtimes: Runtimes, holder: Holder) -> Self {
        Self { project, gateway, runtimes, holder, expected: None }
    }

    /// The same look, where sandboxes were made with this: if it cannot be asked, what there is of
    /// them is unknown.
    #[must_use]
    pub fn expecting(self, kind: Option<RuntimeKind>) -> Self {
        Self { expected: kind, ..self }
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.project.root()).unwrap_or(path).display().to_string()
    }
}

impl Look for HostLook {
    fn controller(&self) -> Controller {
        // Whoever holds the lock itself serves nobody yet.
        if self.holder == Holder::Ourselves {
            return Controller::Absent;
        }
        match self.project.lock_holder() {
            Ok(None) => Controller::Absent,
            // Only itself knows which agents are its own, and it was not asked.
            Ok(Some(holder)) => Controller::Unknown(format!("{holder} is working on this project")),
            Err(error) => Controller::Unknown(error.to_string()),
        }
    }

    fn applied(&self) -> Known<Applied> {
        let read = || match Store::read_only(&self.project.database())? {
            Some(reader) => reader.applied(),
            None => Ok(None),
        };
        match read() {
            Ok(Some(applied)) => {
                Known::Is(Applied { number: applied.number, specs: applied.specs })
            }
            Ok(None) => Known::Absent,
            Err(error) => Known::Unknown(crate::error::chain(&error)),
        }
    }

    fn global_memory(&self) -> Known<Seen> {
        let look = || match self.project.place_of(&self.project.global())? {
            InPlace::Right(folder) => folder.place_of_file("MEMORY.md"),
            other => Ok(other.map(drop)),
        };
        known(look().map(|place| place.map(|()| Seen::GlobalMemory)))
    }

    fn folder(&self, group: &GroupName, owner: Option<UserId>) -> Known<Seen> {
        let folders = self.project.folders(group);
        let (mut missing, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        let mut wrong = None;
        for path in &folders {
            match self.project.place_of(path) {
                Ok(InPlace::Right(folder)) => match (owner, folder.owner()) {
                    (None, _) => {}
                    (Some(owner), Ok(found)) if owner == found => {}
                    (Some(_), Ok(_)) => {
                        foreign.insert(self.relative(path));
                    }
                    (Some(_), Err(error)) => return Known::Unknown(error.to_string()),
                },
                Ok(InPlace::Empty) => {
                    missing.insert(self.relative(path));
                }
                Ok(InPlace::Wrong(why)) => {
                    wrong.get_or_insert(format!("{}: {why}", self.relative(path)));
                }
                Err(error) => return Known::Unknown(format!("{}: {error}", self.relative(path))),
            }
        }
        if let Some(why) = wrong {
            return Known::Is(Seen::Wrong { why });
        }
        // Made anew, it is whoever's who made it, and the main group keeps what is in it.
        let global = self.project.global();
        if let (Some(owner), Ok(InPlace::Right(folder))) = (owner, self.project.place_of(&global))
            && folder.owner().is_ok_and(|found| found != owner)
        {
            foreign.insert(self.relative(&global));
        }
        if missing.len() == folders.len() {
            Known::Absent
        } else {
            Known::Is(Seen::Folder { missing, foreign })
        }
    }

    fn settings(&self, group: &GroupName) -> Known<Seen> {
        let look = || {
            let home = match self.project.place_of(&self.project.session(group))? {
                InPlace::Right(home) => home,
                // Of which the folder's own look tells.
                InPlace::Wrong(why) => return Ok(InPlace::Wrong(format!("its folder: {why}"))),
                InPlace::Empty => return Ok(InPlace::Empty),
            };
            let folder = match home.place_of_folder(".ollama")? {
                InPlace::Right(folder) => folder,
                InPlace::Wrong(why) => return Ok(InPlace::Wrong(format!(".ollama: {why}"))),
                InPlace::Empty => return Ok(InPlace::Empty),
            };
            match folder.place_of_file("settings.json")? {
                InPlace::Right(()) => settings_in(&folder),
                other => Ok(other.map(|()| None)),
            }
        };
        known(look().map(|place| place.map(|env| Seen::Settings { env })))
    }

    fn containers(&self) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, String>> {
        Box::pin(async {
            let Some(instance) = self.project.known_instance().map_err(|e| e.to_string())? else {
                return Ok(BTreeMap::new());
            };
            // Where one that was used cannot be asked, what is there is not known.
            if let Some(kind) = self.expected {
                self.runtimes
                    .get(&RuntimeRef { kind, endpoint: None })
                    .map_err(|error| error.to_string())?;
            }
            let mut all: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
            for runtime in self.runtimes.all() {
                let found = runtime.list(&instance).await;
                for (group, sandboxes) in found.map_err(|error| error.to_string())? {
                    all.entry(group).or_default().extend(sandboxes);
                }
            }
            Ok(all)
        })
    }

    fn image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Known<Seen>> {
        Box::pin(async move {
            let runtime = match self.runtimes.get(&RuntimeRef::docker(None)) {
                Ok(runtime) => runtime,
                Err(error) => return Known::Unknown(error.to_string()),
            };
            let instance = match self.project.known_instance() {
                Ok(instance) => instance,
                Err(error) => return Known::Unknown(error.to_string()),
            };
            match runtime.has_image(instance.as_ref(), image).await {
                Ok(true) => Known::Is(Seen::Image),
                Ok(false) => Known::Absent,
                Err(error) => Known::Unknown(error.to_string()),
            }
        })
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<ImageTag>, String>> {
        Box::pin(async {
            let Some(instance) = self.project.known_instance().map_err(|e| e.to_string())? else {
                return Ok(Vec::new());
            };
            let Ok(runtime) = self.runtimes.get(&RuntimeRef::docker(None)) else {
                return Ok(Vec::new());
            };
            runtime.images(&instance).await.map_err(|error| error.to_string())
        })
    }

    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        BTreeMap::new()
    }

    fn model<'a>(&'a self, spec: &'a ModelSpec) -> BoxFuture<'a, Known<Seen>> {
        Box::pin(async {
            match self.gateway.look(spec).await {
                ModelState::Is(facts) if facts.remote => {
                    Known::Is(Seen::Model(Availability::Elsewhere))
                }
                ModelState::Is(facts) => {
                    Known::Is(Seen::Model(availability(&facts, spec.context())))
                }
                ModelState::Absent => Known::Is(Seen::Model(Availability::Missing)),
                ModelState::Unknown(why) => Known::Unknown(why),
            }
        })
    }
}

/// What a model is good for, where this much context is asked for.
fn availability(facts: &ModelFacts, context: u32) -> Availability {
    let context_max = facts.context_max.filter(|max| *max < u64::from(context));
    match (facts.tools, context_max) {
        (true, None) => Availability::Present,
        (tools, context_max) => Availability::Limited { tools, context_max },
    }
}
