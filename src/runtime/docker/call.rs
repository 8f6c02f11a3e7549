//! One call to an engine: its deadline, and what its refusals mean.
//!
//! An engine says why in words that differ between Docker and Podman and from
//! release to release, so a refusal is told by its status and by its text. Only
//! this file and `others` read either.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use bollard::errors::Error;

use super::others;
use crate::name::SandboxId;
use crate::resource::RuntimeKind;
use crate::runtime::RuntimeError;

/// How much of an engine's words is passed on, in bytes.
const WORDS_MAX: usize = 600;

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such container, image or command.
    NotFound(String),
    /// The image is not there.
    ImageMissing(String),
    /// A container has the name already.
    NameTaken(String),
    /// What was asked for is under way already.
    UnderWay(String),
    /// Somebody else took away what it needed, while it was at work.
    Changed(String),
    /// It said something that nobody understands.
    Nonsense(String),
    /// It refused for another reason.
    Refused(String),
    /// It could not be reached, or stopped answering midway.
    Unreachable {
        /// Why, in words.
        why: String,
        /// How far it was reached.
        reach: Reach,
    },
    /// It did not answer in time.
    Late {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
}

impl Failure {
    /// The failure as other rooms know it.
    pub(super) fn into_error(self) -> RuntimeError {
        match self {
            Self::Unreachable { why, .. } => {
                RuntimeError::Unavailable { runtime: RuntimeKind::Docker, why }
            }
            Self::Late { what, limit } => {
                RuntimeError::Timeout { what: what.to_owned(), seconds: limit.as_secs() }
            }
            Self::ImageMissing(why)
            | Self::NotFound(why)
            | Self::NameTaken(why)
            | Self::UnderWay(why)
            | Self::Changed(why)
            | Self::Nonsense(why)
            | Self::Refused(why) => RuntimeError::Failed(why),
        }
    }

    /// The failure of what was asked of one sandbox.
    pub(super) fn of(self, id: &SandboxId) -> RuntimeError {
        match self {
            Self::NotFound(_) => RuntimeError::NotFound(id.clone()),
            other => other.into_error(),
        }
    }

    /// The failure in words.
    pub(super) fn words(&self) -> String {
        self.clone().into_error().to_string()
    }

    /// How far the engine was reached.
    pub(super) fn reach(&self) -> Reach {
        match self {
            Self::Unreachable { reach, .. } => *reach,
            Self::Late { .. } => Reach::Silent,
            _ => Reach::Answers,
        }
    }

    /// Whether nobody can say if the engine did what was asked.
    pub(super) fn is_uncertain(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. } | Self::Nonsense(_))
    }
}

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
            Error::SocketNotFoundError(path) => {
                let why = format!("there is no socket {path}");
                Self::Unreachable { why, reach: Reach::Silent }
            }
            error => {
                let (cause, reach) = innermost(&error);
                Self::Unreachable { why: shortened(&cause), reach }
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

/// How far an engine was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its socket may not be opened.
    Denied,
    /// Nobody answers there, or not any more.
    Silent,
    /// It said something.
    Answers,
}

/// The cause that says most, and how far the engine was reached: a transport's own words hide that
/// a socket may not be opened.
fn innermost(error: &Error) -> (String, Reach) {
    let (mut cause, mut reach): (&dyn std::error::Error, _) = (error, reach_of(error));
    while let Some(source) = cause.source() {
        cause = source;
        reach = reach.or_else(|| reach_of(cause));
    }
    (cause.to_string(), reach.unwrap_or(Reach::Answers))
}

fn reach_of(cause: &(dyn std::error::Error + 'static)) -> Option<Reach> {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return match error.kind() {
            ErrorKind::PermissionDenied => Some(Reach::Denied),
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof => Some(Reach::Silent),
            _ => None,
        };
    }
    let error = cause.downcast_ref::<hyper::Error>()?;
    (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        .then_some(Reach::Silent)
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
