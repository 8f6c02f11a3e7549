//! One call to an engine: its deadline, and what its refusals mean.
//!
//! An engine says why in words that differ between Docker and Podman and from
//! release to release, so a refusal is told by its status and by its text. Only
//! this file and `others` read either.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use bollard::errors::Error;

use super::failure::{Failure, Reach};
use super::others;

/// How much of an engine's words is passed on, in bytes.
const WORDS_MAX: usize = 600;
/// An engine that was never there, or stopped.
const NO_SOCKET: &str = "there is no such socket";
/// An engine that stopped midway.
const CLOSED: &str = "the engine closed the connection";

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                refusal(status_code, &message)
            }
            // What a build or a pull says midway.
            Error::DockerStreamError { error } if others::changed_midway(&error) => {
                Self::Changed(shortened(&error))
            }
            Error::DockerStreamError { error } => Self::Refused(shortened(&error)),
            Error::DockerContainerWaitError { error, .. } => Self::Refused(shortened(&error)),
            Error::JsonDataError { message, .. } => {
                Self::Nonsense(format!("cannot understand the engine's answer: {message}"))
            }
            Error::JsonSerdeError { err } => {
                Self::Nonsense(format!("cannot understand the engine's answer: {err}"))
            }
            Error::SocketNotFoundError(_) => {
                Self::Unreachable { why: NO_SOCKET.to_owned(), reach: Reach::Silent }
            }
            error => {
                let (why, reach) = innermost(&error);
                Self::Unreachable { why: shortened(&why), reach }
            }
        }
    }
}

/// What a refusal means. Podman says some things with another status than Docker.
fn refusal(status: u16, message: &str) -> Failure {
    let text = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    let message = shortened(message);
    match status {
        409 | 500 if says(&["already in use", "is already in use by container"]) => {
            Failure::NameTaken(message)
        }
        404 | 500 if says(&["no such image", "image not known"]) => Failure::ImageMissing(message),
        409 | 500 if says(&["already in progress", "is being removed"]) => {
            Failure::UnderWay(message)
        }
        404 | 409 | 500 if others::changed(&text) => Failure::Changed(message),
        404 => Failure::NotFound(message),
        500 if says(&["no such container", "no container with name or id"]) => {
            Failure::NotFound(message)
        }
        _ => Failure::Refused(message),
    }
}

/// The cause that says most, in plain words where it has some, and how far the engine was reached:
/// a transport's own words hide that a socket may not be opened.
fn innermost(error: &Error) -> (String, Reach) {
    let (mut cause, mut known): (&dyn std::error::Error, _) = (error, known(error));
    while let Some(source) = cause.source() {
        cause = source;
        known = known.or_else(|| self::known(cause));
    }
    match known {
        Some((why, reach)) => (why.to_owned(), reach),
        None => (cause.to_string(), Reach::Answers),
    }
}

/// The words for a cause that says how far the engine was reached.
fn known(cause: &(dyn std::error::Error + 'static)) -> Option<(&'static str, Reach)> {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return match error.kind() {
            ErrorKind::PermissionDenied => Some(("permission denied", Reach::Denied)),
            ErrorKind::NotFound => Some((NO_SOCKET, Reach::Silent)),
            ErrorKind::ConnectionRefused => Some(("nothing listens there", Reach::Silent)),
            ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof => Some((CLOSED, Reach::Silent)),
            _ => None,
        };
    }
    let error = cause.downcast_ref::<hyper::Error>()?;
    (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        .then_some((CLOSED, Reach::Silent))
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    let end = (0..=WORDS_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or_default()].to_owned()
}

/// Asks the engine, and gives up at the deadline.
pub(super) async fn within<T>(
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Late { what, limit }),
    }
}

/// Asks the engine, and again where its answer is not understood, since Podman has states that pass,
/// or where somebody else changed it meanwhile; each time up to the deadline.
pub(super) async fn understood<T, C>(
    what: &'static str,
    limit: Duration,
    call: impl Fn() -> C,
) -> Result<T, Failure>
where
    C: Future<Output = Result<T, Error>>,
{
    others::until(|| within(what, limit, call()), passes).await
}

/// Asks the engine for a list, and again where something on it was removed meanwhile: an engine may
/// then say that there is no such thing.
pub(super) async fn listed<T, C>(
    what: &'static str,
    limit: Duration,
    call: impl Fn() -> C,
) -> Result<T, Failure>
where
    C: Future<Output = Result<T, Error>>,
{
    let work = || {
        let answer = within(what, limit, call());
        async {
            match answer.await {
                Err(Failure::NotFound(why) | Failure::ImageMissing(why)) => {
                    Err(Failure::Changed(why))
                }
                other => other,
            }
        }
    };
    others::until(work, passes).await
}

fn passes(failure: &Failure) -> bool {
    matches!(failure, Failure::Nonsense(_) | Failure::Changed(_))
}
