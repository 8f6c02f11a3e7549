//! What the two ends of a link say to each other.
//!
//! Pure values and their JSON form. How they travel is `link`'s business; what
//! they make happen is `session`'s on the host and `agent`'s in the sandbox.
//! The group is never part of a message: a connection has exactly one.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod tool;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{GroupName, SessionName, TurnId};
use crate::unit::ByteSize;

pub use tool::{HostTool, ParameterKind, ToolParameter, ToolSpec};

/// Version of the language both ends must speak.
pub const PROTOCOL: u32 = 4;

/// The variable that tells a command of the operator how large one file of it may be, in bytes.
pub const FILE_MAX: &str = "BABYBOT_FILE_MAX";

/// Concurrent requests of one agent.
pub const STREAMS_MAX: u32 = 32;
/// Size of a request's headers, in bytes.
pub const HEADERS_MAX: u32 = 16 << 10;
/// Size of a request's or a line's body, in bytes.
pub const BODY_MAX: usize = 8 << 20;
/// Flow-control window of one stream, in bytes. That of the connection is [`STREAMS_MAX`] times as
/// large, so that one stream that is not read blocks no other.
pub const WINDOW: u32 = 64 << 10;

/// The agent's first request: `POST /hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of babybot in the sandbox.
    pub version: String,
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// What this agent can do beyond the protocol's minimum.
    pub capabilities: Vec<String>,
}

/// The host's answer to [`Hello`]: all an agent is told about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The group this agent serves.
    pub group: GroupName,
    /// What the assistant is called.
    pub assistant: String,
    /// The model to ask for.
    pub model: String,
    /// The context window of the model, in tokens.
    pub context: u32,
    /// What is kept of one tool call's output.
    pub output: ByteSize,
    /// What its folders may hold.
    pub disk: Disk,
    /// Guest paths that are other paths here; empty in a container.
    pub places: Vec<PathMapping>,
    /// Environment of the tools.
    pub env: BTreeMap<String, String>,
    /// Tools of the host, beside those that the agent has of its own.
    pub tools: Vec<HostTool>,
}

/// What the folders of an agent may hold together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// How much; one file alone may hold as much.
    pub limit: ByteSize,
    /// The folders, as they are called in this sandbox.
    pub folders: Vec<String>,
}

/// A path as the agent knows it and where it is in this sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMapping {
    /// As in a container: `/workspace/group`.
    pub guest: String,
    /// Where that really is.
    pub host: String,
}

/// A line of `GET /turns`: what the host asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Order {
    /// Answer this.
    Turn(TurnOrder),
    /// More messages arrived for the turn under way.
    Steer {
        /// The turn it is meant for.
        turn: TurnId,
        /// The messages, escaped and framed.
        prompt: String,
    },
    /// Stop this turn.
    Cancel {
        /// The turn to stop.
        turn: TurnId,
    },
    /// What the agent is told about itself changed: it holds from the next turn on.
    Settle(Box<Welcome>),
    /// Finish what is under way and exit.
    Drain,
}

/// A turn to answer, with whatever an earlier attempt already did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnOrder {
    /// The turn.
    pub turn: TurnId,
    /// What the agent remembers with it.
    pub session: SessionName,
    /// The messages, escaped and framed.
    pub prompt: String,
    /// Rounds of an earlier attempt, oldest first.
    pub journal: Vec<JournalRound>,
}

/// One answer of the model that asked for tools, and what became of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRound {
    /// Position in the turn, from 0.
    pub round: u32,
    /// The assistant's message as it goes back to the model.
    pub message: serde_json::Value,
    /// The calls that were begun, in order.
    pub calls: Vec<JournalCall>,
}

/// A tool call that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalCall {
    /// Position in the round, from 0.
    pub index: u32,
    /// The tool.
    pub tool: String,
    /// What it gave; `None` if it was begun and no result is known.
    pub result: Option<String>,
}

