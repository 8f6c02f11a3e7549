//! Replies that are posted: signed, to one address, and to no other.

use babybot::channel::SendOutcome;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::inbox::post;
use super::{SIGNING, open};

/// Takes one request, answers with these bytes, and gives the request's head and body.
async fn take(listener: &TcpListener, answer: &str) -> (String, String) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    let (head, body) = loop {
        stream.read_buf(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            break (head, body.to_owned());
        }
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
    (head, body)
}

/// Posts to a server that answers so.
async fn posted(answer: &str) -> (SendOutcome, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/replies", listener.local_addr().unwrap());
    let channel = open("127.0.0.1:1".parse().unwrap(), Some(url)).unwrap();
    let post = post(7, "mine", "the reply");
    let (outcome, (head, body)) = tokio::join!(channel.send(&post), take(&listener, answer));
    (outcome, head, body)
}

#[tokio::test]
async fn a_reply_is_posted_with_a_signature_over_its_time_and_body() {
    let (outcome, head, body) = posted("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(outcome, SendOutcome::Sent { service_id: None });
    assert!(head.starts_with("post /replies http/1.1"), "{head}");
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        value,
        json!({
            "channel": "api", "chat": "kitchen", "cursor": 7, "text": "the reply",
            "notice": false, "answers": ["mine"],
        })
    );
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} is missing: {head}")).to_owned()
    };
    assert_eq!(header("x-babybot-delivery"), "babybot-7");
    let signed = format!("{}.{body}", header("x-babybot-timestamp"));
    assert_eq!(header("x-babybot-signature"), format!("sha256={}", hmac(SIGNING, &signed)));
    assert!(!head.contains(SIGNING) && !head.contains(super::TOKEN));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = elsewhere.local_addr().unwrap();
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nLocation: http://{location}/\r\nContent-Length: 0\r\n\r\n"
        );
        let (outcome, _, _) = posted(&answer).await;
        assert!(matches!(outcome, SendOutcome::Refused { .. }), "{status}: {outcome:?}");
    }
    tokio::select! {
        biased;
        _ = elsewhere.accept() => panic!("a redirect was followed"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn what_is_not_taken_is_to_be_tried_again_and_says_why() {
    let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n";
    let (outcome, _, _) = posted(answer).await;
    let SendOutcome::Retry { after: Some(after), why } = outcome else { panic!("{outcome:?}") };
    assert_eq!((after.as_secs(), why.as_str()), (9, "the callback answered 503"));
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let channel = open(free, Some(format!("http://{free}/"))).unwrap();
    let outcome = channel.send(&post(1, "mine", "the reply")).await;
    let SendOutcome::Retry { after: None, why } = outcome else { panic!("{outcome:?}") };
    assert!(why.starts_with("cannot reach the callback"), "{why}");
}

/// HMAC-SHA256 in the plainest way: keys here are shorter than a block.
fn hmac(key: &str, text: &str) -> String {
    let pad = |with: u8| -> Vec<u8> {
        let mut block = [0_u8; 64];
        block[..key.len()].copy_from_slice(key.as_bytes());
        block.iter().map(|byte| byte ^ with).collect()
    };
    let inner = Sha256::digest([pad(0x36), text.as_bytes().to_vec()].concat());
    let outer = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}
