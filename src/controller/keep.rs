//! The loop that keeps the machine as it was applied.
//!
//! Level-triggered: whatever woke it, a round looks at everything anew. Events
//! that come together are one, and what agents can cause is paced, so that a
//! thousand events cost no more than a few looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, SelectAll};
use tokio::time::Instant;

use super::Shared;
use super::folders::Folders;
use super::look::ControllerLook;
use crate::clock::reached;
use crate::control::{Drift, RuntimeStatus};
use crate::desired::Desired;
use crate::execute::Change;
use crate::machine::Trust;
use crate::name::GroupName;
use crate::observed::{Known, Observed, Owner, Seen};
use crate::reconcile::mend::{Mended, Mender, Round};
use crate::resource::{ResourceId, RuntimeRef};
use crate::runtime::{Runtime, RuntimeEvent};
use crate::store;

/// A look without any event: what no event tells of is found by it.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long it waits after an event for others that belong to it.
const QUIET: Duration = Duration::from_millis(30);
/// How long others that belong to it may go on.
const QUIET_MAX: Duration = Duration::from_millis(250);
/// How long after a runtime's events ended it is asked for more.
const WATCH_AGAIN: Duration = Duration::from_secs(2);
/// What others do to a container, and an engine may tell of before its own list shows it.
const TOLD_EARLY: [&str; 4] = ["pause", "unpause", "rename", "update"];
/// How long after such an event is looked once more.
const ONCE_MORE: Duration = Duration::from_millis(500);
/// How soon is looked again for a stranger who has a name of ours: no event tells that it is gone.
const STRANGERS_AGAIN: Duration = Duration::from_secs(2);
/// Turns after which journals beyond those that are kept are forgotten.
const TIDY_EVERY: u64 = 100;
/// Entries of drift that are remembered for the status.
const DRIFT_KEPT: usize = 32;

/// Looks and mends until the controller ends.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut mender = Mender::default();
    let mut folders = Folders::watch(&shared);
    let mut events = Events::new(&shared);
    let mut due: Option<Instant> = None;
    let mut hindered = false;
    let mut tidied = 0;
    loop {
        folders.refresh(&shared);
        let next =
            due.unwrap_or_else(|| Instant::now() + LOOK_EVERY).min(Instant::now() + LOOK_EVERY);
        tokio::select! {
            () = shared.wake.notified() => {}
            () = events.next(&shared) => {}
            () = folders.changed() => {}
            () = mender.ended() => {}
            () = tokio::time::sleep_until(next) => {}
            () = shared.closing.cancelled() => return,
        }
        debounce(&shared, &mut events, &mut folders).await;
        let rests = shared.known().rests;
        let round = {
            let _changing = shared.changing.lock().await;
            if shared.closing.is_cancelled() {
                return;
            }
            mender.leave(shared.touched().clone());
            round(&shared, &mut mender).await
        };
        due = round.due.map(|due| {
            let wait = due.0.saturating_sub(shared.clock().now().0);
            Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or_default())
        });
        if std::mem::take(&mut events.told_early) {
            let again = Instant::now() + ONCE_MORE;
            due = Some(due.map_or(again, |due| due.min(again)));
        }
        if round.observed.as_ref().is_some_and(has_strangers) {
            let again = Instant::now() + STRANGERS_AGAIN;
            due = Some(due.map_or(again, |due| due.min(again)));
        }
        let before = std::mem::replace(&mut hindered, is_hindered(&shared, &round));
        let missed = |mended: &Mended| {
            matches!(mended.id, ResourceId::Image(_) | ResourceId::Folder(_))
                && mended.failure.is_none()
        };
        if (before && !hindered) || round.mended.iter().any(missed) {
            shared.host().try_again();
        }
        // What is asked for may be so by now without another edit.
        let asked = !round.mended.is_empty() && shared.known().pending.is_some();
        if folders.take_edit() || asked {
            shared.note_edit();
        }
        note(&shared, &mender, round).await;
        if rests >= tidied + TIDY_EVERY {
            tidied = rests;
            shared.tidy().await;
        }
        let known = shared.known();
        // One that came to rest meanwhile found nothing yet that waits for it.
        if known.rests != rests && known.is_unsettled() {
            shared.wake.notify_one();
        }
        drop(known);
        shared.tell();
    }
}

