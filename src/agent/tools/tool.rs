//! What a tool is, and what all of them do alike.

use std::fmt;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::disk::{Disk, Room};
use crate::name::TurnId;
use crate::protocol::ToolSpec;

/// Something that a model may call.
pub(super) trait Tool: fmt::Debug + Send + Sync {
    /// What the model is told of it.
    fn spec(&self) -> &ToolSpec;

    /// Runs a call to its end. Nothing of it is left running.
    fn call<'a>(
        &'a self,
        arguments: &'a Value,
        place: CallPlace<'a>,
        bounds: Bounds<'a>,
    ) -> BoxFuture<'a, CallOutcome>;

    /// Whether a call that was interrupted may be made again: it happens once all the same.
    fn may_be_repeated(&self) -> bool {
        false
    }
}

/// How a tool call ended.
#[derive(Debug)]
pub(in super::super) enum CallOutcome {
    /// With this result, which may well be an error for the model to read.
    Result(String),
    /// It was cancelled, and nothing of it is left running.
    Cancelled,
}

/// Within which bounds a call runs.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Bounds<'a> {
    pub(in super::super) disk: &'a Disk,
    /// What was left when it began.
    pub(in super::super) room: Room,
    pub(in super::super) cancel: &'a CancellationToken,
}

/// Where a call stands. No other call stands there, also after a restart.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct CallPlace<'a> {
    pub(in super::super) turn: &'a TurnId,
    pub(in super::super) round: u32,
    pub(in super::super) index: u32,
}

impl fmt::Display for CallPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.turn, self.round, self.index)
    }
}

/// A result that says what was wrong with a call.
pub(super) fn refused(why: impl fmt::Display) -> CallOutcome {
    CallOutcome::Result(format!("error: {why}"))
}

/// The arguments of a call, as strictly as the model was told.
pub(super) fn parse<T: DeserializeOwned>(tool: &ToolSpec, arguments: &Value) -> Result<T, String> {
    T::deserialize(arguments).map_err(|error| format!("{}: {error}; {}", tool.name, tool.usage()))
}
