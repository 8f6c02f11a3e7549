//! Identifiers, each its own type, checked once on the way in.
//!
//! A value of one of these types is valid by construction: nothing further in
//! checks it again. Knows nothing of where names are written or used.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use thiserror::Error;

/// Longest group, model, channel or secret name, in bytes.
///
/// A container is called `bb-<8>-<group>`, which must stay below the 63
/// characters that every runtime accepts.
pub const NAME_LENGTH_MAX: usize = 31;

/// Group names that mean something else in the folders of a project.
pub const RESERVED_GROUP_NAMES: &[&str] = &["global"];

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was written.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`NAME_LENGTH_MAX`] bytes.
    #[error("a name has at most {NAME_LENGTH_MAX} characters")]
    TooLong,
    /// A character outside `a-z`, `0-9` and `-`, or a leading `-`.
    #[error("a name is made of a-z, 0-9 and -, and starts with a letter or digit")]
    Characters,
    /// One of [`RESERVED_GROUP_NAMES`].
    #[error("the name is reserved")]
    Reserved,
    /// Not the hexadecimal digits or the form that this identifier has.
    #[error("not a valid identifier")]
    Form,
}

fn check_plain(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    if !plain(bytes[0]) || !bytes.iter().all(|&c| plain(c) || c == b'-') {
        return Err(NameError::Characters);
    }
    if bytes.len() > NAME_LENGTH_MAX {
        return Err(NameError::TooLong);
    }
    Ok(())
}

fn check_group(text: &str) -> Result<(), NameError> {
    check_plain(text)?;
    if RESERVED_GROUP_NAMES.contains(&text) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

fn check_hex32(text: &str) -> Result<(), NameError> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() == 32 && text.bytes().all(hex) { Ok(()) } else { Err(NameError::Form) }
}

fn check_tag(text: &str) -> Result<(), NameError> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() == 12 && text.bytes().all(hex) { Ok(()) } else { Err(NameError::Form) }
}

/// An opaque identifier that another program gives: printable, bounded.
fn check_opaque(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 256 || text.chars().any(char::is_control) {
        return Err(NameError::Form);
    }
    Ok(())
}

/// Longest name of a session, in bytes: it is part of a file's name.
const SESSION_LENGTH_MAX: usize = 96;

fn check_session(text: &str) -> Result<(), NameError> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    let Some((channel, chat)) = text.split_once('.') else { return Err(NameError::Form) };
    check_plain(channel)?;
    if chat.is_empty() || !chat.bytes().all(plain) {
        return Err(NameError::Characters);
    }
    if text.len() > SESSION_LENGTH_MAX {
        return Err(NameError::TooLong);
    }
    Ok(())
}

/// Longest identifier of a request, in bytes: it is part of a file's name.
const REQUEST_LENGTH_MAX: usize = 128;

fn check_request(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if text.len() > REQUEST_LENGTH_MAX || text.starts_with('.') || !text.bytes().all(plain) {
        return Err(NameError::Form);
    }
    Ok(())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and makes it an identifier.
            ///
            /// # Errors
            /// What is wrong with the text, as a [`NameError`].
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

identifier! {
    /// A chat group: also its folder under `groups/` and part of its container's name.
    GroupName, check_group
}
identifier! {
    /// A model as the manifest calls it (`[models.<name>]`), not as Ollama does.
    ModelName, check_plain
}
identifier! {
    /// A channel as the manifest calls it (`[channels.<name>]`), or the built-in `terminal`.
    ChannelName, check_plain
}
identifier! {
    /// A secret as the manifest calls it (`[secrets]`); never its value.
    SecretName, check_plain
}
identifier! {
    /// The whole installation as the manifest calls it (`name = "…"`).
    ProjectName, check_plain
}
identifier! {
    /// One installation on one machine: 128 random bits, as 32 hexadecimal digits.
    InstanceId, check_hex32
}
identifier! {
    /// One start of one agent: 128 bits, as 32 hexadecimal digits.
    Incarnation, check_hex32
}
identifier! {
    /// One turn of a group's conversation: 128 bits in time order, as 32 hexadecimal digits.
    TurnId, check_hex32
}
identifier! {
    /// An image of agents: the first twelve hexadecimal digits of the digest of its content.
    ImageTag, check_tag
}
identifier! {
    /// A sandbox as its runtime calls it.
    SandboxId, check_opaque
}
identifier! {
    /// A conversation as its channel calls it.
    ChatId, check_opaque
}
identifier! {
    /// A message as its channel calls it; unique within channel and chat.
    MessageId, check_opaque
}

identifier! {
    /// A thread within a chat, or one conversation of several in it, as its channel calls it.
    ThreadId, check_opaque
}
identifier! {
    /// Who writes, as their channel calls them: it stays the same when they rename themselves.
    SenderId, check_opaque
}
identifier! {
    /// A file that came with a message, as its channel calls it.
    AttachmentId, check_opaque
}
identifier! {
    /// A request of an agent, as the agent calls it; unique within its group.
    RequestId, check_request
}
identifier! {
    /// What a group's agent remembers together: its transcript. Part of a file's name.
    SessionName, check_session
}

impl SessionName {
    /// The session of a chat: `terminal.home`, or a digest in place of a chat that is no plain word.
    #[must_use]
    pub fn of_chat(channel: &ChannelName, chat: &ChatId) -> Self {
        if check_plain(chat.as_str()).is_ok() {
            return Self(format!("{channel}.{chat}"));
        }
        let digest = sha2::Sha256::digest(chat.as_str().as_bytes());
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        // No plain word has an underscore.
        Self(format!("{channel}._{digest}"))
    }

    /// The session of a turn that is of no chat: it remembers nothing of others.
    #[must_use]
    pub fn of_turn(turn: &TurnId) -> Self {
        Self(format!("turn.{turn}"))
    }

    /// The channel that it is of.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.0.split_once('.').map_or("", |(channel, _)| channel)
    }
}

impl InstanceId {
    /// The first eight digits: enough for names that a person reads.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl ChannelName {
    /// The channel that is always there: the terminal of `babybot chat`.
    #[must_use]
    pub fn terminal() -> Self {
        Self("terminal".to_owned())
    }
}
