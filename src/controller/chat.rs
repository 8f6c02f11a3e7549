//! A person who talks to a group through the controller.
//!
//! This is the other side of the terminal's channel: it tells a conversation how what was said there
//! goes, hands over the posts that the channel has for it, and says when a message is over. Several
//! conversations with a group go on at once, each with its own messages. What is told of a turn under
//! way is told to whom it answers.

mod talks;
mod words;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};

use self::talks::Talk;
pub(super) use self::talks::Talks;
use self::words::event_of;
use super::Shared;
use super::group::{GroupEvent, GroupHandle};
use crate::channel::Sender;
use crate::channel::terminal::Handed;
use crate::control::{AgentState, ChatEnd, ChatEvent, ChatRequest, Outcome, PostOutcome};
use crate::name::{ChannelName, GroupName, MessageId};
use crate::resource::ResourceId;
use crate::session::Progress;
use crate::store::{Conversation, MessageFate, PostState, TurnState};

/// How long nothing may happen until the store is asked again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How soon is looked again for whoever serves a group that is back.
const SUCCESSOR_SOON: Duration = Duration::from_millis(50);

/// A conversation ended because whoever talks went away.
struct Gone;

/// What becomes of posts that are being shown: which messages each answers, and how.
type Showing =
    FuturesUnordered<BoxFuture<'static, (Shown, Result<PostOutcome, oneshot::error::RecvError>)>>;

/// A post that is being shown.
struct Shown {
    answers: Vec<MessageId>,
    outcome: Outcome,
    tell: oneshot::Sender<Result<(), String>>,
}

impl Shared {
    /// Holds a conversation, and tells how it goes.
    pub(super) async fn converse(
        self: &Arc<Self>,
        request: ChatRequest,
        events: &mpsc::Sender<ChatEvent>,
    ) {
        let _going = self.conversations.token();
        let ChatRequest { group, thread, person, resumed } = request;
        if !self.is_applied(&group) {
            let end = ChatEnd::Failed { why: format!("there is no group {group}") };
            let _ = events.send(ChatEvent::End { end }).await;
            return;
        }
        let sender = Sender { id: person.id, name: person.name };
        let (joined, posts) = self.terminal.join(&group, thread.clone(), sender, !resumed);
        let talk = self.talks.add(thread, Arc::new(Talk::new(&group, joined)));
        self.look_for_takers(&ChannelName::terminal());
        let ended = self.follow(&talk, posts, events).await;
        drop(talk);
        if let Ok(end) = ended {
            let _ = events.send(ChatEvent::End { end }).await;
        }
    }

    fn is_applied(&self, group: &GroupName) -> bool {
        self.host().specs().contains_key(&ResourceId::Group(group.clone()))
    }

    /// Whoever serves a group, once somebody does; `None` where it was taken out.
    async fn serving(&self, group: &GroupName) -> Option<Arc<GroupHandle>> {
        loop {
            match self.handle(group).filter(|handle| !handle.is_gone()) {
                Some(handle) => return Some(handle),
                None if !self.is_applied(group) => return None,
                None => tokio::time::sleep(SUCCESSOR_SOON).await,
            }
        }
    }

