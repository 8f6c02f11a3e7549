//! What a person reads when there is no answer, or not yet.

use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use crate::support::folder::{Folder, QUICK, Ran};
use crate::support::installation::{Installation, User, comes_true};
use crate::support::ollama::{FakeOllama, Reply};
use crate::support::workshop::{PATIENCE, says};

/// A project whose model is on this server.
fn project(url: &str) -> Folder {
    let model = format!("kind = \"ollama\"\nurl = \"{url}\"\nmodel = \"qwen3:8b\"");
    let folder = Folder::with(&QUICK.replace("kind = \"rehearsal\"", &model));
    let applied = folder.run(&["apply", "--yes=privileged"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    folder
}

/// An address where nothing listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Runs the program while servers of this test answer.
async fn run(folder: Folder, arguments: &'static [&'static str]) -> (Folder, Ran) {
    let ran = tokio::task::spawn_blocking(move || {
        let ran = folder.run(arguments);
        (folder, ran)
    });
    ran.await.unwrap()
}

/// A text without the breaks that its width made.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Nothing of it is meant for programs or programmers.
fn assert_plain(ran: &Ran) {
    for word in
        ["WARN", "os error", "client error", "<", "http1", "data/", "Failure", "tcp connect"]
    {
        assert!(!ran.stderr.contains(word), "{word:?}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_ollama_a_message_is_kept_and_answered_when_there_is_one() {
    let address = nowhere();
    let folder = project(&format!("http://{address}"));
    let (folder, ran) = run(folder, &["chat", "--wait", "100ms", "home", "hello"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let line = format!(
        "Ollama at http://{address} is not running; start it with `ollama serve`, or correct `url`; \
         your message is kept and answered later\n"
    );
    assert_eq!(ran.stderr.matches(&line).count(), 1, "{ran:?}");
    assert_eq!(ran.stderr.matches("not running").count(), 1, "{ran:?}");
    assert!(ran.stderr.contains("no answer within 0 s; your message is kept"), "{ran:?}");
    assert_plain(&ran);

    // The next message is kept as well, although the first still waits.
    let (folder, ran) = run(folder, &["chat", "--wait", "100ms", "home", "and"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("your message is kept"), "{ran:?}");

    let fake = FakeOllama::start_at(address).await;
    for text in ["To the first.", "To the second.", "To the third."] {
        fake.answer("/api/chat", says(text));
    }
    let (_, ran) = run(folder, &["chat", "home", "again"]).await;
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "To the third."), "{ran:?}");
    assert!(
        ran.stderr.contains("To the first.") && ran.stderr.contains("To the second."),
        "{ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_when_the_server_comes() {
    let address = nowhere();
    let folder = project(&format!("http://{address}"));
    let mut terminal = folder.at_terminal(&["chat", "home", "hello"]);
    let mut terminal = tokio::task::spawn_blocking(move || {
        terminal.wait_for("your message is kept");
        terminal
    })
    .await
    .unwrap();
    let fake = FakeOllama::start_at(address).await;
    fake.answer("/api/chat", says("There you are."));
    let (code, screen) = tokio::task::spawn_blocking(move || {
        terminal.wait_for("There you are.");
        terminal.end()
    })
    .await
    .unwrap();
    assert_eq!(code, Some(0), "{screen}");
}

#[test]
fn whoever_has_enough_of_waiting_stops_it() {
    let folder = project(&format!("http://{}", nowhere()));
    let mut terminal = folder.at_terminal(&["chat", "home", "hello"]);
    terminal.wait_for("is not running");
    super::interrupt(&terminal);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(130), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_model_is_named_with_what_gets_it() {
    let fake = FakeOllama::start().await;
    let folder = project(&fake.url);
    for _ in 0..10 {
        fake.answer("/api/show", Reply::json(404, &json!({"error": "model 'qwen3:8b' not found"})));
    }
    let (_, ran) = run(folder, &["chat", "--wait", "100ms", "home", "hello"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let line = "the model qwen3:8b is not on your Ollama; run `ollama pull qwen3:8b`; your message is kept";
    assert_eq!(ran.stderr.matches(line).count(), 1, "{ran:?}");
    assert_plain(&ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_heal_is_one_line_and_no_wait() {
    let memory = "model requires more system memory (5.5 GiB) than is available (3.2 GiB)";
    for (reply, words) in [
        (
            Reply::redirect(301, "https://ollama.lan/api/chat"),
            "answers 301 to https://ollama.lan/api/chat; change `url` to \"https://ollama.lan\"",
        ),
        (Reply::page(401, "<html><title>Sign in</title>"), "asks for a login (401 Unauthorized)"),
        (Reply::json(500, &json!({"error": memory})), memory),
    ] {
        let fake = FakeOllama::start().await;
        let folder = project(&fake.url);
        fake.answer("/api/chat", reply);
        let (_, ran) = run(folder, &["chat", "home", "hello"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert_eq!(ran.stderr.matches(words).count(), 1, "{ran:?}");
        assert!(!ran.stderr.contains("again"), "{ran:?}");
        assert_plain(&ran);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_can_do_less_than_is_asked_is_a_line_of_plan_and_status() {
    let fake = FakeOllama::start().await;
    let folder = project(&fake.url);
    let tags = json!({"models": [{"name": "qwen3:8b", "model": "qwen3:8b"}]});
    let shown = json!({
        "license": "", "modelfile": "", "parameters": "", "template": "", "details": {},
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 4096},
        "capabilities": ["completion"],
    });
    for _ in 0..100 {
        fake.answer("/api/tags", Reply::json(200, &tags));
        fake.answer("/api/show", Reply::json(200, &shown));
    }
    fake.answer("/api/chat", says("In words."));
    let lines = [
        "cannot use tools: its groups can talk, and do nothing else",
        "has a context of 4096 tokens at most: `context = 16384` gives no more",
    ];
    let (folder, plan) = run(folder, &["plan"]).await;
    for line in lines {
        assert_eq!(on_one_line(&plan.stdout).matches(line).count(), 1, "{plan:?}");
    }
    tokio::task::spawn_blocking(move || {
        let mut up = folder.command(&["up", "--yes"]).spawn().unwrap();
        let is_said = || {
            let status = on_one_line(&folder.run(&["status"]).stdout);
            lines.iter().all(|line| status.contains(line))
        };
        let said = comes_true(PATIENCE, is_said);
        let chat = folder.run(&["chat", "home", "hello"]);
        let down = folder.run(&["down"]);
        up.wait().unwrap();
        assert!(said);
        assert_eq!((chat.code, chat.stdout.trim()), (Some(0), "In words."), "{chat:?}");
        let note = "the model qwen3:8b cannot use tools and answers without them";
        assert_eq!(chat.stderr.matches(note).count(), 1, "{chat:?}");
        assert_eq!(down.code, Some(0), "{down:?}");
    })
    .await
    .unwrap();
}

#[test]
fn a_chat_with_a_group_that_is_not_there_says_what_helps() {
    let installation =
        Installation::new(User::Oneself, "[[rule]]\nsteps = [{ reply = \"here\" }]\n");
    installation.apply();
    let path = installation.root().join("babybot.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    installation.write("babybot.toml", &format!("{manifest}\n[groups.kids]\n"));
    let unapplied = installation.run(&["chat", "kids", "hello"]);
    assert_eq!(unapplied.code, 1, "{unapplied:?}");
    for words in ["group `kids` is not applied yet", "babybot apply"] {
        assert!(unapplied.stderr.contains(words), "{words}: {unapplied:?}");
    }
    // One word alone may have been meant as the message; with a message it was not.
    let alone = installation.run(&["chat", "goodbye"]);
    assert!(alone.stderr.contains("babybot chat home \"goodbye\""), "{alone:?}");
    let unknown = installation.run(&["chat", "uncle", "hello"]);
    assert!(unknown.stderr.contains("the groups are: home"), "{unknown:?}");
    assert!(!unknown.stderr.contains("babybot chat"), "{unknown:?}");
    for refused in [alone, unknown] {
        assert_eq!(refused.code, 64, "{refused:?}");
    }
    assert_eq!(installation.value::<i64>("SELECT count(*) FROM messages"), 0);
}
