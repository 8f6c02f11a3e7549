//! What was asked for of a resource of any kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChannelSpec, Fields, GroupSpec, ImageSpec, InstanceSpec, ModelSpec, UserId, field};

/// What babybot manages, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "resource", content = "spec", rename_all = "kebab-case")]
pub enum Spec {
    /// See [`super::ResourceId::Instance`].
    Instance(InstanceSpec),
    /// See [`super::ResourceId::Image`].
    Image(ImageSpec),
    /// See [`super::ResourceId::Model`].
    Model(ModelSpec),
    /// See [`super::ResourceId::GlobalMemory`].
    GlobalMemory,
    /// See [`super::ResourceId::Folder`].
    Folder,
    /// A [`Spec::Folder`] that is given to the user that the agent runs as.
    GivenFolder(UserId),
    /// A [`Spec::GivenFolder`] of the main group, which keeps `groups/global` as well.
    MainFolder(UserId),
    /// See [`super::ResourceId::Settings`]: the environment of the group's tools.
    Settings {
        /// Variable to value.
        env: BTreeMap<String, String>,
    },
    /// See [`super::ResourceId::Group`].
    Group(Box<GroupSpec>),
    /// See [`super::ResourceId::Channel`].
    Channel(ChannelSpec),
}

impl Spec {
    /// Whom a folder is given to.
    #[must_use]
    pub fn owner(&self) -> Option<UserId> {
        match self {
            Self::GivenFolder(owner) | Self::MainFolder(owner) => Some(*owner),
            _ => None,
        }
    }

    /// The spec as fields in a fixed order, for comparing and printing.
    #[must_use]
    pub fn fields(&self) -> Fields {
        match self {
            Self::GlobalMemory | Self::Folder => Vec::new(),
            Self::GivenFolder(owner) => vec![field("owner", owner)],
            Self::MainFolder(owner) => vec![field("owner", owner), field("groups/global", owner)],
            Self::Settings { env } => {
                env.iter().map(|(name, value)| (format!("env.{name}"), value.clone())).collect()
            }
            Self::Instance(instance) => instance.fields(),
            Self::Image(image) => image.fields(),
            Self::Model(model) => model.fields(),
            Self::Group(group) => group.fields(),
            Self::Channel(channel) => channel.fields(),
        }
    }
}
