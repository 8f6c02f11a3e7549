//! The gateway, seen from both sides: what an agent gets, and what a server is asked.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rehearsal;
mod trouble;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use babybot::gateway::{Caller, Gateway, ModelState, QueueState, Usage, UsageOutcome};
use babybot::name::{GroupName, ModelName};
use babybot::protocol::FAILURE_HEADER;
use babybot::resource::ModelSpec;
use babybot::unit::Period;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tower::ServiceExt as _;

use crate::support::ollama::{FakeOllama, Reply, Step, Trace};

/// What an agent was answered.
struct Answered {
    status: StatusCode,
    failure: String,
    content_type: String,
    body: Bytes,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// A gateway with one agent.
struct House {
    gateway: Gateway,
    router: Router,
    usage: mpsc::Receiver<Usage>,
}

impl House {
    fn new(spec: ModelSpec) -> Self {
        Self::at(std::env::temp_dir(), spec)
    }

    fn at(project: std::path::PathBuf, spec: ModelSpec) -> Self {
        let gateway = Gateway::new(project).unwrap();
        let (sender, usage) = mpsc::channel(64);
        let router = gateway.router(caller("family", spec, sender));
        Self { gateway, router, usage }
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answered {
        ask(&self.router, method, path, body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answered {
        self.ask(Method::POST, path, body.to_string()).await
    }

    async fn chat(&self) -> Answered {
        self.post("/api/chat", &hello()).await
    }

    async fn outcome(&mut self) -> UsageOutcome {
        self.usage.recv().await.unwrap().outcome
    }
}

fn caller(group: &str, spec: ModelSpec, usage: mpsc::Sender<Usage>) -> Caller {
    let group = GroupName::new(group).unwrap();
    Caller { group, name: ModelName::new("local").unwrap(), spec, usage }
}

async fn ask(router: &Router, method: Method, path: &str, body: impl Into<Body>) -> Answered {
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map_or("", |value| value.to_str().unwrap()).to_owned();
    let failure = response.headers().get(FAILURE_HEADER);
    let failure = failure.map_or("", |value| value.to_str().unwrap()).to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answered { status, failure, content_type, body }
}

fn ollama(url: &str, model: &str) -> ModelSpec {
    ModelSpec::Ollama {
        url: url.to_owned(),
        model: model.to_owned(),
        context: 8192,
        keep_alive: Period::seconds(1800),
    }
}

fn hello() -> Value {
    json!({ "model": "automaton", "messages": [{ "role": "user", "content": "hello" }] })
}

fn said(text: &str) -> String {
    let message = json!({ "role": "assistant", "content": text });
    format!("{}\n", json!({ "model": "automaton", "message": message, "done": false }))
}

fn done() -> String {
    let line = json!({
        "model": "automaton", "message": { "role": "assistant", "content": "" },
        "done": true, "done_reason": "stop", "prompt_eval_count": 7,
    });
    format!("{line}\n")
}

/// A house before a fake server.
async fn house() -> (House, FakeOllama) {
    let fake = FakeOllama::start().await;
    (House::new(ollama(&fake.url, "automaton")), fake)
}

/// Waits until the queue looks like this: (working, waiting).
async fn queue(gateway: &Gateway, working: usize, waiting: &[&str]) {
    let fits = |queue: &QueueState| {
        queue.working.len() == working
            && queue.waiting.iter().map(GroupName::as_str).eq(waiting.iter().copied())
    };
    while !gateway.queues().iter().any(fits) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn routes_that_reach_beyond_the_model_are_refused_in_ollamas_shape() {
    let (house, mut fake) = house().await;
    for (method, path) in [
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/push"),
        (Method::POST, "/api/create"),
        (Method::POST, "/api/copy"),
        (Method::DELETE, "/api/delete"),
        (Method::HEAD, "/api/blobs/sha256:0"),
        (Method::POST, "/api/blobs/sha256:0"),
        (Method::POST, "/api/experimental/web_search"),
        (Method::POST, "/api/web_search"),
        (Method::POST, "/api/embeddings"),
        (Method::POST, "/v1/embeddings"),
        (Method::POST, "/api/chat/"),
        (Method::GET, "/api/../api/pull"),
    ] {
        let head = method == Method::HEAD;
        let answered = house.ask(method, path, "{}").await;
        assert_eq!(answered.status, StatusCode::NOT_FOUND, "{path}");
        assert!(head || answered.error().contains("the gateway refuses"), "{path}");
    }
    for (method, path) in [(Method::GET, "/api/chat"), (Method::DELETE, "/api/tags")] {
        let answered = house.ask(method, path, "").await;
        assert_eq!(answered.status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(answered.error().contains("not allowed"));
    }
    assert!(!fake.was_asked());
}

#[tokio::test]
async fn the_root_says_what_every_client_looks_for() {
    let (house, _fake) = house().await;
    let answered = house.ask(Method::GET, "/", "").await;
    assert_eq!((answered.status, answered.text()), (StatusCode::OK, "Ollama is running"));
    assert_eq!(house.ask(Method::HEAD, "/", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_a_client_sends_cannot_change_the_runner() {
    let (house, mut fake) = house().await;
    fake.answer("/api/chat", Reply::stream([done()]));
    let tools = json!([{ "type": "function", "function": { "name": "bb_shell" } }]);
    house
        .post(
            "/api/chat",
            &json!({
                "model": "automaton", "stream": true, "tools": tools, "keep_alive": "9h",
                "messages": [{ "role": "user", "content": "ü" }],
                "truncate": true, "shift": true, "remote": "https://evil.example",
                "_debug_render_only": true, "dimension": 4,
                "options": {
                    "num_ctx": 999_999, "num_predict": -1, "num_gpu": 0, "num_batch": 1,
                    "num_thread": 1, "num_keep": 4, "main_gpu": 1, "use_mmap": false,
                    "temperature": 0.25, "stop": ["x"],
                },
            }),
        )
        .await;
    let sent = fake.received().await;
    assert_eq!(
        sent.body,
        json!({
            "model": "automaton", "stream": true, "tools": tools, "keep_alive": "1800000ms",
            "messages": [{ "role": "user", "content": "ü" }],
            "truncate": false, "shift": false,
            "options": { "num_ctx": 8192, "num_predict": 2048, "temperature": 0.25, "stop": ["x"] },
        })
    );
}

#[tokio::test]
async fn a_smaller_answer_may_be_asked_for_and_a_format_is_enforced() {
    let (house, mut fake) = house().await;
    for format in [json!("json"), json!({ "type": "string" }), json!("yaml")] {
        fake.answer("/api/chat", Reply::stream([done()]));
        let mut request = hello();
        request["format"] = format;
        request["think"] = true.into();
        request["options"] = json!({ "num_predict": 12 });
        house.post("/api/chat", &request).await;
    }
    let sent = fake.received().await.body;
    assert_eq!(sent["options"]["num_predict"], 12);
    assert_eq!((&sent["format"], &sent["think"]), (&json!({ "type": "object" }), &json!(false)));
    let sent = fake.received().await.body;
    assert_eq!((&sent["format"], &sent["think"]), (&json!({ "type": "string" }), &json!(false)));
    let sent = fake.received().await.body;
    assert_eq!((sent.get("format"), &sent["think"]), (None, &json!(true)));
}

#[tokio::test]
async fn generate_and_embed_follow_the_same_rules() {
    let (mut house, mut fake) = house().await;
    fake.answer("/api/generate", Reply::json(200, &json!({ "response": "hi", "done": true })));
    let body = json!({
        "model": "automaton", "prompt": "x", "stream": false, "options": { "num_gpu": 0 },
    });
    assert_eq!(house.post("/api/generate", &body).await.json()["response"], "hi");
    assert_eq!(
        fake.received().await.body,
        json!({
            "model": "automaton", "prompt": "x", "stream": false, "truncate": false,
            "shift": false, "keep_alive": "1800000ms",
            "options": { "num_ctx": 8192, "num_predict": 2048 },
        })
    );
    let vectors = json!({ "embeddings": [[0.5]], "prompt_eval_count": 3 });
    fake.answer("/api/embed", Reply::json(200, &vectors));
    let body = json!({ "model": "automaton", "input": ["x"], "truncate": true });
    assert_eq!(house.post("/api/embed", &body).await.json(), vectors);
    assert_eq!(fake.received().await.body["truncate"], false);
    assert_eq!(house.outcome().await, UsageOutcome::Done);
    assert_eq!(house.usage.recv().await.unwrap().prompt_tokens, 3);
}

#[tokio::test]
async fn only_the_agents_own_model_is_there() {
    let (house, mut fake) = house().await;
    for (model, status, words) in [
        (json!("nope"), StatusCode::NOT_FOUND, "model 'nope' not found"),
        (json!("automaton:8b"), StatusCode::NOT_FOUND, "model 'automaton:8b' not found"),
        (json!("gpt-oss:120b-cloud"), StatusCode::FORBIDDEN, "cloud models are refused"),
        (json!("glm:cloud"), StatusCode::FORBIDDEN, "cloud models are refused"),
        (json!(""), StatusCode::BAD_REQUEST, "model is required"),
        (json!(null), StatusCode::BAD_REQUEST, "model is required"),
    ] {
        for path in ["/api/chat", "/api/generate", "/api/embed", "/api/show"] {
            let answered = house.post(path, &json!({ "model": model })).await;
            assert_eq!(answered.status, status, "{path} {model}");
            assert!(answered.error().contains(words), "{path} {model}");
        }
    }
    assert!(!fake.was_asked());
    for model in ["automaton", "automaton:latest", "local"] {
        fake.answer("/api/chat", Reply::stream([done()]));
        let answered = house.post("/api/chat", &json!({ "model": model, "messages": [] })).await;
        assert_eq!(answered.status, StatusCode::OK);
        assert_eq!(fake.received().await.body["model"], "automaton");
    }
}

#[tokio::test]
async fn lists_name_only_the_agents_own_model() {
    let (house, fake) = house().await;
    let all = json!({ "models": [
        { "name": "other:latest", "model": "other:latest" },
        { "name": "automaton:latest", "model": "automaton:latest", "digest": "d",
          "modified_at": "2026-11-22T08:00:00Z" },
    ] });
    let own = json!({ "models": [all["models"][1]] });
    for path in ["/api/tags", "/api/ps"] {
        fake.answer(path, Reply::json(200, &all));
        assert_eq!(house.ask(Method::GET, path, "").await.json(), own);
    }
    fake.answer("/api/tags", Reply::json(200, &all));
    let listed = house.ask(Method::GET, "/v1/models", "").await.json();
    let created = 1_795_334_400;
    let model = json!({
        "id": "automaton:latest", "object": "model", "created": created, "owned_by": "library",
    });
    assert_eq!(listed, json!({ "object": "list", "data": [model] }));
    assert_eq!(house.ask(Method::GET, "/api/version", "").await.json()["version"], "0.33.0");
}

#[tokio::test]
async fn a_model_that_is_elsewhere_under_a_harmless_name_is_sent_nothing() {
    let (house, mut fake) = house().await;
    let remote = json!({ "remote_host": "https://ollama.com:443", "remote_model": "big" });
    fake.answer("/api/show", Reply::json(200, &remote));
    let answered = house.chat().await;
    assert_eq!(answered.status, StatusCode::FORBIDDEN);
    fake.answer("/api/show", Reply::json(200, &remote));
    let answered = house.post("/api/show", &hello()).await;
    assert_eq!(answered.status, StatusCode::FORBIDDEN);
    while fake.was_asked() {}
    // The next look finds it local: it may have been replaced.
    fake.answer("/api/chat", Reply::stream([done()]));
    assert_eq!(house.chat().await.status, StatusCode::OK);
    assert_eq!(fake.received().await.path, "/api/chat");
}

#[tokio::test]
async fn what_is_not_known_to_be_local_is_sent_nothing() {
    let (house, mut fake) = house().await;
    // The server takes the question and says nothing.
    fake.answer("/api/show", Reply::steps([Step::Silence]));
    let answered = house.chat().await;
    assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answered.error(), format!("Ollama at {} is not answering", fake.url));
    assert_eq!(answered.failure, "absent");
    for (status, body) in [(500, json!({ "error": "disk on fire" })), (404, json!({}))] {
        fake.answer("/api/show", Reply::json(status, &body));
        assert_eq!(house.chat().await.status.as_u16(), status);
    }
    fake.answer("/api/show", Reply::stream(["hello"]));
    assert_eq!(house.chat().await.status, StatusCode::BAD_GATEWAY);
    fake.answer("/api/show", Reply::steps([Step::Break]));
    assert_eq!(house.chat().await.status, StatusCode::BAD_GATEWAY);
    // And once it says so, it is asked.
    fake.answer("/api/chat", Reply::stream([done()]));
    assert_eq!(house.chat().await.status, StatusCode::OK);
    assert_eq!(fake.received().await.path, "/api/chat");
    assert!(!fake.was_asked());
}

#[tokio::test]
async fn show_tells_nothing_about_files_of_the_host() {
    let (house, fake) = house().await;
    let trace = Trace::one("0.33", "show");
    fake.answer("/api/show", trace.reply.clone());
    let shown = house.post("/api/show", &hello()).await;
    assert!(String::from_utf8(trace.body()).unwrap().contains("/models/blobs"));
    assert!(!shown.text().contains("/models/blobs"));
    assert!(shown.json()["capabilities"].as_array().unwrap().contains(&json!("tools")));
}

#[tokio::test]
async fn requests_that_are_none_get_ollamas_words() {
    let (house, _fake) = house().await;
    for (body, words) in [
        ("", "missing request body"),
        ("{\"model\": ", "unexpected EOF"),
        ("[]", "json: cannot unmarshal array into Go value"),
        ("{]", "invalid JSON"),
    ] {
        let answered = house.ask(Method::POST, "/api/chat", body).await;
        assert_eq!(answered.status, StatusCode::BAD_REQUEST);
        assert!(answered.error().contains(words), "{body}");
    }
    let answered = house.ask(Method::POST, "/api/chat", vec![b' '; (8 << 20) + 1]).await;
    assert_eq!(answered.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answered.error().contains("8 MiB"));
}

#[tokio::test]
async fn recorded_answers_of_real_servers_come_through_unharmed() {
    for version in ["0.24", "0.33", "0.33-native"] {
        let mut played = 0;
        for trace in Trace::all(version) {
            let works = trace.path == "/api/chat" || trace.path == "/api/generate";
            // These end in a way that is made plain: see the tests of their own.
            let told = ["loop", "loop.nostream", "error.missing-model"].contains(&&*trace.case);
            if !works || told {
                continue;
            }
            let fake = FakeOllama::start().await;
            let model = trace.request["model"].as_str().unwrap_or("automaton");
            let mut house = House::new(ollama(&fake.url, model));
            let mut request = trace.request.clone();
            request["model"] = model.into();
            fake.answer(&trace.path, trace.reply.clone());
            let answered = house.post(&trace.path, &request).await;
            let case = format!("{version} {}", trace.case);
            assert_eq!(answered.status.as_u16(), trace.reply.status, "{case}");
            assert_eq!(answered.text(), String::from_utf8(trace.body()).unwrap(), "{case}");
            if trace.reply.status == 200 {
                assert_eq!(answered.content_type, trace.reply.content_type, "{case}");
            }
            let failed = trace.reply.status != 200 || trace.case.starts_with("runner-killed");
            let expected = if failed { UsageOutcome::Failed } else { UsageOutcome::Done };
            assert_eq!(house.outcome().await, expected, "{case}");
            played += 1;
        }
        assert!(played >= 10, "{version}: {played}");
    }
}

#[tokio::test]
async fn an_answer_with_no_words_gets_some() {
    let (house, fake) = house().await;
    let trace = Trace::one("0.33", "host-denied");
    fake.answer("/api/tags", trace.reply.clone());
    let answered = house.ask(Method::GET, "/api/tags", "").await;
    assert_eq!(answered.status, StatusCode::FORBIDDEN);
    assert_eq!(answered.error(), format!("{} refuses babybot (403 Forbidden)", fake.url));
}

#[tokio::test]
async fn a_loop_that_ollama_cuts_without_a_word_gets_an_end_that_says_why() {
    for version in ["0.24", "0.33"] {
        let trace = Trace::one(version, "loop");
        let fake = FakeOllama::start().await;
        let mut house = House::new(ollama(&fake.url, trace.request["model"].as_str().unwrap()));
        fake.answer("/api/chat", trace.reply.clone());
        let lines = house.post("/api/chat", &trace.request).await.lines();
        assert_eq!(lines.len(), 32, "{version}");
        let last = lines.last().unwrap();
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("repeat")));
        assert_eq!(house.usage.recv().await.unwrap().completion_tokens, 31);
    }
}

#[tokio::test]
async fn a_loop_that_nobody_else_cuts_is_cut_and_the_model_told_to_stop() {
    let (mut house, mut fake) = house().await;
    let spam = Step::Chunk(said("spam ").repeat(1000).into_bytes());
    fake.answer("/api/chat", Reply::steps([spam, Step::Silence]));
    let lines = house.chat().await.lines();
    let last = lines.last().unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("repeat")));
    assert!((100..300).contains(&lines.len()), "{}", lines.len());
    fake.left().await;
    assert_eq!(house.outcome().await, UsageOutcome::Cut);
}

#[tokio::test]
async fn forty_times_the_same_emoji_is_an_answer() {
    let (mut house, fake) = house().await;
    let text = [said("🎉").repeat(40), done()].concat();
    fake.answer("/api/chat", Reply::stream([&*text]));
    assert_eq!(house.chat().await.text(), text);
    assert_eq!(house.outcome().await, UsageOutcome::Done);
}

#[tokio::test]
async fn a_whole_answer_that_is_not_done_is_an_error() {
    let (mut house, fake) = house().await;
    let trace = Trace::one("0.24", "loop.nostream");
    fake.answer("/api/chat", trace.reply.clone());
    let answered = house.post("/api/chat", &trace.request).await;
    assert_eq!(answered.status, StatusCode::BAD_GATEWAY);
    assert!(answered.error().contains("the model's answer broke off"));
    assert_eq!(house.outcome().await, UsageOutcome::Cut);
}

#[tokio::test]
async fn text_that_is_split_within_a_character_comes_whole() {
    let text = [said("blåbær ☕ 日本"), said("…"), done()].concat();
    for size in 1..8 {
        let (mut house, fake) = house().await;
        fake.answer("/api/chat", Reply::stream(text.as_bytes().chunks(size)));
        assert_eq!(house.chat().await.text(), text);
        let usage = house.usage.recv().await.unwrap();
        // What is zero is left out by the server.
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (7, 0));
        assert_eq!(usage.outcome, UsageOutcome::Done);
    }
}

#[tokio::test]
async fn an_answer_ends_with_whatever_mark_its_server_knows() {
    let one = said("one");
    let spread = "{\n  \"message\": {\n    \"content\": \"one\"\n  },\n  \"done\": true\n}\n";
    for text in [
        format!("{one}{}\n", json!({"message": null, "done": false, "done_reason": "stop"})),
        format!("{one}{}", json!({"done_reason": "stop"})),
        format!("{one}[DONE]\n"),
        format!(": hello\n\nevent: x\ndata: {one}\n\ndata: [DONE]\n\n"),
        format!("data: {one}data: {}\n", done()),
        spread.to_owned(),
        json!({"message": {"content": "one"}}).to_string(),
        format!("{}\n", json!({"message": {"content": "one"}, "error": null})),
        json!([{"message": {"content": "one"}}, {"done": true}]).to_string(),
    ] {
        let (mut house, fake) = house().await;
        // The server says no more, and keeps the connection.
        let last = if text.contains("DONE") || text.contains("done") {
            vec![Step::Chunk(text.clone().into_bytes()), Step::Chunk(b"\n".to_vec()), Step::Silence]
        } else {
            vec![Step::Chunk(text.clone().into_bytes())]
        };
        fake.answer("/api/chat", Reply::steps(last));
        let lines = house.chat().await.lines();
        let said = lines.iter().filter_map(|line| line["message"]["content"].as_str());
        assert_eq!(said.collect::<String>(), "one", "{text}");
        assert_eq!(lines.last().unwrap()["done"], true, "{text}");
        assert!(lines[..lines.len() - 1].iter().all(|line| line["done"] != true), "{text}");
        assert_eq!(house.outcome().await, UsageOutcome::Done, "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_without_a_mark_says_so() {
    let cut = |steps: Vec<Step>| Reply::steps(steps);
    let half = said("two").into_bytes()[..20].to_vec();
    let text = |text: &str| Step::Chunk(text.as_bytes().to_vec());
    for reply in [
        cut(vec![text(&said("one"))]),
        cut(vec![text(&said("one")), Step::Break]),
        cut(vec![text(&said("one")), Step::Chunk(half)]),
        cut(vec![text(&said("one")), text("<html>\n"), text(&done())]),
    ] {
        let (mut house, fake) = house().await;
        fake.answer("/api/chat", reply);
        let answered = house.chat().await;
        assert_eq!(answered.status, StatusCode::OK);
        let lines = answered.lines();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"]["content"], "one");
        assert!(lines[1]["error"].as_str().unwrap().contains("the model's answer broke off"));
        let usage = house.usage.recv().await.unwrap();
        assert_eq!((usage.outcome, usage.completion_tokens), (UsageOutcome::Cut, 1));
    }
}

#[tokio::test]
async fn an_error_in_mid_answer_is_the_last_line_and_a_failed_use() {
    let (mut house, fake) = house().await;
    let error = "{\"error\":\"llama runner is out of memory\"}\n";
    let text = [&said("one"), error].concat();
    fake.answer("/api/chat", Reply::stream([[&*text, &done()].concat()]));
    assert_eq!(house.chat().await.text(), text);
    assert_eq!(house.outcome().await, UsageOutcome::Failed);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://user:secret@{free}");
    let mut house = House::new(ollama(&url, "automaton"));
    let answered = house.chat().await;
    assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
    let words = format!(
        "Ollama at http://{free} is not running; start it with `ollama serve`, or correct `url`"
    );
    assert_eq!(answered.error(), words);
    assert_eq!(answered.failure, "absent");
    assert_eq!(house.outcome().await, UsageOutcome::Failed);
    let answered = house.ask(Method::GET, "/v1/models", "").await;
    assert_eq!(answered.json()["error"]["type"], "api_error");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work() {
    let (mut house, mut fake) = house().await;
    let first = Step::Chunk(said("one").into_bytes());
    fake.answer("/api/chat", Reply::steps([first, Step::Silence]));
    let request = Request::post("/api/chat").body(Body::from(hello().to_string())).unwrap();
    let response = house.router.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), said("one"));
    queue(&house.gateway, 1, &[]).await;
    drop(body);
    fake.left().await;
    queue(&house.gateway, 0, &[]).await;
    assert_eq!(house.outcome().await, UsageOutcome::Cut);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_word_ends_the_work_too() {
    let (mut house, mut fake) = house().await;
    fake.answer("/api/chat", Reply::steps([Step::Silence]));
    let router = house.router.clone();
    let body = hello().to_string();
    let asking =
        tokio::spawn(async move { ask(&router, Method::POST, "/api/chat", body).await.status });
    assert_eq!(fake.received().await.path, "/api/chat");
    asking.abort();
    fake.left().await;
    queue(&house.gateway, 0, &[]).await;
    assert_eq!(house.outcome().await, UsageOutcome::Cut);
}

#[tokio::test]
async fn a_stream_that_is_reset_on_the_link_ends_the_work() {
    let (mut house, mut fake) = house().await;
    let first = Step::Chunk(said("one").into_bytes());
    fake.answer("/api/chat", Reply::steps([first, Step::Silence]));
    fake.answer("/api/chat", Reply::steps([Step::Silence]));

    let (agent, host) = tokio::io::duplex(64 << 10);
    let service = TowerToHyperService::new(house.router.clone());
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(host), service);
    tokio::spawn(serving);
    let link = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(agent));
    let (mut link, connection) = link.await.unwrap();
    tokio::spawn(connection);
    let chat = || Request::post("http://gateway/api/chat").body(hello().to_string()).unwrap();

    // In mid-answer.
    let mut body = link.send_request(chat()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), said("one"));
    drop(body);
    fake.left().await;
    assert_eq!(house.outcome().await, UsageOutcome::Cut);
    // Before the first word.
    fake.received().await;
    let asking = tokio::spawn(link.send_request(chat()));
    fake.received().await;
    asking.abort();
    fake.left().await;
    assert_eq!(house.outcome().await, UsageOutcome::Cut);
    queue(&house.gateway, 0, &[]).await;
}

#[tokio::test]
async fn requests_are_served_one_at_a_time_in_the_order_they_came() {
    let (house, mut fake) = house().await;
    let go_on = Arc::new(Notify::new());
    let mut asking = Vec::new();
    for (at, group) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let last = Step::Chunk(done().into_bytes());
        fake.answer("/api/chat", Reply::steps([Step::Wait(go_on.clone()), last]));
        let (usage, _) = mpsc::channel(1);
        let router = house.gateway.router(caller(group, ollama(&fake.url, "automaton"), usage));
        let mut body = hello();
        body["messages"][0]["content"] = group.into();
        asking.push(tokio::spawn(async move {
            ask(&router, Method::POST, "/api/chat", body.to_string()).await.status
        }));
        queue(&house.gateway, 1, &["two", "three", "four"][..at]).await;
    }
    // Who leaves the line is not served.
    asking.remove(1).abort();
    queue(&house.gateway, 1, &["three", "four"]).await;
    for (group, waiting) in [("one", 2), ("three", 1), ("four", 0)] {
        assert_eq!(fake.received().await.body["messages"][0]["content"], group);
        assert!(!fake.was_asked());
        queue(&house.gateway, 1, &["three", "four"][2 - waiting..]).await;
        go_on.notify_one();
        assert_eq!(asking.remove(0).await.unwrap(), StatusCode::OK);
    }
    queue(&house.gateway, 0, &[]).await;
    // Nobody took the reports, and nobody waited for that.
    assert_eq!(house.gateway.usage_dropped(), 3);
}

#[tokio::test]
async fn one_group_cannot_fill_the_line() {
    let (house, mut fake) = house().await;
    fake.answer("/api/chat", Reply::steps([Step::Silence]));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..9 {
        let router = house.router.clone();
        asking.spawn(async move {
            ask(&router, Method::POST, "/api/chat", hello().to_string()).await.status
        });
    }
    queue(&house.gateway, 1, &["family"; 8]).await;
    assert_eq!(fake.received().await.path, "/api/chat");
    let answered = house.chat().await;
    assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answered.error().contains("server busy"));
    asking.shutdown().await;
    queue(&house.gateway, 0, &[]).await;
}