/// Waits until events that belong together are over.
async fn debounce(shared: &Arc<Shared>, events: &mut Events, folders: &mut Folders) {
    let most = Instant::now() + QUIET_MAX;
    loop {
        let quiet = (Instant::now() + QUIET).min(most);
        tokio::select! {
            () = shared.wake.notified() => {}
            () = events.next(shared) => {}
            () = folders.changed() => {}
            () = tokio::time::sleep_until(quiet) => return,
            () = shared.closing.cancelled() => return,
        }
        if Instant::now() >= most {
            return;
        }
    }
}

async fn round(shared: &Arc<Shared>, mender: &mut Mender) -> Round {
    let host = shared.host();
    let runtimes = shared.health.turn_to(host.specs(), Trust::Recent).await;
    shared.note_runtimes(runtimes);
    let desired = Desired::of_applied(shared.name.clone(), host.specs());
    let eyes = ControllerLook::new(shared);
    let executor: Arc<dyn Change> = Arc::new(shared.executor(None, None));
    let clock = shared.clock();
    let now = || clock.now();
    let bits = Arc::clone(&clock);
    let mut random = move || {
        let digits = bits.random_bits();
        u64::from_str_radix(&digits[..16], 16).unwrap_or_default()
    };
    let round = mender.round(&desired, &eyes, &executor, &now, &mut random).await;
    if !round.unknown.is_empty() {
        // Whether it is the runtime that does not answer is said at once.
        let runtimes = shared.health.turn_to(host.specs(), Trust::Nothing).await;
        shared.note_runtimes(runtimes);
    }
    round
}

fn has_strangers(observed: &Observed) -> bool {
    observed.looks.values().any(|look| match look {
        Known::Is(Seen::Container { sandboxes }) => {
            sandboxes.iter().any(|sandbox| sandbox.owner == Owner::Stranger)
        }
        _ => false,
    })
}

/// Whether something keeps agents from being started that goes away by itself.
fn is_hindered(shared: &Shared, round: &Round) -> bool {
    let strangers = round.observed.as_ref().is_some_and(has_strangers);
    strangers || shared.known().runtimes.iter().any(|status| !status.answers)
}

/// Makes known what a round found and did.
async fn note(shared: &Arc<Shared>, mender: &Mender, round: Round) {
    for mended in &round.mended {
        let mended = shared.with_loss(mended.clone());
        tell(&mended);
        if mended.drift {
            let (id, good) = (mended.id.clone(), mended.failure.is_none());
            shared.record_drift(id, words(&mended), good).await;
        }
    }
    let mut known = shared.known();
    known.troubles = round.left.iter().cloned().collect();
    for mended in &round.mended {
        if let Some(failure) = &mended.failure {
            known.troubles.insert(mended.id.clone(), failure.clone());
        }
    }
    let waiting: BTreeMap<ResourceId, String> = round.waiting.into_iter().collect();
    for (id, what) in waiting.iter().filter(|(id, what)| known.waiting.get(*id) != Some(*what)) {
        tracing::info!(group = id.group().map(tracing::field::display), %id, "{what}");
    }
    known.waiting = waiting;
    known.limited = round.limited;
    let mut warnings: Vec<String> = Vec::new();
    for (id, why) in round.unknown {
        match id {
            Some(id) => drop(known.troubles.insert(id, why)),
            None => warnings.push(why),
        }
    }
    known.warnings = warnings;
    let seen = round.mended.iter().map(|mended| &mended.id);
    let seen: Vec<ResourceId> = seen.cloned().collect();
    known.attempts.retain(|id, _| mender.attempts(id).is_some());
    for id in seen {
        if let Some(attempts) = mender.attempts(&id) {
            known.attempts.insert(id, attempts);
        }
    }
}

fn words(mended: &Mended) -> String {
    match &mended.failure {
        None => mended.reason.clone(),
        Some(why) => format!("{}; the repair failed: {why}", mended.reason),
    }
}

fn tell(mended: &Mended) {
    let (id, text) = (&mended.id, words(mended));
    // By it `babybot logs GROUP` finds what is about a group.
    let group = id.group().map(tracing::field::display);
    match (&mended.failure, mended.drift) {
        (Some(_), _) => tracing::warn!(group, %id, "{text}"),
        (None, true) => tracing::warn!(group, %id, "repaired: {text}"),
        (None, false) => tracing::info!(group, %id, "{text}"),
    }
}

