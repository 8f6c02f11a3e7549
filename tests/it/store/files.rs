//! The file itself: created private, migrated, refused, full, shared and closed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use babybot::protocol::Event;
use babybot::resource::{InstanceSpec, RuntimeRef, instance};
use babybot::store::{Store, StoreError, TurnState};
use babybot::unit::ByteSize;
use futures_util::future::join_all;
use serde_json::json;

use super::{at, channel, folder, group, message, open, running, turn_id};

fn version(path: &Path) -> i64 {
    let raw = rusqlite::Connection::open(path).unwrap();
    raw.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn the_files_are_for_this_user_alone() {
    let (folder, path) = folder();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let store = open(&path);
    store.accept(message("m1", "hello")).await.unwrap();
    let mut names = 0;
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
        names += 1;
    }
    assert_eq!(names, 3, "the database, its log and the log's index");
}

#[tokio::test]
async fn what_was_stored_is_there_after_opening_again() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.close().await;
    let store = open(&path);
    assert_eq!(store.turn(&turn).await.unwrap().state, TurnState::Running);
    assert!(!store.accept(message("for 1", "hello")).await.unwrap().fresh);
}

#[tokio::test]
async fn a_closed_store_has_done_all_that_was_queued() {
    let (_folder, path) = folder();
    let store = open(&path);
    let other = store.clone();
    let writes = (0..500).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { store.accept(message(&number.to_string(), "x")).await })
    });
    let writes: Vec<_> = writes.collect();
    drop(store);
    // Its clones are in the tasks: it ends when the last of them is done.
    other.close().await;
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let log = path.with_extension("db-wal");
    assert!(!log.exists(), "the last to close writes the log back");
    assert_eq!(count(&path, "messages"), 500);
}

fn count(path: &Path, table: &str) -> i64 {
    let raw = rusqlite::Connection::open(path).unwrap();
    raw.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn many_callers_at_once_are_all_served() {
    let (_folder, path) = folder();
    let store = open(&path);
    let callers = (0..8).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..200 {
                // Half of the messages are those of the caller before.
                let id = format!("{}-{number}", (caller + number % 2) % 8);
                store.accept(message(&id, "hello")).await.unwrap();
            }
        })
    });
    join_all(callers).await.into_iter().for_each(Result::unwrap);
    assert_eq!(count(&path, "messages"), 1_600);
}

#[tokio::test]
async fn a_failure_undoes_only_itself_among_writes_that_share_a_commit() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    // All are queued before the thread can be done with the first.
    let writes = (0..300).map(|number| {
        let (store, turn) = (store.clone(), turn.clone());
        async move {
            if number % 3 == 0 {
                // It has written a round when it fails, for a call that has none.
                let round = Event::Round { round: number, message: json!({}) };
                let gap = Event::CallEnded { round: 999, index: 0, result: "x".to_owned() };
                store.journal(&turn, &[round, gap], at(12)).await.is_err()
            } else {
                store.accept(message(&number.to_string(), "x")).await.unwrap().fresh
            }
        }
    });
    assert!(join_all(writes).await.into_iter().all(|as_expected| as_expected));
    assert_eq!(count(&path, "messages"), 1 + 200);
    assert_eq!(count(&path, "turn_rounds"), 0);
}

