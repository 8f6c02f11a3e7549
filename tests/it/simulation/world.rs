//! A machine in memory: an engine, folders, settings, images, and what a controller knows.
//!
//! The engine keeps the one promise that a real one keeps, that a name is taken once, and no
//! other. Whatever happens to a container goes through here, so that what must never happen is
//! seen at the moment it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use babybot::clock::Timestamp;
use babybot::desired::Desired;
use babybot::execute::AgentOrder;
use babybot::name::{GroupName, ImageTag, ProjectName, SandboxId};
use babybot::observed::{AgentSeen, Applied, Owner, SandboxSeen, SandboxState};
use babybot::resource::{ContainerSpec, Lifecycle, ResourceId, Spec};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::chance::Chance;

/// What happened last, for whoever has to understand a failure.
const TRACE_KEPT: usize = 160;
/// Lists that may still be served although they are old.
const PAST_KEPT: usize = 6;
/// Calls for one resource within a minute, when each of them fails: the waits double from 200 ms,
/// less a quarter.
const CALLS_MAX: usize = 10;

/// The world, shared by whoever lives in it.
#[derive(Clone)]
pub(crate) struct World {
    facts: Arc<Mutex<Facts>>,
    /// Wakes the loop, as events would.
    pub(crate) wake: Arc<Notify>,
    /// The controller is killed.
    pub(crate) crash: Arc<Notify>,
    began: Instant,
}

/// What goes wrong, and how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// Calls in a thousand that go wrong.
    pub(crate) faults: u64,
    /// Calls that are always refused, by the beginning of their name.
    pub(crate) refused: Vec<&'static str>,
    /// Calls that never return, by the beginning of their name.
    pub(crate) hung: Vec<String>,
    /// Whether lists lack some of what is there and say nothing of it.
    pub(crate) lying: bool,
    /// The calls until the controller is killed in the middle of one.
    pub(crate) crash_in: Option<u64>,
}

/// A mistake that is planted, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// What cannot be seen is taken for not there.
    UnknownIsAbsent,
    /// An agent at work is ended when an order comes.
    BusyIsIgnored,
    /// Nobody remembers what was tried.
    NoWait,
    /// An agent that starts is not told of.
    StartsInSecret,
    /// An operator's hold is not told of.
    HeldIsIgnored,
    /// What has our name is taken for ours.
    NameIsEnough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Made by the controller.
    Ours,
    /// A copy that somebody made, labels and all.
    Copy,
    /// Another's, with the name that ours would have.
    Stranger,
    /// Another's, with nothing of ours but a similar name.
    Decoy,
}

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) id: SandboxId,
    pub(crate) group: GroupName,
    /// Whether it has the name that a group's container has.
    pub(crate) named: bool,
    pub(crate) whose: Whose,
    pub(crate) state: SandboxState,
    pub(crate) digest: String,
    pub(crate) image: Option<ImageTag>,
    pub(crate) edits: Vec<String>,
}

impl Container {
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.state, SandboxState::Running | SandboxState::Paused)
    }
}

/// A group of the controller.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeper {
    pub(crate) sandbox: Option<SandboxId>,
    /// The container of the agent that is being started.
    pub(crate) making: Option<SandboxId>,
    pub(crate) starting: bool,
    pub(crate) working: bool,
    pub(crate) leases: u32,
    pub(crate) held: bool,
    pub(crate) later: Option<AgentOrder>,
    /// Its one task.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Keeper {
    pub(crate) fn is_busy(&self) -> bool {
        self.leases > 0 || self.working || self.starting
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) missing: BTreeSet<String>,
    pub(crate) foreign: BTreeSet<String>,
}

/// What a list of sandboxes says.
pub(crate) type Listing = BTreeMap<GroupName, Vec<SandboxSeen>>;

