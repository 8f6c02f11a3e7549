//! The doors of the simulated world: a look at it, and hands that change it, each of which fails as
//! chance has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use babybot::desired::Desired;
use babybot::execute::{AgentOrder, Change};
use babybot::name::{GroupName, ImageTag, SandboxId};
use babybot::observe::{Found, Look};
use babybot::observed::{AgentSeen, Applied, Availability, Controller, Known, Seen};
use babybot::plan::Work;
use babybot::resource::{ImageSpec, ResourceId, ResourceKind, Spec};
use futures_util::future::BoxFuture;

use super::world::{Facts, Listing, Mutant, Place, Whose, World};

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    /// It happens, and says that it did not.
    LostAnswer,
    HangBefore,
    HangAfter,
    Slow(Duration),
    /// An older answer; where there is none, none.
    Stale,
    CrashBefore,
    CrashAfter,
}

/// What one round saw.
#[derive(Debug, Default)]
pub(crate) struct Seeing {
    unknown: BTreeSet<ResourceId>,
    missing: BTreeSet<ResourceId>,
    blind: bool,
    agents: BTreeMap<GroupName, AgentSeen>,
}

/// A look at the world, which remembers what it could not see.
#[derive(Clone)]
pub(crate) struct Eyes {
    world: World,
    seeing: Arc<Mutex<Seeing>>,
}

/// Hands that belong to one look.
#[derive(Clone)]
pub(crate) struct Hands {
    world: World,
    seeing: Arc<Mutex<Seeing>>,
    /// Whether the calls are the loop's own, and not an apply's.
    counted: bool,
    /// What groups run from, where it is done as was planned.
    images: BTreeMap<GroupName, ImageTag>,
}

/// A look, and the hands that do what follows from it.
pub(crate) fn doors(world: &World, desired: &Desired, counted: bool) -> (Eyes, Hands) {
    let seeing = Arc::new(Mutex::new(Seeing::default()));
    let eyes = Eyes { world: world.clone(), seeing: Arc::clone(&seeing) };
    let images = desired.resources.iter().filter_map(|(id, wanted)| match &wanted.spec {
        Spec::Group(group) => Some((id.group()?.clone(), group.image.clone()?)),
        _ => None,
    });
    let images = images.collect();
    (eyes, Hands { world: world.clone(), seeing, counted, images })
}

impl World {
    /// What goes wrong with this call.
    fn fault(&self, call: &str, is_change: bool) -> Option<Fault> {
        let mut facts = self.facts();
        if facts.weather.refused.iter().any(|refused| call.starts_with(refused)) {
            return Some(Fault::Refused);
        }
        if facts.weather.hung.iter().any(|hung| call.starts_with(hung.as_str())) {
            return Some(Fault::HangAfter);
        }
        if let Some(left) = facts.weather.crash_in {
            facts.weather.crash_in = left.checked_sub(1);
            if left == 0 {
                let after = facts.chance.one_in(2);
                return Some(if after { Fault::CrashAfter } else { Fault::CrashBefore });
            }
        }
        if facts.chance.below(1000) >= facts.weather.faults {
            return None;
        }
        Some(match facts.chance.below(10) {
            0..3 => Fault::Refused,
            3 | 4 if is_change => Fault::LostAnswer,
            3 | 4 => Fault::Stale,
            5 => Fault::HangBefore,
            6 => Fault::HangAfter,
            7 if !is_change => Fault::Stale,
            _ => Fault::Slow(Duration::from_millis(facts.chance.between(1, 20_000))),
        })
    }

    fn crashed(&self, call: &str) {
        self.trace(|| format!("{call}: in the middle of it:"));
        self.crash.notify_one();
    }
}

