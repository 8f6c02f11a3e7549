//! A person who talks to a group through the controller.
//!
//! The terminal is a channel like others: what is said is stored before it is
//! acted on, a reply is stored before it is shown, and it counts as shown once
//! whoever shows it says so. One conversation of a group goes on at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::Shared;
use super::group::{GroupEvent, GroupHandle};
use crate::control::{AgentState, ChatEnd, ChatEvent, ChatRequest, PostOutcome};
use crate::error::chain;
use crate::host::{self, Worked};
use crate::name::ChannelName;
use crate::resource::ResourceId;
use crate::session::Progress;
use crate::store::{
    MessageSeq, OUTBOX_DUE_MAX, OutboxId, Post, PostKind, PostState, StoreError, TurnState,
    Unsettled,
};

/// How long whoever shows a post may take to say so.
const SHOWN_MAX: Duration = Duration::from_secs(60);

/// How long nothing may happen until the store is asked again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How long after a group came to rest it may take until that is told.
const TOLD_SOON: Duration = Duration::from_millis(200);

/// How soon is looked again for whoever serves a group that is back.
const SUCCESSOR_SOON: Duration = Duration::from_millis(50);

/// Why a conversation ends before its time.
enum Broken {
    /// Whoever talked went away.
    Gone,
    /// The controller makes way for another.
    Closing,
    /// The store failed.
    Store(StoreError),
    /// What had to be shown could not be.
    NotShown,
    /// There is no such group.
    Unknown,
    /// Nobody serves the group any more.
    Removed,
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Shared {
    /// Takes what is said, and tells how it goes.
    pub(super) async fn converse(
        self: &Arc<Self>,
        request: ChatRequest,
        events: &mpsc::Sender<ChatEvent>,
    ) {
        let _going = self.conversations.token();
        let group = request.group.clone();
        let end = match self.talk_to_whoever_serves(request, events).await {
            Ok(end) => end,
            Err(Broken::Gone) => return,
            Err(Broken::Closing) => ChatEnd::HandedOver,
            Err(Broken::Store(error)) => ChatEnd::Failed { why: chain(&error) },
            Err(Broken::NotShown) => {
                ChatEnd::Failed { why: "the reply is saved; the next chat shows it".into() }
            }
            Err(Broken::Unknown) => ChatEnd::Failed { why: format!("there is no group {group}") },
            Err(Broken::Removed) => {
                let why = format!("the group {group} was removed; waiting messages are kept");
                ChatEnd::Failed { why }
            }
        };
        let _ = events.send(ChatEvent::End { end }).await;
    }

    /// Goes on with whoever serves the group next, where it was taken out and is back.
    async fn talk_to_whoever_serves(
        self: &Arc<Self>,
        mut request: ChatRequest,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<ChatEnd, Broken> {
        let id = ResourceId::Group(request.group.clone());
        loop {
            let talked = match self.handle(&request.group) {
                Some(handle) => self.talk(&handle, &mut request, events).await,
                None => Err(Broken::Unknown),
            };
            match talked {
                Err(Broken::Removed | Broken::Unknown) if self.host().specs().contains_key(&id) => {
                    tokio::select! {
                        () = tokio::time::sleep(SUCCESSOR_SOON) => {}
                        () = events.closed() => return Err(Broken::Gone),
                        () = self.closed.cancelled() => return Err(Broken::Closing),
                    }
                }
                ended => return ended,
            }
        }
    }

    async fn talk(
        self: &Arc<Self>,
        handle: &Arc<GroupHandle>,
        request: &mut ChatRequest,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<ChatEnd, Broken> {
        let _conversation = match handle.conversation.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                send(events, ChatEvent::Queued { behind: vec![handle.group.clone()] }).await?;
                tokio::select! {
                    turn = handle.conversation.lock() => turn,
                    () = events.closed() => return Err(Broken::Gone),
                    () = self.closing.cancelled() => return Err(Broken::Closing),
                }
            }
        };
        if handle.is_gone() {
            return Err(Broken::Removed);
        }
        // From here on: what happens to a message is heard from its first moment.
        let mut group_events = handle.group_events.subscribe();
        let mut said = request.said.map(MessageSeq);
        // What was left unfinished is answered before, so that each has a reply of its own.
        if said.is_none() && handle.state().away.is_none() {
            let last = self.follow_turns(handle, None, &mut group_events, events).await?;
            if last == Some(Worked::Cancelled) {
                return Ok(ChatEnd::Cancelled);
            }
        }
        if let Some(text) = request.text.clone() {
            if self.closing.is_cancelled() {
                return Err(Broken::Closing);
            }
            let (shared, waking, id) = (Arc::clone(self), Arc::clone(handle), request.id.clone());
            // Whoever talks may go away right now: what is stored is answered all the same.
            let accepted = tokio::spawn(async move {
                let host = shared.host();
                let seq = host.accept_as(&waking.group, "owner", &text, id).await?;
                waking.nudge();
                shared.tell();
                Ok(seq)
            });
            let seq = accepted.await.map_err(|_| Broken::Gone)?.map_err(|error| match error {
                host::HostError::Store(error) => Broken::Store(error),
                _ => Broken::Gone,
            })?;
            said = Some(seq);
            (request.said, request.text) = (Some(seq.0), None);
            send(events, ChatEvent::Stored { seq: seq.0 }).await?;
        }
        if said.is_none() {
            return Ok(ChatEnd::Nothing);
        }
        let away = handle.state().away.clone();
        if let Some(why) = away {
            send(events, ChatEvent::Away { why }).await?;
        }
        if handle.state().held {
            let what = format!("`babybot resume {}`: the group is paused", handle.group);
            send(events, ChatEvent::Waits { what }).await?;
        }
        self.follow_turns(handle, said, &mut group_events, events).await?;
        let turn = match said {
            Some(said) => self.parts().store.turn_of(said).await?,
            None => None,
        };
        Ok(match turn.map(|turn| turn.state) {
            Some(TurnState::Done) => ChatEnd::Answered,
            Some(TurnState::Cancelled) => ChatEnd::Cancelled,
            Some(TurnState::Failed) => ChatEnd::GivenUp,
            _ => ChatEnd::Nothing,
        })
    }

    /// Follows a group until nothing of it waits, and hands over what there is to show.
    async fn follow_turns(
        self: &Arc<Self>,
        handle: &Arc<GroupHandle>,
        said: Option<MessageSeq>,
        group_events: &mut broadcast::Receiver<GroupEvent>,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<Option<Worked>, Broken> {
        let (mut last, mut waited) = (None, false);
        if let Some(event) = self.under_way(handle) {
            send(events, event).await?;
        }
        loop {
            // What ended before everything did is in the store, and is handed over still.
            let over = self.closed.is_cancelled();
            let open = self.hand_over(handle, said, events).await?;
            if handle.state().stage != AgentState::Working && !open {
                while let Ok(happening) = group_events.try_recv() {
                    if let GroupEvent::Ended(worked) = happening {
                        last = Some(worked);
                    }
                }
                if said.is_none() && waited && last.is_none() {
                    last = how_it_ended(group_events).await;
                }
                return Ok(last);
            }
            waited |= open;
            if over {
                return Err(Broken::Closing);
            }
            if handle.is_gone() && !self.closing.is_cancelled() {
                return Err(Broken::Removed);
            }
            handle.nudge();
            match self.next(group_events, events).await? {
                Some(GroupEvent::Ended(worked)) => {
                    let over = worked == Worked::Cancelled;
                    last = Some(worked);
                    if over {
                        self.hand_over(handle, said, events).await?;
                        return Ok(last);
                    }
                }
                Some(GroupEvent::Progress(progress)) => {
                    let away = matches!(progress, Progress::Waits(_));
                    if let Some(event) = event_of(progress) {
                        send(events, event).await?;
                    }
                    // What waits for something else holds up no message that is yet to be stored.
                    if away && said.is_none() {
                        return Ok(last);
                    }
                }
                Some(GroupEvent::Waits(what)) => {
                    let queued = self.under_way(handle);
                    let queued = queued.filter(|event| matches!(event, ChatEvent::Queued { .. }));
                    send(events, queued.unwrap_or(ChatEvent::Waits { what })).await?;
                }
                Some(GroupEvent::Rests) | None => {}
            }
        }
    }

    /// What a group is at, where that began before anybody listened.
    fn under_way(&self, handle: &GroupHandle) -> Option<ChatEvent> {
        let at_work = |other: &&Arc<GroupHandle>| {
            other.group != handle.group
                && matches!(other.state().stage, AgentState::Working | AgentState::Starting)
        };
        let state = handle.state();
        let (stage, away) = (state.stage, state.away.is_some());
        drop(state);
        match stage {
            // That was told, and nothing else is under way.
            _ if away => None,
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

    async fn next(
        &self,
        group_events: &mut broadcast::Receiver<GroupEvent>,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<Option<GroupEvent>, Broken> {
        tokio::select! {
            happening = group_events.recv() => match happening {
                Ok(happening) => Ok(Some(happening)),
                // What was missed is only progress, or is in the store.
                Err(RecvError::Lagged(_)) => Ok(None),
                Err(RecvError::Closed) => Err(Broken::Closing),
            },
            () = events.closed() => Err(Broken::Gone),
            () = self.closed.cancelled() => Ok(None),
            // What nothing told of.
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(None),
        }
    }

    /// Hands over what waits for this terminal: stored before, marked after. Says whether something
    /// of the group was not answered yet.
    async fn hand_over(
        self: &Arc<Self>,
        handle: &GroupHandle,
        said: Option<MessageSeq>,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<bool, Broken> {
        let store = self.parts().store;
        let chat = host::terminal_chat(&handle.group);
        loop {
            let Unsettled { due, open } =
                store.unsettled(&ChannelName::terminal(), &chat, &handle.group).await?;
            // There may be more than are given at once.
            let last = due.len() < OUTBOX_DUE_MAX as usize;
            for post in due {
                let uncertain = post.state == PostState::Uncertain;
                let asked = async {
                    match &post.turn {
                        Some(turn) => store.turn_messages(turn).await,
                        None => Ok(Vec::new()),
                    }
                };
                // Both at once: the store does them in one go.
                let (sending, asked) = tokio::join!(store.sending(post.id), asked);
                let (post, asked) = (sending?, asked?);
                let ours = asked.iter().any(|message| Some(message.seq) == said);
                let earlier = asked.first().filter(|_| !ours).map(|m| m.incoming.text.clone());
                self.show(&post, uncertain, earlier, events).await?;
            }
            if last {
                return Ok(open);
            }
        }
    }

    async fn show(
        self: &Arc<Self>,
        post: &Post,
        uncertain: bool,
        earlier: Option<String>,
        events: &mpsc::Sender<ChatEvent>,
    ) -> Result<(), Broken> {
        let store = self.parts().store;
        let outcome = self.expect_acknowledgement(post.id);
        let doubt = Doubt { shared: Arc::clone(self), post: Some(post.id) };
        let reply = post.kind != PostKind::Notice;
        let (id, text) = (post.id.0, post.text.clone());
        send(events, ChatEvent::Post { id, reply, text, uncertain, earlier }).await?;
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(SHOWN_MAX, outcome) => outcome,
            () = events.closed() => return Err(Broken::Gone),
        };
        match outcome {
            Ok(Ok(PostOutcome::Shown)) => {
                store.delivered(post.id, self.clock().now()).await?;
                doubt.resolve();
                Ok(())
            }
            Ok(Ok(PostOutcome::NotShown { why })) => {
                store.undelivered(post.id, &why).await?;
                doubt.resolve();
                Err(Broken::NotShown)
            }
            Ok(Err(_)) | Err(_) => Err(Broken::Gone),
        }
    }

    fn expect_acknowledgement(&self, post: OutboxId) -> oneshot::Receiver<PostOutcome> {
        let (sender, outcome) = oneshot::channel();
        self.acknowledgements().insert(post.0, sender);
        outcome
    }

    pub(super) fn acknowledgements(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<i64, oneshot::Sender<PostOutcome>>>
    {
        self.acknowledgements.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A post that was handed over, and of which nobody has said yet what became of it.
struct Doubt {
    shared: Arc<Shared>,
    post: Option<OutboxId>,
}

impl Doubt {
    fn resolve(mut self) {
        if let Some(post) = self.post.take() {
            self.shared.acknowledgements().remove(&post.0);
        }
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        let Some(post) = self.post else { return };
        self.shared.acknowledgements().remove(&post.0);
        let store = self.shared.parts().store;
        tokio::spawn(async move {
            if let Err(error) = store.interrupted(post).await {
                tracing::warn!(%error, "cannot record if a reply was shown");
            }
        });
    }
}

/// How what a group was at ended: whoever comes to rest tells it a moment later.
async fn how_it_ended(group_events: &mut broadcast::Receiver<GroupEvent>) -> Option<Worked> {
    let told = async {
        loop {
            match group_events.recv().await {
                Ok(GroupEvent::Ended(worked)) => return Some(worked),
                Ok(GroupEvent::Rests) | Err(RecvError::Closed) => return None,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            }
        }
    };
    tokio::time::timeout(TOLD_SOON, told).await.unwrap_or_default()
}

async fn send(events: &mpsc::Sender<ChatEvent>, event: ChatEvent) -> Result<(), Broken> {
    events.send(event).await.map_err(|_| Broken::Gone)
}

fn event_of(progress: Progress) -> Option<ChatEvent> {
    match progress {
        Progress::Tool { name, arguments } => Some(ChatEvent::Tool { name, arguments }),
        Progress::Struck(limit) => Some(ChatEvent::Struck { limit: limit.to_owned() }),
        Progress::Note(text) => Some(ChatEvent::Note { text }),
        Progress::Waits(why) => Some(ChatEvent::Away { why }),
        Progress::Back => Some(ChatEvent::Back),
        Progress::Retry { why, wait } => Some(ChatEvent::Retry { why, wait }),
        Progress::Waking => Some(ChatEvent::Waking),
        // After a tool, the model is asked again.
        Progress::Thinking | Progress::ToolEnded => Some(ChatEvent::Thinking),
        Progress::Text { text, fresh } => Some(ChatEvent::Text { text, fresh }),
        Progress::Measured(_) => None,
    }
}
