//! What agents of containers run from.

use serde::{Deserialize, Serialize};

use super::{Fields, UserId, digest, field};
use crate::name::ImageTag;

/// What agents of containers run from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ImageSpec {
    /// One that babybot builds.
    Built {
        /// The image it stands on; `scratch`: on nothing.
        base: String,
        /// Packages that are installed into it.
        packages: Vec<String>,
        /// The digest of the babybot in it and of how it is put together.
        content: String,
        /// Whom its agents run as, so that their user has a name.
        user: UserId,
        /// Where that babybot is, as it was named; `None`: the one that builds it, or its source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        binary: Option<String>,
    },
    /// One that exists and contains babybot.
    Named {
        /// As a container engine calls it.
        reference: String,
    },
}

/// The repository that built images are tagged in: no registry stands behind it.
pub const IMAGE_REPOSITORY: &str = "localhost/babybot-agent";

impl ImageSpec {
    /// Its tag: the same for the same content from the same place, and another for any other.
    #[must_use]
    pub fn tag(&self) -> ImageTag {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = digest(&text);
        ImageTag::new(&digest["sha256:".len()..][..12]).expect("a digest is hexadecimal digits")
    }

    /// What containers are made from. The engine's own name for one that is built has its instance
    /// in it, as containers' names do.
    #[must_use]
    pub fn reference(&self) -> String {
        match self {
            Self::Built { .. } => format!("{IMAGE_REPOSITORY}:{}", self.tag()),
            Self::Named { reference } => reference.clone(),
        }
    }

    pub(super) fn fields(&self) -> Fields {
        match self {
            Self::Built { base, packages, content, user, binary } => {
                let short = content.strip_prefix("sha256:").unwrap_or(content);
                let short = short.get(..12).unwrap_or(content);
                let named = binary.as_ref().map(|path| format!("{path} ({short})"));
                vec![
                    field("base", base),
                    field("packages", &packages.join(", ")),
                    field("binary", &named.as_deref().unwrap_or(short)),
                    field("user", user),
                ]
            }
            Self::Named { reference } => vec![field("ref", reference)],
        }
    }
}