impl Eyes {
    fn seeing(&self) -> MutexGuard<'_, Seeing> {
        self.seeing.lock().unwrap()
    }

    fn is_mutant(&self, mutant: Mutant) -> bool {
        self.world.facts().mutant == Some(mutant)
    }

    /// What a look says that takes no time.
    fn say(&self, id: ResourceId, look: impl FnOnce(&Facts) -> Known<Seen>) -> Known<Seen> {
        let call = format!("look {id}");
        *self.world.facts().looks.entry("files").or_default() += 1;
        let fails = match self.world.fault(&call, false) {
            None | Some(Fault::Slow(_)) => false,
            Some(Fault::CrashBefore | Fault::CrashAfter) => {
                self.world.crashed(&call);
                true
            }
            Some(_) => true,
        };
        let seen = if fails {
            Known::Unknown("permission denied".to_owned())
        } else {
            look(&self.world.facts())
        };
        self.keep(id, seen)
    }

    fn keep(&self, id: ResourceId, seen: Known<Seen>) -> Known<Seen> {
        match &seen {
            Known::Unknown(why) => {
                self.world.trace(|| format!("look {id}: unknown: {why}"));
                self.seeing().unknown.insert(id);
                if self.is_mutant(Mutant::UnknownIsAbsent) {
                    return Known::Absent;
                }
            }
            Known::Absent => drop(self.seeing().missing.insert(id)),
            Known::Is(Seen::Folder { missing, .. }) if !missing.is_empty() => {
                self.seeing().missing.insert(id);
            }
            Known::Is(_) => {}
        }
        seen
    }

    /// What a look says that may take time; `None`: an older answer is due.
    async fn ask<T>(
        &self,
        call: &'static str,
        look: impl Fn(&Facts) -> T,
    ) -> Result<Option<T>, String> {
        *self.world.facts().looks.entry(call).or_default() += 1;
        match self.world.fault(call, false) {
            None => {}
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Stale) => return Ok(None),
            Some(Fault::CrashBefore | Fault::CrashAfter) => {
                self.world.crashed(call);
                std::future::pending().await
            }
            Some(Fault::HangBefore | Fault::HangAfter) => std::future::pending().await,
            Some(_) => return Err("the engine does not answer".to_owned()),
        }
        let seen = look(&self.world.facts());
        // An answer is on its way for a moment, and the world goes on.
        tokio::time::sleep(Duration::from_millis(3)).await;
        Ok(Some(seen))
    }

    /// Some that are there are not told of.
    fn lie(&self, listing: &mut Listing) {
        let mut facts = self.world.facts();
        if facts.weather.lying {
            listing.retain(|_, _| !facts.chance.one_in(3));
            for sandboxes in listing.values_mut() {
                sandboxes.retain(|_| !facts.chance.one_in(4));
            }
            listing.retain(|_, sandboxes| !sandboxes.is_empty());
        }
    }
}

impl Eyes {
    fn memory(&self) -> Known<Seen> {
        self.say(ResourceId::GlobalMemory, |facts| match facts.memory {
            true => Known::Is(Seen::GlobalMemory),
            false => Known::Absent,
        })
    }

    fn folder(&self, group: &GroupName) -> Known<Seen> {
        self.say(ResourceId::Folder(group.clone()), |facts| match facts.folders.get(group) {
            Some(Place { missing, foreign }) if missing.len() < 3 => {
                let (missing, foreign) = (missing.clone(), foreign.clone());
                Known::Is(Seen::Folder { missing, foreign })
            }
            _ => Known::Absent,
        })
    }

    fn settings(&self, group: &GroupName) -> Known<Seen> {
        self.say(ResourceId::Settings(group.clone()), |facts| match facts.settings.get(group) {
            Some(env) => Known::Is(Seen::Settings { env: env.clone() }),
            None => Known::Absent,
        })
    }

    async fn containers(&self) -> Result<Listing, String> {
        // Until it has answered, nothing is known.
        let groups: Vec<GroupName> = self.world.facts().keepers.keys().cloned().collect();
        let ids = groups.into_iter().map(ResourceId::Container);
        self.seeing().unknown.extend(ids.clone());
        let listed = match self.ask("list", Facts::list).await {
            Ok(Some(listed)) => Ok(listed),
            Ok(None) => {
                self.world.trace(|| "list: an older one".to_owned());
                let mut facts = self.world.facts();
                let past: Vec<Listing> = facts.past.iter().cloned().collect();
                Ok(facts.chance.pick(&past).unwrap_or_default())
            }
            Err(_) if self.is_mutant(Mutant::UnknownIsAbsent) => return Ok(Listing::new()),
            Err(why) => Err(why),
        };
        let mut listing = listed?;
        self.lie(&mut listing);
        for id in ids {
            self.seeing().unknown.remove(&id);
        }
        Ok(listing)
    }