pub(crate) struct Facts {
    pub(crate) chance: Chance,
    pub(crate) weather: Weather,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) containers: Vec<Container>,
    pub(crate) memory: bool,
    pub(crate) folders: BTreeMap<GroupName, Place>,
    pub(crate) settings: BTreeMap<GroupName, Option<BTreeMap<String, String>>>,
    pub(crate) images: BTreeSet<ImageTag>,
    pub(crate) applied: Option<Applied>,
    /// What the groups of the controller are.
    pub(crate) served: BTreeMap<ResourceId, Spec>,
    pub(crate) keepers: BTreeMap<GroupName, Keeper>,
    pub(crate) jobs: Vec<AbortHandle>,
    /// The wall clock may be put back and forth.
    pub(crate) skew: i64,
    pub(crate) wrongs: Vec<String>,
    pub(crate) trace: VecDeque<String>,
    pub(crate) past: VecDeque<Listing>,
    pub(crate) calls: BTreeMap<String, VecDeque<Instant>>,
    pub(crate) changes: usize,
    pub(crate) looks: BTreeMap<&'static str, usize>,
    pub(crate) names_refused: usize,
    next: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let facts = Facts {
            chance: Chance::new(seed),
            weather: Weather::default(),
            mutant: None,
            containers: Vec::new(),
            memory: false,
            folders: BTreeMap::new(),
            settings: BTreeMap::new(),
            images: BTreeSet::new(),
            applied: None,
            served: BTreeMap::new(),
            keepers: BTreeMap::new(),
            jobs: Vec::new(),
            skew: 0,
            wrongs: Vec::new(),
            trace: VecDeque::new(),
            past: VecDeque::new(),
            calls: BTreeMap::new(),
            changes: 0,
            looks: BTreeMap::new(),
            names_refused: 0,
            next: 0,
        };
        Self {
            facts: Arc::new(Mutex::new(facts)),
            wake: Arc::default(),
            crash: Arc::default(),
            began: Instant::now(),
        }
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    /// The time of the story, which no clock of anybody changes.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.elapsed().as_millis()).unwrap();
        Timestamp(1_800_000_000_000 + elapsed + self.facts().skew)
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", self.elapsed().as_secs_f64(), what());
        if std::env::var_os("BABYBOT_SIM_TRACE").is_some() {
            println!("{line}");
        }
        let mut facts = self.facts();
        facts.trace.push_back(line);
        if facts.trace.len() > TRACE_KEPT {
            facts.trace.pop_front();
        }
    }

    /// Has something go on for as long as the controller lives.
    pub(crate) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(job).abort_handle();
        let mut facts = self.facts();
        facts.jobs.retain(|job| !job.is_finished());
        facts.jobs.push(handle);
    }

    /// What a desired state kept as applied is.
    pub(crate) fn desired(&self) -> Desired {
        let name = ProjectName::new("home").unwrap();
        let facts = self.facts();
        let nothing = BTreeMap::new();
        let specs = facts.applied.as_ref().map_or(&nothing, |applied| &applied.specs);
        Desired::of_applied(name, specs)
    }

    /// The controller dies, and with it what it knew. Its agents lose their link; some of them are
    /// seen for a while yet, running or not.
    pub(crate) fn kill_controller(&self) {
        self.trace(|| "the controller is killed".to_owned());
        let mut facts = self.facts();
        facts.jobs.drain(..).for_each(|job| job.abort());
        let groups: Vec<GroupName> = facts.keepers.keys().cloned().collect();
        facts.keepers = groups.into_iter().map(|group| (group, Keeper::default())).collect();
        facts.calls.clear();
        facts.served =
            facts.applied.as_ref().map(|applied| applied.specs.clone()).unwrap_or_default();
        // One that somebody renamed is found by nobody who starts another: that it ends with its
        // link is all that is left.
        facts.containers.retain(|found| found.named || found.whose != Whose::Ours);
        let ids: Vec<SandboxId> = facts
            .containers
            .iter()
            .filter(|container| container.whose == Whose::Ours)
            .map(|container| container.id.clone())
            .collect();
        for id in ids {
            match facts.chance.below(4) {
                0 => facts.containers.retain(|container| container.id != id),
                1 | 2 => facts.set_state(&id, SandboxState::Ended),
                _ => {}
            }
        }
        facts.serve();
    }
}

impl Facts {
    pub(crate) fn fresh_id(&mut self) -> SandboxId {
        self.next += 1;
        SandboxId::new(format!("c{:04}", self.next)).unwrap()
    }

    pub(crate) fn wrong(&mut self, what: String) {
        self.trace.push_back(format!("WRONG     {what}"));
        self.wrongs.push(what);
    }

    pub(crate) fn container(&self, id: &SandboxId) -> Option<&Container> {
        self.containers.iter().find(|container| container.id == *id)
    }

    pub(crate) fn set_state(&mut self, id: &SandboxId, state: SandboxState) {
        if let Some(found) = self.containers.iter_mut().find(|container| container.id == *id) {
            found.state = state;
        }
        self.look_for_twins();
    }

    /// What runs, made by us, for one group.
    fn look_for_twins(&mut self) {
        let mut running: BTreeMap<&GroupName, usize> = BTreeMap::new();
        for container in &self.containers {
            if container.whose == Whose::Ours && container.is_alive() {
                *running.entry(&container.group).or_default() += 1;
            }
        }
        let twins = running.into_iter().find(|(_, count)| *count > 1);
        if let Some(group) = twins.map(|(group, _)| group.clone()) {
            self.wrong(format!("{group} has two containers that run"));
        }
    }

    /// The groups that the applied generation has, each with its keeper.
    pub(crate) fn serve(&mut self) {
        let groups: BTreeSet<GroupName> = self.served.keys().filter_map(group_of).collect();
        for group in &groups {
            self.keepers.entry(group.clone()).or_default();
        }
    }

