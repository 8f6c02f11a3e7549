//! Channels as they were asked for, and where the secrets are that they use.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Fields, Writers, field};
use crate::name::SecretName;

/// A channel as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ChannelSpec {
    /// The terminal of `babybot chat`.
    Terminal,
    /// An HTTP API for programs.
    Webhook(Box<WebhookSpec>),
}

/// An HTTP API through which programs write to groups and read their replies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSpec {
    /// The address that it listens on.
    pub listen: SocketAddr,
    /// What callers prove themselves with.
    pub token: SecretRef,
    /// Where replies are posted to, besides being readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackSpec>,
}

/// Where a webhook posts its replies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackSpec {
    /// A URL on https, or on http at a loopback address.
    pub url: String,
    /// What each request is signed with.
    pub secret: SecretRef,
}

/// A secret by its name, and where its value is. Never the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    /// What the manifest calls it.
    pub name: SecretName,
    /// Where its value is.
    pub source: SecretSource,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {} from {}", self.name, self.source)
    }
}

/// Where the value of a secret is. Never the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretSource {
    /// An environment variable of the controller.
    Env(String),
    /// A file; `~` at its beginning is the home folder.
    File(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(variable) => write!(f, "the variable {variable}"),
            Self::File(path) => write!(f, "the file {path}"),
        }
    }
}

impl ChannelSpec {
    /// Its kind, as the manifest calls it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Who writes there.
    #[must_use]
    pub fn writers(&self) -> Writers {
        match self {
            Self::Terminal => Writers::Owner,
            // A program that has the token was given it by the owner.
            Self::Webhook(_) => Writers::Trusted,
        }
    }

    /// The fields, as [`Spec::fields`](super::Spec::fields) has them.
    pub(super) fn fields(&self) -> Fields {
        match self {
            Self::Terminal => vec![field("kind", &self.kind())],
            Self::Webhook(webhook) => {
                let WebhookSpec { listen, token, callback } = &**webhook;
                let mut fields = vec![
                    field("kind", &self.kind()),
                    field("listen", listen),
                    field("token", token),
                ];
                if let Some(CallbackSpec { url, secret }) = callback {
                    fields.extend([field("callback.url", url), field("callback.secret", secret)]);
                }
                fields
            }
        }
    }
}
