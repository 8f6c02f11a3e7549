//! Ollama's address within a sandbox: what passes it, what does not, and what it leaves free.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Json;
use axum::routing::{any, get, post};
use babybot::agent::loopback;
use babybot::link::client::{self, Link};
use babybot::link::server;
use babybot::protocol::{BODY_MAX, HEADERS_MAX, STREAMS_MAX};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use crate::support::workshop::{PATIENCE, within};

/// A listener before a link to this router. The link is the agent's own.
struct Sandbox {
    address: std::net::SocketAddr,
    link: Link,
}

impl Sandbox {
    async fn before(router: Router) -> Self {
        let (agent, host) = tokio::io::duplex(64 << 10);
        Self::over(agent, tokio::spawn(server::serve(host, router))).await.0
    }

    async fn over<T>(agent: DuplexStream, host: T) -> (Self, T) {
        let (link, connection) = client::connect(agent).await.unwrap();
        tokio::spawn(connection);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(loopback::serve(listener, link.clone()));
        (Self { address, link }, host)
    }

    /// A client that speaks HTTP/1.1, as any does.
    async fn client(&self) -> SendRequest<Body> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (requests, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        requests
    }

    async fn ask(&self, request: Request) -> (StatusCode, HeaderMap, String) {
        let answer = within(self.client().await.send_request(request)).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = within(body.collect()).await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// What is answered to these bytes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(5 * PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> Request {
    Request::builder().method(method).uri(path).body(body.into()).unwrap()
}

#[tokio::test]
async fn only_what_is_the_gateways_passes() {
    let reached = Arc::new(AtomicUsize::new(0));
    let counted = reached.clone();
    let router = Router::new().fallback(any(move |request: Request| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        format!("{} {}", request.method(), request.uri().path_and_query().unwrap())
    }));
    let sandbox = Sandbox::before(router).await;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/api/tags"),
        ("POST", "/v1/chat/completions"),
        ("DELETE", "/api/x?y=1"),
    ] {
        let (status, _, text) = sandbox.ask(request(method, path, "")).await;
        assert_eq!((status, text), (StatusCode::OK, format!("{method} {path}")));
    }
    assert_eq!(reached.load(Ordering::SeqCst), 4);
    for (method, path) in [
        ("POST", "/hello"),
        ("GET", "/turns"),
        ("POST", "/turns/00000000000000000000000000000001/events"),
        ("POST", "/api/../hello"),
        ("POST", "/api/%2e%2e/hello"),
        ("POST", "//hello"),
        ("OPTIONS", "*"),
    ] {
        let (status, headers, text) = sandbox.ask(request(method, path, "{}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(headers["content-type"].to_str().unwrap().starts_with("application/json"));
        let error: Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"].as_str().unwrap().contains("is not available here"), "{text}");
    }
    // A whole address, as proxies are sent, and a tunnel.
    let whole = "GET http://localhost:11434/turns HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(sandbox.raw(whole.as_bytes()).await.starts_with("HTTP/1.1 404"));
    let tunnel = "CONNECT /api/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(!sandbox.raw(tunnel.as_bytes()).await.starts_with("HTTP/1.1 2"));
    assert_eq!(reached.load(Ordering::SeqCst), 4, "something else reached the host");
}

#[tokio::test]
async fn a_head_is_answered_without_a_body_and_the_connection_goes_on() {
    let running = "Ollama is running";
    let sandbox =
        Sandbox::before(Router::new().route("/", get(move || async move { running }))).await;
    let mut client = sandbox.client().await;
    for (method, body) in [("HEAD", ""), ("GET", running), ("HEAD", ""), ("GET", running)] {
        client.ready().await.unwrap();
        let answer = within(client.send_request(request(method, "/", ""))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-length"], "17", "{method}");
        assert_eq!(within(answer.into_body().collect()).await.unwrap().to_bytes(), body);
    }
}

#[tokio::test]
async fn both_bodies_are_passed_on_as_they_come() {
    let router = Router::new().route("/api/chat", post(|body: Body| async move { body }));
    let sandbox = Sandbox::before(router).await;
    let (pieces, given) = mpsc::unbounded_channel::<Bytes>();
    let body = futures_util::stream::unfold(given, |mut given| async move {
        Some((Ok::<_, Infallible>(given.recv().await?), given))
    });
    pieces.send(Bytes::from("piece 0")).unwrap();
    let asked = request("POST", "/api/chat", Body::from_stream(body));
    let mut answer = within(sandbox.client().await.send_request(asked)).await.unwrap().into_body();
    for number in 0..50 {
        let piece = within(answer.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece, format!("piece {number}"));
        // Only now the next one is there at all.
        pieces.send(Bytes::from(format!("piece {}", number + 1))).unwrap();
    }
    // And much of it, within the window of neither connection.
    let megabytes: Vec<Bytes> = (0..7).map(|n| Bytes::from(vec![n; 1 << 20])).collect();
    let (status, _, text) = sandbox.ask(request("POST", "/api/chat", megabytes.concat())).await;
    assert_eq!((status, text.len()), (StatusCode::OK, 7 << 20));
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let router = Router::new().route(
        "/api/chat",
        post(|body: Body| async move {
            let _ = body.collect().await;
            "read"
        }),
    );
    let sandbox = Sandbox::before(router).await;
    let said = request("POST", "/api/chat", vec![b'x'; BODY_MAX + 1]);
    let pieces = (0..=BODY_MAX >> 20).map(|_| Ok::<_, Infallible>(vec![b'x'; 1 << 20]));
    let pieces = Body::from_stream(futures_util::stream::iter(pieces));
    for asked in [said, request("POST", "/api/chat", pieces)] {
        let (status, _, text) = sandbox.ask(asked).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(text, json!({"error": "the request is larger than 8 MiB"}).to_string());
    }
    let most = request("POST", "/api/chat", vec![b'x'; BODY_MAX]);
    assert_eq!(sandbox.ask(most).await.2, "read");

    let header = |size: usize| {
        let header = "x".repeat(size);
        format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {header}\r\n\r\n")
    };
    let most = HEADERS_MAX as usize;
    assert!(sandbox.raw(header(most / 2).as_bytes()).await.starts_with("HTTP/1.1 404"));
    let answer = sandbox.raw(header(most * 2).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn headers_for_a_neighbour_are_not_passed_on() {
    let seen = |headers: HeaderMap| async move {
        let names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        ([("x-back", "1"), ("keep-alive", "9")], Json(names))
    };
    let sandbox = Sandbox::before(Router::new().route("/api/tags", get(seen))).await;
    let mut asked = request("GET", "/api/tags", "");
    for (name, value) in [
        ("host", "localhost:11434"),
        ("connection", "x-mine, keep-alive"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("proxy-authorization", "secret"),
        ("accept", "*/*"),
    ] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let (status, headers, text) = sandbox.ask(asked).await;
    assert_eq!((status, &*text), (StatusCode::OK, r#"["accept"]"#));
    assert!(headers.contains_key("x-back") && !headers.contains_key("keep-alive"), "{headers:?}");
}

#[tokio::test]
async fn however_many_ask_the_agent_itself_is_heard() {
    let (at_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (go_on, full) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = {
        let (most, go_on, full) = (most.clone(), go_on.clone(), full.clone());
        move || async move {
            let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            full.notify_one();
            go_on.notified().await;
            at_work.fetch_sub(1, Ordering::SeqCst);
            "done"
        }
    };
    let router =
        Router::new().route("/api/chat", post(held)).route("/hello", post(|| async { "heard" }));
    let sandbox = Sandbox::before(router).await;
    // Known to the client once the host has said something.
    sandbox.link.post_json("/hello", &json!({})).await.unwrap();
    let address = sandbox.address;
    let flood: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn(async move {
                let asked = "POST /api/chat HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(asked.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            })
        })
        .collect();
    let bound = STREAMS_MAX as usize / 2;
    while most.load(Ordering::SeqCst) < bound {
        within(full.notified()).await;
    }
    for _ in 0..50 {
        let answer = within(sandbox.link.post_json("/hello", &json!({}))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(most.load(Ordering::SeqCst), bound);
    let answered = async {
        for asked in flood {
            assert!(asked.await.unwrap().ends_with("done"));
        }
    };
    let going_on = async {
        loop {
            go_on.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    within(async {
        tokio::select! { () = answered => {}, () = going_on => {} }
    })
    .await;
    assert_eq!(most.load(Ordering::SeqCst), bound, "more were under way than may be");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_let_go() {
    let router = Router::new().route("/api/chat", post(|body: Bytes| async move { body }));
    let sandbox = Sandbox::before(router).await;
    let half = "POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc";
    let lines = "POST /api/chat HTTP/1.1\r\nhost: x\r\n";
    for (bytes, answer) in [(half, "HTTP/1.1 408"), (lines, ""), ("", "")] {
        let began = tokio::time::Instant::now();
        let answered = sandbox.raw(bytes.as_bytes()).await;
        assert!(answered.starts_with(answer), "{answered}");
        assert!(!answered.is_empty() || answer.is_empty());
        let waited = began.elapsed().as_secs();
        assert!((50..180).contains(&waited), "{waited} s for {bytes:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_back() {
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (beginning, told) = (begun.clone(), dropped.clone());
    let endless = move || async move {
        let told = Told(told);
        beginning.notify_one();
        let lines = futures_util::stream::repeat("x\n").then(move |line| {
            let _ = &told;
            async move {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(line)
            }
        });
        Body::from_stream(lines)
    };
    let sandbox = Sandbox::before(Router::new().route("/api/chat", post(endless))).await;
    let mut stream = TcpStream::connect(sandbox.address).await.unwrap();
    let asked = b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(asked).await.unwrap();
    within(begun.notified()).await;
    let mut some = [0; 1024];
    within(stream.read_exact(&mut some)).await.unwrap();
    drop(stream);
    within(dropped.notified()).await;
}

#[tokio::test]
async fn a_link_that_is_gone_is_an_error_in_words() {
    let (agent, host) = tokio::io::duplex(64 << 10);
    let host = tokio::spawn(server::serve(host, Router::new()));
    let (sandbox, host) = Sandbox::over(agent, host).await;
    host.abort();
    let _ = host.await;
    let (status, _, text) = sandbox.ask(request("GET", "/api/tags", "")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(text.starts_with(r#"{"error":"the link broke"#), "{text}");
}
