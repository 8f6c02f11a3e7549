//! Looking at the machine: what is there, what is not, and what cannot be told.
//!
//! [`Look`] only reads. What a look says about a resource is one value, and a
//! look that failed says so rather than nothing; what follows from it is
//! `plan`'s business. Each kind of resource has a file of its own with how one
//! looks at it.

mod channel;
mod container;
mod folder;
mod group;
mod image;
mod instance;
mod memory;
mod model;
mod settings;

use std::collections::BTreeMap;
use std::io;

use futures_util::future::{BoxFuture, join_all};

use crate::desired::Desired;
use crate::gateway::Gateway;
use crate::name::GroupName;
use crate::observed::{AgentSeen, Applied, Controller, Known, Observed, Seen};
use crate::project::Project;
use crate::project::repair::InPlace;
use crate::resource::{ResourceId, ResourceKind, RuntimeRef, Spec};
use crate::runtime::Runtimes;
use crate::store::Store;

/// What there is of a kind, asked for or not, and of what that cannot be told; an error if it can be
/// told of nothing.
pub type Found = Result<BTreeMap<ResourceId, Known<Seen>>, String>;

/// The ways to look at the world. None of them changes it.
pub trait Look: Send + Sync {
    /// Looks at one resource that should be like this.
    fn see<'a>(&'a self, id: &'a ResourceId, spec: &'a Spec) -> BoxFuture<'a, Known<Seen>>;
    /// Lists what there is of a kind: the images that were built for this instance, this one's and
    /// older; the sandboxes of this instance and what has their names, by group; nothing of a kind
    /// that cannot be listed.
    fn find(&self, kind: ResourceKind) -> BoxFuture<'_, Found>;
    /// The last applied generation.
    fn applied(&self) -> BoxFuture<'_, Known<Applied>>;
    /// Whether a controller serves this instance.
    fn controller(&self) -> BoxFuture<'_, Controller>;
    /// What a controller in this process knows of its agents.
    fn agents(&self) -> BTreeMap<GroupName, AgentSeen>;
}

/// Looks at everything that matters to `desired` and to what was applied.
pub async fn observe(desired: &Desired, look: &dyn Look) -> Observed {
    let applied = look.applied().await;
    let wanted = desired.resources.iter().filter(|(id, _)| is_seen(id.kind()));
    let seen =
        wanted.map(|(id, wanted)| async move { (id.clone(), look.see(id, &wanted.spec).await) });
    // Who answers late keeps nobody else from being asked.
    let (seen, containers, images) = tokio::join!(
        join_all(seen),
        look.find(ResourceKind::Container),
        look.find(ResourceKind::Image)
    );
    let mut looks: BTreeMap<ResourceId, Known<Seen>> = seen.into_iter().collect();
    match containers {
        Ok(found) => looks.extend(found),
        Err(why) => looks.extend(
            groups(desired)
                .map(|group| (ResourceId::Container(group.clone()), Known::Unknown(why.clone()))),
        ),
    }
    // What cannot be listed is not there to be removed.
    for (id, seen) in images.unwrap_or_default() {
        looks.entry(id).or_insert(seen);
    }
    let controller = look.controller().await;
    // Last: a sandbox that was found is not taken for nobody's because its agent is just coming.
    let agents = look.agents();
    Observed { controller, applied, looks, agents }
}

/// Whether one looks at a resource of this kind that should be. What the generation alone says is
/// not looked at, and what is listed was seen.
fn is_seen(kind: ResourceKind) -> bool {
    match kind {
        ResourceKind::Image
        | ResourceKind::Model
        | ResourceKind::Memory
        | ResourceKind::Folder
        | ResourceKind::Settings => true,
        ResourceKind::Instance
        | ResourceKind::Group
        | ResourceKind::Container
        | ResourceKind::Channel => false,
    }
}

fn groups(desired: &Desired) -> impl Iterator<Item = &GroupName> {
    desired.resources.keys().filter_map(|id| match id {
        ResourceId::Group(group) => Some(group),
        _ => None,
    })
}

/// What a look at the disk says.
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
    /// What the sandboxes of each group were made with last.
    expected: BTreeMap<GroupName, RuntimeRef>,
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
        Self { project, gateway, runtimes, holder, expected: BTreeMap::new() }
    }

    /// The same look, where the sandboxes of each group were made with this: if it cannot be asked,
    /// what there is of them is unknown.
    #[must_use]
    pub fn expecting(self, expected: BTreeMap<GroupName, RuntimeRef>) -> Self {
        Self { expected, ..self }
    }

    /// Looks at the project's files, where that keeps nobody waiting.
    async fn on_disk(
        &self,
        look: impl FnOnce(&Project) -> Known<Seen> + Send + 'static,
    ) -> Known<Seen> {
        let looked = self.project.blocking(look).await;
        looked.unwrap_or_else(|error| Known::Unknown(error.to_string()))
    }
}

impl Look for HostLook {
    fn see<'a>(&'a self, id: &'a ResourceId, spec: &'a Spec) -> BoxFuture<'a, Known<Seen>> {
        Box::pin(async move {
            match (id, spec) {
                (_, Spec::Image(image)) => self.see_image(image).await,
                (_, Spec::Model(model)) => self.see_model(model).await,
                (ResourceId::GlobalMemory, _) => self.on_disk(memory::see).await,
                (ResourceId::Folder(group), spec) => {
                    let (group, spec) = (group.clone(), spec.clone());
                    self.on_disk(move |project| folder::see(project, &group, &spec)).await
                }
                (ResourceId::Settings(group), _) => {
                    let group = group.clone();
                    self.on_disk(move |project| settings::see(project, &group)).await
                }
                _ => Known::Unknown(format!("nothing shows how it is with {id}")),
            }
        })
    }

    fn find(&self, kind: ResourceKind) -> BoxFuture<'_, Found> {
        Box::pin(async move {
            match kind {
                ResourceKind::Image => self.find_images().await,
                ResourceKind::Container => self.find_sandboxes().await,
                _ => Ok(BTreeMap::new()),
            }
        })
    }

    fn applied(&self) -> BoxFuture<'_, Known<Applied>> {
        let read = |project: &Project| match Store::read_only(&project.database())? {
            Some(reader) => reader.applied(),
            None => Ok(None),
        };
        Box::pin(async move {
            match self.project.blocking(read).await {
                Ok(Ok(Some(applied))) => {
                    Known::Is(Applied { number: applied.number, specs: applied.specs })
                }
                Ok(Ok(None)) => Known::Absent,
                Ok(Err(error)) => Known::Unknown(crate::error::chain(&error)),
                Err(error) => Known::Unknown(error.to_string()),
            }
        })
    }

    fn controller(&self) -> BoxFuture<'_, Controller> {
        Box::pin(async {
            // Whoever holds the lock itself serves nobody yet.
            if self.holder == Holder::Ourselves {
                return Controller::Absent;
            }
            match self.project.blocking(Project::lock_holder).await {
                Ok(Ok(None)) => Controller::Absent,
                // Only itself knows which agents are its own, and it was not asked.
                Ok(Ok(Some(holder))) => {
                    Controller::Unknown(format!("this project is in use by {holder}"))
                }
                Ok(Err(error)) => Controller::Unknown(error.to_string()),
                Err(error) => Controller::Unknown(error.to_string()),
            }
        })
    }

    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        BTreeMap::new()
    }
}
