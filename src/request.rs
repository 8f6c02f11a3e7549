//! What an agent may ask of its host: one vocabulary, over the link or as a file.
//!
//! A request has an identifier, under which it happens once, however often it is sent. It is read
//! as strictly as a manifest, since whoever writes it is not trusted. *Who asks is known from where
//! a request came, never from what it says.*
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::name::{GroupName, RequestId};
use crate::protocol::{HostTool, ParameterKind, ToolSpec};

/// Largest request, in bytes.
pub const REQUEST_MAX: usize = 256 << 10;
/// Longest text of one message, in bytes.
pub const TEXT_MAX: usize = 16 << 10;
/// A request that is older is refused, in milliseconds: its identifier may be forgotten.
pub const AGE_MAX: i64 = 24 * 60 * 60 * 1000;

/// A request, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Under which it happens once.
    pub id: RequestId,
    /// What is asked for.
    pub ask: Ask,
}

/// What an agent may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Say something to a chat.
    Send {
        /// What.
        text: String,
        /// To the chat of this other group. `None`: to the chat that the turn answers.
        to: Option<GroupName>,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// It is larger than [`REQUEST_MAX`].
    #[error("a request has at most {REQUEST_MAX} bytes")]
    TooLarge,
    /// It is not what a request is.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// It says that it is of another group.
    #[error("`groupFolder` is another group's")]
    Foreign,
    /// Its deadline is over, or it is older than [`AGE_MAX`].
    #[error("the request is too old")]
    Expired,
    /// Nobody knows this type.
    #[error("there is no type `{0}`; there is: command")]
    Type(String),
    /// Nobody knows this command.
    #[error("there is no command `{0}`; there is: send")]
    Command(String),
    /// There is nothing to say.
    #[error("the text is empty")]
    Empty,
    /// There is too much to say.
    #[error("a message has at most {TEXT_MAX} bytes; send several, or write a file")]
    TooLong,
    /// It is for the main group alone.
    #[error("only the main group may send to another group")]
    NotPermitted,
    /// There is no such group, or it has no chat.
    #[error("there is no group `{0}` that can be sent to")]
    Nobody(GroupName),
    /// The turn answers no chat.
    #[error("no chat waits for this turn; say it in your answer")]
    NoChat,
    /// Too many were sent.
    #[error("too many messages were sent; say the rest in your answer")]
    TooMany,
    /// The turn is over, or was never begun.
    #[error("no turn is running")]
    NoTurn,
    /// The host could not.
    #[error("the host cannot do it now: {0}")]
    Failed(String),
}

impl RequestError {
    /// The word for it, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge | Self::TooLong => "too-large",
            Self::Malformed(_) | Self::Type(_) | Self::Command(_) | Self::Empty => "invalid",
            Self::Foreign | Self::NotPermitted => "not-permitted",
            Self::Expired => "expired",
            Self::Nobody(_) | Self::NoChat | Self::NoTurn => "no-destination",
            Self::TooMany => "too-many",
            Self::Failed(_) => "failed",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    id: RequestId,
    #[serde(rename = "type")]
    kind: String,
    group_folder: Option<GroupName>,
    payload: Value,
    timestamp: Option<String>,
    deadline: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    text: String,
    to: Option<GroupName>,
}

/// Reads a request of this group's agent, at this moment.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8], group: &GroupName, now: Timestamp) -> Result<Request, RequestError> {
    if bytes.len() > REQUEST_MAX {
        return Err(RequestError::TooLarge);
    }
    let written: Written = serde_json::from_slice(bytes).map_err(malformed)?;
    if written.group_folder.is_some_and(|named| named != *group) {
        return Err(RequestError::Foreign);
    }
    let made = moment("timestamp", written.timestamp)?;
    let deadline = moment("deadline", written.deadline)?;
    let too_old = made.is_some_and(|made| made.saturating_add(AGE_MAX) < now.0);
    if too_old || deadline.is_some_and(|deadline| deadline < now.0) {
        return Err(RequestError::Expired);
    }
    if written.kind != "command" {
        return Err(RequestError::Type(written.kind));
    }
    let ask = command(written.payload, group)?;
    Ok(Request { id: written.id, ask })
}

/// A command, by its name.
fn command(payload: Value, group: &GroupName) -> Result<Ask, RequestError> {
    let Value::Object(mut fields) = payload else {
        return Err(RequestError::Malformed("`payload` is not an object".to_owned()));
    };
    match fields.shift_remove("name") {
        Some(Value::String(name)) if name == "send" => {
            let Send { text, to } = Send::deserialize(Value::Object(fields)).map_err(malformed)?;
            if text.trim().is_empty() {
                return Err(RequestError::Empty);
            }
            if text.len() > TEXT_MAX {
                return Err(RequestError::TooLong);
            }
            Ok(Ask::Send { text, to: to.filter(|to| to != group) })
        }
        Some(Value::String(name)) => Err(RequestError::Command(name)),
        _ => Err(RequestError::Malformed("`payload` has no `name`".to_owned())),
    }
}

fn malformed(error: impl std::fmt::Display) -> RequestError {
    RequestError::Malformed(error.to_string())
}

/// A moment in milliseconds, as RFC 3339 has it.
fn moment(key: &str, text: Option<String>) -> Result<Option<i64>, RequestError> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<jiff::Timestamp>() {
        Ok(moment) => Ok(Some(moment.as_millisecond())),
        Err(_) => {
            Err(RequestError::Malformed(format!("`{key}` is no time like 2026-11-22T09:30:00Z")))
        }
    }
}

/// The answer to a request, in the shape of a request: what was done, or why it was not.
#[must_use]
pub fn response(id: Option<&RequestId>, outcome: &Result<&str, RequestError>) -> Value {
    match outcome {
        Ok(message) => json!({"id": id, "type": "response", "payload": {"message": message}}),
        Err(error) => {
            let payload = json!({"code": error.code(), "message": error.to_string()});
            json!({"id": id, "type": "error", "payload": payload})
        }
    }
}

/// The tools of an agent that are requests. The main group may name another one.
#[must_use]
pub fn tools(main: bool) -> Vec<HostTool> {
    let about = "Send the person a message now, while you go on working. \
                 Your final answer is sent by itself.";
    let text = ParameterKind::String;
    let mut spec = ToolSpec::new("bb_send_message", about).required("text", text, "the message");
    if main {
        spec = spec.optional("to", text, "the group to send to instead");
    }
    vec![HostTool { spec, command: "send".to_owned() }]
}
