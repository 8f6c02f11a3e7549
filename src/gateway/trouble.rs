//! What it means that a real server did not answer as Ollama does, and the words for it.
//!
//! A failure is of one of three kinds. The server or the model may not be there yet, which passes
//! when somebody starts or pulls it. An answer may have failed, which another attempt may heal. Or
//! the server refuses, which stays so until somebody changes something. Whoever reads the words
//! gets the cause and what helps; at most one line of them is the server's own.

use std::error::Error as _;
use std::io;

use axum::http::StatusCode;
use bytes::Bytes;
use reqwest::Url;
use serde_json::Value;

use super::upstream::{Endpoint, Refusal};
use super::words;
use crate::error::chain;
use crate::file;
use crate::protocol::Failure;

/// The fix where no server listens.
const START: &str = "start it with `ollama serve`, or correct `url`";

/// An answer that is not one to hand on.
pub(super) struct Unanswered<'a> {
    /// The server, without what its address may hide.
    pub(super) server: &'a str,
    /// The model that was asked for.
    pub(super) model: &'a str,
    /// What was asked.
    pub(super) endpoint: Endpoint,
    /// The status.
    pub(super) status: StatusCode,
    /// Where it points to, if it points anywhere.
    pub(super) location: Option<Url>,
    /// As much of the body as came.
    pub(super) body: Bytes,
}

impl Unanswered<'_> {
    pub(super) fn refusal(self) -> Refusal {
        let Self { server, status, .. } = self;
        let text = String::from_utf8_lossy(&self.body);
        let said = words::first_line(&text);
        let quoted = said.as_ref().map_or_else(String::new, |said| format!(": {said}"));
        let is_ollamas = serde_json::from_slice::<Value>(&self.body)
            .is_ok_and(|body| body.get("error").is_some_and(|error| !error.is_null()));
        match status {
            status if status.is_redirection() => self.redirected(),
            status if status.is_success() => {
                let page = said.map_or_else(String::new, |title| format!(" (\"{title}\")"));
                refused(format!(
                    "{server} answers with a web page{page}, not as Ollama does; check `url`"
                ))
            }
            StatusCode::NOT_FOUND if is_ollamas => self.not_found(),
            status if is_ollamas => Refusal::passed(status, self.body),
            StatusCode::NOT_FOUND => {
                let path = self.endpoint.path();
                let words = format!("{server} is not an Ollama: it has no {path} (404{quoted})");
                Refusal::new(status, format!("{words}; check `url`{}", extra_path(server)))
            }
            StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let words =
                    format!("{server} asks for a login ({status}), and babybot has none for it");
                Refusal::new(status, words)
            }
            StatusCode::FORBIDDEN => Refusal::new(
                status,
                format!("{server} refuses babybot ({status}{})", after(&said, status)),
            ),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Refusal::absent(format!(
                "Ollama behind the proxy at {server} is not running ({status}{}); {START}",
                after(&said, status)
            )),
            StatusCode::GATEWAY_TIMEOUT => Refusal::new(
                status,
                format!(
                    "the proxy at {server} did not wait for Ollama's answer ({status}); raise its time limit"
                ),
            ),
            status => {
                Refusal::new(status, format!("{server} answers {status}{}", after(&said, status)))
            }
        }
    }

    /// A redirect is not followed: `url` says where the model is, and was approved.
    fn redirected(&self) -> Refusal {
        let Self { server, status, .. } = self;
        let Some(target) = &self.location else {
            return refused(format!(
                "{server} answers {} instead of an answer; check `url`",
                status.as_u16()
            ));
        };
        let mut base = target.clone();
        base.set_query(None);
        base.set_fragment(None);
        let target = shown(target);
        let advice = match base.path().strip_suffix(self.endpoint.path()) {
            Some(path) => {
                let path = path.to_owned();
                base.set_path(&path);
                format!("change `url` to \"{}\"", shown(&base))
            }
            None => "change `url`".to_owned(),
        };
        refused(format!("{server} answers {} to {target}; {advice}", status.as_u16()))
    }

    fn not_found(self) -> Refusal {
        let Self { server, model, .. } = self;
        let passed = Refusal::passed(self.status, self.body);
        match passed.failure {
            Failure::Absent => missing_model(model),
            _ => {
                let said = words::first_line(&passed.message);
                let said = said.map_or_else(String::new, |said| format!(": {said}"));
                let path = self.endpoint.path();
                let words = format!("{server} is not an Ollama: it has no {path} (404{said})");
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    format!("{words}; check `url`{}", extra_path(server)),
                )
            }
        }
    }
}

/// The server answers, and does not have the model.
pub(super) fn missing_model(model: &str) -> Refusal {
    let words = format!("the model {model} is not on your Ollama; run `ollama pull {model}`");
    Refusal::new(StatusCode::NOT_FOUND, words).meaning(Failure::Absent)
}

/// The server takes questions and answers none.
pub(super) fn silent(server: &str) -> Refusal {
    Refusal::absent(format!("Ollama at {server} is not answering"))
}

/// There is no answer at all.
pub(super) fn unreachable(server: &str, error: reqwest::Error) -> Refusal {
    let error = error.without_url();
    // All of it is for whoever looks closer.
    tracing::debug!(server, error = chain(&error), "a request to a model's server failed");
    let causes = chain(&error).to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| causes.contains(word));
    let io = io_error(&error);
    if let Some(why) = io.and_then(file::fault_of_machine) {
        Refusal::absent(format!("Ollama at {server} cannot be asked: {why}"))
    } else if says(&["dns error", "failed to lookup"]) {
        Refusal::absent(format!(
            "Ollama at {server} is not reachable: its name is unknown; check `url`"
        ))
    } else if says(&["corrupt message", "wrong version number", "invalidcontenttype"]) {
        refused(format!("{server} does not speak TLS; write http:// in `url`"))
    } else if says(&["certificate", "unknownissuer"]) {
        refused(format!("the TLS certificate of {server} is not trusted on this machine"))
    } else if error.is_connect() {
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => {
                Refusal::absent(format!("Ollama at {server} is not running; {START}"))
            }
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                Refusal::absent(format!(
                    "Ollama at {server} is not reachable: there is no way to its host"
                ))
            }
            _ => Refusal::absent(format!("Ollama at {server} is not reachable")),
        }
    } else if says(&["invalid http", "unexpected message from connection"]) {
        refused(format!("{server} does not speak HTTP; check `url`"))
    } else {
        Refusal::gateway(format!("Ollama at {server} closed the connection before it answered"))
    }
}

/// An address without credentials, as a person writes it.
pub(super) fn shown(address: &Url) -> String {
    let mut shown = address.clone();
    // Neither fails on an address with a host.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.as_str().trim_end_matches('/').to_owned()
}

/// The server sent something that is no answer, and will again.
fn refused(words: String) -> Refusal {
    Refusal::gateway(words).meaning(Failure::Model)
}

/// A server's own words where they are more than its status.
fn after(said: &Option<String>, status: StatusCode) -> String {
    let repeated = |said: &&String| status.to_string().contains(said.as_str());
    said.as_ref()
        .filter(|said| !repeated(said))
        .map_or_else(String::new, |said| format!(": {said}"))
}

/// What helps where somebody wrote the address of the API instead of the server's.
fn extra_path(server: &str) -> String {
    let path = ["/api", "/v1"].into_iter().find(|path| server.ends_with(path));
    path.map_or_else(String::new, |path| format!(", and leave out {path}"))
}

fn io_error(error: &reqwest::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
