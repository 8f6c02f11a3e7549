//! What a webhook does with a request.

use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Webhook;
use super::answer::{Answer, Refusal, json_answer};
use super::request::{self, Asked, Message};
use crate::channel::{Fate, Inbound, InboundEvent, Inbox, NotAccepted, Outgoing, PostNumber};
use crate::clock::{Clock as _, SystemClock};
use crate::name::ChatId;

/// Most replies of one answer.
const REPLIES_MAX: u32 = 16;
/// How often whoever waits looks again although nothing was said.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Answers one request.
pub(super) async fn answer(
    webhook: &Webhook,
    inbox: &dyn Inbox,
    cancelled: &CancellationToken,
    request: Request<Incoming>,
) -> Answer {
    let desk = Desk { webhook, inbox, cancelled };
    desk.serve(request).await.unwrap_or_else(Refusal::answer)
}

/// Where requests are served.
struct Desk<'a> {
    webhook: &'a Webhook,
    inbox: &'a dyn Inbox,
    cancelled: &'a CancellationToken,
}

impl Desk<'_> {
    async fn serve(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let (parts, body) = request.into_parts();
        request::check_source(&parts.headers, self.webhook.listen)?;
        let rates = &self.webhook.rates;
        if !request::is_authorized(&parts.headers, &self.webhook.token) {
            return Err(match rates.admits_stranger() {
                true => Refusal::unauthorized(),
                false => Refusal::too_many("too many requests without the token"),
            });
        }
        if !rates.admits_request() {
            return Err(Refusal::too_many("too many requests in a second"));
        }
        let asked = request::asked(&parts)?;
        // Before anything is stored: whoever is refused tries again.
        let waits = match asked.wait().is_zero() {
            true => None,
            false => Some(self.webhook.waits.try_acquire()),
        };
        if let Some(Err(_)) = waits {
            return Err(Refusal::unavailable("too many requests wait for a reply"));
        }
        match asked {
            Asked::Write { chat, wait } => {
                let message = request::message(&parts.headers, body).await?;
                self.write(chat, message, wait).await
            }
            Asked::Read { chat, after, wait } => self.read(&chat, after, wait).await,
        }
    }

    /// Stores a message, and waits for its reply.
    async fn write(
        &self,
        chat: ChatId,
        message: Message,
        wait: Duration,
    ) -> Result<Answer, Refusal> {
        let id = message.id()?.unwrap_or_else(|| SystemClock.message_id());
        let inbound = Inbound {
            channel: self.webhook.name.clone(),
            chat: chat.clone(),
            thread: None,
            id: id.clone(),
            sender: message.sender(&self.webhook.name)?,
            text: message.text,
            quote: None,
            attachments: Vec::new(),
            sent_at: SystemClock.now(),
            to: None,
            // Whoever asks a program's question wants an answer.
            direct: true,
        };
        let receipt = self.inbox.accept(InboundEvent::Message(Box::new(inbound))).await;
        let receipt = receipt.map_err(|error| match error {
            NotAccepted::Refused(why) => Refusal::too_large(why),
            NotAccepted::Failed(why) => failed(&why),
        })?;
        let answered = match receipt.fate {
            Fate::Answered => true,
            Fate::Kept => false,
            Fate::Ignored => return Err(self.unknown(&chat)),
        };
        let mut said = json!({ "id": id, "duplicate": !receipt.fresh, "answered": answered });
        let look = || self.inbox.answer(&chat, &id);
        let reply = match answered && !wait.is_zero() {
            true => self.wait_for(wait, look).await?,
            false => None,
        };
        let Some(reply) = reply else { return Ok(json_answer(StatusCode::ACCEPTED, &said)) };
        said["reply"] = shown(&reply);
        Ok(json_answer(StatusCode::OK, &said))
    }

    /// The replies of a chat after a cursor, and the cursor to go on from.
    async fn read(
        &self,
        chat: &ChatId,
        after: Option<PostNumber>,
        wait: Duration,
    ) -> Result<Answer, Refusal> {
        if !self.inbox.hears(chat) {
            return Err(self.unknown(chat));
        }
        let look = || -> BoxFuture<'_, _> {
            let posts = self.inbox.posts(chat, after, REPLIES_MAX);
            Box::pin(async { Ok(Some(posts.await?).filter(|replies| !replies.is_empty())) })
        };
        let replies = self.wait_for(wait, look).await?.unwrap_or_default();
        let cursor = replies.last().map(|last| last.number).or(after).unwrap_or_default();
        let replies: Vec<Value> = replies.iter().map(shown).collect();
        Ok(json_answer(StatusCode::OK, &json!({ "replies": replies, "cursor": cursor })))
    }

    fn unknown(&self, chat: &ChatId) -> Refusal {
        Refusal::not_found(format!(
            "no group binds {}:{chat}, or this sender may not write to it",
            self.webhook.name
        ))
    }

    /// Looks again whenever there may be something, for so long.
    async fn wait_for<'b, T>(
        &self,
        wait: Duration,
        look: impl Fn() -> BoxFuture<'b, Result<Option<T>, String>>,
    ) -> Result<Option<T>, Refusal> {
        let mut posts = self.webhook.posts.subscribe();
        let found = look().await.map_err(|why| failed(&why))?;
        if found.is_some() || wait.is_zero() {
            return Ok(found);
        }
        let until = Instant::now() + wait;
        loop {
            let next_look = (Instant::now() + LOOK_EVERY).min(until);
            tokio::select! {
                _ = posts.changed() => {}
                () = tokio::time::sleep_until(next_look) => {}
                () = self.cancelled.cancelled() => return Ok(None),
            }
            let found = look().await.map_err(|why| failed(&why))?;
            if found.is_some() || Instant::now() >= until {
                return Ok(found);
            }
        }
    }
}

fn failed(why: &str) -> Refusal {
    tracing::warn!(error = why, "a webhook cannot use the store");
    Refusal::unavailable("this cannot be stored or read now")
}

fn shown(reply: &Outgoing) -> Value {
    json!({
        "cursor": reply.number,
        "text": reply.text,
        "notice": reply.notice,
        "answers": reply.answers,
    })
}
