//! `kill -9` in the middle: what was acknowledged is there, and nothing is half there.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use babybot::protocol::Event;
use babybot::store::Store;
use serde_json::json;

use super::{at, folder, group, message, open, turn_id};

/// Names the store that this test program, started once more, writes to.
const STORE: &str = "BABYBOT_TEST_STORE";

/// The test that is the writing program then, as the harness calls it.
const WRITER: &str = "store::crash::the_program_that_is_killed";

/// Turns whose replies are acknowledged before the program is killed.
const TURNS: usize = 25;

#[tokio::test]
async fn the_program_that_is_killed() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = open(Path::new(&path));
    let first = store.unfinished(None).await.unwrap();
    for turn in first {
        store.cancel_turn(&turn.id, at(0)).await.unwrap();
    }
    for number in u128::from(std::process::id()) << 64.. {
        answer(&store, number).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nanswered {number:032x}").unwrap();
        out.flush().unwrap();
    }
}

async fn answer(store: &Store, number: u128) {
    let turn = turn_id(number);
    let text = number.to_string();
    store.accept(message(&text, &text)).await.unwrap();
    store.take_up(&group("family"), &turn, at(1)).await.unwrap();
    let events = [
        Event::Round { round: 0, message: json!({ "n": text }) },
        Event::CallBegan { round: 0, index: 0, tool: "t".to_owned(), arguments: json!({}) },
        Event::CallEnded { round: 0, index: 0, result: text.clone() },
    ];
    store.journal(&turn, &events, at(3)).await.unwrap();
    store.finish_turn(&turn, &text, at(4)).await.unwrap();
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let (_folder, path) = folder();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..4 {
        acknowledged.extend(write_until_killed(&path));
        check(&path, &acknowledged).await;
    }
    assert!(acknowledged.len() >= 4 * TURNS);
}

/// Starts the writer, kills it in the middle, and returns the turns that it
/// knew to be answered.
fn write_until_killed(path: &Path) -> Vec<String> {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", WRITER, "--nocapture", "--test-threads=1"])
        .env(STORE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
    let turn = |line: String| line.strip_prefix("answered ").map(str::to_owned);
    let mut answered: Vec<String> = lines.by_ref().filter_map(turn).take(TURNS).collect();
    assert_eq!(answered.len(), TURNS, "the writer wrote");
    writer.kill().unwrap();
    writer.wait().unwrap();
    // A line that was cut off was not read by anybody.
    answered.extend(lines.filter_map(turn).filter(|turn| turn.len() == 32));
    answered
}

async fn check(path: &Path, acknowledged: &BTreeSet<String>) {
    let reader = Store::read_only(path).unwrap().unwrap();
    for turn in acknowledged {
        let turn = turn.parse().unwrap();
        let messages = reader.turn_messages(&turn).unwrap();
        // A message that was stored right before a kill is taken along by the next turn.
        let Some(message) = messages.last() else { panic!("turn {turn} has no message") };
        let posts = reader.posts_of(&turn).unwrap();
        let [reply] = &posts[..] else { panic!("turn {turn} has {posts:?}") };
        assert_eq!(reply.text, message.incoming.text);
        let journal = reader.journal_of(&turn).unwrap();
        assert_eq!(journal[0].calls[0].result.as_deref(), Some(reply.text.as_str()));
    }
    let raw = rusqlite::Connection::open(path).unwrap();
    let none = |what: &str, query: &str| {
        let count: i64 = raw.query_row(query, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{what}");
    };
    none(
        "a turn is done if and only if its reply is stored",
        "SELECT count(*) FROM turns LEFT JOIN outbox ON outbox.turn = turns.id AND kind = 'reply'
         WHERE (turns.state = 'done') <> (outbox.turn IS NOT NULL)",
    );
    none(
        "a turn has its message",
        "SELECT count(*) FROM turns WHERE id NOT IN (SELECT turn FROM messages WHERE turn NOTNULL)",
    );
    none(
        "events that came together are stored together",
        "SELECT count(*) FROM turn_rounds LEFT JOIN turn_calls USING (turn, round)
         WHERE turn_calls.state IS NOT 'ended'",
    );
    let whole: String = raw.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    none("every reference holds", "SELECT count(*) FROM pragma_foreign_key_check");
}
