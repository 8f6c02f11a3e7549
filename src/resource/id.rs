//! The kinds of resource, and their names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{ChannelName, GroupName, ImageTag, ModelName, NameError};

/// A resource, by kind and name.
///
/// Declaration order is build order: a resource may rely only on kinds above
/// its own, so sorting builds from the ground up and reversing takes down from
/// the roof.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ResourceId {
    /// What holds for the whole house and not for one group.
    Instance,
    /// The image that agents run from, by the digest of what it is made of.
    Image(ImageTag),
    /// A model that groups may use.
    Model(ModelName),
    /// `groups/global/MEMORY.md`, which every group reads.
    GlobalMemory,
    /// The folders of a group: its own, its home, its mailbox.
    Folder(GroupName),
    /// `data/sessions/<group>/.ollama/settings.json`.
    Settings(GroupName),
    /// Everything about a group that is neither folder nor container.
    Group(GroupName),
    /// The sandboxed agent of a group; a process where the runtime is `none`.
    Container(GroupName),
    /// A connection to a chat service.
    Channel(ChannelName),
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().word();
        let text = match self {
            Self::Instance => kind.to_owned(),
            Self::Image(tag) => format!("{kind}/{tag}"),
            Self::Model(name) => format!("{kind}/{name}"),
            Self::GlobalMemory => format!("{kind}/global"),
            Self::Folder(group)
            | Self::Settings(group)
            | Self::Group(group)
            | Self::Container(group) => format!("{kind}/{group}"),
            Self::Channel(name) => format!("{kind}/{name}"),
        };
        f.pad(&text)
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for ResourceId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let unknown = || format!("unknown resource `{text}`");
        if text == ResourceKind::Instance.word() {
            return Ok(Self::Instance);
        }
        let (kind, name) = text.split_once('/').ok_or_else(unknown)?;
        let bad = |error: NameError| format!("resource `{text}`: {error}");
        let group = || GroupName::new(name).map_err(bad);
        Ok(match kind {
            "image" => Self::Image(ImageTag::new(name).map_err(bad)?),
            "model" => Self::Model(ModelName::new(name).map_err(bad)?),
            "memory" if name == "global" => Self::GlobalMemory,
            "folder" => Self::Folder(group()?),
            "settings" => Self::Settings(group()?),
            "group" => Self::Group(group()?),
            "container" => Self::Container(group()?),
            "channel" => Self::Channel(ChannelName::new(name).map_err(bad)?),
            _ => return Err(unknown()),
        })
    }
}

impl ResourceId {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Instance => ResourceKind::Instance,
            Self::Image(_) => ResourceKind::Image,
            Self::Model(_) => ResourceKind::Model,
            Self::GlobalMemory => ResourceKind::Memory,
            Self::Folder(_) => ResourceKind::Folder,
            Self::Settings(_) => ResourceKind::Settings,
            Self::Group(_) => ResourceKind::Group,
            Self::Container(_) => ResourceKind::Container,
            Self::Channel(_) => ResourceKind::Channel,
        }
    }

    /// The group this resource belongs to, if it belongs to one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::Folder(group)
            | Self::Settings(group)
            | Self::Group(group)
            | Self::Container(group) => Some(group),
            Self::Instance
            | Self::Image(_)
            | Self::Model(_)
            | Self::GlobalMemory
            | Self::Channel(_) => None,
        }
    }
}

/// A kind of resource, in the order of [`ResourceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    /// See [`ResourceId::Instance`].
    Instance,
    /// See [`ResourceId::Image`].
    Image,
    /// See [`ResourceId::Model`].
    Model,
    /// See [`ResourceId::GlobalMemory`].
    Memory,
    /// See [`ResourceId::Folder`].
    Folder,
    /// See [`ResourceId::Settings`].
    Settings,
    /// See [`ResourceId::Group`].
    Group,
    /// See [`ResourceId::Container`].
    Container,
    /// See [`ResourceId::Channel`].
    Channel,
}

impl ResourceKind {
    /// All kinds, in build order.
    pub const ALL: [Self; 9] = [
        Self::Instance,
        Self::Image,
        Self::Model,
        Self::Memory,
        Self::Folder,
        Self::Settings,
        Self::Group,
        Self::Container,
        Self::Channel,
    ];

    /// The word in front of a resource's name, and the name of the kind's file at every stage.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Image => "image",
            Self::Model => "model",
            Self::Memory => "memory",
            Self::Folder => "folder",
            Self::Settings => "settings",
            Self::Group => "group",
            Self::Container => "container",
            Self::Channel => "channel",
        }
    }
}
