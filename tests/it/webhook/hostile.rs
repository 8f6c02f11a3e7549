//! Clients that mean no good, or never finish.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{BEARER, JSON, Listening, answer, request};

/// Far more than any deadline of a webhook: a connection that is still there then is there for good.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many connections do nothing, and how many under `BABYBOT_SOAK=1`.
const IDLE: usize = 500;
const IDLE_SOAK: usize = 10_000;

#[tokio::test]
async fn a_body_of_a_gibibyte_is_refused_before_it_is_sent_and_while_it_is() {
    let api = Listening::start().await;
    let line = "POST /v1/chats/kitchen/messages HTTP/1.1";
    let said = [line, &api.host(), BEARER, JSON, "Content-Length: 1073741824"];
    assert_eq!(api.ask(&said, "").await.status, 413);
    let (mut reader, mut writer) = api.connect().await.into_split();
    let head = request(&[line, &api.host(), BEARER, JSON, "Transfer-Encoding: chunked"], "");
    writer.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0_u64;
    // It goes on until the other end no longer takes it.
    let flood = async {
        while sent < 1 << 30 && writer.write_all(chunk.as_bytes()).await.is_ok() {
            sent += 0x10000;
        }
    };
    let read = async {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (_, text) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(flood, read) }).await.unwrap();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    assert!(api.inbox.stored.lock().unwrap().is_empty());
    assert_eq!(api.read("").await.status, 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_or_has_too_many_lines_is_refused() {
    let api = Listening::start().await;
    let line = "GET /v1/chats/kitchen/replies HTTP/1.1";
    let long = format!("X-Long: {}", "x".repeat(32 << 10));
    let many = "X-Many: x\r\n".repeat(100);
    for header in [long.as_str(), many.trim_end()] {
        let answer = api.ask(&[line, &api.host(), BEARER, header], "").await;
        assert_eq!(answer.status, 431);
    }
    assert_eq!(api.read("").await.status, 200);
}

#[tokio::test]
async fn whoever_has_no_token_stores_nothing_and_learns_nothing() {
    let api = Listening::start().await;
    api.inbox.reply(&*api.channel, "known", "a secret reply").await;
    let body = json!({ "text": "hello" }).to_string();
    for line in [
        "POST /v1/chats/kitchen/messages HTTP/1.1",
        "POST /v1/chats/attic/messages HTTP/1.1",
        "GET /v1/chats/kitchen/replies HTTP/1.1",
        "GET /nowhere HTTP/1.1",
    ] {
        for header in ["X: x", "Authorization: Bearer wrong", "Authorization: Basic YTpi"] {
            let answer = api.ask(&[line, &api.host(), header, JSON], &body).await;
            assert_eq!(answer.status, 401, "{line} {header}");
            assert_eq!(answer.body["error"]["code"], "unauthorized");
        }
    }
    assert!(api.inbox.stored.lock().unwrap().is_empty());
    // However many of them there are, whoever has the token is served.
    let strangers = join_all((0..100).map(|_| api.ask(&["GET / HTTP/1.1", "Host: x"], ""))).await;
    assert!(strangers.iter().all(|answer| answer.status == 421));
    assert_eq!(api.read("").await.status, 200);
}

#[tokio::test]
async fn who_does_not_go_on_is_let_go() {
    let api = Listening::start().await;
    let body = json!({ "text": "hello" }).to_string();
    let write = ["POST /v1/chats/kitchen/messages HTTP/1.1", &api.host(), BEARER, JSON];
    let whole = request(&write, &body);
    let read = request(&["GET /v1/chats/kitchen/replies HTTP/1.1", &api.host(), BEARER], "");
    // Nothing, half a head, half a body, and nothing more after a whole request.
    let beginnings = ["", &whole[..40], &whole[..whole.len() - 3], &read];
    let ends = beginnings.map(|beginning| {
        let api = &api;
        async move {
            let mut stream = api.connect().await;
            stream.write_all(beginning.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            String::from_utf8_lossy(&rest).into_owned()
        }
    });
    let ends = tokio::time::timeout(PATIENCE, join_all(ends)).await.unwrap();
    assert_eq!(ends[0], "");
    assert!(ends[2].starts_with("HTTP/1.1 408"), "{ends:?}");
    assert!(ends[3].starts_with("HTTP/1.1 200"), "{ends:?}");
    assert!(api.inbox.stored.lock().unwrap().is_empty());
}

#[tokio::test]
async fn connections_that_do_nothing_keep_nobody_out() {
    let soak = std::env::var_os("BABYBOT_SOAK").is_some_and(|value| value == "1");
    let wanted = if soak { IDLE_SOAK } else { IDLE };
    let api = Listening::start().await;
    let mut idle = Vec::new();
    for number in 0..wanted {
        idle.push(api.connect().await);
        // Those that were sent away need not be kept either.
        if idle.len() > 300 {
            idle.remove(0);
        }
        if number % 100 == 0 {
            assert_eq!(api.read("").await.status, 200, "after {number}");
        }
    }
    let message = json!({ "text": "hello", "id": "one" });
    assert_eq!(api.write("", &message).await.status, 202);
    // The oldest were let go for those that came later.
    let mut first = idle.remove(0);
    assert!(tokio::time::timeout(PATIENCE, answer(&mut first)).await.unwrap().is_none());
}
