//! A story: the loop runs in a world where everything goes wrong, then the world is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use babybot::desired::{Desired, Setting};
use babybot::execute::{self, Change};
use babybot::observe;
use babybot::observed::{Applied, Known, SandboxState};
use babybot::plan::{Plan, check, plan};
use babybot::reconcile::mend::{Mender, Round};
use babybot::resource::{Lifecycle, ResourceId, Spec, digest};

use super::chance::Chance;
use super::doors::doors;
use super::world::{Mutant, Weather, Whose, World};
use crate::support::plan::{desired_on, docker};

/// How long a world that is left alone may take until nothing is left to do: longer than the
/// longest wait between two attempts, than the longest turn, and than a build that hangs.
const CALM_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// A round without any event.
const EVERY: Duration = Duration::from_secs(30);

/// What a story is told with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) lying: bool,
}

/// What came of a story.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) wrongs: Vec<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) names_refused: usize,
    pub(crate) changes: usize,
}

/// Tells a story to its end.
pub(crate) fn tell(telling: Telling) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut story = Story::new(telling).await;
        story.storm().await;
        if story.world.facts().wrongs.is_empty() && telling.mutant.is_none() {
            story.calm().await;
        }
        let facts = story.world.facts();
        End {
            wrongs: facts.wrongs.clone(),
            trace: facts.trace.iter().cloned().collect(),
            names_refused: facts.names_refused,
            changes: facts.changes,
        }
    })
}

/// A controller's loop in a world.
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) mender: Mender,
    telling: Telling,
    chance: Chance,
}

impl Story {
    pub(crate) async fn new(telling: Telling) -> Self {
        let world = World::new(telling.seed);
        let chance = Chance::new(telling.seed ^ 0xABCD);
        let mut story = Self { world, mender: Mender::default(), telling, chance };
        story.apply(&manifest(0, 0)).await;
        story.world.facts().mutant = telling.mutant;
        story
    }

    /// One round, or the controller's death in the middle of it.
    pub(crate) async fn round(&mut self) -> Option<Round> {
        if self.telling.mutant == Some(Mutant::NoWait) {
            self.mender = Mender::default();
        }
        self.world.facts().keep_past();
        let desired = self.world.desired();
        let (eyes, hands) = doors(&self.world, &desired, true);
        let hands: Arc<dyn Change> = Arc::new(hands);
        let world = self.world.clone();
        let now = || world.now();
        let chance = &mut self.chance;
        let mut random = || chance.bits();
        let round = tokio::select! {
            biased;
            () = self.world.crash.notified() => None,
            round = self.mender.round(&desired, &eyes, &hands, &now, &mut random) => Some(round),
        };
        match &round {
            None => {
                self.mender = Mender::default();
                self.world.kill_controller();
            }
            Some(round) => {
                for (id, why) in &round.left {
                    self.world.trace(|| format!("left {id}: {why}"));
                }
                for mended in &round.mended {
                    let (id, reason) = (&mended.id, &mended.reason);
                    self.world.trace(|| format!("mended {id}: {reason} {:?}", mended.failure));
                }
                for (id, why) in round.unknown.iter().filter(|(_, why)| is_refusal(why)) {
                    self.world.facts().wrong(format!("a plan is refused: {id:?} {why}"));
                }
            }
        }
        round
    }

