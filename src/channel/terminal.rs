//! The terminal of `babybot chat`, as a channel.
//!
//! A chat is a group, and a thread one conversation with it: a `babybot chat` that runs. What is
//! said there comes in through [`TerminalConversation::say`]; a post is handed to the conversation
//! that asked, and counts as sent once that says that it was shown. Where that one has gone, the
//! post waits for that person's next conversation with the group.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Address, Capabilities, Channel, Formatting, Inbound, InboundEvent, Inbox, NotAccepted,
    Outgoing, Receipt, SendOutcome, Sender,
};
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, GroupName, MessageId, SenderId, ThreadId};
use crate::resource::Writers;

/// How long whoever shows a post may take to say so.
const SHOWN_MAX: Duration = Duration::from_secs(60);
/// Messages that wait to be handed over.
const SAID_MAX: usize = 64;
/// Posts that wait for a conversation to take them.
const POSTS_MAX: usize = 64;
/// The longest text of a post, in characters: a terminal has no bound of its own.
const TEXT_MAX: usize = 256 << 10;

/// The channel that is always there.
pub struct Terminal {
    conversations: Mutex<BTreeMap<ThreadId, Joined>>,
    said: mpsc::Sender<Said>,
    inbound: tokio::sync::Mutex<mpsc::Receiver<Said>>,
}

/// A message on its way in, and whom to tell what became of it.
type Said = (Box<Inbound>, oneshot::Sender<Result<Receipt, NotAccepted>>);

/// A conversation as the channel knows it.
struct Joined {
    chat: ChatId,
    person: SenderId,
    /// Whether it began here, and does not go on from another controller.
    fresh: bool,
    posts: mpsc::Sender<Handed>,
}

/// A post that is handed to a conversation.
#[derive(Debug)]
pub struct Handed {
    /// The post.
    pub post: Outgoing,
    /// Whether it answers an earlier conversation, which has gone.
    pub late: bool,
    /// To be told whether it was shown, or why not.
    pub shown: oneshot::Sender<Result<(), String>>,
    begun: Arc<AtomicBool>,
}

impl Handed {
    /// Takes note that it may be shown from now on. One that is dropped before was not.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }
}

/// One conversation with a group. It leaves when it is dropped.
#[derive(Debug)]
pub struct TerminalConversation {
    terminal: Arc<Terminal>,
    chat: ChatId,
    group: GroupName,
    thread: ThreadId,
    sender: Sender,
    posts: mpsc::Sender<Handed>,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("conversations", &self.joined().len()).finish()
    }
}

impl Default for Terminal {
    fn default() -> Self {
        let (said, inbound) = mpsc::channel(SAID_MAX);
        Self { conversations: Mutex::default(), said, inbound: tokio::sync::Mutex::new(inbound) }
    }
}

impl Terminal {
    /// The chat that a group is at the terminal.
    #[must_use]
    pub fn chat(group: &GroupName) -> ChatId {
        ChatId::new(group.as_str()).expect("a group's name is a chat's name")
    }

    /// A message that is typed at the terminal.
    #[must_use]
    pub fn message(
        group: &GroupName,
        thread: ThreadId,
        sender: Sender,
        (id, text): (MessageId, String),
        at: Timestamp,
    ) -> Inbound {
        Inbound {
            channel: ChannelName::terminal(),
            chat: Self::chat(group),
            thread: Some(thread),
            id,
            sender,
            text,
            quote: None,
            attachments: Vec::new(),
            sent_at: at,
            to: Some(group.clone()),
            direct: true,
        }
    }

    fn joined(&self) -> MutexGuard<'_, BTreeMap<ThreadId, Joined>> {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a conversation, and gives what is handed to it. One that is `fresh` is also handed what
    /// answers earlier conversations of this person that have gone. Who joins again under the same
    /// thread takes the place of who was there.
    pub fn join(
        self: &Arc<Self>,
        group: &GroupName,
        thread: ThreadId,
        sender: Sender,
        fresh: bool,
    ) -> (TerminalConversation, mpsc::Receiver<Handed>) {
        let (posts, handed) = mpsc::channel(POSTS_MAX);
        let chat = Self::chat(group);
        let joined =
            Joined { chat: chat.clone(), person: sender.id.clone(), fresh, posts: posts.clone() };
        self.joined().insert(thread.clone(), joined);
        let terminal = Arc::clone(self);
        let group = group.clone();
        (TerminalConversation { terminal, chat, group, thread, sender, posts }, handed)
    }

