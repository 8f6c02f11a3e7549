//! The orders of the host: one turn after the other, and what is said about the turn under way.

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::desk::Desk;
use super::error::AgentError;
use super::turn::Steering;
use crate::link::LinkError;
use crate::link::client::Link;
use crate::name::TurnId;
use crate::protocol::{Order, TurnOrder, Welcome};

/// Does what is ordered until the orders end.
pub(super) async fn obey_orders(
    link: &Link,
    welcome: Welcome,
    children: Children,
    orders: impl futures_util::Stream<Item = Result<Order, LinkError>> + Send,
) -> Result<(), AgentError> {
    let mut desk = Desk::new(link, welcome, children)?;
    let mut orders = std::pin::pin!(orders);
    let mut later = Later::default();
    loop {
        if later.next.is_none() {
            if later.drain {
                return Ok(());
            }
            match orders.next().await {
                Some(order) => later.take(order?, None),
                None => return Ok(()),
            }
        }
        let Some(PendingTurn { order, handle, welcome }) = later.next.take() else { continue };
        if let Some(welcome) = welcome {
            desk.adopt_welcome(*welcome);
        }
        let mut work = std::pin::pin!(desk.answer(&order, handle.parts()));
        loop {
            tokio::select! {
                outcome = &mut work => break outcome?,
                order = orders.next() => match order {
                    Some(order) => later.take(order?, Some(&handle)),
                    // The host is gone: nobody is left to report to.
                    None => return Ok(()),
                },
            }
        }
    }
}

/// Orders that are not carried out yet.
#[derive(Default)]
struct Later {
    /// The next turn. The host may order it as soon as it knows of the end of the turn before,
    /// which is before that end is through here.
    next: Option<PendingTurn>,
    /// The welcome for the turns after that.
    welcome: Option<Box<Welcome>>,
    drain: bool,
}

/// A turn that was not begun yet.
struct PendingTurn {
    order: TurnOrder,
    handle: Handle,
    /// The welcome that came since the turn before was ordered.
    welcome: Option<Box<Welcome>>,
}

impl Later {
    /// Takes an order; `present` is the turn under way.
    fn take(&mut self, order: Order, present: Option<&Handle>) {
        let next = self.next.as_ref().map(|next| &next.handle);
        let meant = |turn: &TurnId| [present, next].into_iter().flatten().find(|h| h.turn == *turn);
        match order {
            Order::Turn(order) => {
                let handle = Handle::new(&order.turn);
                self.next = Some(PendingTurn { order, handle, welcome: self.welcome.take() });
            }
            Order::Steer { turn, prompt } => match meant(&turn) {
                Some(handle) => handle.steering.push(prompt),
                // It is for a turn that ended meanwhile; the host knows.
                None => tracing::debug!(%turn, "a message arrived after its turn had finished"),
            },
            Order::Cancel { turn } => match meant(&turn) {
                Some(handle) => handle.cancel.cancel(),
                None => {
                    tracing::debug!(%turn, "a cancellation arrived after its turn had finished")
                }
            },
            Order::Settle(welcome) => self.welcome = Some(welcome),
            Order::Drain => self.drain = true,
        }
    }
}

/// The side of a turn under way that orders reach.
struct Handle {
    turn: TurnId,
    steering: Steering,
    cancel: CancellationToken,
}

impl Handle {
    fn new(turn: &TurnId) -> Self {
        Self { turn: turn.clone(), steering: Steering::default(), cancel: CancellationToken::new() }
    }

    fn parts(&self) -> (Steering, CancellationToken) {
        (self.steering.clone(), self.cancel.clone())
    }
}
