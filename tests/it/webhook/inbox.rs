//! What stands behind a webhook in these tests: a chat `kitchen`, kept in memory.

use std::sync::Mutex;

use babybot::channel::{
    Address, Channel, Fate, Inbound, InboundEvent, Inbox, NotAccepted, Outgoing, PostNumber,
    Receipt,
};
use babybot::name::{ChatId, MessageId};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

#[derive(Default)]
pub(crate) struct FakeInbox {
    pub(crate) stored: Mutex<Vec<Inbound>>,
    pub(crate) posts: Mutex<Vec<Outgoing>>,
    /// Whether the store fails.
    pub(crate) broken: Mutex<bool>,
}

impl FakeInbox {
    /// Answers a message, and hands the post to the channel.
    pub(crate) async fn reply(&self, channel: &dyn Channel, id: &str, text: &str) {
        let post = {
            let mut posts = self.posts.lock().unwrap();
            let number = posts.len() as i64 + 1;
            posts.push(post(number, id, text));
            posts.last().unwrap().clone()
        };
        channel.send(&post).await;
    }

    fn fails(&self) -> Result<(), String> {
        if *self.broken.lock().unwrap() { Err("no space left".to_owned()) } else { Ok(()) }
    }
}

pub(crate) fn post(number: PostNumber, id: &str, text: &str) -> Outgoing {
    let chat = ChatId::new("kitchen").unwrap();
    Outgoing {
        number,
        to: Address { chat, thread: None, recipient: None },
        text: text.to_owned(),
        notice: false,
        answers: vec![MessageId::new(id).unwrap()],
        uncertain: false,
    }
}

impl Inbox for FakeInbox {
    fn accept(&self, event: InboundEvent) -> BoxFuture<'_, Result<Receipt, NotAccepted>> {
        let InboundEvent::Message(message) = event else { unreachable!("a message") };
        let accepted = self.fails().map_err(NotAccepted::Failed).map(|()| {
            let mut stored = self.stored.lock().unwrap();
            let fate = match message.text.as_str() {
                _ if message.chat.as_str() != "kitchen" => Fate::Ignored,
                "by the way" => Fate::Kept,
                _ => Fate::Answered,
            };
            let fresh = !stored.iter().any(|stored| stored.id == message.id);
            if fresh && fate != Fate::Ignored {
                stored.push(*message);
            }
            Receipt { fresh, fate }
        });
        ready(accepted).boxed()
    }

    fn posts<'a>(
        &'a self,
        _chat: &'a ChatId,
        after: Option<PostNumber>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Outgoing>, String>> {
        let found = self.fails().map(|()| {
            let posts = self.posts.lock().unwrap();
            let later = posts.iter().filter(|post| post.number > after.unwrap_or_default());
            later.take(limit as usize).cloned().collect()
        });
        ready(found).boxed()
    }

    fn answer<'a>(
        &'a self,
        _chat: &'a ChatId,
        message: &'a MessageId,
    ) -> BoxFuture<'a, Result<Option<Outgoing>, String>> {
        let found = self.fails().map(|()| {
            let posts = self.posts.lock().unwrap();
            posts.iter().find(|post| post.answers.contains(message)).cloned()
        });
        ready(found).boxed()
    }

    fn hears(&self, chat: &ChatId) -> bool {
        chat.as_str() == "kitchen"
    }
}