#[tokio::test]
async fn a_reader_sees_what_is_acknowledged_beside_the_writer_and_after_it() {
    let (folder, path) = folder();
    assert!(Store::read_only(&path).unwrap().is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a look creates nothing");
    fs::write(&path, "").unwrap();
    assert!(Store::read_only(&path).unwrap().is_none(), "an empty file is no store yet");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);

    let store = open(&path);
    let reader = Store::read_only(&path).unwrap().unwrap();
    assert!(reader.unfinished(None).unwrap().is_empty());
    for number in 1..50 {
        let turn = running(&store, number).await;
        assert_eq!(reader.turn(&turn).unwrap().state, TurnState::Running);
        store.finish_turn(&turn, "done", at(20)).await.unwrap();
        assert_eq!(reader.turn(&turn).unwrap().state, TurnState::Done);
        assert_eq!(reader.turn_messages(&turn).unwrap().len(), 1);
    }
    store.close().await;
    assert_eq!(reader.turn(&turn_id(49)).unwrap().state, TurnState::Done);
    drop(reader);
    let reader = Store::read_only(&path).unwrap().unwrap();
    assert_eq!(reader.outbox(None, 100).unwrap().len(), 49);
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_as_it_is() {
    let (_folder, path) = folder();
    open(&path).close().await;
    let known = version(&path);
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", known + 1).unwrap();
    drop(raw);
    let before = fs::read(&path).unwrap();
    for refused in [Store::open(&path).unwrap_err(), Store::read_only(&path).unwrap_err()] {
        assert!(matches!(refused, StoreError::Newer { .. }), "{refused}");
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        assert!(refused.hint().unwrap().contains("upgrade babybot"));
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_as_it_is() {
    let (_folder, path) = folder();
    let garbage = b"this is a text and no database, however long it goes on\n".repeat(200);
    fs::write(&path, &garbage).unwrap();
    for refused in [Store::open(&path).unwrap_err(), Store::read_only(&path).unwrap_err()] {
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        assert!(refused.hint().unwrap().contains("aside"));
    }
    assert_eq!(fs::read(&path).unwrap(), garbage);
}

#[tokio::test]
async fn damage_behind_the_first_page_is_reported_when_it_is_met() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    store.close().await;
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let failure = match Store::open(&path) {
        Ok(store) => store.turn(&turn).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(failure, StoreError::Damaged { .. }), "{failure}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let (folder, path) = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write everywhere but where the kernel has no files to make.
    let path = if fs::write(folder.path().join("probe"), "").is_ok() {
        Path::new("/proc/self/babybot.db").to_owned()
    } else {
        path
    };
    let refused = Store::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
    assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    assert!(refused.hint().unwrap().contains("folder"));
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let (_folder, path) = folder();
    let store = Store::open_bounded(&path, ByteSize::bytes(400 << 10)).unwrap();
    let large = "x".repeat(60 << 10);
    // Of writes that share a commit, those that fit are kept.
    let writes = (0..40).map(|number| {
        let text = if number % 2 == 0 { large.as_str() } else { "small" };
        store.accept(message(&number.to_string(), text))
    });
    let mut kept = Vec::new();
    let mut refused = 0;
    for (number, outcome) in join_all(writes).await.into_iter().enumerate() {
        match outcome {
            Ok(accepted) => kept.push((number, accepted.seq)),
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    let small = kept.iter().filter(|(number, _)| number % 2 == 1).count();
    assert_eq!(small, 20, "a small write is not lost to its large neighbours");
    store.accept(message("later", "small")).await.unwrap();
    store.close().await;

    let store = open(&path);
    let stored: Vec<_> =
        store.waiting(&group("family")).await.unwrap().into_iter().map(|m| m.seq).collect();
    let acknowledged: Vec<_> = kept.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(stored[..stored.len() - 1], acknowledged);
    store.accept(message("0-again", &large)).await.unwrap();
    let whole: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(whole, "ok");
}

#[tokio::test]
async fn a_store_of_the_first_format_still_opens() {
    let (_folder, path) = folder();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("../../fixtures/store/v1.sql")).unwrap();
    drop(raw);
    assert_eq!(version(&path), 1);

    let store = open(&path);
    let applied = store.applied().await.unwrap().unwrap();
    assert_eq!((applied.number, applied.specs.len()), (2, 3));
    assert_eq!(store.history(10).await.unwrap()[1].tool, "0.1.0");
    let open: Vec<_> = store.unfinished(None).await.unwrap();
    assert_eq!((open.len(), open[0].attempts), (1, 1));
    let journal = store.journal_of(&open[0].id).await.unwrap();
    assert_eq!(journal[0].calls[0].result.as_deref(), Some("Blåbær\n"));
    assert_eq!(journal[0].calls[1].result, None);
    assert_eq!(store.turn_messages(&open[0].id).await.unwrap().len(), 2);
    assert_eq!(store.waiting(&group("family")).await.unwrap()[0].incoming.text, "and now?");
    assert_eq!(store.recover_outbox().await.unwrap().len(), 1);
    assert_eq!(store.due(&channel("tg")).await.unwrap().len(), 1);
    assert_eq!(store.usage_of(&open[0].id).await.unwrap().prompt_tokens, 812);
    assert_eq!(store.open_sandboxes().await.unwrap()[0].pid, 4242);
    store.finish_turn(&open[0].id, "done", at(99)).await.unwrap();
}

#[tokio::test]
async fn a_store_of_the_second_format_still_opens() {
    let (_folder, path) = folder();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("../../fixtures/store/v2.sql")).unwrap();
    drop(raw);
    assert_eq!(version(&path), 2);

    let store = open(&path);
    let applied = store.applied().await.unwrap().unwrap();
    assert_eq!(applied.number, 3);
    // What each group had of the house is the house's now.
    let house = InstanceSpec {
        assistant: "Baby".to_owned(),
        timezone: Some("Europe/Berlin".to_owned()),
        parallel: 4,
        runtime: RuntimeRef::docker(Some("unix:///var/run/docker.sock".to_owned())),
        environment: BTreeMap::new(),
    };
    assert_eq!(instance(&applied.specs), Some(&house));
    assert_eq!(
        instance(&store.generation(2).await.unwrap().unwrap().specs),
        Some(&InstanceSpec { runtime: RuntimeRef::NONE, ..house })
    );
    let open: Vec<_> = store.unfinished(None).await.unwrap();
    assert_eq!((open.len(), open[0].group.as_str()), (1, "home"));
    let journal = store.journal_of(&open[0].id).await.unwrap();
    assert_eq!(journal[0].calls[0].result.as_deref(), Some("wrote 5 bytes to list.txt"));
    let waiting = store.waiting(&group("kitchen")).await.unwrap();
    assert_eq!(waiting[0].incoming.text, "write coffee to list.txt");
    assert_eq!(store.recover_outbox().await.unwrap().len(), 1);
    assert_eq!(reader_text(&path), ["It is done."]);
    let held = store.holds().await.unwrap();
    assert_eq!(held.into_keys().collect::<Vec<_>>(), [group("kitchen")]);
    store.finish_turn(&open[0].id, "done", at(99)).await.unwrap();
}

/// What is not delivered, newest first.
fn reader_text(path: &Path) -> Vec<String> {
    let reader = Store::read_only(path).unwrap().unwrap();
    reader.outbox(None, 100).unwrap().into_iter().map(|post| post.text).collect()
}
