//! What comes in: routed, and stored before anything else is done with it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Host, HostError};
use crate::channel::{Fate, Inbound, InboundEvent, Receipt};
use crate::clock::Timestamp;
use crate::name::GroupName;
use crate::resource::{ResourceId, Spec, Writers};
use crate::route::prompt::Attached;
use crate::route::{Addressed, Route, Routes};
use crate::store::{Incoming, Message, Store};

/// What became of something that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What its channel is told.
    pub receipt: Receipt,
    /// The group that has something to do now.
    pub group: Option<GroupName>,
}

impl Taken {
    fn of(fate: Fate, fresh: bool, group: Option<GroupName>) -> Self {
        Self { receipt: Receipt { fresh, fate }, group }
    }
}

impl Host {
    /// See [`accept`].
    ///
    /// # Errors
    /// As [`accept`].
    pub async fn accept(&self, event: InboundEvent, writers: Writers) -> Result<Taken, HostError> {
        let now = self.parts.clock.now();
        accept(&self.parts.store, (&self.routes, &self.specs), event, writers, now).await
    }
}

/// Routes and stores what came in through a channel, once, however often it is handed over.
/// `writers` says who writes there.
///
/// # Errors
/// When it is too large, or the store fails.
pub async fn accept(
    store: &Store,
    (routes, specs): (&Routes, &BTreeMap<ResourceId, Spec>),
    event: InboundEvent,
    writers: Writers,
    now: Timestamp,
) -> Result<Taken, HostError> {
    let inbound = match event {
        InboundEvent::Message(inbound) => *inbound,
        InboundEvent::Edited(inbound) => {
            let Inbound { channel, chat, id, text, .. } = *inbound;
            let changed = store.edit_message(&channel, &chat, &id, &text).await?;
            return Ok(Taken::of(kept_if(changed), changed, None));
        }
        InboundEvent::Deleted { channel, chat, id } => {
            let changed = store.delete_message(&channel, &chat, &id).await?;
            return Ok(Taken::of(kept_if(changed), changed, None));
        }
        InboundEvent::Moved { channel, from, to } => {
            let changed = store.move_chat(&channel, &from, &to).await?;
            return Ok(Taken::of(kept_if(changed), changed, None));
        }
    };
    let addressed = Addressed {
        channel: &inbound.channel,
        chat: &inbound.chat,
        to: inbound.to.as_ref(),
        sender: &inbound.sender.id,
        direct: inbound.direct,
        writers,
        text: &inbound.text,
    };
    let (group, wakes) = match routes.route(specs, &addressed) {
        Route::Nobody => return Ok(Taken::of(Fate::Ignored, false, None)),
        Route::Context(group) => (group, false),
        Route::Answer(group) => (group, true),
    };
    let details = details(&inbound);
    let accepted = store
        .accept(Incoming {
            channel: inbound.channel,
            chat: inbound.chat,
            thread: inbound.thread,
            message_id: inbound.id,
            group: group.clone(),
            sender_id: Some(inbound.sender.id),
            sender: inbound.sender.name,
            text: inbound.text,
            details,
            sent_at: inbound.sent_at,
            received_at: now,
            wakes,
        })
        .await?;
    let fate = if wakes { Fate::Answered } else { Fate::Kept };
    Ok(Taken::of(fate, accepted.fresh, wakes.then_some(group)))
}

fn kept_if(changed: bool) -> Fate {
    if changed { Fate::Kept } else { Fate::Ignored }
}

/// What came with a message, as the store keeps it.
fn details(inbound: &Inbound) -> Option<Value> {
    let quote = inbound
        .quote
        .as_ref()
        .map(|quote| json!({"id": quote.id, "sender": quote.sender, "text": quote.text}));
    let attachments = inbound.attachments.iter().map(|file| {
        json!({
            "id": file.id, "name": file.name, "media_type": file.media_type, "size": file.size,
        })
    });
    let attachments: Vec<Value> = attachments.collect();
    (quote.is_some() || !attachments.is_empty())
        .then(|| json!({"quote": quote, "attachments": attachments}))
}

/// The files that came with a message.
pub(super) fn attachments(message: &Message) -> Vec<Attached<'_>> {
    let files =
        message.incoming.details.as_ref().and_then(|details| details["attachments"].as_array());
    let attached = files.into_iter().flatten().filter_map(|file| {
        Some(Attached {
            name: file["name"].as_str()?,
            media_type: file["media_type"].as_str(),
            size: file["size"].as_u64(),
        })
    });
    attached.collect()
}

/// Who is quoted in a message, and with which words.
pub(super) fn quote(message: &Message) -> Option<(&str, &str)> {
    let quote = message.incoming.details.as_ref()?.get("quote")?;
    Some((quote.get("sender")?.as_str()?, quote.get("text")?.as_str()?))
}