    async fn image(&self, tag: &ImageTag) -> Known<Seen> {
        let id = ResourceId::Image(tag.clone());
        self.seeing().unknown.insert(id.clone());
        let has = |facts: &Facts| match facts.images.contains(tag) {
            true => Known::Is(Seen::Image),
            false => Known::Absent,
        };
        let seen = match self.ask("image", has).await {
            Ok(Some(seen)) => seen,
            Ok(None) | Err(_) => Known::Unknown("the engine does not answer".to_owned()),
        };
        self.seeing().unknown.remove(&id);
        self.keep(id, seen)
    }

    async fn model(&self) -> Known<Seen> {
        match self.ask("model", |_| ()).await {
            Ok(Some(())) => Known::Is(Seen::Model(Availability::Present)),
            _ => Known::Unknown("the model's server does not answer".to_owned()),
        }
    }
}

impl Look for Eyes {
    fn see<'a>(&'a self, id: &'a ResourceId, _: &'a Spec) -> BoxFuture<'a, Known<Seen>> {
        Box::pin(async move {
            match id {
                ResourceId::Image(tag) => self.image(tag).await,
                ResourceId::Model(_) => self.model().await,
                ResourceId::GlobalMemory => self.memory(),
                ResourceId::Folder(group) => self.folder(group),
                ResourceId::Settings(group) => self.settings(group),
                id => panic!("{id} is not looked at"),
            }
        })
    }

    fn find(&self, kind: ResourceKind) -> BoxFuture<'_, Found> {
        Box::pin(async move {
            match kind {
                ResourceKind::Container => {
                    let seen = |(group, sandboxes)| {
                        (ResourceId::Container(group), Known::Is(Seen::Container { sandboxes }))
                    };
                    Ok(self.containers().await?.into_iter().map(seen).collect())
                }
                ResourceKind::Image => {
                    let all = |facts: &Facts| facts.images.clone();
                    let images = self.ask("images", all).await?.unwrap_or_default();
                    Ok(images
                        .into_iter()
                        .map(|tag| (ResourceId::Image(tag), Known::Is(Seen::Image)))
                        .collect())
                }
                _ => Ok(BTreeMap::new()),
            }
        })
    }

    fn applied(&self) -> BoxFuture<'_, Known<Applied>> {
        let known = if let Some(Fault::Refused) = self.world.fault("applied", false) {
            self.seeing().blind = true;
            Known::Unknown("the store does not answer".to_owned())
        } else {
            self.world.facts().applied.clone().map_or(Known::Absent, Known::Is)
        };
        Box::pin(std::future::ready(known))
    }

    fn controller(&self) -> BoxFuture<'_, Controller> {
        let controller = match self.world.fault("controller", false) {
            Some(Fault::Refused) => {
                let keepers = self.world.facts().keepers.keys().cloned().collect::<Vec<_>>();
                self.seeing().unknown.extend(keepers.into_iter().map(ResourceId::Container));
                Controller::Unknown("permission denied".to_owned())
            }
            _ => Controller::Running,
        };
        Box::pin(std::future::ready(controller))
    }

    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        let agents = self.world.facts().agents();
        self.seeing().agents = agents.clone();
        agents
    }
}

