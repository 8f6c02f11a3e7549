//! Keeping it so: rounds of looking, planning and mending, each by itself and all alike.
//!
//! A round looks at everything anew: what woke it steers nothing. It mends what
//! drifted from what was applied, and nothing else: what a manifest newly asks
//! for needs a human. What fails is tried again later, each resource with a
//! wait of its own that doubles. The time, chance and every door are arguments;
//! when rounds come is up to the caller.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::clock::Timestamp;
use crate::desired::Desired;
use crate::execute::{self, Change, Outcome};
use crate::name::GroupName;
use crate::observe::{self, Look};
use crate::observed::Observed;
use crate::plan::{Action, NoteKind, Plan, Step, Work, check, plan};
use crate::resource::{ResourceId, Risk};
use crate::unit::Period;

/// How long a look may take before its round is given up.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// How long what a group needs may take.
const MEND_MAX: Duration = Duration::from_secs(150);
/// How long an image may take to be built again.
const BUILD_MAX: Duration = Duration::from_secs(60 * 60);
/// Groups that are mended at once.
const AT_ONCE_MAX: usize = 4;
/// The wait after the first attempt at a resource; it doubles with each.
const WAIT_FIRST_MS: u64 = 200;
/// The longest wait between two attempts.
const WAIT_MAX_MS: u64 = 5 * 60 * 1000;
/// How long a resource has to be well until its attempts are forgotten.
const WELL_AFTER: Period = Period::seconds(60);
/// Attempts in a row from which it is a crash loop.
pub const CRASH_LOOP: u32 = 5;

/// What rounds remember of each other: the attempts at each resource, and nothing of the world.
#[derive(Debug, Default)]
pub struct Mender {
    attempts: BTreeMap<ResourceId, Attempts>,
}

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

impl Mender {
    /// One round. `random` gives bits for the jitter.
    pub async fn round(
        &mut self,
        desired: &Desired,
        look: &dyn Look,
        change: &dyn Change,
        now: &(dyn Fn() -> Timestamp + Sync),
        random: &mut (dyn FnMut() -> u64 + Send),
    ) -> Round {
        let looked = tokio::time::timeout(LOOK_MAX, observe::observe(desired, look)).await;
        let Ok(observed) = looked else {
            let why = format!("the look did not end within {} s", LOOK_MAX.as_secs());
            return Round { unknown: vec![(None, why)], ..Round::default() };
        };
        let plan = plan(desired, &observed);
        let mut round = Round::of(&plan);
        if let Err(findings) = check::check(&plan, desired, &observed) {
            for finding in findings {
                tracing::error!(%finding, "a plan to mend is refused");
                let id = finding.id.clone();
                round.unknown.push((id, finding.to_string()));
            }
            round.observed = Some(observed);
            return round;
        }
        let steps = self.due(&plan, now(), &mut round);
        for step in &steps {
            self.note_attempt(&step.id, now(), random());
        }
        self.forget_well(&plan, now());
        round.mended = carry_out(steps, change).await;
        round.due = self.next(&plan, now());
        round.observed = Some(observed);
        round
    }

    /// The attempts at a resource, if there were any lately.
    #[must_use]
    pub fn attempts(&self, id: &ResourceId) -> Option<Attempts> {
        self.attempts.get(id).copied()
    }

    /// Forgets all attempts: another generation may be all they needed.
    pub fn forget(&mut self) {
        self.attempts.clear();
    }

    /// The steps that may be done now; all others are left with a reason.
    fn due(&self, plan: &Plan, now: Timestamp, round: &mut Round) -> Vec<Step> {
        let mut due = Vec::new();
        for step in &plan.steps {
            if matches!(step.work, Work::Record { .. } | Work::Forget) {
                continue;
            }
            if step.risk >= Risk::Destructive && step.action != Action::Mend {
                round.left.push((step.id.clone(), format!("{} needs an apply", step.reason)));
                continue;
            }
            match self.attempts.get(&step.id) {
                Some(attempts) if attempts.not_before > now => {
                    let reason = format!(
                        "{}; tried {} times, again at {}",
                        words(step),
                        attempts.count,
                        attempts.not_before
                    );
                    round.left.push((step.id.clone(), reason));
                }
                _ => due.push(step.clone()),
            }
        }
        due
    }