#[tokio::test]
async fn openais_answers_are_worded_as_ollama_words_them() {
    for (native, openai, streamed) in
        [("hello.nostream", "v1.chat", false), ("call.shell", "v1.chat.call.stream", true)]
    {
        let (house, mut fake) = house().await;
        fake.answer("/api/chat", Trace::one("0.33", native).reply);
        let recorded = Trace::one("0.33", openai);
        let answered = house.post("/v1/chat/completions", &recorded.request).await;
        assert_eq!(
            answered.content_type,
            recorded
                .reply
                .content_type
                .replace("application/json", "application/json; charset=utf-8")
        );
        let expected = String::from_utf8(recorded.body()).unwrap();
        assert_eq!(comparable(answered.text()), comparable(&expected));
        let sent = fake.received().await;
        assert_eq!((sent.path.as_str(), &sent.body["stream"]), ("/api/chat", &json!(streamed)));
        assert_eq!(sent.body["options"]["num_ctx"], 8192);
        assert_eq!(sent.body.get("tools"), recorded.request.get("tools"));
    }
}

/// Answers without what differs each time: ids, times, and how arguments are escaped.
fn comparable(answer: &str) -> Vec<Value> {
    let events = answer.lines().filter(|line| !line.is_empty());
    let events = events.map(|line| line.strip_prefix("data: ").unwrap_or(line));
    events
        .map(|event| {
            let Ok(mut value) = serde_json::from_str::<Value>(event) else { return event.into() };
            value["id"] = Value::Null;
            value["created"] = Value::Null;
            let call = value.pointer_mut("/choices/0/delta/tool_calls/0");
            if let Some(call) = call {
                call["id"] = Value::Null;
                let arguments = call["function"]["arguments"].as_str().unwrap();
                call["function"]["arguments"] = serde_json::from_str(arguments).unwrap();
            }
            value
        })
        .collect()
}

