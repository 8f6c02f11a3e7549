//! Twenty conversations at once with five groups, and whatever can come between.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use babybot::clock::{Clock as _, SystemClock};
use babybot::process::Process;
use rustix::process::Signal;

use crate::simulation::chance::Chance;
use crate::support::home::Up;
use crate::support::installation::{Installation, User, wait_for_end, wait_until};

/// How long it goes on, and how long under `BABYBOT_SOAK=1`.
const SHORT: Duration = Duration::from_secs(12);
const SOAK: Duration = Duration::from_secs(300);
const CONVERSATIONS: u64 = 20;
const GROUPS: [&str; 5] = ["home", "kids", "work", "club", "lab"];
/// Longer than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The model answers one at a time, so a stall holds up everybody; it is shorter than the time
/// between two kills, or no stalled turn would end while they go on.
const SCRIPT: &str = r#"
[[rule]]
when = "stall"
steps = [{ reply = "after all", delay = "1s" }]
[[rule]]
when = "tool"
steps = [{ call = { tool = "bb_shell", arguments = { command = "sleep 0.2" } } }, { reply = "done" }]
[[rule]]
steps = [{ reply = "here", delay = "50ms" }]
"#;

/// What somebody saw of what they said.
#[derive(Debug)]
struct Seen {
    text: String,
    code: i32,
    stdout: String,
    stderr: String,
    /// Whether it was stopped with Ctrl-C, terminated, or left to itself.
    signal: Option<Signal>,
}

fn installation() -> Installation {
    let installation = Installation::new(User::Oneself, SCRIPT);
    let path = installation.root().join("babybot.toml");
    let mut manifest = std::fs::read_to_string(&path).unwrap();
    for group in &GROUPS[1..] {
        manifest.push_str(&format!("\n[groups.{group}]\nrequires_trigger = false\n"));
    }
    installation.write("babybot.toml", &manifest);
    installation.apply();
    installation
}

#[test]
fn every_message_that_was_acknowledged_has_one_reply_or_was_stopped_by_who_sent_it() {
    let soak = std::env::var_os("BABYBOT_SOAK").is_some_and(|value| value == "1");
    let deadline = Instant::now() + if soak { SOAK } else { SHORT };
    let seed = u64::from_str_radix(&SystemClock.random_bits()[..16], 16).unwrap();
    println!("seed {seed}");
    let installation = installation();
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (installation, seen) = (&installation, &seen);
        for number in 0..CONVERSATIONS {
            let mut chance = Chance::new(seed.wrapping_add(number));
            scope.spawn(move || {
                let mut count = 0;
                while Instant::now() < deadline {
                    count += 1;
                    let said = talk(installation, (number, count), &mut chance);
                    seen.lock().unwrap().push(said);
                }
            });
        }
        let mut chance = Chance::new(seed.wrapping_sub(1));
        scope.spawn(move || {
            while Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(chance.between(1_500, 4_000)));
                kill_controller(installation);
            }
        });
    });
    settle(&installation);
    check(&installation, &seen.into_inner().unwrap());
    installation.wait_until_nothing_runs(PATIENCE);
}

/// Says one thing, and perhaps does not wait for the answer.
fn talk(installation: &Installation, (who, count): (u64, u32), chance: &mut Chance) -> Seen {
    let what = ["stall", "tool", "hello", "hello", "hello"][chance.below(5) as usize];
    let text = format!("{what} {who} {count}");
    let group = GROUPS[(who % 5) as usize];
    let child = installation.command(["chat", group, &text]).spawn().unwrap();
    let signal = match chance.below(6) {
        0 => Some(Signal::INT),
        1 => Some(Signal::TERM),
        _ => None,
    };
    if let Some(signal) = signal {
        std::thread::sleep(Duration::from_millis(chance.between(10, 900)));
        send(&child, signal);
    }
    let ended = wait_for_end(child, PATIENCE);
    Seen { text, code: ended.code, stdout: ended.stdout, stderr: ended.stderr, signal }
}

fn send(child: &Child, signal: Signal) {
    if let Some(process) = Process::find(i32::try_from(child.id()).unwrap()) {
        let _ = process.signal(signal);
    }
}

/// Kills whoever is the controller at the moment.
fn kill_controller(installation: &Installation) {
    let notice = std::fs::read(installation.root().join("data/controller.json"));
    let notice: serde_json::Value =
        serde_json::from_slice(&notice.unwrap_or_default()).unwrap_or_default();
    let pid = notice["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    if let Some(process) = pid.and_then(Process::find) {
        let _ = process.signal(Signal::KILL);
    }
}

/// Has all that is left answered, and shown to somebody.
fn settle(installation: &Installation) {
    let open = "SELECT count(*) FROM messages LEFT JOIN turns ON turns.id = turn
        WHERE wakes = 1 AND coalesce(turns.state, 'queued') IN ('queued', 'running')";
    let unsent = "SELECT count(*) FROM outbox WHERE state IN ('pending', 'sending', 'uncertain')";
    let up = Up::start(installation, &mut installation.command(["up"]));
    up.wait_until_it_serves();
    wait_until("nothing is unanswered", || installation.value::<i64>(open) == 0);
    for group in GROUPS {
        let ended = installation.run(&["chat", group, "last words"]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    wait_until("nothing is unsent", || installation.value::<i64>(unsent) == 0);
    up.end();
}

fn check(installation: &Installation, seen: &[Seen]) {
    let store = installation.store();
    let mut query = store
        .prepare(
            "SELECT text, turns.state, (SELECT count(*) FROM outbox
                WHERE outbox.turn = turns.id AND kind IN ('reply', 'notice'))
            FROM messages JOIN turns ON turns.id = messages.turn",
        )
        .unwrap();
    let rows = query.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, (row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))
    });
    let mut stored: BTreeMap<String, (String, i64)> = BTreeMap::new();
    for (text, came) in rows.unwrap().map(Result::unwrap) {
        if text != "last words" {
            assert!(stored.insert(text.clone(), came).is_none(), "{text} is stored twice");
        }
    }
    let mut answered = 0;
    for seen in seen {
        let fate = stored.get(&seen.text);
        // What is said to be kept, or was answered, is in the store.
        let acknowledged = seen.code == 0 || seen.stderr.contains("is kept");
        assert!(!acknowledged || fate.is_some(), "{seen:?}");
        let Some((state, posts)) = fate else { continue };
        match state.as_str() {
            "cancelled" => assert_eq!(seen.signal, Some(Signal::INT), "{seen:?}"),
            "done" => assert_eq!(*posts, 1, "{seen:?}"),
            other => panic!("{other}: {seen:?}"),
        }
        if seen.code == 0 {
            answered += 1;
            assert_eq!(seen.stdout.lines().count(), 1, "{seen:?}");
        }
        if seen.signal.is_none() {
            // Whoever was the controller itself may have been killed with it.
            assert!([0, 1, 137].contains(&seen.code), "{seen:?}");
        }
    }
    assert!(answered >= 5, "hardly anything was answered: {seen:#?}");
}
