//! One fair line per model: who came first is served first, one at a time.
//!
//! Ollama serves one request per model and lets others wait without a byte and
//! without an order. Waiting here instead gives order, a place to show in
//! `status`, and a bound for each group. A place in the line and the turn itself
//! are guards: whoever goes away leaves by dropping them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::upstream::Refusal;
use crate::name::{GroupName, ModelName};

/// Requests a model answers at once: as many as Ollama does by default.
const PARALLEL: usize = 1;
/// Requests that may wait for one model; Ollama's own bound.
const WAITING_MAX: usize = 512;
/// Requests of one group that may wait, so that none fills the line alone.
const WAITING_PER_GROUP_MAX: usize = 8;

/// Who is served by a model and who waits for it, first come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The model as the manifest calls it.
    pub model: ModelName,
    /// The groups it answers now.
    pub working: Vec<GroupName>,
    /// The groups that wait, in the order they will be served.
    pub waiting: Vec<GroupName>,
}

/// The lines of all models.
#[derive(Debug, Default)]
pub(super) struct Queues(Mutex<BTreeMap<ModelName, Arc<Queue>>>);

impl Queues {
    /// The line of this model.
    pub(super) fn of(&self, model: &ModelName) -> Arc<Queue> {
        lock(&self.0).entry(model.clone()).or_insert_with(|| Arc::new(Queue::new())).clone()
    }

    /// All lines as they are now, by model.
    pub(super) fn state(&self) -> Vec<QueueState> {
        lock(&self.0)
            .iter()
            .map(|(model, queue)| {
                let line = lock(&queue.line);
                QueueState {
                    model: model.clone(),
                    working: line.working.iter().map(|(_, group)| group.clone()).collect(),
                    waiting: line.waiting.iter().map(|(_, group)| group.clone()).collect(),
                }
            })
            .collect()
    }
}

/// The line of one model.
#[derive(Debug)]
pub(super) struct Queue {
    seats: Arc<Semaphore>,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    tickets: u64,
    waiting: VecDeque<(u64, GroupName)>,
    working: Vec<(u64, GroupName)>,
}

/// The right to be answered; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Seat {
    // Declared first: the line shows the seat free before the next one takes it.
    _ticket: Ticket,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = lock(&self.queue.line);
        line.waiting.retain(|(number, _)| *number != self.number);
        line.working.retain(|(number, _)| *number != self.number);
    }
}

impl Queue {
    fn new() -> Self {
        Self { seats: Arc::new(Semaphore::new(PARALLEL)), line: Mutex::default() }
    }

    /// Waits for a turn. Dropping the future leaves the line.
    ///
    /// # Errors
    /// Ollama's "server busy" when the line is full, for all or for this group.
    pub(super) async fn seat(self: Arc<Self>, group: &GroupName) -> Result<Seat, Refusal> {
        let ticket = self.clone().ticket(group)?;
        let permit = self.seats.clone().acquire_owned().await.map_err(|_| busy())?;
        let mut line = lock(&self.line);
        line.waiting.retain(|(number, _)| *number != ticket.number);
        line.working.push((ticket.number, group.clone()));
        drop(line);
        Ok(Seat { _ticket: ticket, _permit: permit })
    }

    fn ticket(self: Arc<Self>, group: &GroupName) -> Result<Ticket, Refusal> {
        let mut line = lock(&self.line);
        let own = line.waiting.iter().filter(|(_, waiting)| waiting == group).count();
        if line.waiting.len() >= WAITING_MAX || own >= WAITING_PER_GROUP_MAX {
            return Err(busy());
        }
        line.tickets += 1;
        let number = line.tickets;
        line.waiting.push_back((number, group.clone()));
        drop(line);
        Ok(Ticket { queue: self, number })
    }
}

fn busy() -> Refusal {
    // Ollama's words, both blanks included.
    let words = "server busy, please try again.  maximum pending requests exceeded";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, words)
}

/// A panic elsewhere leaves the lists as valid as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
