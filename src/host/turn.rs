//! One turn of a group: an attempt at it, and what follows from how that came out.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::wait::{Missing, Wait, What};
use super::worker::Answering;
use super::{Host, HostError, Worker};
use crate::file;
use crate::protocol::{Failure, TurnOrder};
use crate::runtime::RuntimeError;
use crate::session::{Progress, ProgressSender, Session, SessionError, TurnEnd};
use crate::store::{StoreError, TakenUp, Turn, TurnState};

/// How often a turn is tried again.
const RETRIES_MAX: u32 = 5;
/// How often an agent that was lost in the middle of a turn is replaced without a wait.
const LOST_AT_ONCE: u32 = 1;
/// Longest reason that a chat is told, in characters: an agent's words have no bound.
const REASON_MAX: usize = 2_000;

/// How a turn of a group came out.
#[derive(Debug)]
pub enum Worked {
    /// Its reply is in the outbox.
    Answered,
    /// It was cancelled.
    Cancelled,
    /// It was given up; the outbox has a notice.
    GivenUp(String),
    /// Another attempt is worth it only after this wait. Nobody has to hold anything for it.
    Waits(Wait),
}

/// How one attempt at a turn came out.
enum Attempt {
    /// It ended.
    Ended(TurnEnd),
    /// Something that it needs is not there.
    Missing(Missing),
}

impl Worker {
    /// Makes an attempt at the next turn of the group; `None` if there is nothing to do.
    ///
    /// # Errors
    /// When the store fails; the turn stays where it is and is gone on with later.
    pub async fn work(
        &mut self,
        cancel: &CancellationToken,
        progress: &ProgressSender,
    ) -> Result<Option<Worked>, HostError> {
        let worked = self.work_on(cancel, progress).await;
        self.steer_handle.send_replace(None);
        self.answering.send_replace(None);
        match worked {
            // Whoever asked stopped it in the store while this was about to say something else.
            Err(HostError::Store(StoreError::Transition {
                from: TurnState::Cancelled, ..
            })) => Ok(Some(Worked::Cancelled)),
            worked => worked,
        }
    }

    async fn work_on(
        &mut self,
        cancel: &CancellationToken,
        progress: &ProgressSender,
    ) -> Result<Option<Worked>, HostError> {
        loop {
            self.take_up_next();
            let (store, clock) = (&self.host.parts.store, &self.host.parts.clock);
            let next = store.take_up(&self.group, &clock.turn_id(), clock.now()).await?;
            let Some(TakenUp { turn, messages, journal }) = next else { return Ok(None) };
            self.attempts.at(&turn.id);
            let to = turn.destination.conversation().cloned();
            self.answering.send_replace(Some(Arc::new(Answering { turn: turn.id.clone(), to })));
            let prompt = self.host.prompt_in(&messages, &self.zone(), self.room());
            let session = turn.session.clone();
            let order = TurnOrder { turn: turn.id.clone(), session, prompt, journal };
            let attempt = self.attempt(order, cancel, progress).await?;
            self.steer_handle.send_replace(None);
            let (store, now) = (self.host.parts.store.clone(), self.host.parts.clock.now());
            let end = match attempt {
                Attempt::Ended(TurnEnd::Done) => return Ok(Some(Worked::Answered)),
                _ if cancel.is_cancelled() => TurnEnd::Cancelled,
                Attempt::Ended(end) => end,
                Attempt::Missing(missing) => match self.wait_for(&missing).await {
                    Some(wait) => {
                        store.requeue(&turn.id, now).await?;
                        if self.attempts.is_news(&missing.why) {
                            let _ = progress.try_send(Progress::Waits(missing.why));
                        }
                        return Ok(Some(Worked::Waits(wait)));
                    }
                    None => TurnEnd::Failed { reason: Failure::Busy, message: missing.why },
                },
            };
            let (why, wait) = match end {
                TurnEnd::Cancelled => {
                    store.cancel_turn(&turn.id, now).await?;
                    return Ok(Some(Worked::Cancelled));
                }
                // It goes on in another one, with all that it had done.
                TurnEnd::Lost(message) if self.attempts.lost < LOST_AT_ONCE => {
                    self.attempts.lost += 1;
                    (message, Duration::ZERO)
                }
                TurnEnd::Failed { reason: Failure::Busy, message } | TurnEnd::Lost(message)
                    if self.attempts.retries < RETRIES_MAX =>
                {
                    let wait = self.host.retry_first * 2_u32.pow(self.attempts.retries);
                    self.attempts.retries += 1;
                    (message, wait)
                }
                end => return self.give_up(&turn, &end, progress).await.map(Some),
            };
            store.requeue(&turn.id, now).await?;
            let _ = progress.try_send(Progress::Retry { why, wait });
            if wait > Duration::ZERO {
                return Ok(Some(Worked::Waits(self.pause(wait))));
            }
        }
    }

