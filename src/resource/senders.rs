//! Who may write to a group, and what becomes of what others write.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{ChannelName, NameError, SenderId};

/// Who writes through a channel of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// The owner of the installation alone.
    Owner,
    /// Whoever the owner gave access to.
    Trusted,
    /// People whom the owner does not know.
    Strangers,
}

/// Who may write to a group through the channels that it binds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Senders {
    /// Who is answered.
    pub allow: BTreeSet<AllowedSender>,
    /// What becomes of messages of others.
    pub mode: SenderMode,
}

/// An entry of the list of those who are answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AllowedSender {
    /// Everybody.
    Anyone,
    /// One sender of one channel.
    One {
        /// The channel.
        channel: ChannelName,
        /// The sender, as that channel knows them.
        sender: SenderId,
    },
}

/// What becomes of messages of those who are not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SenderMode {
    /// They are context, and wake nobody.
    #[default]
    Trigger,
    /// They are not stored.
    Drop,
}

impl Senders {
    /// Whether somebody is answered who writes through this channel.
    #[must_use]
    pub fn allows(&self, channel: &ChannelName, sender: &SenderId) -> bool {
        self.allow.iter().any(|allowed| match allowed {
            AllowedSender::Anyone => true,
            AllowedSender::One { channel: of, sender: one } => (of, one) == (channel, sender),
        })
    }
}

impl SenderMode {
    /// The words of the manifest.
    pub const WORDS: [&'static str; 2] = ["trigger", "drop"];

    /// The word used in the manifest.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Trigger => Self::WORDS[0],
            Self::Drop => Self::WORDS[1],
        }
    }
}

impl fmt::Display for AllowedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::One { channel, sender } => write!(f, "{channel}:{sender}"),
        }
    }
}

impl FromStr for AllowedSender {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "*" {
            return Ok(Self::Anyone);
        }
        let (channel, sender) = text.split_once(':').ok_or(NameError::Form)?;
        Ok(Self::One { channel: channel.parse()?, sender: sender.parse()? })
    }
}

impl TryFrom<String> for AllowedSender {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AllowedSender> for String {
    fn from(allowed: AllowedSender) -> Self {
        allowed.to_string()
    }
}