impl Shared {
    /// Takes note of how the runtimes are, and tells where that changed.
    fn note_runtimes(&self, runtimes: Vec<RuntimeStatus>) {
        let mut known = self.known();
        for RuntimeStatus { runtime, detail, answers, .. } in &runtimes {
            match (known.runtime(runtime).map(|before| before.answers), answers) {
                (Some(true) | None, false) => {
                    tracing::warn!(%runtime, why = detail, "the runtime does not answer");
                }
                (Some(false), true) => {
                    tracing::info!(%runtime, at = detail, "the runtime answers again");
                }
                _ => {}
            }
        }
        known.runtimes = runtimes;
    }

    /// What was started because it had been lost is drift, and no ordinary start.
    fn with_loss(&self, mended: Mended) -> Mended {
        let handle = match &mended.id {
            ResourceId::Container(group) if !mended.drift => self.handle(group),
            _ => None,
        };
        // What could not be started yet is told of when it is.
        let lost = match (handle, &mended.failure) {
            (Some(handle), None) => handle.state().lost.take(),
            _ => None,
        };
        match lost {
            Some(how) => Mended {
                reason: format!("{how}; the agent was started again"),
                drift: true,
                ..mended
            },
            None => mended,
        }
    }

    /// Tells of a group's agent that was lost.
    pub(super) async fn tell_of_drift(&self, group: &GroupName, text: String) {
        let id = ResourceId::Container(group.clone());
        tracing::warn!(%group, %id, "repaired: {text}");
        self.record_drift(id, text, true).await;
        self.tell();
    }

    /// Writes down that something was found changed.
    async fn record_drift(&self, id: ResourceId, text: String, mended: bool) {
        let at = self.clock().now();
        let entry = store::Drift { at, id: id.clone(), text: text.clone(), mended };
        if let Err(error) = self.parts().store.record_drift(entry).await {
            tracing::warn!(%error, "a repair is not recorded");
        }
        let mut known = self.known();
        known.drift.push_back(Drift { at, id, text, mended });
        let extra = known.drift.len().saturating_sub(DRIFT_KEPT);
        known.drift.drain(..extra);
    }

    /// Forgets what is kept only for a while: a controller may run for a year.
    async fn tidy(&self) {
        match self.parts().store.forget_journals().await {
            Ok(0) => {}
            Ok(entries) => tracing::debug!(entries, "old journals were forgotten"),
            Err(error) => tracing::warn!(%error, "old journals are not forgotten"),
        }
    }

    /// Has the manifest looked at again.
    pub(super) fn note_edit(&self) {
        self.edited.notify_one();
    }
}

/// What the runtimes tell of.
struct Events {
    streams: SelectAll<BoxStream<'static, RuntimeEvent>>,
    watched: Vec<RuntimeRef>,
    again: Option<Instant>,
    /// Whether one came that may have been early.
    told_early: bool,
}

impl Events {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut events =
            Self { streams: SelectAll::new(), watched: Vec::new(), again: None, told_early: false };
        events.watch(shared);
        events
    }

    fn watch(&mut self, shared: &Arc<Shared>) {
        let host = shared.host();
        let runtimes = host.parts().runtimes.all();
        self.watched = present(&runtimes);
        self.streams = runtimes.iter().map(|runtime| runtime.watch(host.instance())).collect();
        self.again = None;
    }

    /// Becomes ready with the next event, or when events may have been missed.
    async fn next(&mut self, shared: &Arc<Shared>) {
        // One that ended, or a runtime that was not there before, or was elsewhere.
        let all = present(&shared.parts().runtimes.all());
        let ended = self.streams.len() < self.watched.len();
        if self.again.is_none() && (ended || all != self.watched) {
            self.again = Some(Instant::now() + WATCH_AGAIN);
        }
        let again = self.again;
        tokio::select! {
            event = self.streams.next(), if !self.streams.is_empty() => match event {
                Some(event) => {
                    tracing::debug!(?event, "a container changed");
                    self.told_early |= TOLD_EARLY.contains(&event.what.as_str());
                }
                None => self.again = Some(Instant::now() + WATCH_AGAIN),
            },
            () = reached(again) => self.watch(shared),
        }
    }
}

fn present(runtimes: &[Arc<dyn Runtime>]) -> Vec<RuntimeRef> {
    runtimes.iter().map(|runtime| runtime.reference()).collect()
}