#[tokio::test]
async fn openais_requests_are_translated() {
    let (house, mut fake) = house().await;
    fake.answer("/api/chat", Reply::stream([done()]));
    let request = json!({
        "model": "local", "max_tokens": 100, "temperature": 0, "stop": "END", "user": "ignored",
        "stream": true, "stream_options": { "include_usage": true }, "reasoning_effort": "none",
        "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "array" } } },
        "messages": [
            { "role": "developer", "content": "be brief" },
            { "role": "user", "content": [
                { "type": "text", "text": "see" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
            ] },
            { "role": "assistant", "content": null, "tool_calls": [{
                "id": "call_1", "type": "function",
                "function": { "name": "bb_shell", "arguments": "{\"command\":\"ls\"}" },
            }] },
            { "role": "tool", "tool_call_id": "call_1", "content": "a.txt" },
        ],
    });
    let answered = house.post("/v1/chat/completions", &request).await;
    let usage = "\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":0,\"total_tokens\":7}}";
    assert!(answered.text().contains(usage));
    assert!(answered.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(
        fake.received().await.body,
        json!({
            "model": "automaton", "stream": true, "think": false, "format": { "type": "array" },
            "truncate": false, "shift": false, "keep_alive": "1800000ms",
            "options": { "num_ctx": 8192, "num_predict": 100, "temperature": 0, "stop": ["END"] },
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": "see", "images": ["AAAA"] },
                { "role": "assistant", "content": "", "tool_calls": [{
                    "id": "call_1",
                    "function": { "index": 0, "name": "bb_shell", "arguments": { "command": "ls" } },
                }] },
                { "role": "tool", "content": "a.txt", "tool_call_id": "call_1",
                  "tool_name": "bb_shell" },
            ],
        })
    );
}

#[tokio::test]
async fn openais_errors_have_openais_shape() {
    let (house, fake) = house().await;
    let answered =
        house.post("/v1/chat/completions", &json!({ "model": "nope", "messages": [] })).await;
    assert_eq!(answered.status, StatusCode::NOT_FOUND);
    let expected = json!({
        "message": "model 'nope' not found", "type": "not_found_error", "param": null, "code": null,
    });
    assert_eq!(answered.json()["error"], expected);
    for (messages, words) in [
        (json!("hi"), "must be an array"),
        (json!([{ "content": "hi" }]), "must have a role"),
        (json!([{ "role": "user", "content": 7 }]), "invalid message content type: number"),
        (
            json!([{ "role": "user", "content": [
                { "type": "image_url", "image_url": { "url": "http://192.168.0.1/" } }] }]),
            "only data: URLs",
        ),
    ] {
        let request = json!({ "model": "local", "messages": messages });
        let answered = house.post("/v1/chat/completions", &request).await;
        assert_eq!(answered.status, StatusCode::BAD_REQUEST);
        assert_eq!(answered.json()["error"]["type"], "invalid_request_error");
        assert!(answered.json()["error"]["message"].as_str().unwrap().contains(words));
    }
    fake.answer("/api/chat", Reply::stream([said("one")]));
    let mut request = hello();
    request["stream"] = true.into();
    let answered = house.post("/v1/chat/completions", &request).await;
    let last = answered.text().trim_end().lines().last().unwrap().to_owned();
    assert!(
        last.starts_with("data: {\"error\":{\"message\":\"the model's answer broke off"),
        "{last}"
    );
}

#[tokio::test]
async fn a_look_tells_there_from_absent_from_unknown() {
    let fake = FakeOllama::start().await;
    let gateway = Gateway::new(std::env::temp_dir()).unwrap();
    let spec = ollama(&fake.url, "automaton");
    let tags = Trace::one("0.33", "tags");

    fake.answer("/api/tags", tags.reply.clone());
    fake.answer("/api/show", Trace::one("0.33", "show").reply);
    let ModelState::Is(facts) = gateway.look(&spec).await else { panic!() };
    assert_eq!((facts.version.as_str(), facts.tools, facts.remote), ("0.33.0", true, false));
    assert!(facts.context_max.is_some());

    fake.answer("/api/tags", tags.reply.clone());
    assert_eq!(gateway.look(&ollama(&fake.url, "nope")).await, ModelState::Absent);

    fake.answer("/api/tags", Reply::json(500, &json!({ "error": "disk on fire" })));
    let ModelState::Unknown(cause) = gateway.look(&spec).await else { panic!() };
    assert!(cause.contains("disk on fire"), "{cause}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let state = gateway.look(&ollama(&format!("http://{free}"), "automaton")).await;
    let ModelState::Unknown(cause) = state else { panic!() };
    assert!(cause.contains(&format!("{free} is not running; start it")), "{cause}");

    // With TLS there is an answer too, where only the server is missing.
    let state = gateway.look(&ollama(&format!("https://{free}"), "automaton")).await;
    let ModelState::Unknown(cause) = state else { panic!() };
    assert!(cause.contains(&format!("{free} is not running; start it")), "{cause}");

    let state = gateway.look(&ollama("ollama", "automaton")).await;
    let ModelState::Unknown(cause) = state else { panic!() };
    assert!(cause.contains("not the address of a server"), "{cause}");
}

#[tokio::test]
async fn a_real_server_answers_through_the_gateway() {
    let Ok(url) = std::env::var("BABYBOT_TEST_OLLAMA") else {
        // The real stderr: the harness swallows what a passing test prints.
        let note = b"skipped: a_real_server_answers_through_the_gateway (BABYBOT_TEST_OLLAMA)\n";
        std::io::stderr().write_all(note).unwrap();
        return;
    };
    let model = match std::env::var("BABYBOT_TEST_OLLAMA_MODEL") {
        Ok(model) => model,
        Err(_) => {
            let tags =
                reqwest::get(format!("{url}/api/tags")).await.unwrap().bytes().await.unwrap();
            let tags: Value = serde_json::from_slice(&tags).unwrap();
            tags["models"][0]["name"].as_str().unwrap().to_owned()
        }
    };
    let mut house = House::new(ollama(&url, &model));
    let spec = ollama(&url, &model);
    let ModelState::Is(facts) = house.gateway.look(&spec).await else { panic!() };
    assert!(!facts.remote);
    let mut request = hello();
    request["model"] = "local".into();
    request["options"] = json!({ "num_predict": 32 });
    let work = house.post("/api/chat", &request);
    let lines = tokio::time::timeout(Duration::from_secs(600), work).await.unwrap().lines();
    assert_eq!(lines.last().unwrap()["done"], true);
    assert_eq!(house.outcome().await, UsageOutcome::Done);
    let shown = house.post("/api/show", &request).await;
    assert_eq!(shown.status, StatusCode::OK);
}
