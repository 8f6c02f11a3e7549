//! What became of messages: for whoever sent them, and in numbers for whoever watches.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::error::{CommandError, StoreError};
use super::open::Store;
use super::rows;
use super::state::{PostState, TurnState};
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, GroupName, MessageId, TurnId};

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageFate {
    /// Where its turn stands; `None`: it has none yet.
    pub turn: Option<TurnState>,
    /// Where the reply or notice of that turn stands; `None`: there is none.
    pub post: Option<PostState>,
}

/// What a group has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages that wait for a turn and ask for one.
    pub waiting: usize,
    /// The turn that is not over, and since when it is at work.
    pub turn: Option<(TurnId, Timestamp)>,
}

pub(super) const FATE: &str = "SELECT turns.state AS turn_state, outbox.state AS post_state
    FROM messages
    LEFT JOIN turns ON turns.id = messages.turn
    LEFT JOIN outbox ON outbox.turn = messages.turn AND outbox.kind IN ('reply', 'notice')
    WHERE messages.channel = :channel AND messages.chat = :chat AND messages.message_id = :id";

pub(super) const TEXT: &str = "SELECT text FROM messages
    WHERE channel = :channel AND chat = :chat AND message_id = :id";

const WAITING: &str = "SELECT grp, count(*) AS waiting FROM messages INDEXED BY messages_waiting
    WHERE turn IS NULL AND wakes = 1 GROUP BY grp";

const OPEN_POSTS: &str = "SELECT channel, count(*) AS posts FROM outbox INDEXED BY outbox_open
    WHERE state IN ('pending', 'sending', 'uncertain') GROUP BY channel";

const AT_WORK: &str = "SELECT grp, id, coalesce(started_at, created_at) AS since FROM turns
    WHERE state IN ('queued', 'running')";

impl Store {
    /// Where a message stands; `None`: there is no such message.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn fate(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        id: &MessageId,
    ) -> Result<Option<MessageFate>, StoreError> {
        let (channel, chat, id) = (channel.clone(), chat.clone(), id.clone());
        self.read(move |connection| {
            let params = named_params! {
                ":channel": channel.as_str(), ":chat": chat.as_str(), ":id": id.as_str(),
            };
            let fate = connection.prepare_cached(FATE)?.query_row(params, |row| {
                let there = |column: &str| row.get::<_, Option<String>>(column);
                let turn = there("turn_state")?.map(|_| TurnState::of_row(row, "turn_state"));
                let post = there("post_state")?.map(|_| PostState::of_row(row, "post_state"));
                Ok(MessageFate { turn: turn.transpose()?, post: post.transpose()? })
            });
            Ok(fate.optional()?)
        })
        .await
    }

    /// What a message says; `None`: there is no such message.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn message_text(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        id: &MessageId,
    ) -> Result<Option<String>, StoreError> {
        let (channel, chat, id) = (channel.clone(), chat.clone(), id.clone());
        self.read(move |connection| {
            let params = named_params! {
                ":channel": channel.as_str(), ":chat": chat.as_str(), ":id": id.as_str(),
            };
            let text = connection.prepare_cached(TEXT)?.query_row(params, |row| row.get(0));
            Ok(text.optional()?)
        })
        .await
    }

    /// What each group has to do that has anything to do.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn backlog(&self) -> Result<BTreeMap<GroupName, Backlog>, StoreError> {
        self.read(backlog).await
    }

    /// How many posts of each channel wait to be delivered, where there are some.
    ///
    /// # Errors
    /// They could not be counted.
    pub async fn open_posts(&self) -> Result<BTreeMap<ChannelName, usize>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(OPEN_POSTS)?;
            let counts = statement.query_map([], |row| {
                Ok((rows::name(row, "channel")?, rows::count(row, "posts")?))
            })?;
            Ok(counts.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn backlog(connection: &Connection) -> Result<BTreeMap<GroupName, Backlog>, CommandError> {
    let mut all: BTreeMap<GroupName, Backlog> = BTreeMap::new();
    let mut waiting = connection.prepare_cached(WAITING)?;
    let mut waiting = waiting.query([])?;
    while let Some(row) = waiting.next()? {
        all.entry(rows::name(row, "grp")?).or_default().waiting = rows::count(row, "waiting")?;
    }
    let mut turns = connection.prepare_cached(AT_WORK)?;
    let mut turns = turns.query([])?;
    while let Some(row) = turns.next()? {
        let turn = (rows::name(row, "id")?, rows::moment(row, "since")?);
        all.entry(rows::name(row, "grp")?).or_default().turn = Some(turn);
    }
    Ok(all)
}
