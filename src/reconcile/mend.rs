//! Keeping it so: rounds of looking, planning and mending, each by itself and all alike.
//!
//! A round looks at everything anew: what woke it steers nothing. It mends what
//! drifted from what was applied, and nothing else: what a manifest newly asks
//! for needs a human. What fails is tried again later, each resource with a
//! wait of its own that doubles. What takes long goes on beside the rounds that
//! come after, so that nobody waits for it but its own group. The time, chance
//! and every door are arguments; when rounds come is up to the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};

use crate::clock::Timestamp;
use crate::desired::Desired;
use crate::execute::{self, Change, StepOutcome};
use crate::name::GroupName;
use crate::observe::{self, Found, Look};
use crate::observed::{AgentSeen, Applied, Controller, Known, Observed, Seen};
use crate::plan::check::{self, Finding};
use crate::plan::{Action, Note, NoteKind, Plan, Step, Work, plan};
use crate::resource::{ResourceId, ResourceKind, Risk, Spec};
use crate::unit::Period;

/// How long a look may take before its round is given up.
const LOOK_MAX: Duration = Duration::from_secs(120);
/// How long an engine may take to answer one question; its own doors give up before.
const ANSWER_MAX: Duration = Duration::from_secs(40);
/// How long a model's server may take: nothing of a group stands on its answer.
const MODEL_MAX: Duration = Duration::from_secs(1);
/// How long a round waits for what it has begun.
const ROUND_MAX: Duration = Duration::from_secs(2);
/// How long what a group needs may take.
const MEND_MAX: Duration = Duration::from_secs(150);
/// How long an image may take to be built again.
const BUILD_MAX: Duration = Duration::from_secs(60 * 60);
/// Groups that are mended at once.
const AT_ONCE_MAX: usize = 4;
/// How long one of them keeps its place from others.
const PLACE_MAX: Duration = Duration::from_secs(10);
/// The wait after the first attempt at a resource; it doubles with each.
const WAIT_FIRST_MS: u64 = 200;
/// The longest wait between two attempts.
const WAIT_MAX_MS: u64 = 5 * 60 * 1000;
/// How long a resource has to be well until its attempts are forgotten.
const WELL_AFTER: Period = Period::seconds(60);
/// Attempts in a row from which it is a crash loop.
pub const CRASH_LOOP: u32 = 5;

/// What rounds remember of each other: the attempts at each resource, what still goes on, and
/// nothing of the world.
#[derive(Debug)]
pub struct Mender {
    attempts: BTreeMap<Track, Attempts>,
    /// The generation that the attempts were for.
    generation: Option<u64>,
    /// What is being mended, by whom it belongs to.
    under_way: BTreeMap<ResourceId, (task::Id, Vec<Step>)>,
    tasks: JoinSet<Vec<Mended>>,
    places: Arc<Semaphore>,
    /// What ended and was not reported yet.
    ended: Vec<Mended>,
    /// What somebody else is at work on, by whom it belongs to.
    elsewhere: BTreeSet<ResourceId>,
}

/// A resource, and whether it is about clearing what is in its way: that is no attempt at the
/// resource itself.
type Track = (ResourceId, bool);

/// The attempts at one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// How many, since it was well for a while.
    pub count: u32,
    /// When the last one was.
    pub last: Timestamp,
    /// Before when there is no other.
    pub not_before: Timestamp,
}

/// What a round found and did.
#[derive(Debug, Default)]
pub struct Round {
    /// What was found changed, and what became of it.
    pub mended: Vec<Mended>,
    /// What was found changed and left for later, with the reason.
    pub left: Vec<(ResourceId, String)>,
    /// What could not be seen, with the reason.
    pub unknown: Vec<(Option<ResourceId>, String)>,
    /// What a reader should know otherwise.
    pub waiting: Vec<(ResourceId, String)>,
    /// What works with less than was asked for.
    pub limited: Vec<(ResourceId, String)>,
    /// When the next attempt at something is due.
    pub due: Option<Timestamp>,
    /// What was seen; `None` where the look itself failed.
    pub observed: Option<Observed>,
}

/// One thing that was found changed and put right, or was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// What.
    pub id: ResourceId,
    /// How it was found, and what was done.
    pub reason: String,
    /// Whether it is something that should not have happened, rather than the ordinary way to
    /// what was applied.
    pub drift: bool,
    /// Why it failed; `None`: it was put right.
    pub failure: Option<String>,
}

