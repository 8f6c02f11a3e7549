//! What a webhook is asked: where a request goes, who sends it, and what it says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use serde::Deserialize;

use super::answer::Refusal;
use crate::channel::{PostNumber, Sender};
use crate::name::{ChannelName, ChatId, MessageId, SenderId};
use crate::secret::Secret;
use crate::unit::Period;
use crate::visible;

/// The longest text of a message, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// The largest body of a request, in bytes: room for a text in which much is escaped.
const BODY_BYTES_MAX: usize = 256 << 10;
/// How long a body may take to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest name of a sender, in characters.
const SENDER_LENGTH_MAX: usize = 64;
/// How long a request may wait for a reply.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// That a message is stored, and its reply waited for.
    Write { chat: ChatId, wait: Duration },
    /// Replies of a chat, and to wait where there is none.
    Read { chat: ChatId, after: Option<PostNumber>, wait: Duration },
}

impl Asked {
    /// How long to wait.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::Write { wait, .. } | Self::Read { wait, .. } => *wait,
        }
    }
}

/// A message as a program sends it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) text: String,
    pub(super) sender: Option<String>,
    pub(super) id: Option<String>,
}

/// Refuses what a web page may have made a browser send: under another name than that of the
/// address, which a page may have pointed here, or with the origin that browsers add.
pub(super) fn check_source(headers: &HeaderMap, listen: SocketAddr) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    if hosts.next().is_some() || !is_here(host, listen) {
        return Err(Refusal::misdirected(listen));
    }
    match headers.contains_key(ORIGIN) {
        true => Err(Refusal::from_a_browser()),
        false => Ok(()),
    }
}

/// Whether a `Host` is this address. A name could be anybody's, but for that of loopback; where all
/// addresses of the machine are listened on, any address will do.
fn is_here(host: &str, listen: SocketAddr) -> bool {
    let port = |rest: &str| match rest.strip_prefix(':') {
        Some(port) => port.parse() == Ok(listen.port()),
        None => rest.is_empty() && listen.port() == 80,
    };
    let (name, rest) = match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, rest)) => (v6, rest),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let here = match name.parse::<IpAddr>() {
        Ok(address) => address == listen.ip() || listen.ip().is_unspecified(),
        Err(_) => {
            let own = listen.ip().is_loopback() || listen.ip().is_unspecified();
            own && name.eq_ignore_ascii_case("localhost")
        }
    };
    here && port(rest)
}

/// Whether a request carries the token.
pub(super) fn is_authorized(headers: &HeaderMap, token: &Secret) -> bool {
    let mut written = headers.get_all(AUTHORIZATION).iter();
    let (Some(written), None) = (written.next(), written.next()) else { return false };
    let written = written.as_bytes();
    let Some((scheme, given)) = written.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && token.is(given.trim_ascii())
}

/// What a method and a path ask for.
pub(super) fn asked(parts: &Parts) -> Result<Asked, Refusal> {
    let unknown = || Refusal::not_found("there is no such path");
    let path = parts.uri.path().strip_prefix("/v1/chats/").ok_or_else(unknown)?;
    let (chat, what) = path.split_once('/').ok_or_else(unknown)?;
    let (method, allowed) = match what {
        "messages" => (Method::POST, "POST"),
        "replies" => (Method::GET, "GET"),
        _ => return Err(unknown()),
    };
    let plain = chat.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
    let chat = ChatId::new(chat).ok().filter(|_| plain).ok_or_else(unknown)?;
    if parts.method != method {
        return Err(Refusal::other_method(allowed));
    }
    let (mut after, mut wait) = (None, Duration::ZERO);
    for pair in parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("wait", value)) => wait = period(value)?,
            Some(("after", value)) if what == "replies" => after = Some(cursor(value)?),
            _ => return Err(Refusal::bad_request("this parameter is not known here")),
        }
    }
    Ok(match what {
        "messages" => Asked::Write { chat, wait },
        _ => Asked::Read { chat, after, wait },
    })
}

fn period(value: &str) -> Result<Duration, Refusal> {
    let period =
        value.parse::<Period>().map(|period| Duration::from_millis(period.as_milliseconds()));
    match period {
        Ok(period) if period <= WAIT_MAX => Ok(period),
        Ok(_) => Err(Refusal::bad_request("`wait` is at most 5m")),
        Err(error) => Err(Refusal::bad_request(format!("`wait` cannot be read: {error}"))),
    }
}

fn cursor(value: &str) -> Result<PostNumber, Refusal> {
    let cursor = value.parse().ok().filter(|cursor| *cursor >= 0);
    cursor.ok_or_else(|| Refusal::bad_request("`after` is the `cursor` of an earlier answer"))
}

/// The message in a body.
pub(super) async fn message(headers: &HeaderMap, body: Incoming) -> Result<Message, Refusal> {
    let is_json = |value: &str| {
        let media = value.split(';').next().unwrap_or_default();
        media.trim().eq_ignore_ascii_case("application/json")
    };
    let written = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !written.is_some_and(is_json) {
        return Err(Refusal::not_json());
    }
    let too_large = || Refusal::too_large(format!("a body has at most {BODY_BYTES_MAX} bytes"));
    // Whoever says how much is to come is not made to send it.
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let whole = Limited::new(body, BODY_BYTES_MAX).collect();
    let whole = match tokio::time::timeout(BODY_WAIT_MAX, whole).await {
        Err(_) => return Err(Refusal::too_slow()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(Refusal::bad_request("the body broke off")),
        Ok(Ok(whole)) => whole.to_bytes(),
    };
    let message: Message = serde_json::from_slice(&whole)
        .map_err(|error| Refusal::bad_request(format!("the body cannot be read: {error}")))?;
    if message.text.trim().is_empty() {
        return Err(Refusal::bad_request("`text` is empty"));
    }
    if message.text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::too_large(format!("`text` has at most {TEXT_BYTES_MAX} bytes")));
    }
    Ok(message)
}

