//! Replies that are posted to a URL of the owner's.

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};
use serde_json::json;

use super::hmac::hmac_sha256;
use crate::channel::{Outgoing, SendOutcome};
use crate::clock::{Clock as _, SystemClock};
use crate::name::ChannelName;
use crate::secret::Secret;

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(20);
/// The longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// What a receiver knows a reply by that it is sent twice.
const DELIVERY: &str = "x-babybot-delivery";
/// When an attempt was made, in seconds since 1970.
const TIMESTAMP: &str = "x-babybot-timestamp";
/// The signature of that time, a dot and the body.
const SIGNATURE: &str = "x-babybot-signature";

/// Where replies are posted to.
#[derive(Debug)]
pub(super) struct Callback {
    channel: ChannelName,
    url: String,
    secret: Secret,
    client: Client,
}

impl Callback {
    pub(super) fn new(channel: ChannelName, url: String, secret: Secret) -> Result<Self, String> {
        let client = Client::builder()
            // Whoever may answer for this URL may not send the reply elsewhere.
            .redirect(redirect::Policy::none())
            .timeout(ATTEMPT_MAX)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("babybot/", env!("CARGO_PKG_VERSION")));
        // What goes to this machine goes to no proxy on the way.
        let client = if url.starts_with("http://") { client.no_proxy() } else { client };
        let client = client.build().map_err(|error| format!("cannot make a client: {error}"))?;
        Ok(Self { channel, url, secret, client })
    }

    /// Posts a reply, once.
    pub(super) async fn post(&self, post: &Outgoing) -> SendOutcome {
        let body = json!({
            "channel": self.channel,
            "chat": post.to.chat,
            "cursor": post.number,
            "text": post.text,
            "notice": post.notice,
            "answers": post.answers,
        })
        .to_string();
        let now = (SystemClock.now().0 / 1000).to_string();
        let signature = hmac_sha256(self.secret.expose(), &[now.as_bytes(), b".", body.as_bytes()]);
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header(DELIVERY, post.key())
            .header(TIMESTAMP, now)
            .header(SIGNATURE, format!("sha256={signature}"))
            .body(body);
        match request.send().await {
            // The body of the answer is nobody's business, and is not read.
            Ok(response) => outcome(response.status(), wait(response.headers())),
            Err(error) => {
                let error = error.without_url();
                let why = match error.is_timeout() {
                    true => "the callback did not answer in time".to_owned(),
                    false => format!("cannot reach the callback: {}", crate::error::chain(&error)),
                };
                // Sent again, it carries the same number: the receiver knows it.
                SendOutcome::Retry { after: None, why }
            }
        }
    }
}

fn outcome(status: StatusCode, after: Option<Duration>) -> SendOutcome {
    let why = format!("the callback answered {}", status.as_u16());
    match status {
        status if status.is_success() => SendOutcome::Sent { service_id: None },
        status if status.is_redirection() => {
            SendOutcome::Refused { why: format!("{why}, and a redirect is not followed") }
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            SendOutcome::Retry { after, why }
        }
        status if status.is_server_error() => SendOutcome::Retry { after, why },
        _ => SendOutcome::Refused { why },
    }
}

/// How long the server wants to be left alone.
fn wait(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_cannot_heal_is_not() {
        let after = |code| outcome(StatusCode::from_u16(code).unwrap(), None);
        for code in [200, 202, 204] {
            assert_eq!(after(code), SendOutcome::Sent { service_id: None }, "{code}");
        }
        for code in [408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(after(code), SendOutcome::Retry { .. }), "{code}");
        }
        for code in [301, 302, 307, 308, 400, 401, 403, 404, 410] {
            assert!(matches!(after(code), SendOutcome::Refused { .. }), "{code}");
        }
    }

    #[test]
    fn a_server_may_ask_for_a_wait_but_not_for_any() {
        let asked = |value: &'static str| {
            let mut headers = reqwest::header::HeaderMap::new();
            headers.insert("retry-after", reqwest::header::HeaderValue::from_static(value));
            wait(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(asked("soon"), None);
    }
}
