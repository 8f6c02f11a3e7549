//! Channels: where people and programs write to groups and are answered.
//!
//! Every channel is the same to the rest of the house. What comes is an [`Inbound`], handed to an
//! [`Inbox`] that stores it; what goes out is an [`Outgoing`] from the outbox, and the channel says
//! what became of it. A channel decides nothing about who is answered, retries nothing by itself and
//! keeps nothing that must survive.

mod inbound;
mod opening;
mod outgoing;
mod registry;
pub mod terminal;
mod webhook;

use std::fmt;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::inbound::{
    Attachment, Fate, Inbound, InboundEvent, NotAccepted, Quote, Receipt, Sender,
};
pub use self::opening::{Opener, Opening, Resolve};
pub use self::outgoing::{Address, Capabilities, Formatting, Outgoing, PostNumber, SendOutcome};
pub use self::registry::Registry;
use crate::name::{ChatId, MessageId};

/// One channel of one installation.
pub trait Channel: Send + Sync + fmt::Debug {
    /// Hands over what comes, until `cancelled`. What was not accepted is handed over again later,
    /// and is not confirmed to the service before that.
    ///
    /// # Errors
    /// Why nothing can come in any more. It is run again after a while.
    fn run<'a>(
        &'a self,
        inbox: &'a dyn Inbox,
        cancelled: CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Whether somebody is there to take a post that goes to `to`. Where nobody is, it is not sent,
    /// and that is no attempt.
    fn is_reachable(&self, to: &Address) -> bool {
        let _ = to;
        true
    }

    /// Sends one post, once. It is called for one post of a chat and thread at a time, in their
    /// order.
    fn send<'a>(&'a self, post: &'a Outgoing) -> BoxFuture<'a, SendOutcome>;

    /// Replaces the text of a post that was sent, where [`Capabilities::edit`] says so. Nothing calls
    /// it yet.
    fn edit<'a>(
        &'a self,
        to: &'a Address,
        service_id: &'a MessageId,
        text: &'a str,
    ) -> BoxFuture<'a, SendOutcome> {
        let _ = (to, service_id, text);
        Box::pin(async { SendOutcome::Refused { why: "this channel cannot edit".to_owned() } })
    }

    /// Shows for a few seconds that an answer is on its way, where [`Capabilities::typing`] says so.
    /// It is called again and again while a turn is at work for that address, and may be cut off.
    fn typing<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, ()> {
        let _ = to;
        Box::pin(async {})
    }

    /// The bytes of an attachment, at most `limit`, where [`Capabilities::fetch`] says so. Nothing
    /// calls it yet: an agent is told of attachments and cannot read them.
    ///
    /// # Errors
    /// Why they cannot be had.
    fn fetch<'a>(
        &'a self,
        attachment: &'a Attachment,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        let _ = (attachment, limit);
        Box::pin(async { Err("this channel has no attachments".to_owned()) })
    }

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether the service answers and takes our credentials; in words, who we are there.
    ///
    /// # Errors
    /// What is wrong, with what helps.
    fn probe(&self) -> BoxFuture<'_, Result<String, String>>;
}

/// What a channel hands over to.
pub trait Inbox: Send + Sync {
    /// Stores what came in. When it returns, that is committed.
    fn accept(&self, event: InboundEvent) -> BoxFuture<'_, Result<Receipt, NotAccepted>>;

    /// The posts of a chat of this channel after one of them, oldest first, at most `limit`, whatever
    /// became of their sending: for a service that is asked instead of told.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn posts<'a>(
        &'a self,
        chat: &'a ChatId,
        after: Option<PostNumber>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Outgoing>, String>>;

    /// The post that answers a message of a chat, where there is one by now: for a service that
    /// waits for it.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn answer<'a>(
        &'a self,
        chat: &'a ChatId,
        message: &'a MessageId,
    ) -> BoxFuture<'a, Result<Option<Outgoing>, String>>;

    /// Whether a group listens to a chat of this channel.
    fn hears(&self, chat: &ChatId) -> bool;
}
