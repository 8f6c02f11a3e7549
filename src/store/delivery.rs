//! How an entry of the outbox goes out: at least once, and never for ever.
//!
//! ```text
//! pending ─► sending ─► delivered
//!    ▲        │  │ └──► failed
//!    └────────┘  └────► uncertain ─► sending …   (a crash in between)
//! ```

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::conversation::Conversation;
use super::error::{CommandError, StoreError, check_size};
use super::open::Store;
use super::outbox::{Post, find, post};
use super::state::{OutboxId, PostKind, PostState};
use super::{rows, turns};
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, MessageId};

/// How often an entry is sent that the channel cannot take, before it has failed.
pub const OUTBOX_ATTEMPTS_MAX: u32 = 5;

/// How often nobody may be able to tell what became of an entry, before it has failed:
/// after the first time it is sent once more, after the second it is shown.
pub const OUTBOX_INTERRUPTIONS_MAX: u32 = 2;

/// The messages that an entry is said to answer: the newest ones.
const ANSWERS_MAX: u32 = 1_000;

/// The first open entry of a thread of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its number.
    pub id: OutboxId,
    /// Where it goes, and whom it answers.
    pub to: Conversation,
    /// Where it stands.
    pub state: PostState,
    /// When it is tried next, where that is not at once.
    pub next_attempt: Option<Timestamp>,
}

// The condition is the index's own. Of the row that has the smallest `id` SQLite gives the rest too.
pub(super) const DUE: &str = "SELECT min(id) AS id, channel, chat, thread, recipient, state,
        next_attempt
    FROM outbox INDEXED BY outbox_open
    WHERE state IN ('pending', 'sending', 'uncertain') AND channel = :channel
    GROUP BY chat, thread";

pub(super) const ANSWERS: &str = "SELECT message_id FROM messages
    WHERE turn = :turn AND wakes = 1 AND channel = :channel AND chat = :chat
    ORDER BY seq LIMIT :limit";

pub(super) const ANSWER_TO: &str = "SELECT outbox.* FROM messages
    JOIN outbox ON outbox.turn = messages.turn AND outbox.kind IN ('reply', 'notice')
    WHERE messages.channel = :channel AND messages.chat = :chat AND messages.message_id = :id
        AND messages.wakes = 1";

pub(super) const POSTS: &str = "SELECT * FROM outbox INDEXED BY outbox_chat
    WHERE channel = :channel AND chat = :chat AND id > :after
    ORDER BY id LIMIT :limit";

pub(super) const MOVE: &str = "UPDATE outbox SET
        state = :state,
        attempts = attempts + (:state = 'sending'),
        failure = :failure,
        next_attempt = :next,
        service_id = coalesce(:service_id, service_id),
        delivered_at = CASE WHEN :state = 'delivered' THEN :at END
    WHERE id = :id";

/// What changes about an entry of which nobody knows if it was sent.
macro_rules! interruption {
    () => {
        "SET
        interruptions = interruptions + 1,
        state = CASE WHEN interruptions + 1 >= :max THEN 'failed' ELSE 'uncertain' END,
        failure = CASE WHEN interruptions + 1 >= :max
            THEN 'sending was cut off repeatedly; it may have been delivered' ELSE failure END"
    };
}

const INTERRUPTED: &str =
    concat!("UPDATE outbox ", interruption!(), " WHERE id = :id AND state = 'sending'");

const WITHDRAWN: &str = "UPDATE outbox SET attempts = attempts - 1,
        state = CASE WHEN interruptions > 0 THEN 'uncertain' ELSE 'pending' END
    WHERE id = :id AND state = 'sending'";

const RECOVER: &str = concat!(
    "UPDATE outbox INDEXED BY outbox_sending ",
    interruption!(),
    " WHERE state = 'sending' RETURNING *"
);