/// A line of `POST /turns/{turn}/events`: what the agent reports. The answer
/// to the request means that every line of it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The model answered with tool calls.
    Round {
        /// Position in the turn, from 0.
        round: u32,
        /// The assistant's message as it goes back to the model.
        message: serde_json::Value,
    },
    /// A tool is about to run.
    CallBegan {
        /// The round it belongs to.
        round: u32,
        /// Position in the round, from 0.
        index: u32,
        /// The tool.
        tool: String,
        /// Its arguments.
        arguments: serde_json::Value,
    },
    /// A tool ended.
    CallEnded {
        /// The round it belongs to.
        round: u32,
        /// Position in the round, from 0.
        index: u32,
        /// What the model is given.
        result: String,
    },
    /// A limit of the sandbox held something of a tool back.
    Struck {
        /// Which one.
        limit: Limit,
    },
    /// The model cannot use tools, and answers without them.
    Toolless,
    /// More of the answer, as a preview.
    Text {
        /// What was added.
        text: String,
        /// Whether this begins an answer, and takes the place of what was shown before.
        #[serde(default)]
        fresh: bool,
    },
    /// The turn is answered.
    Done {
        /// The whole answer.
        text: String,
        /// How many [`Order::Steer`] were taken into account.
        steers: u32,
    },
    /// The turn ended without an answer.
    Failed {
        /// Why.
        reason: Failure,
        /// The reason in words.
        message: String,
    },
}

/// A limit of a sandbox that hits its tools rather than the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// `limits.memory`: something was killed for want of memory.
    Memory,
    /// `limits.pids`: something could not be started.
    Pids,
    /// `limits.disk`: what fills the folders further was stopped.
    Disk,
}

impl Limit {
    /// Its path in the manifest.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Memory => "limits.memory",
            Self::Pids => "limits.pids",
            Self::Disk => "limits.disk",
        }
    }
}

/// Why a turn ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It was cancelled.
    Cancelled,
    /// The model's server, or the model on it, is not there yet.
    Absent,
    /// The server is loading the model.
    Loading,
    /// The answer failed in a way that another attempt may not.
    Busy,
    /// The model or its server refused. Another attempt does not help.
    Model,
    /// The model gave nothing usable.
    Answer,
    /// The agent itself failed.
    Agent,
}

/// The header in which the gateway names the [`Failure`] of a request to the model.
pub const FAILURE_HEADER: &str = "babybot-failure";

impl Failure {
    /// The failures of a request to the model, as [`FAILURE_HEADER`] has them.
    const OF_REQUESTS: [(Self, &'static str); 4] = [
        (Self::Absent, "absent"),
        (Self::Loading, "loading"),
        (Self::Busy, "busy"),
        (Self::Model, "model"),
    ];

    /// Its word in [`FAILURE_HEADER`].
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        Self::OF_REQUESTS.iter().find(|(failure, _)| *failure == self).map(|(_, word)| *word)
    }

    /// The failure with this word in [`FAILURE_HEADER`].
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::OF_REQUESTS.iter().find(|(_, named)| *named == word).map(|(failure, _)| *failure)
    }

    /// The failure that a model's server means, where its own words say more than its status.
    #[must_use]
    pub fn meant_by(words: &str) -> Option<Self> {
        let words = words.to_ascii_lowercase();
        let says = |all: &[&str]| all.iter().all(|part| words.contains(part));
        if says(&["more system memory"]) || says(&["does not support"]) {
            Some(Self::Model)
        } else if says(&["loading"]) && says(&["model"]) && !says(&["failed"]) && !says(&["error"])
        {
            Some(Self::Loading)
        } else if says(&["model", "not found"]) {
            Some(Self::Absent)
        } else {
            None
        }
    }
}

/// A text of a prompt as it was before it was escaped for its place among the messages.
#[must_use]
pub fn unescaped(text: &str) -> String {
    // The ampersand last, so that `&amp;lt;` is `&lt;`.
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let text = entities.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    text.replace("&amp;", "&")
}
