//! Models that groups may use.

use serde::{Deserialize, Serialize};

use super::{Fields, field};
use crate::unit::Period;

/// A model as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModelSpec {
    /// A model on an Ollama server.
    Ollama {
        /// The server, as `http://host:port` without a path.
        url: String,
        /// The model as Ollama calls it.
        model: String,
        /// `num_ctx`, in tokens.
        context: u32,
        /// How long Ollama keeps the model loaded after a request.
        keep_alive: Period,
    },
    /// The built-in stand-in that follows rules and needs no server.
    Rehearsal {
        /// `num_ctx`, in tokens, so that budgets are rehearsed too.
        context: u32,
        /// A script, relative to the project folder; without one, built-in rules.
        script: Option<String>,
    },
}

impl ModelSpec {
    /// Whether this is the built-in stand-in.
    #[must_use]
    pub fn is_rehearsal(&self) -> bool {
        matches!(self, Self::Rehearsal { .. })
    }

    /// The size of the context window, in tokens.
    #[must_use]
    pub fn context(&self) -> u32 {
        match self {
            Self::Ollama { context, .. } | Self::Rehearsal { context, .. } => *context,
        }
    }

    /// The model as an Ollama client calls it.
    #[must_use]
    pub fn wire_name(&self) -> &str {
        match self {
            Self::Ollama { model, .. } => model,
            Self::Rehearsal { .. } => "rehearsal:latest",
        }
    }

    pub(super) fn fields(&self) -> Fields {
        match self {
            Self::Ollama { url, model, context, keep_alive } => vec![
                field("kind", &"ollama"),
                field("url", url),
                field("model", model),
                field("context", context),
                field("keep_alive", keep_alive),
            ],
            Self::Rehearsal { context, script } => {
                let mut fields = vec![field("kind", &"rehearsal"), field("context", context)];
                fields.extend(script.as_ref().map(|script| field("script", script)));
                fields
            }
        }
    }
}

/// Whether Ollama would send a request for the model of this name to ollama.com.
#[must_use]
pub fn is_cloud_model(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(":latest").unwrap_or(&name);
    name.ends_with(":cloud") || name.ends_with("-cloud")
}
