//! The conversations that go on through a controller, and what is done with each from outside.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::channel::NotAccepted;
use crate::channel::terminal::TerminalConversation;
use crate::control::{PostOutcome, Said};
use crate::controller::Shared;
use crate::controller::group::GroupCommand;
use crate::error::chain;
use crate::name::{GroupName, MessageId, ThreadId};
use crate::store::Conversation;

/// A conversation that goes on.
#[derive(Debug)]
pub(in crate::controller) struct Talk {
    pub(super) group: GroupName,
    pub(super) conversation: Conversation,
    pub(super) terminal: TerminalConversation,
    /// What was said here and is not over.
    open: Mutex<Vec<MessageId>>,
    /// Something may be over, or was said.
    pub(super) poked: Notify,
}

impl Talk {
    pub(super) fn new(group: &GroupName, terminal: TerminalConversation) -> Self {
        let to = terminal.address();
        let conversation = Conversation {
            channel: crate::name::ChannelName::terminal(),
            chat: to.chat,
            thread: to.thread,
            sender: to.recipient,
        };
        let group = group.clone();
        Self { group, conversation, terminal, open: Mutex::default(), poked: Notify::new() }
    }

    /// What was said here and is not over.
    pub(super) fn open(&self) -> MutexGuard<'_, Vec<MessageId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::controller) struct Talks {
    by_thread: Mutex<BTreeMap<ThreadId, Arc<Talk>>>,
    /// Who waits to hear what became of a post.
    shown: Mutex<BTreeMap<i64, oneshot::Sender<PostOutcome>>>,
}

impl Talks {
    fn by_thread(&self) -> MutexGuard<'_, BTreeMap<ThreadId, Arc<Talk>>> {
        self.by_thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, BTreeMap<i64, oneshot::Sender<PostOutcome>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a conversation for as long as what is given is kept: whoever holds it may be dropped at
    /// any moment, with the line to its client.
    pub(super) fn add(&self, thread: ThreadId, talk: Arc<Talk>) -> Entered<'_> {
        self.by_thread().insert(thread.clone(), Arc::clone(&talk));
        Entered { talks: self, thread, talk }
    }

    /// To be told what became of a post.
    pub(super) fn expect(&self, post: i64) -> oneshot::Receiver<PostOutcome> {
        let (sender, outcome) = oneshot::channel();
        let mut shown = self.shown();
        shown.retain(|_, expected| !expected.is_closed());
        shown.insert(post, sender);
        outcome
    }

    fn of(&self, thread: &ThreadId) -> Result<Arc<Talk>, String> {
        let talk = self.by_thread().get(thread).cloned();
        talk.ok_or_else(|| "there is no such conversation".to_owned())
    }

    /// Says what became of a post.
    pub(in crate::controller) fn acknowledge(
        &self,
        post: i64,
        outcome: PostOutcome,
    ) -> Result<(), String> {
        let expected = self.shown().remove(&post);
        let told = expected.is_some_and(|expected| expected.send(outcome).is_ok());
        if told { Ok(()) } else { Err("nobody waits to hear of this post".to_owned()) }
    }
}

/// A conversation among all of them.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    talks: &'a Talks,
    thread: ThreadId,
    talk: Arc<Talk>,
}

impl Deref for Entered<'_> {
    type Target = Talk;

    fn deref(&self) -> &Talk {
        &self.talk
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut talks = self.talks.by_thread();
        // Not another that has taken its place.
        if talks.get(&self.thread).is_some_and(|there| Arc::ptr_eq(there, &self.talk)) {
            talks.remove(&self.thread);
        }
    }
}

impl Shared {
    /// Says something in a conversation. When it returns, that is stored.
    pub(in crate::controller) async fn say(
        &self,
        thread: &ThreadId,
        Said { id, text }: Said,
    ) -> Result<(), String> {
        let talk = self.talks.of(thread)?;
        // Before it is stored, so that no end of it is missed.
        let known = talk.open().contains(&id);
        if !known {
            talk.open().push(id.clone());
        }
        let accepted = tokio::select! {
            accepted = talk.terminal.say(id.clone(), text, self.clock().now()) => accepted,
            // It is said again, to the next controller: that one knows it if it was stored.
            () = self.closed.cancelled() => std::future::pending().await,
        };
        if accepted.is_err() && !known {
            talk.open().retain(|open| *open != id);
        }
        talk.poked.notify_one();
        accepted.map(drop).map_err(|error| match error {
            NotAccepted::Refused(why) | NotAccepted::Failed(why) => why,
        })
    }

    /// Stops what a conversation asked. In the store that is done at once, whatever its group is at.
    pub(in crate::controller) async fn stop(&self, thread: &ThreadId) -> Result<(), String> {
        let talk = self.talks.of(thread)?;
        let (store, clock) = (self.parts().store, self.clock());
        let cancelled = store
            .cancel_conversation(&talk.group, &talk.conversation, &clock.turn_id(), clock.now())
            .await
            .map_err(|error| chain(&error))?;
        if let (Some(turn), Some(handle)) = (cancelled.turn, self.handle(&talk.group)) {
            // Whoever asked does not wait until the agent has obeyed.
            tokio::spawn(async move { handle.ask(GroupCommand::Cancelled(turn)).await });
        }
        talk.poked.notify_one();
        self.tell();
        Ok(())
    }
}