    /// Waits for what wakes the loop.
    pub(crate) async fn wait(&mut self, round: Option<&Round>) {
        let due = round.and_then(|round| round.due).map_or(EVERY, |due| {
            let wait = u64::try_from(due.0 - self.world.now().0).unwrap_or_default();
            Duration::from_millis(wait).min(EVERY)
        });
        tokio::select! {
            // Without chance of its own, so that a seed tells the same story again.
            biased;
            () = tokio::time::sleep(due) => {}
            () = self.world.wake.notified() => {}
            () = self.mender.ended() => {}
            () = self.world.crash.notified() => {
                self.mender = Mender::default();
                self.world.kill_controller();
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }

    /// Rounds while everything goes wrong.
    async fn storm(&mut self) {
        let faults = self.chance.pick(&[0, 20, 80, 250]).unwrap();
        let lying = self.telling.lying;
        self.world.facts().weather = Weather { faults, lying, ..Weather::default() };
        let meddler = {
            let (world, mut chance) = (self.world.clone(), Chance::new(self.telling.seed ^ 0x77));
            let most = chance.pick(&[500, 4_000, 30_000]).unwrap();
            tokio::spawn(async move {
                loop {
                    let time = Duration::from_millis(chance.between(1, most));
                    tokio::time::sleep(time).await;
                    world.meddle();
                    if !chance.one_in(4) {
                        world.wake.notify_one();
                    }
                }
            })
        };
        for _ in 0..self.telling.rounds {
            if self.chance.one_in(25) {
                let (variant, kind) = (self.chance.below(6), self.chance.below(3));
                self.apply(&manifest(variant, kind)).await;
            }
            if self.chance.one_in(15) {
                let calls = self.chance.between(0, 12);
                self.world.facts().weather.crash_in = Some(calls);
            }
            let round = self.round().await;
            self.wait(round.as_ref()).await;
            if !self.world.facts().wrongs.is_empty() {
                break;
            }
        }
        meddler.abort();
    }

    /// Rounds in a world that is left alone.
    async fn calm(&mut self) {
        self.world.leave_alone();
        // The clock does not jump any more; and what was broken off half way stays so.
        let until = self.world.elapsed() + CALM_MAX;
        loop {
            let round = self.round().await;
            if !self.world.facts().wrongs.is_empty() {
                return;
            }
            let quiet = self.world.facts().keepers.values().all(|keeper| !keeper.is_busy());
            if let Some(round) = &round
                && quiet
                && nothing_left(round)
                && self.is_still().await
            {
                break;
            }
            if self.world.elapsed() > until {
                let left = round.as_ref().map(|round| (&round.left, &round.mended, &round.waiting));
                let left = format!("{left:?}");
                return self.world.facts().wrong(format!("it does not come to rest: {left}"));
            }
            self.wait(round.as_ref()).await;
        }
        self.look_over();
    }

    /// Whether another round does nothing.
    async fn is_still(&mut self) -> bool {
        let before = self.world.facts().changes;
        tokio::time::sleep(EVERY).await;
        let round = self.round().await;
        let still = round.is_some_and(|round| nothing_left(&round));
        still && self.world.facts().changes == before
    }

    /// Everything is as it was applied.
    fn look_over(&self) {
        let desired = self.world.desired();
        let mut wrongs = Vec::new();
        let mut facts = self.world.facts();
        for (id, wanted) in &desired.resources {
            let right = match (id, &wanted.spec) {
                (ResourceId::GlobalMemory, _) => facts.memory,
                (ResourceId::Folder(group), _) => {
                    let place = facts.folders.get(group);
                    place.is_some_and(|place| place.missing.is_empty())
                }
                (ResourceId::Settings(group), Spec::Settings { env }) => {
                    facts.settings.get(group) == Some(&Some(env.clone()))
                }
                (ResourceId::Image(tag), _) => facts.images.contains(tag),
                _ => true,
            };
            if !right {
                wrongs.push(format!("{id} is not as it was applied"));
            }
        }
        let groups: BTreeSet<_> =
            facts.containers.iter().map(|found| found.group.clone()).collect();
        for group in groups.into_iter().chain(facts.keepers.keys().cloned()) {
            let ours: Vec<_> = facts
                .containers
                .iter()
                .filter(|c| c.group == group && matches!(c.whose, Whose::Ours | Whose::Copy))
                .collect();
            let stranger =
                facts.containers.iter().any(|c| c.group == group && c.whose == Whose::Stranger);
            let keeper = facts.keepers.get(&group).cloned().unwrap_or_default();
            let digest = facts.spec(&group).map(|(spec, _)| spec.digest());
            let good = |c: &&super::world::Container| {
                c.state == SandboxState::Running
                    && c.edits.is_empty()
                    && Some(&c.digest) == digest.as_ref()
                    && keeper.sandbox.as_ref() == Some(&c.id)
            };
            if !ours.iter().all(good) || ours.len() > 1 {
                wrongs.push(format!("{group} has other sandboxes than it should: {ours:?}"));
            }
            let always = facts.lifecycle(&group) == Some(Lifecycle::Always);
            if always && ours.is_empty() && !keeper.held && !stranger {
                wrongs.push(format!("{group} should run and does not"));
            }
        }
        wrongs.into_iter().for_each(|wrong| facts.wrong(wrong));
    }

    /// Applies a manifest as an operator does, with whatever goes wrong, and takes it up.
    pub(crate) async fn apply(&mut self, desired: &Desired) {
        let (eyes, hands) = doors(&self.world, desired, false);
        let work = async {
            let observed = observe::observe(desired, &eyes).await;
            let plan = plan(desired, &observed);
            if let Err(findings) = check::check(&plan, desired, &observed) {
                let refused = format!("an apply is refused: {findings:?} {plan:#?}");
                self.world.facts().wrong(refused);
                return None;
            }
            // Agents are told what they are to be before they are told to be it.
            let wanted = desired.resources.iter().map(|(id, w)| (id.clone(), w.spec.clone()));
            let served = self.world.facts().served.clone();
            self.world.facts().served = wanted.collect::<BTreeMap<_, _>>();
            let report = execute::execute(&plan, &hands, |_, _| {}).await;
            self.world.facts().served = served;
            Some((plan, observed, report))
        };
        let ended = tokio::select! {
            biased;
            ended = tokio::time::timeout(Duration::from_secs(200), work) => ended,
            () = self.world.crash.notified() => {
                self.mender = Mender::default();
                return self.world.kill_controller();
            }
        };
        let Ok(Some((plan, observed, report))) = ended else {
            let mut facts = self.world.facts();
            let applied = facts.applied.as_ref().map(|applied| applied.specs.clone());
            facts.served = applied.unwrap_or_default();
            return;
        };
        if matches!(observed.applied, Known::Unknown(_)) {
            return self.serve();
        }
        let before = match &observed.applied {
            Known::Is(applied) => applied.specs.clone(),
            _ => BTreeMap::new(),
        };
        let specs = plan.recorded(&before, &report.done());
        self.world.trace(|| format!("applied: {}", words(&plan)));
        self.world.facts().applied = Some(Applied { number: plan.generation(), specs });
        self.world.facts().calls.clear();
        self.serve();
    }

    /// Goes on with what was applied.
    fn serve(&mut self) {
        let mut facts = self.world.facts();
        facts.served =
            facts.applied.as_ref().map(|applied| applied.specs.clone()).unwrap_or_default();
        facts.serve();
        let gone: Vec<_> = facts
            .keepers
            .keys()
            .filter(|group| facts.lifecycle(group).is_none())
            .cloned()
            .collect();
        drop(facts);
        gone.iter().for_each(|group| self.world.dismiss(group));
    }
}

fn words(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|step| format!("{} {}", step.action.word(), step.id));
    steps.collect::<Vec<_>>().join(", ")
}

fn is_refusal(why: &str) -> bool {
    [
        "is planned although",
        "does not do what it says",
        "out of order",
        "in use",
        "contradicts",
        "not ours",
    ]
    .iter()
    .any(|words| why.contains(words))
}

/// Whether a round found nothing to do, and could see everything.
fn nothing_left(round: &Round) -> bool {
    round.left.is_empty() && round.mended.is_empty() && round.unknown.is_empty()
}

/// One of some manifests, on one of some machines.
pub(crate) fn manifest(variant: u64, machine: u64) -> Desired {
    let text = match variant {
        0 => {
            "model demo rehearsal
             group one lifecycle=always bind=terminal
             group two lifecycle=always env.LANG=de
             group three
             group four env.A=b"
        }
        1 => {
            "model demo rehearsal
             group one lifecycle=always bind=terminal limits.memory=2GiB
             group two lifecycle=always env.LANG=en
             group three lifecycle=always"
        }
        2 => {
            "model demo rehearsal
             group one bind=terminal
             group two limits.memory=512MiB env.LANG=de
             group four lifecycle=always"
        }
        3 => {
            "model demo rehearsal
             model local ollama
             group one lifecycle=always model=local
             group three limits.memory=2GiB"
        }
        4 => {
            "runtime packages=git
             model demo rehearsal
             group one lifecycle=always
             group two lifecycle=always
             group three lifecycle=always
             group four"
        }
        _ => {
            "model demo rehearsal
             group five lifecycle=always
             group two lifecycle=always"
        }
    };
    let setting = match machine {
        0 => docker(),
        1 => Setting { binary: Some(digest(b"a newer babybot")), ..docker() },
        _ => Setting { binary: Some(digest(b"another babybot")), ..docker() },
    };
    desired_on(&setting, text)
}