    async fn attempt(
        &mut self,
        order: TurnOrder,
        cancel: &CancellationToken,
        progress: &ProgressSender,
    ) -> Result<Attempt, HostError> {
        if let Some(why) = self.closed_folder() {
            return Ok(Attempt::Missing(Missing { what: What::Folder, why }));
        }
        let lost = |why: String| Ok(Attempt::Ended(TurnEnd::Lost(why)));
        if !self.session.as_ref().is_some_and(Session::is_ready) {
            let _ = progress.try_send(Progress::Waking);
        }
        match self.wake().await {
            Ok(()) => {}
            Err(SessionError::Store(error)) => return Err(error.into()),
            Err(SessionError::Runtime(error)) => {
                if let Some(missing) = Host::missing_for_agent(&error) {
                    return Ok(Attempt::Missing(missing));
                }
                let message = error.to_string();
                return match error {
                    RuntimeError::Refused(_) | RuntimeError::Unsupported { .. } => {
                        let reason = Failure::Agent;
                        Ok(Attempt::Ended(TurnEnd::Failed { reason, message }))
                    }
                    _ => lost(message),
                };
            }
            Err(error @ SessionError::Silent(_)) => return lost(error.to_string()),
        }
        // Whoever cancels while an agent starts does not have it work first.
        if cancel.is_cancelled() {
            return Ok(Attempt::Ended(TurnEnd::Cancelled));
        }
        let Some(session) = self.session.as_mut() else {
            return lost("the agent did not start".to_owned());
        };
        self.steer_handle.send_replace(Some(session.steer_handle()));
        let end = session.run(order, cancel, progress).await;
        Ok(match end {
            TurnEnd::Failed { reason: Failure::Absent, message } => {
                Attempt::Missing(Missing { what: What::Model, why: message })
            }
            TurnEnd::Failed { reason: Failure::Loading, .. } => {
                let why = format!("the model {} is not loaded yet", self.model.1.wire_name());
                Attempt::Missing(Missing { what: What::Loading, why })
            }
            end => Attempt::Ended(end),
        })
    }

    /// Why a folder of the group cannot be entered.
    pub(super) fn closed_folder(&self) -> Option<String> {
        let project = &self.host.parts.project;
        let folders = project.folders(&self.group);
        folders.iter().find_map(|path| {
            let error = project.folder(path).err()?;
            let path = path.strip_prefix(project.root()).unwrap_or(path).display();
            Some(match error.kind() {
                ErrorKind::NotFound => format!("{path} is not there; `babybot apply` makes it"),
                ErrorKind::NotADirectory => {
                    format!("{path} is not a folder; `babybot apply` repairs it")
                }
                ErrorKind::PermissionDenied => {
                    format!("{path} may not be entered; `babybot apply` repairs it")
                }
                _ => match file::fault_of_machine(&error) {
                    Some(why) => format!("{path} cannot be opened: {why}"),
                    None => format!("{path} cannot be opened: {error}"),
                },
            })
        })
    }

    async fn give_up(
        &self,
        turn: &Turn,
        end: &TurnEnd,
        progress: &ProgressSender,
    ) -> Result<Worked, HostError> {
        let limits = &self.spec.limits;
        let struck = match end {
            TurnEnd::TimedOut => Some("limits.turn"),
            TurnEnd::DiskFull => Some("limits.disk"),
            TurnEnd::OutOfMemory => Some("limits.memory"),
            _ => None,
        };
        if let Some(limit) = struck {
            let _ = progress.try_send(Progress::Struck(limit));
        }
        let why = match end {
            TurnEnd::TimedOut => format!("it took longer than {} (limits.turn)", limits.turn),
            TurnEnd::DiskFull => {
                format!("the folders of {} use more than {} (limits.disk)", self.group, limits.disk)
            }
            TurnEnd::OutOfMemory => {
                format!("it needed more memory than {} (limits.memory)", limits.memory)
            }
            TurnEnd::Failed { message, .. } | TurnEnd::Lost(message) => message.clone(),
            TurnEnd::Done | TurnEnd::Cancelled => String::new(),
        };
        let why: String = why.chars().take(REASON_MAX).collect();
        let stop = if why.ends_with(['.', '?', '!']) { "" } else { "." };
        let notice = format!("I could not answer: {why}{stop}");
        let (store, now) = (&self.host.parts.store, self.host.parts.clock.now());
        store.fail_turn_telling(&turn.id, &why, &notice, now).await?;
        Ok(Worked::GivenUp(why))
    }
}