    /// Tells a conversation all that concerns it, until it ends.
    async fn follow(
        &self,
        talk: &Talk,
        mut posts: mpsc::Receiver<Handed>,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<ChatEnd, Gone> {
        let mut showing = Showing::new();
        send(events, ChatEvent::Joined).await?;
        loop {
            let serving = tokio::select! {
                serving = self.serving(&talk.group) => serving,
                () = events.closed() => return Err(Gone),
                () = self.closed.cancelled() => return Ok(ChatEnd::HandedOver),
            };
            let Some(handle) = serving else {
                let group = &talk.group;
                let why = format!("the group {group} was removed; waiting messages are kept");
                return Ok(ChatEnd::Failed { why });
            };
            let mut happens = handle.group_events.subscribe();
            handle.nudge();
            while !handle.is_gone() || self.closing.is_cancelled() {
                // What ended before everything did is in the store, and is handed over still.
                if self.closed.is_cancelled() && !self.settle(talk, events).await? {
                    return Ok(ChatEnd::HandedOver);
                }
                tokio::select! {
                    Some(handed) = posts.recv() => {
                        self.show(talk, handed, &mut showing, events).await?;
                    }
                    Some((shown, outcome)) = showing.next(), if !showing.is_empty() => {
                        if let Some(end) = conclude(talk, shown, outcome, events).await? {
                            return Ok(end);
                        }
                    }
                    event = next(&mut happens) => self.pass_on(talk, &handle, event, events).await?,
                    () = talk.poked.notified() => {
                        self.settle(talk, events).await?;
                        self.tell_what_holds(talk, &handle, events).await?;
                    }
                    () = tokio::time::sleep(LOOK_AGAIN), if !talk.open().is_empty() => {
                        handle.nudge();
                        self.settle(talk, events).await?;
                    }
                    () = events.closed() => return Err(Gone),
                    () = self.closed.cancelled(), if !self.closed.is_cancelled() => {}
                }
            }
        }
    }

    /// Hands a post over, to be shown.
    async fn show(
        &self,
        talk: &Talk,
        handed: Handed,
        showing: &mut Showing,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<(), Gone> {
        handed.begin();
        let Handed { post, late, shown: tell, .. } = handed;
        let store = self.parts().store;
        let late = match post.answers.first().filter(|_| late) {
            Some(asked) => {
                let Conversation { channel, chat, .. } = &talk.conversation;
                let text = store.message_text(channel, chat, asked).await;
                Some(text.unwrap_or_default().unwrap_or_default())
            }
            None => late.then(String::new),
        };
        let outcome = self.talks.expect(post.number);
        let event = ChatEvent::Post {
            id: post.number,
            reply: !post.notice,
            text: post.text,
            uncertain: post.uncertain,
            answers: post.answers.clone(),
            late,
        };
        let kind = if post.notice { Outcome::GivenUp } else { Outcome::Answered };
        let shown = Shown { answers: post.answers, outcome: kind, tell };
        showing.push(Box::pin(async move { (shown, outcome.await) }));
        send(events, event).await
    }

    /// Tells what a group goes through, where that concerns the conversation.
    async fn pass_on(
        &self,
        talk: &Talk,
        handle: &GroupHandle,
        event: Option<GroupEvent>,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<(), Gone> {
        match event {
            Some(GroupEvent::Progress { of, step }) => {
                let to = of.as_ref().and_then(|of| of.to.as_ref());
                let ours = to.is_none_or(|to| *to == talk.conversation);
                let waits = !talk.open().is_empty();
                let event = match step {
                    step if ours => event_of(step),
                    // What one turn of the group lacks, the next does too.
                    Progress::Waits(_) | Progress::Back => event_of(step),
                    Progress::Waking | Progress::Thinking => Some(behind(talk)),
                    _ => None,
                };
                match event.filter(|_| ours || waits) {
                    Some(event) => send(events, event).await,
                    None => Ok(()),
                }
            }
            Some(GroupEvent::Waits(what)) if !talk.open().is_empty() => {
                let queued = self.under_way(talk, handle);
                let queued = queued.filter(|event| matches!(event, ChatEvent::Queued { .. }));
                send(events, queued.unwrap_or(ChatEvent::Waits { what })).await
            }
            Some(GroupEvent::Waits(_)) => Ok(()),
            Some(GroupEvent::Ended) | None => self.settle(talk, events).await.map(drop),
        }
    }

    /// Tells what holds up something that was said, or is under way for it already.
    async fn tell_what_holds(
        &self,
        talk: &Talk,
        handle: &GroupHandle,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<(), Gone> {
        if talk.open().is_empty() {
            return Ok(());
        }
        let (away, held) = {
            let state = handle.state();
            (state.away.clone(), state.held)
        };
        // A person decides when it goes on, so that nobody knows how long this may take.
        let group = &handle.group;
        let paused =
            held.then(|| format!("{group} is paused until you run `babybot resume {group}`"));
        match paused.or(away) {
            Some(why) => send(events, ChatEvent::Away { why }).await,
            None => match self.under_way(talk, handle) {
                Some(event) => send(events, event).await,
                None => Ok(()),
            },
        }
    }

    /// What a group is at, where that began before anybody listened.
    fn under_way(&self, talk: &Talk, handle: &GroupHandle) -> Option<ChatEvent> {
        let at_work = |other: &&Arc<GroupHandle>| {
            other.group != handle.group
                && matches!(other.state().stage, AgentState::Working | AgentState::Starting)
        };
        let answering = handle.answering();
        let to = answering.as_ref().and_then(|at| at.to.as_ref());
        let others = to.is_some_and(|to| *to != talk.conversation);
        let stage = handle.state().stage;
        match stage {
            AgentState::Working | AgentState::Starting if others => Some(behind(talk)),
            AgentState::Working => Some(ChatEvent::Thinking),
            AgentState::Starting => Some(ChatEvent::Waking),
            AgentState::Queued => {
                let groups = self.groups();
                let behind = groups.iter().filter(at_work).map(|other| other.group.clone());
                Some(ChatEvent::Queued { behind: behind.collect() })
            }
            AgentState::Asleep | AgentState::Idle | AgentState::Draining => None,
        }
    }

    /// Says which messages are over without having been shown here. Says whether there is one left
    /// whose reply is on its way.
    async fn settle(&self, talk: &Talk, events: &mpsc::Sender<ChatEvent>) -> Result<bool, Gone> {
        let store = self.parts().store;
        let open = talk.open().clone();
        let mut coming = false;
        for id in open {
            let Conversation { channel, chat, .. } = &talk.conversation;
            let fate = match store.fate(channel, chat, &id).await {
                Ok(fate) => fate,
                Err(error) => {
                    tracing::warn!(error = crate::error::chain(&error), "cannot follow a message");
                    return Ok(false);
                }
            };
            let Some(MessageFate { turn: Some(turn), post }) = fate else { continue };
            let outcome = match (turn, post) {
                (TurnState::Cancelled, _) => Outcome::Cancelled,
                (TurnState::Done | TurnState::Failed, Some(PostState::Failed)) => Outcome::Parked,
                (TurnState::Done, Some(PostState::Delivered)) => Outcome::Answered,
                (TurnState::Failed, Some(PostState::Delivered)) => Outcome::GivenUp,
                (TurnState::Done | TurnState::Failed, _) => {
                    coming = true;
                    continue;
                }
                (TurnState::Queued | TurnState::Running, _) => continue,
            };
            talk.open().retain(|open| *open != id);
            send(events, ChatEvent::Over { messages: vec![id], outcome }).await?;
        }
        Ok(coming)
    }
}

/// That the group is at work for somebody else.
fn behind(talk: &Talk) -> ChatEvent {
    ChatEvent::Queued { behind: vec![talk.group.clone()] }
}

/// Passes on what became of a post, and says that what it answers is over; gives the end of the
/// conversation, where it could not be shown.
async fn conclude(
    talk: &Talk,
    shown: Shown,
    outcome: Result<PostOutcome, oneshot::error::RecvError>,
    events: &mpsc::Sender<ChatEvent>,
) -> Result<Option<ChatEnd>, Gone> {
    let Shown { answers, outcome: over, tell } = shown;
    match outcome {
        Ok(PostOutcome::Shown) => {
            let _ = tell.send(Ok(()));
            talk.open().retain(|open| !answers.contains(open));
            send(events, ChatEvent::Over { messages: answers, outcome: over }).await?;
            Ok(None)
        }
        Ok(PostOutcome::NotShown { why }) => {
            // It is for the next conversation, and not for this one again.
            talk.terminal.leave();
            let _ = tell.send(Err(why));
            let why = "the reply is saved; the next chat shows it".to_owned();
            Ok(Some(ChatEnd::Failed { why }))
        }
        Err(_) => Ok(None),
    }
}

/// What happens next; `None`: something may have, and is in the store.
async fn next(happens: &mut broadcast::Receiver<GroupEvent>) -> Option<GroupEvent> {
    match happens.recv().await {
        Ok(event) => Some(event),
        // What was missed is only progress, or is in the store.
        Err(RecvError::Lagged(_)) => None,
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

async fn send(events: &mpsc::Sender<ChatEvent>, event: ChatEvent) -> Result<(), Gone> {
    events.send(event).await.map_err(|_| Gone)
}
