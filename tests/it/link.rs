//! The link between an agent and its host: its bounds, and what ends it. What the
//! agent's own routes mean is seen in `session`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode};
use axum::routing::{get, post};
use babybot::gateway::{Caller, Gateway};
use babybot::link::LinkError;
use babybot::link::client::{self, Link};
use babybot::link::server;
use babybot::name::{GroupName, ModelName, TurnId};
use babybot::protocol::{BODY_MAX, Event, HEADERS_MAX, Order, STREAMS_MAX};
use babybot::resource::ModelSpec;
use babybot::unit::Period;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::ollama::{FakeOllama, Reply};
use crate::support::workshop::within;

type Served = JoinHandle<Result<(), LinkError>>;

/// Both ends over a socket pair, as with a real agent.
async fn linked(router: Router) -> (Link, Served, Served) {
    let (agent, host) = UnixStream::pair().unwrap();
    let host = tokio::spawn(server::serve(host, router));
    let (link, connection) = client::connect(agent).await.unwrap();
    (link, tokio::spawn(connection), host)
}

/// A client that keeps to no rule of ours.
async fn unruly(router: Router) -> SendRequest<Body> {
    let (agent, host) = UnixStream::pair().unwrap();
    tokio::spawn(server::serve(host, router));
    let io = TokioIo::new(agent);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (requests, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    requests
}

fn turn() -> TurnId {
    TurnId::new("a".repeat(32)).unwrap()
}

fn answers() -> Router {
    Router::new().route("/", post(|body: Bytes| async move { body }))
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_read_to_its_end() {
    let router = answers().layer(DefaultBodyLimit::max(BODY_MAX));
    let mut requests = unruly(router).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let chunks = (0..512).map(move |_| {
        counted.fetch_add(64 << 10, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; 64 << 10])))
    });
    let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(chunks)));
    let request = Request::post("http://babybot/").body(body).unwrap();
    let answer = within(requests.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < BODY_MAX + (1 << 20), "{sent} of {} bytes were taken", 512 * (64 << 10));
    // Nor does a client send what the other end would refuse.
    let text = Event::Text { text: "x".repeat(BODY_MAX), fresh: true };
    let (link, _, _) = linked(answers()).await;
    assert!(matches!(link.report(&turn(), &[text]).await, Err(LinkError::TooLarge(BODY_MAX))));
}

#[tokio::test]
async fn headers_are_bounded() {
    let mut requests = unruly(answers()).await;
    let request = |size: usize| {
        let header = "x".repeat(size);
        Request::post("http://babybot/").header("x", header).body(Body::empty()).unwrap()
    };
    let most = HEADERS_MAX as usize;
    assert_eq!(requests.send_request(request(most / 2)).await.unwrap().status(), StatusCode::OK);
    match within(requests.send_request(request(most * 2))).await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(!error.is_canceled(), "{error:?}"),
    }
}

#[tokio::test]
async fn requests_beyond_the_bound_wait() {
    let (at_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (full, go_on) = (Arc::new(Notify::new()), Arc::new(tokio::sync::Semaphore::new(0)));
    let router = {
        let (most, full, go_on) = (most.clone(), full.clone(), go_on.clone());
        let held = move || async move {
            let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            if now == STREAMS_MAX as usize {
                full.notify_one();
            }
            let _ = go_on.acquire().await;
            at_work.fetch_sub(1, Ordering::SeqCst);
        };
        answers().route("/held", post(held))
    };
    let (link, _, _) = linked(router).await;
    // The bound is known to the client once the host has said something.
    link.post_json("/", &json!({})).await.unwrap();
    let asked = (0..STREAMS_MAX + 16).map(|_| {
        let link = link.clone();
        tokio::spawn(async move { link.post_json("/held", &json!({})).await.map(|a| a.status()) })
    });
    let asked: Vec<_> = asked.collect();
    within(full.notified()).await;
    go_on.close();
    for asked in asked {
        assert_eq!(within(asked).await.unwrap().unwrap(), StatusCode::OK);
    }
    assert_eq!(most.load(Ordering::SeqCst), STREAMS_MAX as usize);
}

#[tokio::test]
async fn a_line_that_is_cut_is_an_error_after_the_whole_ones() {
    let half = "{\"type\":\"drain\"}\n\n{\"type\":\"tur";
    let broken = || async {
        let chunks = ["{\"type\":\"dr", "ain\"}\n{\"type\""].map(|chunk| Ok(Bytes::from(chunk)));
        let end = Err(std::io::Error::other("gone"));
        Body::from_stream(futures_util::stream::iter(chunks.into_iter().chain([end])))
    };
    for router in [
        Router::new().route("/turns", get(move || async move { half })),
        Router::new().route("/turns", get(broken)),
    ] {
        let (link, _, _) = linked(router).await;
        let orders = match within(link.orders()).await {
            Ok(orders) => within(orders.collect::<Vec<_>>()).await,
            Err(error) => vec![Err(error)],
        };
        // A stream that is reset may lose what was on its way, but never tells half of it.
        let (last, whole) = orders.split_last().unwrap();
        assert!(last.is_err() && whole.len() <= 1, "{orders:?}");
        assert!(whole.iter().all(|order| matches!(order, Ok(Order::Drain))), "{orders:?}");
    }
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let endless = || async {
        let chunk = Bytes::from(vec![b'x'; 64 << 10]);
        Body::from_stream(futures_util::stream::repeat(Ok::<_, Infallible>(chunk)))
    };
    let (link, _, _) = linked(Router::new().route("/turns", get(endless))).await;
    let orders: Vec<_> = within(link.orders().await.unwrap().collect()).await;
    assert!(matches!(orders[..], [Err(LinkError::TooLarge(BODY_MAX))]), "{orders:?}");
}

/// HTTP/2 as bytes, for what no client would do.
mod frames {
    /// The connection's first bytes, with settings that say nothing.
    pub(super) fn preface() -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
    }

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let stream = stream.to_be_bytes();
        [&length[1..], &[kind, flags], &stream, payload].concat()
    }

    /// `POST http://a/` without a body, taken back at once.
    pub(super) fn opened_and_reset(stream: u32) -> Vec<u8> {
        let headers = frame(1, 0x5, stream, &[0x83, 0x86, 0x84, 0x41, 0x01, b'a']);
        [headers, frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    }
}