impl Hands {
    /// Sees that nothing is done that the look speaks against.
    fn judge(&self, id: &ResourceId, call: &str, grounds: &[ResourceId]) {
        let seeing = self.seeing.lock().unwrap();
        let mut facts = self.world.facts();
        facts.changes += 1;
        if self.counted {
            facts.count(call);
        }
        if seeing.blind {
            facts.wrong(format!("{call} although nobody knows what was applied"));
        }
        for id in [id].into_iter().chain(grounds) {
            if seeing.unknown.contains(id) {
                facts.wrong(format!("{call} although {id} is unknown"));
            }
        }
        for ground in grounds {
            let still = match ground {
                ResourceId::GlobalMemory => !facts.memory,
                ResourceId::Image(tag) => !facts.images.contains(tag),
                ResourceId::Folder(group) => {
                    facts.folders.get(group).is_none_or(|place| !place.missing.is_empty())
                }
                _ => false,
            };
            if still && seeing.missing.contains(ground) {
                facts.wrong(format!("{call} although {ground} is not there"));
            }
        }
    }

    async fn change(
        &self,
        id: ResourceId,
        call: String,
        effect: impl FnOnce(&mut Facts) -> Result<(), String>,
    ) -> Result<(), String> {
        self.judge(&id, &call, &[]);
        let fault = self.world.fault(&call, true);
        self.world.trace(|| format!("{call} {fault:?}"));
        self.suffer_before(&call, fault, "no space left").await?;
        let done = effect(&mut self.world.facts());
        // Whatever is missing from here on, was taken away since.
        self.seeing.lock().unwrap().missing.remove(&id);
        self.suffer_after(&call, fault).await;
        match fault {
            Some(Fault::LostAnswer) => Err("the answer was lost".to_owned()),
            _ => done,
        }
    }

    /// What goes wrong before a call has an effect.
    async fn suffer_before(
        &self,
        call: &str,
        fault: Option<Fault>,
        refusal: &str,
    ) -> Result<(), String> {
        match fault {
            Some(Fault::Refused | Fault::Stale) => return Err(refusal.to_owned()),
            Some(Fault::HangBefore) => std::future::pending().await,
            Some(Fault::CrashBefore) => {
                self.world.crashed(call);
                std::future::pending().await
            }
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        Ok(())
    }

    /// What goes wrong once a call has had its effect.
    async fn suffer_after(&self, call: &str, fault: Option<Fault>) {
        match fault {
            Some(Fault::HangAfter) => std::future::pending().await,
            Some(Fault::CrashAfter) => {
                self.world.crashed(call);
                std::future::pending().await
            }
            _ => {}
        }
    }
}

impl Hands {
    async fn make_folders(&self, group: &GroupName) -> Result<(), String> {
        let id = ResourceId::Folder(group.clone());
        let made = |facts: &mut Facts| {
            facts.folders.insert(group.clone(), Place::default());
            Ok(())
        };
        self.change(id, format!("folders {group}"), made).await
    }

    async fn write_global_memory(&self) -> Result<(), String> {
        let written = |facts: &mut Facts| {
            facts.memory = true;
            Ok(())
        };
        self.change(ResourceId::GlobalMemory, "memory".to_owned(), written).await
    }

    async fn write_settings(
        &self,
        group: &GroupName,
        env: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let id = ResourceId::Settings(group.clone());
        let written = |facts: &mut Facts| {
            if facts.folders.get(group).is_none_or(|place| place.missing.contains("session")) {
                return Err("the session's folder is not there".to_owned());
            }
            facts.settings.insert(group.clone(), Some(env.clone()));
            Ok(())
        };
        self.change(id, format!("settings {group}"), written).await
    }

    async fn stop_leftover(&self, group: &GroupName) -> Result<(), String> {
        let id = ResourceId::Container(group.clone());
        let stopped = |facts: &mut Facts| {
            facts.wrong(format!("{group} has a controller, and its agent is taken for left over"));
            Ok(())
        };
        self.change(id, format!("leftover {group}"), stopped).await
    }

    async fn build_image(&self, image: &ImageSpec) -> Result<(), String> {
        let tag = image.tag();
        let call = format!("build {tag}");
        let built = |facts: &mut Facts| {
            facts.images.insert(tag.clone());
            Ok(())
        };
        self.change(ResourceId::Image(tag.clone()), call, built).await
    }

