//! The store on real files: what is acknowledged stays, and nothing is half there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod bounds;
mod crash;
mod files;
mod outbox;
mod records;
mod requests;
mod turns;

use std::path::{Path, PathBuf};

use babybot::clock::Timestamp;
use babybot::name::{ChannelName, ChatId, GroupName, MessageId, SenderId, TurnId};
use babybot::store::{Incoming, Store};
use tempfile::TempDir;

/// A folder for one test, with the path of a store in it.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("babybot.db");
    (folder, path)
}

fn open(path: &Path) -> Store {
    Store::open(path).unwrap()
}

fn at(moment: i64) -> Timestamp {
    Timestamp(moment)
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn turn_id(number: u128) -> TurnId {
    TurnId::new(format!("{number:032x}")).unwrap()
}

/// A message to the group `family` in the chat `home` that asks for an answer.
fn message(id: &str, text: &str) -> Incoming {
    Incoming {
        channel: channel("tg"),
        chat: ChatId::new("home").unwrap(),
        message_id: MessageId::new(id).unwrap(),
        group: group("family"),
        thread: None,
        sender_id: Some(SenderId::new("ada").unwrap()),
        sender: "Ada".to_owned(),
        details: None,
        text: text.to_owned(),
        sent_at: at(1),
        received_at: at(2),
        wakes: true,
    }
}

/// One that does not ask.
fn context(id: &str, text: &str) -> Incoming {
    Incoming { wakes: false, ..message(id, text) }
}

/// A turn of `family` that an agent is at work on.
async fn running(store: &Store, number: u128) -> TurnId {
    let turn = turn_id(number);
    store.accept(message(&format!("for {number}"), "hello")).await.unwrap();
    store.take_up(&group("family"), &turn, at(10)).await.unwrap().expect("a message asks");
    turn
}