impl Store {
    /// The first open entry of each thread of each chat of a channel: the others wait for it.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn due(&self, channel: &ChannelName) -> Result<Vec<Due>, StoreError> {
        let channel = channel.clone();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(DUE)?;
            let due =
                statement.query_map(named_params! { ":channel": channel.as_str() }, |row| {
                    Ok(Due {
                        id: OutboxId(row.get("id")?),
                        to: Conversation::of_row(row, "recipient")?,
                        state: PostState::of_row(row, "state")?,
                        next_attempt: rows::moment_maybe(row, "next_attempt")?,
                    })
                })?;
            Ok(due.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Marks an entry as handed to its channel and counts the attempt: to be
    /// called before the channel is. Gives it, and the messages that it answers, oldest first.
    ///
    /// # Errors
    /// There is no such entry, or it is neither pending nor uncertain.
    pub async fn sending(&self, id: OutboxId) -> Result<(Post, Vec<MessageId>), StoreError> {
        self.call(move |connection| {
            let from = find(connection, id)?.state;
            if !matches!(from, PostState::Pending | PostState::Uncertain) {
                return Err(StoreError::PostTransition { id, from, to: PostState::Sending }.into());
            }
            let post = change(connection, id, &Change::to(PostState::Sending))?;
            let answers = answers(connection, &post)?;
            Ok((post, answers))
        })
        .await
    }

    /// Marks an entry as delivered, with what the service calls it. Nothing changes for one that is.
    ///
    /// # Errors
    /// There is no such entry, or it was not being sent.
    pub async fn delivered(
        &self,
        id: OutboxId,
        service_id: Option<MessageId>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.call(move |connection| match find(connection, id)?.state {
            PostState::Delivered => Ok(()),
            PostState::Sending => {
                let service_id = service_id.as_ref();
                let to = Change { service_id, at: Some(at), ..Change::to(PostState::Delivered) };
                change(connection, id, &to).map(drop)
            }
            from => Err(StoreError::PostTransition { id, from, to: PostState::Delivered }.into()),
        })
        .await
    }

    /// Notes that the channel could not take an entry and says why. It is due again at `next`,
    /// until it was tried [`OUTBOX_ATTEMPTS_MAX`] times; then it has failed.
    ///
    /// # Errors
    /// There is no such entry, or it was not being sent.
    pub async fn undelivered(
        &self,
        id: OutboxId,
        failure: &str,
        next: Timestamp,
    ) -> Result<Post, StoreError> {
        self.refuse(id, failure, Some(next)).await
    }

    /// Gives an entry up: another attempt would change nothing.
    ///
    /// # Errors
    /// There is no such entry, or it was not being sent.
    pub async fn park(&self, id: OutboxId, failure: &str) -> Result<Post, StoreError> {
        self.refuse(id, failure, None).await
    }

    async fn refuse(
        &self,
        id: OutboxId,
        failure: &str,
        next: Option<Timestamp>,
    ) -> Result<Post, StoreError> {
        check_size("the reason of a failure", failure.len(), turns::FAILURE_TEXT_MAX)?;
        let failure = failure.to_owned();
        self.call(move |connection| {
            let found = find(connection, id)?;
            let again = next.filter(|_| found.attempts < OUTBOX_ATTEMPTS_MAX);
            let to = if again.is_some() { PostState::Pending } else { PostState::Failed };
            if found.state != PostState::Sending {
                return Err(StoreError::PostTransition { id, from: found.state, to }.into());
            }
            let failure = Some(failure.as_str());
            change(connection, id, &Change { failure, next: again, ..Change::to(to) })
        })
        .await
    }

    /// Notes that an entry was not sent after all, since nobody was there to take it: that was no
    /// attempt. Nothing changes for one that is not being sent any more.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn withdrawn(&self, id: OutboxId) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection.prepare_cached(WITHDRAWN)?.execute(named_params! { ":id": id.0 })?;
            Ok(())
        })
        .await
    }

    /// Notes that nobody knows what became of an entry that was being sent. It is uncertain now, as
    /// after a crash. Nothing changes for one that is not being sent any more.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn interrupted(&self, id: OutboxId) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection
                .prepare_cached(INTERRUPTED)?
                .execute(named_params! { ":max": OUTBOX_INTERRUPTIONS_MAX, ":id": id.0 })?;
            Ok(())
        })
        .await
    }

    /// Takes note of a crash: what was being sent is uncertain now and due
    /// once more, or has failed if that was cut off too
    /// ([`OUTBOX_INTERRUPTIONS_MAX`]). Returns those entries as they now are.
    /// For the start of a controller, before anything is sent.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn recover_outbox(&self) -> Result<Vec<Post>, StoreError> {
        self.call(|connection| {
            let mut statement = connection.prepare_cached(RECOVER)?;
            let posts =
                statement.query_map(named_params! { ":max": OUTBOX_INTERRUPTIONS_MAX }, post)?;
            Ok(posts.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The reply or notice that answers a message, and all that it answers; `None`: there is none yet.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn answer_to(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        message: &MessageId,
    ) -> Result<Option<(Post, Vec<MessageId>)>, StoreError> {
        let (channel, chat, message) = (channel.clone(), chat.clone(), message.clone());
        self.read(move |connection| {
            let params = named_params! {
                ":channel": channel.as_str(), ":chat": chat.as_str(), ":id": message.as_str(),
            };
            let found = connection.prepare_cached(ANSWER_TO)?.query_row(params, post).optional()?;
            let Some(post) = found else { return Ok(None) };
            let answers = answers(connection, &post)?;
            Ok(Some((post, answers)))
        })
        .await
    }

    /// The entries of a chat after one of them, oldest first, at most `limit`, each with the messages
    /// that it answers. Whatever became of their sending, they can be read.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn posts(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        after: OutboxId,
        limit: u32,
    ) -> Result<Vec<(Post, Vec<MessageId>)>, StoreError> {
        let (channel, chat) = (channel.clone(), chat.clone());
        self.read(move |connection| {
            let params = named_params! {
                ":channel": channel.as_str(), ":chat": chat.as_str(), ":after": after.0,
                ":limit": limit,
            };
            let mut statement = connection.prepare_cached(POSTS)?;
            let posts: Vec<Post> = statement.query_map(params, post)?.collect::<Result<_, _>>()?;
            let with_answers = |post: Post| {
                let answers = answers(connection, &post)?;
                Ok((post, answers))
            };
            posts.into_iter().map(with_answers).collect()
        })
        .await
    }
}

/// What changes about an entry.
struct Change<'a> {
    state: PostState,
    failure: Option<&'a str>,
    next: Option<Timestamp>,
    service_id: Option<&'a MessageId>,
    at: Option<Timestamp>,
}

