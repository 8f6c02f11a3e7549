//! The way from a conversation to whatever controller holds it: what was said, once, however many
//! controllers it takes.

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rustix::process::getuid;

use crate::clock::{Clock as _, SystemClock};
use crate::control::client::Client;
use crate::control::{ChatEvent, ChatRequest, ControlError, Person, Said};
use crate::name::{GroupName, MessageId, SenderId, ThreadId};

type Opening = BoxFuture<'static, Result<Events, ControlError>>;
type Events = BoxStream<'static, Result<ChatEvent, ControlError>>;
type Sending = BoxFuture<'static, (MessageId, Result<(), ControlError>)>;

/// A conversation with one group.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) request: ChatRequest,
    opening: Option<Opening>,
    events: Option<Events>,
    /// Whether it is heard what is said.
    joined: bool,
    sending: Option<Sending>,
    /// What was said and is not over, oldest first.
    open: Vec<Open>,
    /// Whether what was said is to be stopped.
    stopping: bool,
}

/// Something that was said and is not over.
#[derive(Debug)]
struct Open {
    said: Said,
    /// Whether a controller said that it is stored.
    kept: bool,
    /// Whether this controller was told.
    told: bool,
}

/// What comes over a link.
#[derive(Debug)]
pub(super) enum Heard {
    /// An event.
    Event(ChatEvent),
    /// Something that was said is stored.
    Stored,
    /// Something that was said was not taken.
    Refused {
        /// What.
        text: String,
        /// Why.
        why: String,
    },
    /// The controller is there no more.
    Lost,
    /// The controller says what cannot be understood.
    Broken(ControlError),
}

/// Who talks: the user of the system.
pub(super) fn person() -> Person {
    let id = SenderId::new(format!("uid-{}", getuid().as_raw())).expect("it is a plain word");
    let name = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    Person { id, name: name.filter(|name| !name.is_empty()).unwrap_or_else(|| "owner".to_owned()) }
}

/// A conversation that nobody has joined yet.
pub(super) fn request(group: &GroupName) -> ChatRequest {
    let thread = ThreadId::new(SystemClock.ordered_bits()).expect("it is a plain word");
    ChatRequest { group: group.clone(), thread, person: person(), resumed: false }
}

impl Link {
    pub(super) fn new(client: Client, request: ChatRequest) -> Self {
        Self {
            client,
            request,
            opening: None,
            events: None,
            joined: false,
            sending: None,
            open: Vec::new(),
            stopping: false,
        }
    }

    /// Goes on with another group.
    pub(super) fn turn_to(&mut self, group: &GroupName) {
        *self = Self::new(self.client.clone(), request(group));
    }

    /// Goes on through another controller, which is told of all that is not over.
    pub(super) fn resume(&mut self, client: Client) {
        self.client = client;
        self.request.resumed = true;
        (self.opening, self.events, self.sending, self.joined) = (None, None, None, false);
        self.open.iter_mut().for_each(|open| open.told = false);
    }

    /// Says something, as soon as what was said before is stored. `kept` says whether it is already.
    pub(super) fn say(&mut self, said: Said, kept: bool) {
        self.stopping = false;
        self.open.push(Open { said, kept, told: false });
    }

    /// Whether everything that was said is over.
    pub(super) fn is_at_rest(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether something that was said is stored and not over.
    pub(super) fn has_kept(&self) -> bool {
        self.open.iter().any(|open| open.kept)
    }

    /// Whether these were said here and are not over.
    pub(super) fn is_of(&self, messages: &[MessageId]) -> bool {
        self.open.iter().any(|open| messages.contains(&open.said.id))
    }

    /// Takes note that messages are over.
    pub(super) fn conclude(&mut self, messages: &[MessageId]) {
        self.open.retain(|open| !messages.contains(&open.said.id));
        self.stopping &= !self.open.is_empty();
    }

    /// What was said and never stored, as far as is known.
    pub(super) fn unsent(&mut self) -> Vec<String> {
        let unsent: Vec<Open> = self.open.extract_if(.., |open| !open.kept).collect();
        unsent.into_iter().map(|open| open.said.text).collect()
    }

    /// Has all that was said stopped. What is on its way to the store is stopped once it is there.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        let (client, thread) = (self.client.clone(), self.request.thread.clone());
        tokio::spawn(async move { client.cancel(&thread).await });
    }

    /// What comes next. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Heard {
        if self.events.is_none() {
            let (client, request) = (self.client.clone(), self.request.clone());
            let open = || -> Opening { Box::pin(async move { client.chat(&request).await }) };
            let opened = self.opening.get_or_insert_with(open).await;
            self.opening = None;
            match opened {
                Ok(events) => self.events = Some(events),
                Err(ControlError::Ended | ControlError::Broken(_)) => return Heard::Lost,
                Err(error) => return Heard::Broken(error),
            }
        }
        self.send_next();
        let Self { events: Some(events), sending, joined, .. } = self else { return Heard::Lost };
        let stored = async {
            match sending {
                Some(sending) => sending.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    *joined |= event == ChatEvent::Joined;
                    Heard::Event(event)
                }
                // It ended or was killed: what was stored is gone on with.
                None | Some(Err(ControlError::Ended | ControlError::Broken(_))) => Heard::Lost,
                Some(Err(error)) => Heard::Broken(error),
            },
            (id, told) = stored => self.told(&id, told),
        }
    }

    fn send_next(&mut self) {
        if self.sending.is_some() || !self.joined {
            return;
        }
        let Some(next) = self.open.iter().find(|open| !open.told) else { return };
        let (client, thread) = (self.client.clone(), self.request.thread.clone());
        let said = next.said.clone();
        self.sending = Some(Box::pin(async move {
            let told = client.say(&thread, &said).await;
            (said.id, told)
        }));
    }

    fn told(&mut self, id: &MessageId, told: Result<(), ControlError>) -> Heard {
        self.sending = None;
        let Some(at) = self.open.iter().position(|open| open.said.id == *id) else {
            // It is over already.
            return Heard::Stored;
        };
        match told {
            Ok(()) => {
                (self.open[at].kept, self.open[at].told) = (true, true);
                if self.stopping {
                    self.stop();
                }
                Heard::Stored
            }
            Err(ControlError::Ended | ControlError::Broken(_)) => Heard::Lost,
            Err(ControlError::Refused(why)) => {
                Heard::Refused { text: self.open.remove(at).said.text, why }
            }
            Err(error) => Heard::Broken(error),
        }
    }
}