impl Message {
    /// The identifier that makes it one message however often it is sent, if it has one.
    pub(super) fn id(&self) -> Result<Option<MessageId>, Refusal> {
        let id = self.id.as_deref().map(MessageId::new).transpose();
        id.map_err(|_| Refusal::bad_request("`id` has 1 to 256 bytes and no control characters"))
    }

    /// Who says that they wrote it. The token says only who may write.
    pub(super) fn sender(&self, channel: &ChannelName) -> Result<Sender, Refusal> {
        let Some(name) = self.sender.as_deref() else {
            let id = SenderId::new(format!("channel:{channel}"));
            let id = id.map_err(|error| Refusal::bad_request(error.to_string()))?;
            return Ok(Sender { id, name: channel.to_string() });
        };
        let sound = !name.trim().is_empty()
            && name.chars().count() <= SENDER_LENGTH_MAX
            && !visible::has_hidden(name);
        let id = SenderId::new(format!("claimed:{name}")).ok().filter(|_| sound);
        let id = id.ok_or_else(|| {
            Refusal::bad_request(format!(
                "`sender` has 1 to {SENDER_LENGTH_MAX} characters and no hidden ones"
            ))
        })?;
        Ok(Sender { id, name: format!("{name} (claimed)") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_address_and_no_name_but_that_of_loopback() {
        let here = |host: &str, listen: &str| is_here(host, listen.parse().unwrap());
        for (host, listen) in [
            ("127.0.0.1:8787", "127.0.0.1:8787"),
            ("localhost:8787", "127.0.0.1:8787"),
            ("LOCALHOST:8787", "[::1]:8787"),
            ("[::1]:8787", "[::1]:8787"),
            ("10.0.0.7:8787", "10.0.0.7:8787"),
            ("10.0.0.7:8787", "0.0.0.0:8787"),
            ("[fd00::1]:8787", "[::]:8787"),
            ("127.0.0.1", "127.0.0.1:80"),
        ] {
            assert!(here(host, listen), "{host} at {listen}");
        }
        for (host, listen) in [
            ("", "127.0.0.1:8787"),
            ("127.0.0.1", "127.0.0.1:8787"),
            ("127.0.0.1:8788", "127.0.0.1:8787"),
            ("127.0.0.2:8787", "127.0.0.1:8787"),
            ("evil.example:8787", "127.0.0.1:8787"),
            ("evil.example:8787", "0.0.0.0:8787"),
            ("localhost.evil.example:8787", "127.0.0.1:8787"),
            ("localhost:8787", "10.0.0.7:8787"),
            ("127.0.0.1:8787:8787", "127.0.0.1:8787"),
            ("user@127.0.0.1:8787", "127.0.0.1:8787"),
            ("[::1]x:8787", "[::1]:8787"),
        ] {
            assert!(!here(host, listen), "{host} at {listen}");
        }
    }

    #[test]
    fn a_path_a_method_and_parameters_say_what_is_asked() {
        let asked = |method: &str, uri: &str| {
            let request = hyper::Request::builder().method(method).uri(uri).body(()).unwrap();
            asked(&request.into_parts().0)
        };
        let chat = ChatId::new("kitchen").unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(
            asked("POST", "/v1/chats/kitchen/messages?wait=1s").unwrap(),
            Asked::Write { chat: chat.clone(), wait: second }
        );
        assert_eq!(
            asked("GET", "/v1/chats/kitchen/replies?wait=1s&after=7").unwrap(),
            Asked::Read { chat, after: Some(7), wait: second }
        );
        for (method, uri, status) in [
            ("GET", "/v1/chats/kitchen/messages", 405),
            ("POST", "/v1/chats/kitchen/replies", 405),
            ("OPTIONS", "/v1/chats/kitchen/messages", 405),
            ("GET", "/", 404),
            ("GET", "/v1/chats/kitchen", 404),
            ("GET", "/v1/chats//replies", 404),
            ("GET", "/v1/chats/a%2fb/replies", 404),
            ("GET", "/v1/chats/a/b/replies", 404),
            ("GET", "/v1/chats/kitchen/replies/", 404),
            ("GET", "/v1/chats/kitchen/replies?after=-1", 400),
            ("GET", "/v1/chats/kitchen/replies?after=x", 400),
            ("GET", "/v1/chats/kitchen/replies?wait=1", 400),
            ("GET", "/v1/chats/kitchen/replies?wait=301s", 400),
            ("GET", "/v1/chats/kitchen/replies?token=x", 400),
            ("POST", "/v1/chats/kitchen/messages?after=1", 400),
        ] {
            let refused = asked(method, uri).unwrap_err().answer();
            assert_eq!(refused.status().as_u16(), status, "{method} {uri}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = Secret::new(b"0123456789abcdef".to_vec());
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            is_authorized(&headers, &token)
        };
        for sound in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef"] {
            assert!(with(&[sound]), "{sound}");
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
        ] {
            assert!(!with(&[wrong]), "{wrong}");
        }
        assert!(!with(&[]) && !with(&["Bearer x", "Bearer 0123456789abcdef"]));
    }
}