impl Change<'_> {
    fn to(state: PostState) -> Self {
        Self { state, failure: None, next: None, service_id: None, at: None }
    }
}

fn change(connection: &Connection, id: OutboxId, to: &Change<'_>) -> Result<Post, CommandError> {
    connection.prepare_cached(MOVE)?.execute(named_params! {
        ":id": id.0,
        ":state": to.state.word(),
        ":failure": to.failure,
        ":next": to.next.map(|next| next.0),
        ":service_id": to.service_id.map(MessageId::as_str),
        ":at": to.at.map(|at| at.0),
    })?;
    find(connection, id)
}

fn answers(connection: &Connection, post: &Post) -> Result<Vec<MessageId>, CommandError> {
    // What an agent says while it works answers nothing yet.
    let turn = post.turn.as_ref().filter(|_| post.kind != PostKind::Message);
    let Some(turn) = turn else { return Ok(Vec::new()) };
    let mut statement = connection.prepare_cached(ANSWERS)?;
    let params = named_params! {
        ":turn": turn.as_str(),
        ":channel": post.to.channel.as_str(),
        ":chat": post.to.chat.as_str(),
        ":limit": ANSWERS_MAX,
    };
    let answers = statement.query_map(params, |row| rows::name(row, "message_id"))?;
    Ok(answers.collect::<Result<_, _>>()?)
}