impl Default for Mender {
    fn default() -> Self {
        Self {
            attempts: BTreeMap::new(),
            generation: None,
            under_way: BTreeMap::new(),
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            ended: Vec::new(),
            elsewhere: BTreeSet::new(),
        }
    }
}

impl Mender {
    /// One round. `random` gives bits for the jitter.
    pub async fn round(
        &mut self,
        desired: &Desired,
        look: &dyn Look,
        change: &Arc<dyn Change>,
        now: &(dyn Fn() -> Timestamp + Sync),
        random: &mut (dyn FnMut() -> u64 + Send),
    ) -> Round {
        // What ends while this looks is not taken for seen.
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.note_end(ended);
        }
        let look = Patient(look);
        let looked = tokio::time::timeout(LOOK_MAX, observe::observe(desired, &look)).await;
        let Ok(observed) = looked else {
            let why = format!("the look did not finish within {} s", LOOK_MAX.as_secs());
            let mended = std::mem::take(&mut self.ended);
            return Round { unknown: vec![(None, why)], mended, ..Round::default() };
        };
        self.note_generation(&observed.applied);
        let (plan, findings) = sound(plan(desired, &observed), desired, &observed);
        let mut round = Round::of(&plan);
        for finding in findings {
            tracing::error!(%finding, "a repair plan is refused");
            round.unknown.push((finding.id.clone(), finding.to_string()));
        }
        let (steps, again) = self.due(&plan, now(), &mut round);
        self.forget_well(&plan, now());
        for step in &steps {
            self.note_attempt(step, now(), random());
        }
        let begun: Vec<Track> = steps.iter().map(track).collect();
        self.begin(steps, change).await;
        round.due = self.next(&begun, again, now());
        round.mended = std::mem::take(&mut self.ended);
        round.observed = Some(observed);
        round
    }

    /// From now on leaves alone what somebody else is at work on, by whom it belongs to.
    pub fn leave(&mut self, elsewhere: BTreeSet<ResourceId>) {
        self.elsewhere = elsewhere;
    }

    /// Becomes ready when something ends that went on beside the rounds; never, where nothing
    /// does. The next round reports it.
    pub async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.note_end(ended),
            None => std::future::pending().await,
        }
    }

    /// The attempts at a resource, if there were any lately.
    #[must_use]
    pub fn attempts(&self, id: &ResourceId) -> Option<Attempts> {
        let both = [false, true].map(|clears| self.attempts.get(&(id.clone(), clears)).copied());
        both.into_iter().flatten().max_by_key(|attempts| attempts.count)
    }

    /// Forgets the attempts at what another generation may have put right.
    fn note_generation(&mut self, applied: &Known<Applied>) {
        let Known::Is(Applied { number, .. }) = applied else { return };
        if self.generation.replace(*number).is_some_and(|before| before != *number) {
            self.attempts.clear();
        }
    }

    /// The steps that may be done now, and when another may; all others are left with a reason.
    fn due(
        &self,
        plan: &Plan,
        now: Timestamp,
        round: &mut Round,
    ) -> (Vec<Step>, Option<Timestamp>) {
        let (mut due, mut later): (Vec<Step>, BTreeSet<&ResourceId>) = Default::default();
        let mut again: Option<Timestamp> = None;
        let told = plan.steps.iter();
        for step in told.filter(|s| !matches!(s.work, Work::Record { .. } | Work::Forget)) {
            if self.elsewhere.contains(&share(&step.id)) {
                later.insert(&step.id);
                round.waiting.push((step.id.clone(), "an apply is changing it".to_owned()));
                continue;
            }
            let below = step.needs.iter().find(|below| {
                let beside = |due: &Step| due.id == **below && share(below) != share(&step.id);
                later.contains(below) || due.iter().any(beside)
            });
            let attempts = self.attempts.get(&track(step));
            let waits = attempts.filter(|attempts| attempts.keep_waiting(now));
            let why = if step.risk >= Risk::Destructive && step.action != Action::Mend {
                format!("{} needs an apply", step.reason)
            } else if self.under_way.contains_key(&share(&step.id)) {
                format!("{}; being repaired", words(step))
            } else if let Some(below) = below {
                format!("{}; it waits for {below}", words(step))
            } else if let Some(Attempts { count, not_before, .. }) = waits {
                again = Some(again.map_or(*not_before, |again| again.min(*not_before)));
                format!("{}; tried {count} times, next at {not_before}", words(step))
            } else {
                due.push(step.clone());
                continue;
            };
            later.insert(&step.id);
            round.left.push((step.id.clone(), why));
        }
        (due, again)
    }

    fn note_attempt(&mut self, step: &Step, now: Timestamp, random: u64) {
        let track = track(step);
        let count = self.attempts.get(&track).map_or(0, |attempts| attempts.count);
        let count = count.saturating_add(1);
        let wait = WAIT_FIRST_MS.saturating_mul(1 << (count - 1).min(20)).min(WAIT_MAX_MS);
        // A quarter more or less, so that what failed together is not tried together.
        let wait = wait - wait / 4 + random % (wait / 2 + 1);
        let not_before = now.after(Period::milliseconds(wait));
        self.attempts.insert(track, Attempts { count, last: now, not_before });
    }

    /// Forgets the attempts at what is well. What could not be seen, or waits, may not be.
    fn forget_well(&mut self, plan: &Plan, now: Timestamp) {
        let unsure = |note: &&Note| matches!(note.kind, NoteKind::Unknown | NoteKind::Waiting);
        let unsure: Vec<&Note> = plan.notes.iter().filter(unsure).collect();
        let blind = unsure.iter().any(|note| note.ids.is_empty());
        self.attempts.retain(|(id, _), attempts| {
            let planned = plan.steps.iter().any(|step| step.id == *id);
            let unsure = blind || unsure.iter().any(|note| note.ids.contains(id));
            planned || unsure || attempts.is_fresh(now)
        });
    }

    /// Begins what is due, and waits a moment for it.
    async fn begin(&mut self, steps: Vec<Step>, change: &Arc<dyn Change>) {
        let mut shares: BTreeMap<ResourceId, Vec<Step>> = BTreeMap::new();
        for step in steps {
            shares.entry(share(&step.id)).or_default().push(step);
        }
        let mut begun = BTreeSet::new();
        for (share, steps) in shares {
            let (change, places) = (Arc::clone(change), Arc::clone(&self.places));
            let work = steps.clone();
            let task = self.tasks.spawn(async move { in_turn(work, &*change, places).await });
            begun.insert(task.id());
            self.under_way.insert(share, (task.id(), steps));
        }
        let all = async {
            while self.under_way.values().any(|(task, _)| begun.contains(task)) {
                self.ended().await;
            }
        };
        let _ = tokio::time::timeout(ROUND_MAX, all).await;
    }

    fn note_end(&mut self, ended: Result<(task::Id, Vec<Mended>), JoinError>) {
        let (task, mended) = match ended {
            Ok((task, mended)) => (task, Some(mended)),
            Err(error) => (error.id(), None),
        };
        let share = self.under_way.iter().find(|(_, (id, _))| *id == task);
        let Some(share) = share.map(|(share, _)| share.clone()) else { return };
        let (_, steps) = self.under_way.remove(&share).expect("it was just found");
        let broken = |step: &Step| Mended::of(step, Some("it was interrupted".to_owned()));
        self.ended.extend(mended.unwrap_or_else(|| steps.iter().map(broken).collect()));
    }

    /// When to look again for the sake of what was tried.
    fn next(&self, begun: &[Track], again: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let ended = begun.iter().filter(|(id, _)| !self.under_way.contains_key(&share(id)));
        let ended = ended.filter_map(|track| self.attempts.get(track));
        let due = ended.map(|attempts| attempts.not_before).chain(again).min();
        due.map(|due| due.max(now))
    }
}

