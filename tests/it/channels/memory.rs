//! A third kind of channel: it keeps in memory what it is given, and says what the test has it say.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use babybot::channel::{
    Address, Capabilities, Channel, Formatting, Inbound, InboundEvent, Inbox, NotAccepted,
    Outgoing, Receipt, SendOutcome, Sender,
};
use babybot::clock::Timestamp;
use babybot::name::ChannelName;
use babybot::resource::Writers;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::support::workshop::PATIENCE;

type Said = (InboundEvent, oneshot::Sender<Result<Receipt, NotAccepted>>);

#[derive(Debug)]
pub(super) struct Memory {
    said: mpsc::UnboundedSender<Said>,
    inbound: tokio::sync::Mutex<mpsc::UnboundedReceiver<Said>>,
    sent: mpsc::UnboundedSender<Outgoing>,
    outbound: tokio::sync::Mutex<mpsc::UnboundedReceiver<Outgoing>>,
    /// What becomes of the next posts; all further ones are sent.
    answers: Mutex<VecDeque<SendOutcome>>,
    there: Mutex<bool>,
    /// Where it was shown that an answer is on its way.
    typed: mpsc::UnboundedSender<Address>,
    typing: tokio::sync::Mutex<mpsc::UnboundedReceiver<Address>>,
    /// What it says of itself.
    pub(super) health: Mutex<Result<String, String>>,
    /// Whether it shows that and never comes back.
    hangs: Mutex<bool>,
}

impl Memory {
    pub(super) fn new() -> Arc<Self> {
        let (said, inbound) = mpsc::unbounded_channel();
        let (sent, outbound) = mpsc::unbounded_channel();
        let (typed, typing) = mpsc::unbounded_channel();
        Arc::new(Self {
            said,
            inbound: tokio::sync::Mutex::new(inbound),
            sent,
            outbound: tokio::sync::Mutex::new(outbound),
            answers: Mutex::default(),
            there: Mutex::new(true),
            typed,
            typing: tokio::sync::Mutex::new(typing),
            health: Mutex::new(Ok("a test".to_owned())),
            hangs: Mutex::default(),
        })
    }

    pub(super) fn name() -> ChannelName {
        ChannelName::new("memory").unwrap()
    }

    pub(super) fn will_say(&self, answers: impl IntoIterator<Item = SendOutcome>) {
        self.answers.lock().unwrap().extend(answers);
    }

    pub(super) fn is_there(&self, there: bool) {
        *self.there.lock().unwrap() = there;
    }

    /// The next post that it is given.
    pub(super) async fn next(&self) -> Outgoing {
        let mut outbound = self.outbound.lock().await;
        tokio::time::timeout(PATIENCE, outbound.recv()).await.expect("a post is sent").unwrap()
    }

    /// Has it never come back from showing that an answer is on its way.
    pub(super) fn hang(&self) {
        *self.hangs.lock().unwrap() = true;
    }

    /// Where it is shown next that an answer is on its way.
    pub(super) async fn typing_at(&self) -> Address {
        let mut typing = self.typing.lock().await;
        tokio::time::timeout(PATIENCE, typing.recv()).await.expect("it is shown").unwrap()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.outbound.try_lock().is_ok_and(|mut outbound| outbound.try_recv().is_err())
    }

    /// Somebody writes something.
    pub(super) async fn write(&self, event: InboundEvent) -> Receipt {
        let (reply, receipt) = oneshot::channel();
        self.said.send((event, reply)).unwrap();
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap().unwrap()
    }
}

/// A message in the chat `kitchen`.
pub(super) fn message(id: &str, sender: &str, text: &str) -> Inbound {
    Inbound {
        channel: Memory::name(),
        chat: "kitchen".parse().unwrap(),
        thread: None,
        id: id.parse().unwrap(),
        sender: Sender { id: sender.parse().unwrap(), name: sender.to_owned() },
        text: text.to_owned(),
        quote: None,
        attachments: Vec::new(),
        sent_at: Timestamp(1),
        to: None,
        direct: false,
    }
}

impl Channel for Memory {
    fn run<'a>(
        &'a self,
        inbox: &'a dyn Inbox,
        cancelled: CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let mut inbound = self.inbound.lock().await;
            loop {
                tokio::select! {
                    said = inbound.recv() => {
                        let Some((event, reply)) = said else { return Ok(()) };
                        let _ = reply.send(inbox.accept(event).await);
                    }
                    () = cancelled.cancelled() => return Ok(()),
                }
            }
        })
    }

    fn is_reachable(&self, _: &Address) -> bool {
        *self.there.lock().unwrap()
    }

    fn send<'a>(&'a self, post: &'a Outgoing) -> BoxFuture<'a, SendOutcome> {
        self.sent.send(post.clone()).unwrap();
        let said = self.answers.lock().unwrap().pop_front();
        let service_id = format!("service-{}", post.number).parse().ok();
        Box::pin(async move { said.unwrap_or(SendOutcome::Sent { service_id }) })
    }

    fn typing<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, ()> {
        self.typed.send(to.clone()).unwrap();
        let hangs = *self.hangs.lock().unwrap();
        Box::pin(async move {
            if hangs {
                std::future::pending().await
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            edit: false,
            typing: true,
            fetch: false,
            threads: false,
            writers: Writers::Strangers,
            text_max: 1_000,
            formatting: Formatting::Plain,
        }
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async { self.health.lock().unwrap().clone() })
    }
}

/// A service that wants to be left alone.
pub(super) fn busy(after: Option<Duration>) -> SendOutcome {
    SendOutcome::Retry { after, why: "busy".to_owned() }
}
