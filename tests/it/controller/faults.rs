//! What the machine denies a controller, and what a controller leaves on the machine.

use std::collections::BTreeMap;
use std::fs;

use babybot::logging::{LOG, LOG_BEFORE, LOG_LINE_MAX, LOG_SIZE_MAX};
use babybot::store::JOURNALS_KEPT;
use rustix::process::{Pid, Resource, Rlimit};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::folder::Terminal;
use crate::support::home::{ALWAYS, HOME, Home, LONG, Up, condition};
use crate::support::installation::{PATIENCE, wait_until};
use crate::support::ollama::{FakeOllama, Reply};
use crate::support::workshop::{says, shell};

/// Lets a controller open no file more, or as many as before. What is open stays open.
fn set_open_files(up: &Up, most: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(up.pid());
    let before = rustix::process::prlimit(
        pid,
        Resource::Nofile,
        // Only the softer of the two limits: the other could not be raised again.
        Rlimit { current: most, maximum: hardest(up) },
    );
    before.unwrap().current
}

fn hardest(up: &Up) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", up.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(4).unwrap().parse().ok()
}

/// A conversation that began.
fn talk(home: &Home, group: &str) -> Terminal {
    let mut terminal = Terminal::start(home.place.command(["chat", group]));
    terminal.wait_for("Talking to");
    terminal
}

/// A server of models that has one.
async fn server(address: &str) -> FakeOllama {
    let ollama = FakeOllama::start_at(address.parse().unwrap()).await;
    let shown = json!({
        "license": "", "modelfile": "", "parameters": "", "template": "", "details": {},
        "model_info": {}, "capabilities": ["completion", "tools"],
    });
    // More often than it is looked at here.
    for _ in 0..200 {
        let tags = json!({ "models": [{ "name": "qwen3:8b", "model": "qwen3:8b" }] });
        ollama.answer("/api/tags", Reply::json(200, &tags));
        ollama.answer("/api/show", Reply::json(200, &shown));
    }
    ollama
}

/// Two groups are at work, one of them with a model's server, and one has no agent yet.
#[test]
fn a_controller_that_may_open_no_file_is_degraded_and_blames_nobody() {
    let before = Runtime::new().unwrap();
    let ollama = before.block_on(server("127.0.0.1:0"));
    ollama.answer("/api/chat", shell("while ! [ -e go ]; do sleep 0.02; done"));
    let groups = format!(
        "[models.server]\nkind = \"ollama\"\nurl = \"{}\"\nmodel = \"qwen3:8b\"\n\
         [defaults.group]\nmodel = \"stand-in\"\n{ALWAYS}\
         [groups.lab]\nmodel = \"server\"\nlifecycle = \"always\"\n[groups.den]\n",
        ollama.url
    );
    let home = Home::none("", &groups, LONG);
    let up = home.up();
    home.wait_for_agent();
    let mut watch = home.watch();
    let [mut long, mut lab, mut den] = ["home", "lab", "den"].map(|group| talk(&home, group));
    long.type_in("long 1\n");
    lab.type_in("hello\n");
    home.wait_until_begun(1);
    lab.wait_for("bb_shell");
    let most = set_open_files(&up, Some(3));
    // Its server starts again, so that it has no connection left.
    before.shutdown_timeout(PATIENCE);
    let (after, address) = (Runtime::new().unwrap(), ollama.url.strip_prefix("http://").unwrap());
    let again = after.block_on(server(address));
    again.answer("/api/chat", says("From the server."));
    den.type_in("quick 2\n");
    den.wait_for("cannot be opened: too many files are open on this machine");
    watch.wait_for("it is degraded", |status| {
        let why = "disk use is unknown: too many files are open on this machine";
        condition(status, "Degraded").as_deref() == Some(why)
    });
    home.let_go();
    home.place.write("groups/lab/go", "");
    long.wait_for("cannot be read: too many files are open on this machine");
    lab.wait_for("cannot be asked: too many files are open on this machine");
    set_open_files(&up, most);
    // The answers say nothing of a limit that nobody reached.
    long.wait_for("done with long 1");
    lab.wait_for("From the server.");
    den.wait_for("done with quick 2");
    watch.wait_for("all is well", |status| {
        ["home", "lab", "den"].iter().all(|group| {
            let conditions = &status["groups"][group]["conditions"];
            conditions["Degraded"]["holds"] == false && conditions["Ready"]["holds"] == true
        })
    });
    home.assert_each_message_has_one_reply(3);
    assert_eq!(home.drift(), [""; 0]);
    assert!(!home.log().contains("too full"), "{}", home.log());
    let status = home.status();
    for (group, found) in status["groups"].as_object().unwrap() {
        assert_eq!(found["limit_hits"], json!([]), "{group}: {found:#}");
    }
    up.end();
}

#[test]
fn a_controller_that_logs_all_there_is_keeps_two_files_of_a_bounded_size() {
    let home = Home::none("", HOME, LONG);
    home.apply();
    let logs = home.place.root().join("data/logs");
    let sizes = || -> BTreeMap<String, u64> {
        let files = fs::read_dir(&logs).unwrap().map(Result::unwrap);
        let sized = files
            .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len()));
        sized.collect()
    };
    fs::create_dir_all(&logs).unwrap();
    let mut turns = 0;
    // Once there is none before it, and once there is.
    for round in 0..2 {
        let line = format!("2026-11-22T09:30:00.123Z INFO  babybot::agent {round}\n");
        let lines = usize::try_from(LOG_SIZE_MAX).unwrap() / line.len();
        fs::write(logs.join(LOG), line.repeat(lines)).unwrap();
        let up = home.start(home.place.command(["up"]).env("BABYBOT_LOG", "trace"));
        up.wait_until_it_serves();
        let put_aside = || {
            let before = fs::read(logs.join(LOG_BEFORE)).unwrap_or_default();
            before.starts_with(line.as_bytes())
        };
        wait_until("the full one is put aside", || {
            turns += 1;
            home.ask(&format!("quick {turns}"));
            put_aside()
        });
        up.end();
        let sizes = sizes();
        assert_eq!(sizes.keys().collect::<Vec<_>>(), [LOG, LOG_BEFORE], "{sizes:?}");
        assert!(sizes.values().all(|size| *size <= LOG_SIZE_MAX), "{sizes:?}");
        let newest = fs::read(logs.join(LOG)).unwrap();
        let longest = newest.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
        assert!(longest <= Some(LOG_LINE_MAX), "{longest:?}");
    }
    home.assert_each_message_has_one_reply(turns);
}

#[test]
fn a_controller_forgets_the_journals_of_old_turns_when_it_starts() {
    let home = Home::none("", HOME, LONG);
    home.apply();
    home.ask("quick 1");
    // As if it had run for a year.
    let store = rusqlite::Connection::open(home.place.root().join("data/babybot.db")).unwrap();
    store
        .execute_batch(&format!(
            "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {count})
             INSERT INTO turns (id, grp, state, channel, chat, created_at, ended_at)
             SELECT 'old-' || id, 'home', 'done', 'terminal', 'home', id, id FROM n;
             WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {count})
             INSERT INTO turn_rounds SELECT 'old-' || id, 0, '{{}}' FROM n;",
            count = JOURNALS_KEPT + 50
        ))
        .unwrap();
    drop(store);
    let up = home.up_with(&[]);
    let journals = || home.place.value::<u32>("SELECT count(DISTINCT turn) FROM turn_rounds");
    wait_until("the oldest are forgotten", || journals() == JOURNALS_KEPT);
    home.ask("quick 2");
    up.end();
}
