//! What is not there yet is waited for; what failed is tried again; what will not heal is given up.

use super::*;
use babybot::session::Progress;

/// What whoever listens was told of waits and retries.
fn heard(shop: &mut Workshop) -> Vec<Progress> {
    let mut heard = Vec::new();
    while let Ok(step) = shop.progress.try_recv() {
        heard.push(step);
    }
    heard.retain(|step| {
        matches!(
            step,
            Progress::Waits(_) | Progress::Back | Progress::Retry { .. } | Progress::Note(_)
        )
    });
    heard
}

fn missing() -> Reply {
    Reply::json(404, &json!({"error": "model 'qwen3:8b' not found"}))
}

const PULL: &str = "the model qwen3:8b is not on your Ollama; run `ollama pull qwen3:8b`";

#[tokio::test]
async fn a_missing_model_is_waited_for_longer_than_any_retry_and_told_once() {
    let (mut shop, mut fake) = with_fake(Limits::default()).await;
    // The request, and more looks than a turn has retries.
    for _ in 0..7 {
        fake.answer("/api/show", missing());
    }
    fake.answer("/api/chat", says("Here I am."));
    let mut worker = shop.worker();
    assert_eq!(shop.ask(&mut worker, "hello").await, "Here I am.");
    worker.rest().await;
    assert_eq!(heard(&mut shop), [Progress::Waits(PULL.to_owned()), Progress::Back]);
    assert_eq!(fake.received().await.path, "/api/chat");
    assert!(!fake.was_asked(), "the model was asked before it was there");
}

#[tokio::test]
async fn a_model_that_is_being_loaded_is_asked_again_and_told_once() {
    let (mut shop, fake) = with_fake(Limits::default()).await;
    let loading = json!({"error": {"code": 503, "message": "Loading model", "type": "x"}});
    fake.answer("/api/chat", Reply::json(503, &loading));
    fake.answer("/api/chat", Reply::json(503, &loading));
    fake.answer("/api/chat", says("Loaded."));
    let mut worker = shop.worker();
    assert_eq!(shop.ask(&mut worker, "hello").await, "Loaded.");
    worker.rest().await;
    let why = "the model qwen3:8b is not loaded yet".to_owned();
    assert_eq!(heard(&mut shop), [Progress::Waits(why)]);
}

#[tokio::test]
async fn a_wait_that_nobody_wants_any_more_ends_at_once() {
    let (mut shop, fake) = with_fake(Limits::default()).await;
    for _ in 0..100 {
        fake.answer("/api/show", missing());
    }
    shop.say("hello").await;
    let cancel = CancellationToken::new();
    let working = shop.working(shop.worker(), &cancel);
    let waits = Progress::Waits(PULL.to_owned());
    while shop.progress.recv().await.expect("it waits") != waits {}
    cancel.cancel();
    let (mut worker, worked) = finished(working).await;
    worker.rest().await;
    assert_eq!(worked, Worked::Cancelled);
}

#[tokio::test]
async fn a_server_that_says_it_is_not_there_and_is_there_gives_broken_answers() {
    let (mut shop, fake) = with_fake(Limits::default()).await;
    for _ in 0..6 {
        fake.answer("/api/chat", Reply::page(502, "<title>502 Bad Gateway</title>"));
    }
    shop.say("hello").await;
    let mut worker = shop.worker();
    let worked = shop.work(&mut worker).await;
    worker.rest().await;
    let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
    assert!(why.contains("is not running (502 Bad Gateway)"), "{why}");
    let retries = heard(&mut shop);
    assert_eq!(retries.len(), 5, "{retries:?}");
    assert!(retries.iter().all(|step| matches!(step, Progress::Retry { .. })), "{retries:?}");
}

#[tokio::test]
async fn what_will_not_heal_is_given_up_at_once_in_one_line() {
    let memory = "model requires more system memory (5.5 GiB) than is available (3.2 GiB)";
    for (reply, words) in [
        (
            Reply::redirect(301, "https://ollama.lan/api/chat"),
            "change `url` to \"https://ollama.lan\"",
        ),
        (Reply::page(401, "<html><title>Sign in</title>"), "asks for a login (401 Unauthorized)"),
        (Reply::page(403, "<html>no"), "refuses babybot (403 Forbidden)"),
        (Reply::page(404, "<html>"), "is not an Ollama"),
        (Reply::page(200, "<html><body>Welcome"), "answers with a web page"),
        (Reply::json(500, &json!({"error": memory})), memory),
    ] {
        let (mut shop, mut fake) = with_fake(Limits::default()).await;
        fake.answer("/api/chat", reply);
        shop.say("hello").await;
        let mut worker = shop.worker();
        let worked = shop.work(&mut worker).await;
        worker.rest().await;
        let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
        assert!(why.contains(words), "{why:?} does not say {words:?}");
        assert!(!why.contains(['<', '\n']), "{why}");
        assert_eq!(heard(&mut shop), []);
        fake.received().await;
        assert!(!fake.was_asked(), "it was asked again: {words}");
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_is_waited_for() {
    let (mut shop, fake) = with_fake(Limits::default()).await;
    fake.answer("/api/chat", says("At home again."));
    let home = shop.project.group(&shop.group);
    std::fs::remove_dir_all(&home).unwrap();
    shop.say("hello").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let why = "groups/family is not there; `babybot apply` makes it".to_owned();
    assert_eq!(shop.progress.recv().await, Some(Progress::Waits(why)));
    shop.project.make_folder(&home).unwrap();
    let (mut worker, worked) = finished(working).await;
    worker.rest().await;
    assert_eq!(worked, Worked::Answered);
}

#[tokio::test]
async fn a_model_without_tools_answers_without_them_and_says_so() {
    let refusal = json!({"error": "registry.ollama.ai/library/qwen3:8b does not support tools"});
    // What the server says of the model is known, or comes as its refusal.
    for known in [true, false] {
        let (mut shop, mut fake) = with_fake(Limits::default()).await;
        let shown = Reply::json(200, &json!({"capabilities": ["completion"]}));
        if known {
            fake.answer("/api/show", shown.clone());
            fake.answer("/api/show", shown);
        } else {
            fake.answer("/api/chat", Reply::json(400, &refusal));
        }
        fake.answer("/api/chat", says("In words."));
        let mut worker = shop.worker();
        assert_eq!(shop.ask(&mut worker, "hello").await, "In words.");
        worker.rest().await;
        let note = "the model qwen3:8b cannot use tools and answers without them".to_owned();
        assert_eq!(heard(&mut shop), [Progress::Note(note)]);
        if !known {
            assert!(fake.received().await.body["tools"].is_array());
        }
        let asked = fake.received().await;
        assert!(asked.body.get("tools").is_none(), "{}", asked.body);
        assert!(told(&asked)[0].contains("You have no tools here"));
        assert!(!fake.was_asked());
    }
}