impl Attempts {
    /// Whether the next one has to wait. Where the clock was put back, nobody waits for it to
    /// come round again.
    fn keep_waiting(&self, now: Timestamp) -> bool {
        self.last <= now && now < self.not_before
    }

    /// Whether the last one is too short a time ago to say that it helped.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.last <= now && now < self.last.after(WELL_AFTER)
    }
}

impl Mended {
    fn of(step: &Step, failure: Option<String>) -> Self {
        Self {
            id: step.id.clone(),
            reason: words(step),
            drift: step.action == Action::Mend || matches!(step.work, Work::RemoveSandboxes { .. }),
            failure,
        }
    }
}

impl Round {
    fn of(plan: &Plan) -> Self {
        let mut round = Self::default();
        for note in &plan.notes {
            match note.kind {
                NoteKind::Unknown if note.ids.is_empty() => {
                    round.unknown.push((None, note.text.clone()));
                }
                NoteKind::Unknown => round
                    .unknown
                    .extend(note.ids.iter().map(|id| (Some(id.clone()), note.text.clone()))),
                NoteKind::Waiting | NoteKind::Missing => {
                    round.waiting.extend(note.ids.iter().map(|id| (id.clone(), note.text.clone())))
                }
                NoteKind::Limited => {
                    round.limited.extend(note.ids.iter().map(|id| (id.clone(), note.text.clone())))
                }
                _ => {}
            }
        }
        round
    }
}

