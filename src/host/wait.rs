//! What a turn needs that is not there yet, and the wait for it.
//!
//! A wait is no attempt, holds nothing, and has no end but that of its cause: a folder that is made again, an
//! engine that answers, an image that is built, a server that was started, a model that was
//! pulled. Each has one cheap look, which is taken again and again with a bounded pause; an event
//! or another generation ends the wait at once. What only another attempt can tell is bounded.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Host, Worker};
use crate::gateway::NotReady;
use crate::protocol::Failure;
use crate::resource::{ResourceId, Spec};
use crate::runtime::RuntimeError;

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause while a server loads a model, which only another attempt can tell.
const LOADING_EVERY: Duration = Duration::from_secs(2);
/// How long a server may go on loading a model.
const LOADING_MAX: Duration = Duration::from_secs(15 * 60);
/// How often an agent is tried to be started that nothing but an attempt shows to be impossible.
const BLIND_ATTEMPTS_MAX: u32 = 40;
/// The longest pause between two of them.
const BLIND_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Something that a turn needs and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) what: What,
    /// In words, with what helps.
    pub(super) why: String,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A folder of the group.
    Folder,
    /// The runtime, its image, or the container's name.
    Agent,
    /// The model's server, or the model on it.
    Model,
    /// A model that is being loaded.
    Loading,
}

/// A wait between two attempts at a turn.
#[derive(Debug)]
pub struct Wait {
    /// `None`: only time has to pass.
    what: Option<What>,
    /// When another attempt is worth it, where nothing cheaper tells.
    until: Option<Instant>,
    /// When is looked next.
    next_look: Instant,
    /// Grows when what is waited for may be there.
    again: watch::Receiver<u64>,
}

impl Wait {
    /// Whether whoever was told of it is told of its end.
    #[must_use]
    pub fn ends_with_news(&self) -> bool {
        !matches!(self.what, None | Some(What::Loading))
    }
}

impl Host {
    /// Why an agent cannot be started that may be startable later; `None` where the error means
    /// something else.
    pub(super) fn missing_for_agent(error: &RuntimeError) -> Option<Missing> {
        let why = match error {
            RuntimeError::Unavailable { runtime, why } => {
                format!("{} is not available: {why}", runtime.word())
            }
            RuntimeError::Timeout { what, seconds } => {
                format!("the container engine is not answering: {what} took over {seconds} s")
            }
            RuntimeError::NameTaken { name } => {
                format!("the name {name} is not free: another container has it")
            }
            RuntimeError::ImageMissing(image) => {
                format!("the image {image} is not there; run `babybot apply`, which builds it")
            }
            _ => return None,
        };
        Some(Missing { what: What::Agent, why })
    }
}

impl Worker {
    /// The wait for what is missing, or `None` where the attempt has to count.
    pub(super) async fn wait_for(&mut self, missing: &Missing) -> Option<Wait> {
        // Before the first look: what comes back from here on is not missed.
        let again = self.host.again.subscribe();
        let until = match self.is_there(missing.what).await {
            false => None,
            true => Some(Instant::now() + self.blind_pause(missing.what)?),
        };
        let next_look = Instant::now() + LOOK_EVERY;
        Some(Wait { what: Some(missing.what), until, next_look, again })
    }

    /// A wait of this time.
    #[must_use]
    pub fn pause(&self, time: Duration) -> Wait {
        let now = Instant::now();
        let again = self.host.again.subscribe();
        Wait { what: None, until: Some(now + time), next_look: now + time, again }
    }

    /// Becomes ready when another attempt is worth it. May be dropped and called again.
    pub async fn waited(&self, wait: &mut Wait) {
        let Wait { what, until, next_look, again } = wait;
        let there = async {
            match (*until, *what) {
                (Some(until), _) => tokio::time::sleep_until(until).await,
                (None, None) => {}
                (None, Some(what)) => loop {
                    tokio::time::sleep_until(*next_look).await;
                    if self.is_there(what).await {
                        return;
                    }
                    *next_look = Instant::now() + LOOK_EVERY;
                },
            }
        };
        let told = async {
            match what {
                Some(_) if again.changed().await.is_ok() => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = there => {}
            () = told => {}
            // What it waits for may not be needed any more.
            () = self.next.is_there() => {}
        }
    }

    /// Takes note that a wait is over.
    pub fn end_wait(&mut self, wait: &Wait) {
        if wait.ends_with_news() {
            self.attempts.is_back();
        }
    }

    /// The pause before an attempt that nothing but itself can tell to be worth it; `None` where
    /// there were enough, and for what another attempt should count.
    fn blind_pause(&mut self, what: What) -> Option<Duration> {
        let first = self.host.retry_first;
        let attempts = &mut self.attempts;
        match what {
            What::Loading => {
                let since = *attempts.loading.get_or_insert_with(std::time::Instant::now);
                (since.elapsed() < LOADING_MAX).then_some(LOADING_EVERY)
            }
            What::Agent | What::Folder if attempts.blind < BLIND_ATTEMPTS_MAX => {
                let pause = first * 2_u32.pow(attempts.blind.min(8));
                attempts.blind += 1;
                Some(pause.min(BLIND_PAUSE_MAX))
            }
            // A server that has the model and says that it has not gives a broken answer.
            What::Agent | What::Folder | What::Model => None,
        }
    }

    /// Whether it is there, or at least nothing cheaper than an attempt says more.
    async fn is_there(&self, what: What) -> bool {
        match what {
            What::Folder => self.closed_folder().is_none(),
            What::Agent => self.can_be_launched().await,
            What::Model => {
                let ready = self.host.parts.gateway.ready(&self.model.1).await;
                let absent =
                    |not: &NotReady| matches!(not.failure, Failure::Absent | Failure::Loading);
                !ready.as_ref().is_err_and(absent)
            }
            What::Loading => true,
        }
    }

    /// Whether the runtime answers and has the image.
    async fn can_be_launched(&self) -> bool {
        let Host { parts, instance, specs, .. } = &self.host;
        let Ok(runtime) = parts.runtimes.get(&self.spec.reference()) else { return false };
        if !self.spec.capabilities.images {
            return true;
        }
        let image = self.spec.image.clone().and_then(|tag| specs.get(&ResourceId::Image(tag)));
        match image {
            Some(Spec::Image(image)) => {
                runtime.has_image(Some(instance), image).await.unwrap_or(false)
            }
            _ => runtime.list(instance).await.is_ok(),
        }
    }
}
