//! The manifest under a controller that runs.
//!
//! What an edit asks for is found out and told. Only a human makes it so, or
//! `--follow` what is safe. Beside the loop that mends, so that a look at what
//! is newly asked for holds up nothing that was applied.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::look::ControllerLook;
use crate::control::{ApplyEvent, ApplyRequest, Pending};
use crate::machine::{self, Unread};
use crate::observe;
use crate::plan::render::{self, Color, Heading};
use crate::plan::{Action, Step, check, plan};
use crate::resource::{ResourceId, Risk};
use crate::source::Stamp;

/// A look without any event: an edit that no event told of is found by it.
const EVERY: Duration = Duration::from_secs(30);
/// How often an edit is followed that the machine moves away from.
const MOVES_MAX: u32 = 5;
/// Events of an apply that wait to be told.
const EVENTS_MAX: usize = 64;

/// What is remembered of one look at the manifest until the next.
#[derive(Default)]
struct Before {
    stamp: Option<Stamp>,
    /// The edit that was followed last, and how often since.
    text: String,
    times: u32,
}

/// How an apply of an edit ended.
enum Followed {
    Whole,
    /// The machine moved meanwhile, and nothing was done.
    Moved,
    Failed,
}

/// Looks at the manifest whenever it may have been edited, until the controller ends.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut before = Before::default();
    loop {
        tokio::select! {
            () = shared.edited.notified() => {}
            () = tokio::time::sleep(EVERY) => {
                let stamp = Stamp::of(&shared.manifest);
                let settled = {
                    let known = shared.known();
                    known.pending.is_none() && known.unread.is_none()
                };
                if settled && stamp == before.stamp {
                    continue;
                }
            }
            () = shared.closing.cancelled() => return,
        }
        before.stamp = Stamp::of(&shared.manifest);
        look(&shared, &mut before).await;
        shared.tell();
    }
}

/// Finds out whether the manifest asks for something that was not applied.
async fn look(shared: &Arc<Shared>, before: &mut Before) {
    let project = shared.parts().project;
    let read = machine::read(&shared.manifest, project.root()).await;
    shared.known().unread = None;
    let (desired, text) = match read {
        Ok(read) => read,
        Err(Unread::Invalid(text)) => {
            let pending = Some(Pending { changes: 0, risk: None, text, valid: false });
            if shared.known().pending != pending {
                tracing::warn!("the manifest is not valid; what was applied keeps running");
                shared.known().pending = pending;
            }
            return;
        }
        Err(Unread::Unsettled(why)) => {
            tracing::warn!(why, "cannot plan the manifest for now");
            shared.known().unread = Some(format!("cannot plan the manifest: {why}"));
            return;
        }
    };
    let observed = observe::observe(&desired, &ControllerLook::toward(shared, &desired)).await;
    let plan = plan(&desired, &observed);
    // What only drifted is mended anyway, and waits for nobody.
    let own: Vec<&Step> = plan.steps.iter().filter(|step| step.action != Action::Mend).collect();
    // An agent that is not yet as was applied becomes so by itself as well.
    if own.iter().all(|step| matches!(step.id, ResourceId::Container(_))) {
        shared.known().pending = None;
        before.times = 0;
        return;
    }
    let changes = own.len();
    let risk = plan.steps.iter().map(|step| step.risk).max();
    let heading = Heading {
        manifest: "babybot.toml".to_owned(),
        runtime: desired.runtime.kind,
        reason: desired.runtime.reason.clone(),
    };
    let shown = render::text(&plan, &heading, Color::Never);
    if before.text != text {
        (before.text, before.times) = (text.clone(), 0);
    }
    if shared.follow && risk <= Some(Risk::Safe) && before.times < MOVES_MAX {
        if let Err(findings) = check::check(&plan, &desired, &observed) {
            tracing::error!(?findings, "the manifest's plan is refused");
            return;
        }
        let request = ApplyRequest { desired, text, plan, risks: vec![Risk::Safe] };
        match apply_followed(shared, request).await {
            Followed::Whole => {
                shared.known().pending = None;
                return;
            }
            Followed::Moved => {
                before.times += 1;
                shared.note_edit();
            }
            // Not again by itself: each attempt is a generation, and what failed would fail again.
            Followed::Failed => before.times = MOVES_MAX,
        }
    }
    let pending = Some(Pending { changes, risk, text: shown, valid: true });
    if shared.known().pending != pending {
        tracing::info!(changes, "the manifest has changes that are not applied");
        shared.known().pending = pending;
    }
}

async fn apply_followed(shared: &Arc<Shared>, request: ApplyRequest) -> Followed {
    let (events, mut inbox) = tokio::sync::mpsc::channel(EVENTS_MAX);
    let carrying = Arc::clone(shared);
    let work = shared.applies.spawn(async move { carrying.serve_apply(request, &events).await });
    let mut followed = Followed::Failed;
    while let Some(event) = inbox.recv().await {
        match event {
            ApplyEvent::Applied { generation, complete: true, .. } => {
                tracing::info!(generation, "edit applied automatically");
                followed = Followed::Whole;
            }
            ApplyEvent::Applied { generation, .. } => {
                tracing::warn!(generation, "edit partly applied");
            }
            ApplyEvent::Stale { .. } => followed = Followed::Moved,
            ApplyEvent::Failed { id, why } => tracing::warn!(%id, why, "a step failed"),
            ApplyEvent::Error { why } => tracing::warn!(why, "edit not applied"),
            _ => {}
        }
    }
    let _ = work.await;
    followed
}