#[tokio::test]
async fn a_peer_that_opens_and_resets_streams_in_a_loop_is_cut_off() {
    let (mut agent, host) = UnixStream::pair().unwrap();
    let host = tokio::spawn(server::serve(host, answers()));
    let writing = async {
        agent.write_all(&frames::preface()).await?;
        for batch in 0..2_000_u32 {
            let streams = (0..100).map(|n| (batch * 100 + n) * 2 + 1);
            let bytes: Vec<u8> = streams.flat_map(frames::opened_and_reset).collect();
            agent.write_all(&bytes).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    assert!(within(writing).await.is_err(), "200,000 streams were taken");
    let error = within(host).await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("the link broke"), "{error}");
}

#[tokio::test]
async fn an_end_of_either_side_is_the_end_of_both() {
    let (link, agent, host) = linked(answers()).await;
    link.post_json("/", &json!({})).await.unwrap();
    agent.abort();
    assert!(within(host).await.unwrap().is_ok());

    let stuck = answers().route("/turns", get(std::future::pending::<()>));
    let (link, agent, host) = linked(stuck).await;
    let asking = tokio::spawn({
        let link = link.clone();
        async move { link.orders().await.map(drop) }
    });
    link.post_json("/", &json!({})).await.unwrap();
    host.abort();
    let _ = within(agent).await.unwrap();
    assert!(within(asking).await.unwrap().is_err());
    assert!(link.post_json("/", &json!({})).await.is_err());
}

/// A peer that reads what it is sent and says nothing but its greeting.
async fn mute(mut io: DuplexStream, greeting: Vec<u8>) {
    io.write_all(&greeting).await.unwrap();
    let mut buffer = [0; 1024];
    while io.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_ping_is_noticed_by_either_end() {
    let began = tokio::time::Instant::now();
    let (agent, host) = tokio::io::duplex(64 << 10);
    tokio::spawn(mute(agent, frames::preface()));
    server::serve(host, answers()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());

    let began = tokio::time::Instant::now();
    let (agent, host) = tokio::io::duplex(64 << 10);
    tokio::spawn(mute(host, frames::frame(4, 0, 0, &[])));
    let (_link, connection) = client::connect(agent).await.unwrap();
    connection.await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn eight_mebibytes_go_through_the_gateway_as_they_are() {
    let mut fake = FakeOllama::start().await;
    let spec = ModelSpec::Ollama {
        url: fake.url.clone(),
        model: "qwen3:8b".into(),
        context: 8192,
        keep_alive: Period::seconds(60),
    };
    let (usage, _usage) = tokio::sync::mpsc::channel(8);
    let (group, name) = (GroupName::new("family").unwrap(), ModelName::new("local").unwrap());
    let gateway = Gateway::new(std::env::temp_dir()).unwrap();
    let (link, _, _) = linked(gateway.router(Caller { group, name, spec, usage })).await;

    // Nothing in it repeats: what does would be cut.
    let text = |number: usize| -> String {
        (0..8 << 10).map(|index| format!("{:08}", (number << 13) + index)).collect()
    };
    let line = |number: usize| {
        let message = json!({"role": "assistant", "content": text(number)});
        format!("{}\n", json!({"message": message, "done": number == 127})).into_bytes()
    };
    let lines: Vec<Vec<u8>> = (0..128).map(line).collect();
    fake.answer("/api/chat", Reply::stream(lines.clone()));
    let long: String = (0..120).map(text).collect();
    assert!((7 << 20..BODY_MAX).contains(&long.len()));
    let messages = json!([{"role": "user", "content": long}]);
    let ask = json!({"model": "qwen3:8b", "messages": messages});
    let answer = within(link.post_json("/api/chat", &ask)).await.unwrap();
    assert!(fake.received().await.body["messages"] == messages, "the question was changed");
    let body = within(answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(body == lines.concat(), "the answer was changed");
    assert!(body.len() > 8 << 20);
}
