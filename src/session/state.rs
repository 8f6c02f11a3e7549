//! What the tasks of one session share: its turn under way, and the way to its agent.
//!
//! Only values and their locks. What is done to them is the business of the turn
//! loop, of `routes` and of `steer`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::disk::Quota;
use crate::clock::Clock;
use crate::gateway::{Caller, Gateway};
use crate::name::{GroupName, TurnId};
use crate::protocol::{Event, Order, Welcome};
use crate::request::RequestError;
use crate::store::{Conversation, MessageSeq, Store};

/// Orders that wait for an agent to read them.
const ORDERS_MAX: usize = 16;

/// What the turn loop and the routes of the link work with.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) group: GroupName,
    /// What the agent is told about itself.
    told: Mutex<Welcome>,
    reach: Mutex<Reach>,
    /// Answers for the model; another one, once another model answers.
    gateway: Mutex<Router>,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    /// What the group's folders may hold.
    pub(super) quota: Quota,
    pub(super) greeted: AtomicBool,
    /// Whether a tool of an earlier turn was killed for want of memory, which the sandbox is marked
    /// with from then on.
    pub(super) strained: AtomicBool,
    pub(super) ready: watch::Sender<bool>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) inbox: Mutex<Option<mpsc::Receiver<Order>>>,
    pub(super) turn: Mutex<Option<InFlight>>,
    /// Whom the use of a model is put down to: the turn under way, or the last one, whose
    /// last report may come after its end.
    pub(super) account: Mutex<Option<TurnId>>,
    /// Held while something is stored of the turn under way, and while it ends: nothing is
    /// stored of a turn that is over, and its messages change one after the other.
    pub(super) turn_lock: tokio::sync::Mutex<()>,
}

/// Where an agent may send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// To the chat that its turn answers.
    #[default]
    Own,
    /// To these chats of other groups as well: what the main group may.
    Others(BTreeMap<GroupName, Conversation>),
}

/// The turn that a session is at work on.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: TurnId,
    pub(super) events: mpsc::Sender<Event>,
    /// Messages sent as steering, in order; those not taken into account go back to waiting.
    pub(super) steers: VecDeque<Vec<MessageSeq>>,
    pub(super) stage: TurnStage,
    /// Cancelled once the turn is to end whatever the agent says.
    pub(super) ending: CancellationToken,
}

/// What the agent last said of a turn's end. The first word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnStage {
    /// Nothing yet.
    Open,
    /// It answered, and the reply is stored.
    Answered,
    /// It gave up.
    GivenUp,
}

impl Shared {
    /// What a session begins with: nobody has greeted, and no turn is under way.
    pub(super) fn new(welcome: Welcome, store: Store, clock: Arc<dyn Clock>, quota: Quota) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        Self {
            group: welcome.group.clone(),
            told: Mutex::new(welcome),
            reach: Mutex::default(),
            gateway: Mutex::default(),
            store,
            clock,
            quota,
            greeted: AtomicBool::new(false),
            strained: AtomicBool::new(false),
            ready: watch::Sender::new(false),
            orders,
            inbox: Mutex::new(Some(inbox)),
            turn: Mutex::new(None),
            account: Mutex::new(None),
            turn_lock: tokio::sync::Mutex::default(),
        }
    }

    /// What an agent that greets is told.
    pub(super) fn told(&self) -> Welcome {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on an agent that greets is told this.
    pub(super) fn welcome(&self, welcome: Welcome) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = welcome;
    }

    /// From now on it may send there.
    pub(super) fn extend(&self, reach: Reach) {
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner) = reach;
    }

    /// The chat of another group, where it may send there.
    pub(super) fn reach(&self, group: GroupName) -> Result<Conversation, RequestError> {
        match &*self.reach.lock().unwrap_or_else(PoisonError::into_inner) {
            Reach::Own => Err(RequestError::NotPermitted),
            Reach::Others(chats) => chats.get(&group).cloned().ok_or(RequestError::Nobody(group)),
        }
    }

    /// From now on this model answers.
    pub(super) fn open_gateway(&self, gateway: &Gateway, caller: Caller) {
        let router = gateway.router(caller);
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// From now on no model answers.
    pub(super) fn close_gateway(&self) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = Router::new();
    }

    /// Whatever answers for the model now.
    pub(super) fn gateway(&self) -> Router {
        self.gateway.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, Option<InFlight>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn account(&self) -> MutexGuard<'_, Option<TurnId>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// The messages sent as steering that an answer does not take into account.
    pub(super) fn late(&self, event: &Event) -> Vec<MessageSeq> {
        match event {
            Event::Done { steers, .. } => {
                self.steers.iter().skip(*steers as usize).flatten().copied().collect()
            }
            _ => Vec::new(),
        }
    }
}