    async fn remove_image(&self, tag: &ImageTag) -> Result<(), String> {
        let removed = |facts: &mut Facts| {
            if facts.containers.iter().any(|container| container.image.as_ref() == Some(tag)) {
                return Err("a container is made from it".to_owned());
            }
            facts.images.remove(tag);
            Ok(())
        };
        self.change(ResourceId::Image(tag.clone()), format!("rmi {tag}"), removed).await
    }

    async fn direct(&self, group: &GroupName, order: AgentOrder) -> Result<(), String> {
        let (id, call) = (ResourceId::Container(group.clone()), format!("direct {group}"));
        let mut grounds = Vec::new();
        if order != AgentOrder::Stop {
            let image = self.images.get(group).cloned().map(ResourceId::Image);
            let folder = ResourceId::Folder(group.clone());
            grounds.extend([folder, ResourceId::GlobalMemory].into_iter().chain(image));
        }
        self.judge(&id, &call, &grounds);
        let agent = self.seeing.lock().unwrap().agents.get(group).cloned().unwrap_or_default();
        let held = self.world.facts().keepers.get(group).is_some_and(|keeper| keeper.held);
        if order != AgentOrder::Stop && (agent.held || held && self.is_told_wrong()) {
            self.world.facts().wrong(format!("{group} is held and is to start"));
        }
        let fault = self.world.fault(&call, true);
        self.world.trace(|| format!("{call} {order:?} {fault:?}"));
        self.suffer_before(&call, fault, "no").await?;
        let (reply, done) = tokio::sync::oneshot::channel();
        let (world, group) = (self.world.clone(), group.clone());
        self.world.spawn(async move {
            let _ = reply.send(world.order(&group, order).await);
        });
        self.suffer_after(&call, fault).await;
        let done = done.await.unwrap_or_else(|_| Err("nobody serves it".to_owned()));
        match fault {
            Some(Fault::LostAnswer) => Err("the answer was lost".to_owned()),
            _ => done,
        }
    }

    async fn remove_sandboxes(
        &self,
        group: &GroupName,
        sandboxes: &[SandboxId],
    ) -> Result<(), String> {
        let removed = |facts: &mut Facts| {
            for id in sandboxes {
                let keeper = facts.keepers.get(group).cloned().unwrap_or_default();
                let alive = facts.container(id).is_some_and(|found| found.is_alive());
                if keeper.making.as_ref() == Some(id) {
                    facts.wrong(format!("{id} of {group} is being started and is removed"));
                }
                if keeper.sandbox.as_ref() == Some(id) && alive {
                    facts.wrong(format!("{id} of {group} answers and is removed"));
                }
                // Whose it is, is looked at again.
                let mutant = facts.mutant == Some(Mutant::NameIsEnough);
                let ours = facts.container(id).is_some_and(|found| {
                    mutant || matches!(found.whose, Whose::Ours | Whose::Copy)
                });
                if ours {
                    facts.remove(id, "nobody answers from it");
                }
            }
            Ok(())
        };
        let id = ResourceId::Container(group.clone());
        self.change(id, format!("remove {group}"), removed).await
    }

    fn is_told_wrong(&self) -> bool {
        self.world.facts().mutant == Some(Mutant::HeldIsIgnored)
    }
}

impl Change for Hands {
    fn carry_out<'a>(&'a self, work: &'a Work) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match work {
                Work::MakeFolders { group, .. } => self.make_folders(group).await,
                Work::BuildImage { image } => self.build_image(image).await,
                Work::RemoveImage { tag } => self.remove_image(tag).await,
                Work::StartAgent { group } => self.direct(group, AgentOrder::Start).await,
                Work::ReplaceAgent { group } => self.direct(group, AgentOrder::Replace).await,
                Work::StopAgent { group } => self.direct(group, AgentOrder::Stop).await,
                Work::RemoveSandboxes { group, sandboxes } => {
                    self.remove_sandboxes(group, sandboxes).await
                }
                Work::WriteGlobalMemory => self.write_global_memory().await,
                Work::WriteSettings { group, env } => self.write_settings(group, env).await,
                Work::StopLeftover { group } => self.stop_leftover(group).await,
                Work::Record { .. } | Work::Forget => Ok(()),
            }
        })
    }
}