fn words(step: &Step) -> String {
    match step.reason.as_str() {
        "" => step.action.word().to_owned(),
        // "repaired" is said of it anyway.
        reason if step.action == Action::Mend => reason.to_owned(),
        reason => format!("{}: {reason}", step.action.word()),
    }
}

fn track(step: &Step) -> Track {
    (step.id.clone(), matches!(step.work, Work::RemoveSandboxes { .. }))
}

/// Whom a resource belongs to: what belongs together is mended one after the other.
#[must_use]
pub fn share(id: &ResourceId) -> ResourceId {
    id.group().map_or_else(|| id.clone(), |group| ResourceId::Group(group.clone()))
}

/// A plan without whatever its check speaks against, and what that is. One group's odd state keeps
/// no other from being mended.
fn sound(mut plan: Plan, desired: &Desired, observed: &Observed) -> (Plan, Vec<Finding>) {
    let Err(findings) = check::check(&plan, desired, observed) else { return (plan, Vec::new()) };
    let suspects: Option<BTreeSet<ResourceId>> =
        findings.iter().map(|finding| finding.id.as_ref().map(share)).collect();
    if let Some(suspects) = suspects {
        plan.steps.retain(|step| !suspects.contains(&share(&step.id)));
        if check::check(&plan, desired, observed).is_ok() {
            return (plan, findings);
        }
    }
    plan.steps.clear();
    (plan, findings)
}

/// Mends what belongs together once there is a place. Whoever takes long gives it back.
async fn in_turn(steps: Vec<Step>, change: &dyn Change, places: Arc<Semaphore>) -> Vec<Mended> {
    let place = places.acquire_owned().await;
    let mut work = Box::pin(mend(steps, change));
    match tokio::time::timeout(PLACE_MAX, &mut work).await {
        Ok(mended) => mended,
        Err(_) => {
            drop(place);
            work.await
        }
    }
}

async fn mend(steps: Vec<Step>, change: &dyn Change) -> Vec<Mended> {
    let builds = steps.iter().any(|step| matches!(step.work, Work::BuildImage { .. }));
    let patience = if builds { BUILD_MAX } else { MEND_MAX };
    let plan = Plan { parent: None, steps, notes: Vec::new() };
    let mut outcomes = BTreeMap::new();
    let executed = execute::execute(&plan, change, |id, outcome| {
        outcomes.insert(id.clone(), outcome.clone());
    });
    let in_time = tokio::time::timeout(patience, executed).await.is_ok();
    let verdict = |step: &Step| match outcomes.get(&step.id) {
        Some(StepOutcome::Done) => None,
        Some(StepOutcome::Failed(why)) => Some(why.clone()),
        Some(StepOutcome::HeldBack(by)) => Some(format!("skipped, because {by} failed")),
        None if in_time => Some("skipped".to_owned()),
        None => Some(format!("it did not finish within {} s", patience.as_secs())),
    };
    plan.steps.iter().map(|step| Mended::of(step, verdict(step))).collect()
}

/// A look that does not wait for whoever does not answer: what they know is unknown, and all else
/// is seen.
struct Patient<'a>(&'a dyn Look);

async fn answer<T>(
    patience: Duration,
    late: impl FnOnce(String) -> T,
    look: impl Future<Output = T>,
) -> T {
    let looked = tokio::time::timeout(patience, look).await;
    looked.unwrap_or_else(|_| late(format!("no answer within {} s", patience.as_secs())))
}

impl Look for Patient<'_> {
    fn see<'a>(&'a self, id: &'a ResourceId, spec: &'a Spec) -> BoxFuture<'a, Known<Seen>> {
        let patience = match id {
            ResourceId::Model(_) => MODEL_MAX,
            _ => ANSWER_MAX,
        };
        Box::pin(answer(patience, Known::Unknown, self.0.see(id, spec)))
    }
    fn find(&self, kind: ResourceKind) -> BoxFuture<'_, Found> {
        Box::pin(answer(ANSWER_MAX, Err, self.0.find(kind)))
    }
    fn applied(&self) -> BoxFuture<'_, Known<Applied>> {
        Box::pin(answer(ANSWER_MAX, Known::Unknown, self.0.applied()))
    }
    fn controller(&self) -> BoxFuture<'_, Controller> {
        Box::pin(answer(ANSWER_MAX, Controller::Unknown, self.0.controller()))
    }
    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        self.0.agents()
    }
}