    pub(crate) fn spec(&self, group: &GroupName) -> Option<(ContainerSpec, Option<ImageTag>)> {
        match self.served.get(&ResourceId::Group(group.clone())) {
            Some(Spec::Group(spec)) => {
                Some((ContainerSpec::of(spec, &self.served), spec.image.clone()))
            }
            _ => None,
        }
    }

    pub(crate) fn lifecycle(&self, group: &GroupName) -> Option<Lifecycle> {
        match self.served.get(&ResourceId::Group(group.clone())) {
            Some(Spec::Group(spec)) => Some(spec.lifecycle),
            _ => None,
        }
    }

    /// Makes a container, as an engine does: a name is taken once.
    pub(crate) fn create(&mut self, group: &GroupName) -> Result<SandboxId, String> {
        if self.keepers.get(group).is_some_and(|keeper| keeper.held) {
            self.wrong(format!("{group} is held and is started"));
        }
        if self.containers.iter().any(|other| other.group == *group && other.named) {
            self.names_refused += 1;
            return Err(format!("the name bb-0123abcd-{group} is taken"));
        }
        let (spec, image) = self.spec(group).ok_or("the group is not served")?;
        if let Some(image) = image.as_ref().filter(|image| !self.images.contains(*image)) {
            return Err(format!("there is no image {image}"));
        }
        match self.folders.get(group) {
            Some(place) if place.missing.is_empty() => {}
            _ => return Err("a folder to mount is not there".to_owned()),
        }
        let id = self.fresh_id();
        let (group, digest) = (group.clone(), spec.digest());
        self.containers.push(Container {
            id: id.clone(),
            group,
            named: true,
            whose: Whose::Ours,
            state: SandboxState::Created,
            digest,
            image,
            edits: Vec::new(),
        });
        Ok(id)
    }

    /// Takes a container away, for `why`.
    pub(crate) fn remove(&mut self, id: &SandboxId, why: &str) {
        let Some(found) = self.container(id).cloned() else { return };
        if matches!(found.whose, Whose::Stranger | Whose::Decoy) {
            self.wrong(format!("{id} is another's and is removed: {why}"));
        }
        let keeper = self.keepers.get(&found.group);
        let works =
            keeper.is_some_and(|keeper| keeper.sandbox.as_ref() == Some(id) && keeper.working);
        if works && found.state == SandboxState::Running {
            self.wrong(format!("{id} of {} is at work and is removed: {why}", found.group));
        }
        self.containers.retain(|container| container.id != *id);
    }

    /// What a list says now.
    pub(crate) fn list(&self) -> Listing {
        let mut all = Listing::new();
        for container in &self.containers {
            let owner = match container.whose {
                Whose::Ours | Whose::Copy => Owner::Ours,
                Whose::Stranger if self.mutant == Some(Mutant::NameIsEnough) => Owner::Ours,
                Whose::Stranger => Owner::Stranger,
                Whose::Decoy => continue,
            };
            all.entry(container.group.clone()).or_default().push(SandboxSeen {
                id: container.id.clone(),
                name: format!("bb-0123abcd-{}", container.group),
                owner,
                state: container.state,
                digest: Some(container.digest.clone()),
                edits: container.edits.clone(),
                processes: Some(2),
            });
        }
        all
    }

    /// Lets a list be remembered, to be served when it is old.
    pub(crate) fn keep_past(&mut self) {
        let list = self.list();
        self.past.push_back(list);
        if self.past.len() > PAST_KEPT {
            self.past.pop_front();
        }
    }

    pub(crate) fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        let seen = self.keepers.iter().map(|(group, keeper)| {
            let seen = AgentSeen {
                sandbox: keeper.sandbox.clone(),
                starting: keeper.starting && self.mutant != Some(Mutant::StartsInSecret),
                busy: keeper.is_busy(),
                held: keeper.held && self.mutant != Some(Mutant::HeldIsIgnored),
            };
            (group.clone(), seen)
        });
        seen.collect()
    }

    /// Counts a call of the loop's, and sees whether there are too many.
    pub(crate) fn count(&mut self, call: &str) {
        let now = Instant::now();
        let times = self.calls.entry(call.to_owned()).or_default();
        times.push_back(now);
        while times.front().is_some_and(|time| now - *time > Duration::from_secs(60)) {
            times.pop_front();
        }
        let count = times.len();
        if count > CALLS_MAX {
            self.wrong(format!("{call} was called {count} times within a minute"));
        }
    }
}

fn group_of(id: &ResourceId) -> Option<GroupName> {
    match id {
        ResourceId::Group(group) => Some(group.clone()),
        _ => None,
    }
}