    /// The conversation that takes a post, and whether that is late there.
    fn taker(&self, to: &Address) -> Option<(mpsc::Sender<Handed>, bool)> {
        let mut joined = self.joined();
        // A conversation has ended when its receiver is gone.
        joined.retain(|_, one| !one.posts.is_closed());
        let asked = to.thread.as_ref().and_then(|thread| joined.get(thread));
        if let Some(asked) = asked.filter(|asked| asked.chat == to.chat) {
            return Some((asked.posts.clone(), false));
        }
        let same = |person: &SenderId| to.recipient.as_ref().is_none_or(|wanted| wanted == person);
        let next =
            joined.values().find(|one| one.fresh && one.chat == to.chat && same(&one.person));
        next.map(|next| (next.posts.clone(), true))
    }
}

impl TerminalConversation {
    /// Whom it is with, and who talks.
    #[must_use]
    pub fn address(&self) -> Address {
        Address {
            chat: self.chat.clone(),
            thread: Some(self.thread.clone()),
            recipient: Some(self.sender.id.clone()),
        }
    }

    /// Says something. When it returns, that is stored.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn say(
        &self,
        id: MessageId,
        text: String,
        at: Timestamp,
    ) -> Result<Receipt, NotAccepted> {
        let (thread, sender) = (self.thread.clone(), self.sender.clone());
        let message = Terminal::message(&self.group, thread, sender, (id, text), at);
        let closed = || NotAccepted::Failed("the controller takes no messages any more".to_owned());
        let (reply, accepted) = oneshot::channel();
        self.terminal.said.send((Box::new(message), reply)).await.map_err(|_| closed())?;
        accepted.await.map_err(|_| closed())?
    }
}

impl Drop for TerminalConversation {
    fn drop(&mut self) {
        self.leave();
    }
}

impl TerminalConversation {
    /// Is handed nothing from now on.
    pub fn leave(&self) {
        let mut joined = self.terminal.joined();
        // Not whoever took its place.
        if joined.get(&self.thread).is_some_and(|one| one.posts.same_channel(&self.posts)) {
            joined.remove(&self.thread);
        }
    }
}

impl Channel for Terminal {
    fn run<'a>(
        &'a self,
        inbox: &'a dyn Inbox,
        cancelled: CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let mut inbound = self.inbound.lock().await;
            let mut under_way = FuturesUnordered::new();
            loop {
                tokio::select! {
                    said = inbound.recv() => {
                        let Some((message, reply)) = said else { return Ok(()) };
                        under_way.push(async move {
                            let _ = reply.send(inbox.accept(InboundEvent::Message(message)).await);
                        });
                    }
                    Some(()) = under_way.next() => {}
                    () = cancelled.cancelled() => break,
                }
            }
            // Whoever was not told by now does not take it for stored, and says it again.
            while under_way.next().await.is_some() {}
            while let Ok(unheard) = inbound.try_recv() {
                drop(unheard);
            }
            Ok(())
        })
    }

    fn is_reachable(&self, to: &Address) -> bool {
        self.taker(to).is_some()
    }

    fn send<'a>(&'a self, post: &'a Outgoing) -> BoxFuture<'a, SendOutcome> {
        Box::pin(async move {
            let Some((taker, late)) = self.taker(&post.to) else { return SendOutcome::Nobody };
            let (shown, told) = oneshot::channel();
            let begun = Arc::new(AtomicBool::new(false));
            let handed = Handed { post: post.clone(), late, shown, begun: Arc::clone(&begun) };
            if taker.send(handed).await.is_err() {
                return SendOutcome::Nobody;
            }
            let unknown = |why: &str| SendOutcome::Unknown { why: why.to_owned() };
            match tokio::time::timeout(SHOWN_MAX, told).await {
                Ok(Ok(Ok(()))) => SendOutcome::Sent { service_id: None },
                // That conversation ends with it; the next is there, or comes.
                Ok(Ok(Err(why))) => SendOutcome::Retry { after: Some(Duration::ZERO), why },
                Ok(Err(_)) if !begun.load(Ordering::Relaxed) => SendOutcome::Nobody,
                Ok(Err(_)) => unknown("the conversation ended while the reply was shown"),
                Err(_) => unknown("the conversation did not say that the reply was shown"),
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            edit: false,
            typing: false,
            fetch: false,
            threads: true,
            writers: Writers::Owner,
            text_max: TEXT_MAX,
            formatting: Formatting::Plain,
        }
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async { Ok("this machine".to_owned()) })
    }
}
