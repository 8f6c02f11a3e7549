//! What the API does, and that `docs/webhook.openapi.json` says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Answer, BEARER, JSON, Listening, answer, open, open_with, request};

static OPENAPI: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/webhook.openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

#[tokio::test]
async fn a_message_is_stored_once_however_often_it_is_sent() {
    let api = Listening::start().await;
    let message = json!({ "text": "lights off", "sender": "Ann", "id": "one" });
    let first = api.write("", &message).await;
    assert_eq!(first.status, 202);
    assert_eq!(first.body, json!({ "id": "one", "duplicate": false, "answered": true }));
    let again = api.write("", &message).await;
    assert_eq!(again.body, json!({ "id": "one", "duplicate": true, "answered": true }));
    let stored = api.inbox.stored.lock().unwrap().clone();
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].channel.as_str(), stored[0].chat.as_str()), ("api", "kitchen"));
    assert!(stored[0].direct);
    // Who sends it is a claim, and shown as one.
    assert_eq!(stored[0].sender.id.as_str(), "claimed:Ann");
    assert_eq!(stored[0].sender.name, "Ann (claimed)");
}

#[tokio::test]
async fn without_an_id_every_request_is_a_message_of_its_own() {
    let api = Listening::start().await;
    let ids: BTreeSet<String> = [
        api.write("", &json!({ "text": "hello" })).await,
        api.write("", &json!({ "text": "hello" })).await,
    ]
    .map(|answer| answer.body["id"].as_str().unwrap().to_owned())
    .into();
    assert_eq!(ids.len(), 2);
    assert_eq!(api.inbox.stored.lock().unwrap()[0].sender.id.as_str(), "channel:api");
}

#[tokio::test]
async fn a_request_that_waits_is_given_the_reply_to_its_own_message() {
    let api = Listening::start().await;
    api.inbox.reply(&*api.channel, "another", "not this").await;
    let message = json!({ "text": "hello", "id": "mine" });
    let writes = api.write("?wait=1m", &message);
    let replies = async {
        while api.inbox.stored.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        api.inbox.reply(&*api.channel, "mine", "hello yourself").await;
    };
    let (answer, ()) = tokio::join!(writes, replies);
    assert_eq!(answer.status, 200);
    let reply =
        json!({ "cursor": 2, "text": "hello yourself", "notice": false, "answers": ["mine"] });
    assert_eq!(answer.body["reply"], reply);
    // Whoever asks again, after a crash for example, is given the same.
    let again = api.write("?wait=1m", &message).await;
    assert_eq!((again.status, &again.body["reply"]), (200, &reply));
    assert_eq!(again.body["duplicate"], true);
}

#[tokio::test]
async fn a_request_that_waits_in_vain_is_told_that_its_message_is_stored() {
    let api = Listening::start().await;
    let answer = api.write("?wait=1ms", &json!({ "text": "hello", "id": "mine" })).await;
    assert_eq!((answer.status, answer.body.get("reply")), (202, None));
    // Context is not answered, so nothing is waited for.
    let answer = api.write("?wait=5m", &json!({ "text": "by the way", "id": "aside" })).await;
    assert_eq!(answer.body, json!({ "id": "aside", "duplicate": false, "answered": false }));
}

#[tokio::test]
async fn replies_are_read_by_cursor_and_waited_for() {
    let api = Listening::start().await;
    assert_eq!(api.read("").await.body, json!({ "replies": [], "cursor": 0 }));
    for number in 1..=20 {
        api.inbox.reply(&*api.channel, &format!("m{number}"), "reply").await;
    }
    let first = api.read("").await.body;
    assert_eq!((first["replies"].as_array().unwrap().len(), &first["cursor"]), (16, &json!(16)));
    let rest = api.read("?after=16").await.body;
    assert_eq!((rest["replies"][0]["cursor"].clone(), &rest["cursor"]), (json!(17), &json!(20)));
    let (late, ()) = tokio::join!(api.read("?after=20&wait=1m"), async {
        api.inbox.reply(&*api.channel, "late", "late reply").await;
    });
    assert_eq!(late.body["replies"][0]["text"], "late reply");
    let none = api.read("?after=21&wait=1ms").await.body;
    assert_eq!(none, json!({ "replies": [], "cursor": 21 }));
}

