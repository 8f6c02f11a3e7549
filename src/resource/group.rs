//! What a group asks for beside its folders and its sandbox.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Capabilities, Fields, Limits, RuntimeKind, RuntimeRef, Senders, UserId, field};
use crate::name::{ChannelName, ChatId, ImageTag, ModelName};

/// The parts of a group that are neither folder nor container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Whether this is the main group.
    pub main: bool,
    /// Where it listens.
    pub bind: Vec<Binding>,
    /// The word that wakes the agent.
    pub trigger: String,
    /// Whether only messages with the trigger wake it.
    pub requires_trigger: bool,
    /// Who may write to it; `None`: whoever the kind of its channel lets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub senders: Option<Senders>,
    /// The model that answers.
    pub model: ModelName,
    /// When its agent runs.
    pub lifecycle: Lifecycle,
    /// What its sandbox is made with.
    pub runtime: RuntimeKind,
    /// What that can do: as it said itself, or as is expected of its kind until it was asked.
    pub capabilities: Capabilities,
    /// The image that its sandbox is made from, where the runtime has images.
    #[serde(default)]
    pub image: Option<ImageTag>,
    /// Whom its agent runs as, where the runtime is told.
    #[serde(default)]
    pub user: Option<UserId>,
    /// Where its container engine is: the one that is named, or was found when it was applied first.
    /// `None`: it has none, or none answered yet.
    #[serde(default)]
    pub engine: Option<String>,
    /// What it may use.
    pub limits: Limits,
}

impl GroupSpec {
    /// The runtime of its sandbox.
    #[must_use]
    pub fn reference(&self) -> RuntimeRef {
        RuntimeRef { kind: self.runtime, endpoint: self.engine.clone() }
    }

    /// Whether its agent is root within an engine that maps it to a user outside.
    #[must_use]
    pub fn is_rootless(&self) -> bool {
        self.capabilities.images && self.user.is_some_and(|user| user.uid == 0)
    }

    pub(super) fn fields(&self) -> Fields {
        let bind: Vec<String> = self.bind.iter().map(ToString::to_string).collect();
        let limits = &self.limits;
        let mut fields = vec![
            field("main", &self.main),
            field("bind", &bind.join(", ")),
            field("trigger", &self.trigger),
            field("requires_trigger", &self.requires_trigger),
            field("model", &self.model),
            field("lifecycle", &self.lifecycle.word()),
            field("runtime", &self.runtime.word()),
            field("limits.cpus", &limits.cpus),
            field("limits.memory", &limits.memory),
            field("limits.pids", &limits.pids),
            field("limits.turn", &limits.turn),
            field("limits.idle", &limits.idle),
            field("limits.output", &limits.output),
            field("limits.disk", &limits.disk),
        ];
        if let Some(Senders { allow, mode }) = &self.senders {
            let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
            fields.push(field("senders.allow", &allow.join(", ")));
            fields.push(field("senders.mode", &mode.word()));
        }
        fields.extend(self.image.as_ref().map(|image| field("image", image)));
        fields.extend(self.user.as_ref().map(|user| field("user", user)));
        let fewer = self.capabilities != Capabilities::expected(self.runtime);
        fields.extend(fewer.then(|| field("runtime.capabilities", &self.capabilities)));
        fields.extend(self.engine.as_ref().map(|engine| field("runtime.docker.host", engine)));
        fields
    }
}

/// When the agent of a group runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    /// From the first message until it has been idle for `limits.idle`.
    #[default]
    OnDemand,
    /// For as long as a controller runs.
    Always,
}

impl Lifecycle {
    /// The word used in the manifest.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Always => "always",
        }
    }
}

/// Where a group listens: a channel and, but for the terminal, one of its chats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// The channel.
    pub channel: ChannelName,
    /// The chat within it; a terminal has none.
    pub chat: Option<ChatId>,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chat {
            Some(chat) => write!(f, "{}:{chat}", self.channel),
            None => write!(f, "{}", self.channel),
        }
    }
}