    fn note_attempt(&mut self, id: &ResourceId, now: Timestamp, random: u64) {
        let count = self.attempts.get(id).map_or(0, |attempts| attempts.count).saturating_add(1);
        let wait = WAIT_FIRST_MS.saturating_mul(1 << (count - 1).min(20)).min(WAIT_MAX_MS);
        // A quarter more or less, so that what failed together is not tried together.
        let wait = wait - wait / 4 + random % (wait / 2 + 1);
        let not_before = now.after(Period::milliseconds(wait));
        self.attempts.insert(id.clone(), Attempts { count, last: now, not_before });
    }

    fn forget_well(&mut self, plan: &Plan, now: Timestamp) {
        self.attempts.retain(|id, attempts| {
            plan.steps.iter().any(|step| step.id == *id) || attempts.last.after(WELL_AFTER) > now
        });
    }

    fn next(&self, plan: &Plan, now: Timestamp) -> Option<Timestamp> {
        let waiting = plan.steps.iter().filter_map(|step| self.attempts.get(&step.id));
        waiting.map(|attempts| attempts.not_before.max(now)).min()
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
                _ => {}
            }
        }
        round
    }
}

fn words(step: &Step) -> String {
    match step.reason.as_str() {
        "" => step.action.word().to_owned(),
        reason => format!("{}: {reason}", step.action.word()),
    }
}

/// What belongs to no group first, one after the other; then the groups, several at once.
async fn carry_out(steps: Vec<Step>, change: &dyn Change) -> Vec<Mended> {
    let mut groups: BTreeMap<GroupName, Vec<Step>> = BTreeMap::new();
    let mut common = Vec::new();
    for step in steps {
        match step.id.group().cloned() {
            Some(group) => groups.entry(group).or_default().push(step),
            None => common.push(step),
        }
    }
    let mut mended = mend(common, change).await;
    let groups = futures_util::stream::iter(groups.into_values().map(|steps| mend(steps, change)));
    let all: Vec<Vec<Mended>> = groups.buffer_unordered(AT_ONCE_MAX).collect().await;
    mended.extend(all.into_iter().flatten());
    mended
}

async fn mend(steps: Vec<Step>, change: &dyn Change) -> Vec<Mended> {
    if steps.is_empty() {
        return Vec::new();
    }
    let builds = steps.iter().any(|step| matches!(step.work, Work::BuildImage { .. }));
    let patience = if builds { BUILD_MAX } else { MEND_MAX };
    let plan = Plan { parent: None, steps, notes: Vec::new() };
    let mut outcomes = BTreeMap::new();
    let executed = execute::execute(&plan, change, |id, outcome| {
        outcomes.insert(id.clone(), outcome.clone());
    });
    let in_time = tokio::time::timeout(patience, executed).await.is_ok();
    let verdict = |step: &Step| match outcomes.get(&step.id) {
        Some(Outcome::Done) => None,
        Some(Outcome::Failed(why)) => Some(why.clone()),
        Some(Outcome::HeldBack(by)) => Some(format!("not begun, because {by} failed")),
        None if in_time => Some("not begun".to_owned()),
        None => Some(format!("it did not end within {} s", patience.as_secs())),
    };
    let mended = plan.steps.iter().map(|step| Mended {
        id: step.id.clone(),
        reason: words(step),
        drift: step.action == Action::Mend || matches!(step.work, Work::RemoveSandboxes { .. }),
        failure: verdict(step),
    });
    mended.collect()
}