#[tokio::test]
async fn one_connection_serves_several_requests() {
    let api = Listening::start().await;
    let mut stream = api.connect().await;
    let head = ["GET /v1/chats/kitchen/replies HTTP/1.1", &api.host(), BEARER];
    for _ in 0..3 {
        stream.write_all(request(&head, "").as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_port_in_use_and_a_weak_token_are_told() {
    let api = Listening::start().await;
    let second = open(api.address, None).unwrap();
    let why = second.run(&*api.inbox, Default::default()).await.unwrap_err();
    assert!(why.contains("another program listens on 127.0.0.1:"), "{why}");
    assert_eq!(second.probe().await.unwrap_err(), why);
    assert_eq!(api.channel.probe().await.unwrap(), format!("listens on {}", api.address));
    let why = open_with(api.address, None, "short").unwrap_err();
    assert!(why.contains("secret api is shorter than 16 characters"), "{why}");
    assert!(!format!("{:?}", api.channel).contains(super::TOKEN));
}

/// Each status is brought about, has the documented shape, and is documented; and every documented
/// status is brought about.
#[tokio::test]
async fn the_openapi_file_says_what_the_server_does() {
    let mut seen: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    let mut saw = |operation: &'static str, answer: Answer| {
        check(operation, &answer);
        seen.entry(operation).or_default().insert(answer.status);
    };
    let api = Listening::start().await;
    let host = api.host();
    api.inbox.reply(&*api.channel, "known", "reply").await;
    let message = json!({ "text": "hello", "id": "known" }).to_string();
    for (operation, line) in
        [("post", "POST /v1/chats/kitchen/messages"), ("get", "GET /v1/chats/kitchen/replies")]
    {
        let line = |query: &str| format!("{line}{query} HTTP/1.1");
        let body = if operation == "post" { message.as_str() } else { "" };
        saw(operation, api.ask(&[&line("?wait=1ms"), &host, BEARER, JSON], body).await);
        saw(operation, api.ask(&[&line("?wait=soon"), &host, BEARER, JSON], body).await);
        saw(operation, api.ask(&[&line(""), &host, JSON], body).await);
        saw(operation, api.ask(&[&line(""), &host, BEARER, JSON, "Origin: null"], body).await);
        saw(operation, api.ask(&[&line(""), "Host: evil.example", BEARER, JSON], body).await);
        let elsewhere = line("").replace("kitchen", "attic");
        saw(operation, api.ask(&[&elsewhere, &host, BEARER, JSON], body).await);
        let method = line("").replace("POST ", "PUT ").replace("GET ", "DELETE ");
        saw(operation, api.ask(&[&method, &host, BEARER], "").await);
        *api.inbox.broken.lock().unwrap() = true;
        saw(operation, api.ask(&[&line(""), &host, BEARER, JSON], body).await);
        *api.inbox.broken.lock().unwrap() = false;
    }
    saw("post", api.write("", &json!({ "text": "hello" })).await);
    let line = "POST /v1/chats/kitchen/messages HTTP/1.1";
    saw("post", api.ask(&[line, &host, BEARER, "Content-Type: text/plain"], "{}").await);
    saw("post", api.write("", &json!({ "text": "x".repeat((64 << 10) + 1) })).await);
    let slow =
        ["POST /v1/chats/kitchen/messages HTTP/1.1", &host, BEARER, JSON, "Content-Length: 9"];
    saw("post", api.ask(&slow, "{").await);
    // Last, since nobody without the token is told more for a while.
    for (operation, line) in [("post", line), ("get", "GET /v1/chats/kitchen/replies HTTP/1.1")] {
        let flood = async {
            loop {
                let answer = api.ask(&[line, &host], "").await;
                if answer.status == 429 {
                    break answer;
                }
            }
        };
        saw(operation, tokio::time::timeout(Duration::from_secs(30), flood).await.unwrap());
    }
    for (path, operation) in operations() {
        let documented = OPENAPI["paths"][path][operation]["responses"].as_object().unwrap();
        let documented: BTreeSet<u16> =
            documented.keys().map(|code| code.parse().unwrap()).collect();
        assert_eq!(seen[operation], documented, "{path}");
    }
}

#[tokio::test]
async fn what_a_message_may_not_be_is_said() {
    let api = Listening::start().await;
    for (message, why) in [
        (json!({}), "missing field `text`"),
        (json!({ "text": " " }), "`text` is empty"),
        (json!({ "text": 1 }), "invalid type"),
        (json!({ "text": "a", "token": "b" }), "unknown field `token`"),
        (json!({ "text": "a", "sender": "" }), "`sender`"),
        (json!({ "text": "a", "sender": "a\u{202e}b" }), "`sender`"),
        (json!({ "text": "a", "sender": "x".repeat(65) }), "`sender`"),
        (json!({ "text": "a", "id": "" }), "`id`"),
        (json!({ "text": "a", "id": "a\nb" }), "`id`"),
        (json!({ "text": "a", "id": "x".repeat(257) }), "`id`"),
    ] {
        let answer = api.write("", &message).await;
        let said = answer.body["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && said.contains(why), "{message}: {said}");
    }
    assert!(api.inbox.stored.lock().unwrap().is_empty());
    // Every field that is documented is taken.
    let fields = OPENAPI["components"]["schemas"]["Message"]["properties"].as_object().unwrap();
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(names, ["text", "sender", "id"]);
}

/// The paths of the document, each with its one method.
fn operations() -> Vec<(&'static str, &'static str)> {
    let paths = OPENAPI["paths"].as_object().unwrap();
    let operation =
        |item: &'static Value| item.as_object().unwrap().keys().next().unwrap().as_str();
    let found: Vec<_> = paths.iter().map(|(path, item)| (path.as_str(), operation(item))).collect();
    assert_eq!(found, [("/v1/chats/{chat}/messages", "post"), ("/v1/chats/{chat}/replies", "get")]);
    found
}

/// Holds an answer against the document.
#[track_caller]
fn check(operation: &str, answer: &Answer) {
    let (path, _) = operations().into_iter().find(|(_, method)| *method == operation).unwrap();
    let responses = &OPENAPI["paths"][path][operation]["responses"];
    let schema = &responses[answer.status.to_string()]["content"]["application/json"]["schema"];
    assert!(!schema.is_null(), "{operation} {} is not documented: {answer:?}", answer.status);
    fits(schema, &answer.body).unwrap_or_else(|why| panic!("{operation} {answer:?}: {why}"));
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    assert!(!answer.head.contains("access-control"), "{answer:?}");
    assert_eq!(answer.head.contains("connection: close"), answer.status >= 400, "{answer:?}");
}

/// Whether a value is as a schema says, as far as this document's schemas say something.
fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return fits(&OPENAPI["components"]["schemas"][name], value);
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{value} is not one of the words"));
    }
    match (schema["type"].as_str().unwrap(), value) {
        ("object", Value::Object(fields)) => {
            for name in schema["required"].as_array().unwrap() {
                if !fields.contains_key(name.as_str().unwrap()) {
                    return Err(format!("{name} is missing"));
                }
            }
            for (name, value) in fields {
                let known = schema["properties"].get(name);
                fits(known.ok_or_else(|| format!("{name} is not documented"))?, value)?;
            }
            Ok(())
        }
        ("array", Value::Array(items)) => {
            items.iter().try_for_each(|item| fits(&schema["items"], item))
        }
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => Ok(()),
        ("integer", Value::Number(number)) if number.is_i64() => Ok(()),
        (expected, found) => Err(format!("{found} is no {expected}")),
    }
}
