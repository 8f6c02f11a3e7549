//! What babybot manages: the kinds of resource, their names and their specs.
//!
//! A spec is everything about a resource that was asked for and nothing else;
//! it is what a generation records, what is compared, and what is carried out.
//! Knows nothing of how a manifest is written or how a machine is looked at.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod channel;
mod runtime;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{ChannelName, ChatId, GroupName, ImageTag, ModelName};
use crate::unit::{ByteSize, Period};

pub use self::runtime::{
    CONTAINER_LIMITS, Capabilities, EnforcedLimits, RuntimeKind, RuntimeRef, Wall,
};
pub use channel::{CallbackSpec, ChannelSpec, SecretRef, SecretSource, WebhookSpec};

/// A resource, by kind and name.
///
/// Declaration order is build order: a resource may rely only on kinds above
/// its own, so sorting builds from the ground up and reversing takes down from
/// the roof.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ResourceId {
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
        let text = match self {
            Self::Image(tag) => format!("image/{tag}"),
            Self::Model(name) => format!("model/{name}"),
            Self::GlobalMemory => "memory/global".to_owned(),
            Self::Folder(group) => format!("folder/{group}"),
            Self::Settings(group) => format!("settings/{group}"),
            Self::Group(group) => format!("group/{group}"),
            Self::Container(group) => format!("container/{group}"),
            Self::Channel(name) => format!("channel/{name}"),
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
        let (kind, name) = text.split_once('/').ok_or_else(unknown)?;
        let bad = |error: crate::name::NameError| format!("resource `{text}`: {error}");
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
    /// The group this resource belongs to, if it belongs to one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::Folder(group)
            | Self::Settings(group)
            | Self::Group(group)
            | Self::Container(group) => Some(group),
            Self::Image(_) | Self::Model(_) | Self::GlobalMemory | Self::Channel(_) => None,
        }
    }
}

/// The digest of some bytes, as `sha256:<64 hexadecimal digits>`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// How much a change may hurt. The order is the order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Nothing is interrupted or lost.
    Safe,
    /// Something running is interrupted.
    Disruptive,
    /// Something that exists is taken away.
    Destructive,
    /// An agent can reach more, or more can reach the agent.
    Privileged,
}

impl Risk {
    /// All risks, mildest first.
    pub const ALL: [Self; 4] = [Self::Safe, Self::Disruptive, Self::Destructive, Self::Privileged];

    /// The word used in plans and on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Disruptive => "disruptive",
            Self::Destructive => "destructive",
            Self::Privileged => "privileged",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
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

/// A user and a group of the host, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserId {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

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
}

/// What the sandbox of a group is made of. Any change of it replaces the sandbox; nothing of a
/// sandbox is updated in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What it is made with.
    pub runtime: RuntimeKind,
    /// The image, as [`ImageSpec::reference`] has it; `None` where there are no images.
    pub image: Option<String>,
    /// Whom the agent runs as, where the runtime is told.
    pub user: Option<UserId>,
    /// Whether it is the main group's, which is given more to read.
    pub main: bool,
    /// Processor time, where the runtime enforces it.
    pub cpus: Option<MilliCpus>,
    /// Memory, where the runtime enforces it.
    pub memory: Option<ByteSize>,
    /// Processes and threads, where the runtime enforces it.
    pub pids: Option<u32>,
    /// Where its container engine is; `None`: it has none, or was recorded before engines were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
}

impl ContainerSpec {
    /// The sandbox of a group among these specs.
    #[must_use]
    pub fn of(group: &GroupSpec, specs: &BTreeMap<ResourceId, Spec>) -> Self {
        let images = group.runtime == RuntimeKind::Docker;
        let id = group.image.clone().map(ResourceId::Image);
        let image = match id.and_then(|id| specs.get(&id)) {
            Some(Spec::Image(image)) => Some(image.reference()),
            _ => None,
        };
        Self {
            runtime: group.runtime,
            image,
            user: group.user,
            main: group.main,
            cpus: images.then_some(group.limits.cpus),
            memory: images.then_some(group.limits.memory),
            pids: images.then_some(group.limits.pids),
            engine: group.engine.clone().filter(|_| images),
        }
    }

    /// The runtime that it is made with.
    #[must_use]
    pub fn reference(&self) -> RuntimeRef {
        RuntimeRef { kind: self.runtime, endpoint: self.engine.clone() }
    }

    /// The digest that a running sandbox is labelled with. The version in front is that of this
    /// form: another form by itself replaces nothing.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        format!("{DIGEST_FORM}:{}", &digest(&text)["sha256:".len()..][..16])
    }

    /// Whether a sandbox with this label was made from something else. A digest of another form
    /// cannot be compared; what was changed of such a sandbox is seen by looking at it.
    #[must_use]
    pub fn differs_from(&self, label: &str) -> bool {
        let form = label.split_once(':').map_or("", |(form, _)| form);
        let is_form = |number: &str| !number.is_empty() && number.parse::<u32>().is_ok();
        let other = form != DIGEST_FORM && form.strip_prefix('v').is_some_and(is_form);
        !other && label != self.digest()
    }
}

/// The version of the digest's form.
const DIGEST_FORM: &str = "v1";

/// The sandboxes of all groups among these specs.
#[must_use]
pub fn containers(specs: &BTreeMap<ResourceId, Spec>) -> BTreeMap<GroupName, ContainerSpec> {
    let groups = specs.iter().filter_map(|(id, spec)| match (id, spec) {
        (ResourceId::Group(name), Spec::Group(group)) => {
            Some((name.clone(), ContainerSpec::of(group, specs)))
        }
        _ => None,
    });
    groups.collect()
}

/// What the sandboxes of these specs are made with; of several, the strongest.
#[must_use]
pub fn runtime(specs: &BTreeMap<ResourceId, Spec>) -> Option<RuntimeKind> {
    let groups = specs.values().filter_map(|spec| match spec {
        Spec::Group(group) => Some(group.runtime),
        _ => None,
    });
    groups.max()
}

/// Where the container engine of these specs is, if they say so.
#[must_use]
pub fn engine(specs: &BTreeMap<ResourceId, Spec>) -> Option<String> {
    specs.values().find_map(|spec| match spec {
        Spec::Group(group) if group.runtime == RuntimeKind::Docker => group.engine.clone(),
        _ => None,
    })
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

/// Processor time, in thousandths of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MilliCpus(pub u32);

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
            f.write_str(text.trim_end_matches('0'))
        }
    }
}

/// What one group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor time of the whole sandbox.
    pub cpus: MilliCpus,
    /// Memory of the whole sandbox.
    pub memory: ByteSize,
    /// Processes and threads of the whole sandbox.
    pub pids: u32,
    /// Hard stop of one turn.
    pub turn: Period,
    /// An on-demand agent with nothing to do stops after this.
    pub idle: Period,
    /// What is kept of one tool call's output.
    pub output: ByteSize,
    /// What the group's folders may hold, its home among them; over it the turn stops.
    pub disk: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpus: MilliCpus(2000),
            memory: ByteSize::bytes(1 << 30),
            pids: 256,
            turn: Period::seconds(30 * 60),
            idle: Period::seconds(30 * 60),
            output: ByteSize::bytes(10 << 20),
            disk: ByteSize::bytes(2 << 30),
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
}

/// The parts of a group that are neither folder nor container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// What the assistant is called.
    pub assistant: String,
    /// The time zone of its prompts, an IANA name; `None`: the machine's own.
    pub timezone: Option<String>,
    /// Whether this is the main group.
    pub main: bool,
    /// Where it listens.
    pub bind: Vec<Binding>,
    /// The word that wakes the agent.
    pub trigger: String,
    /// Whether only messages with the trigger wake it.
    pub requires_trigger: bool,
    /// The model that answers.
    pub model: ModelName,
    /// When its agent runs.
    pub lifecycle: Lifecycle,
    /// What its sandbox is made with.
    pub runtime: RuntimeKind,
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
    /// How many agents of all groups are at work at once.
    #[serde(default = "parallel_default")]
    pub parallel: u32,
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
        self.runtime == RuntimeKind::Docker && self.user.is_some_and(|user| user.uid == 0)
    }
}

/// How many agents are at work at once where nothing is said.
pub const PARALLEL_DEFAULT: u32 = 5;

fn parallel_default() -> u32 {
    PARALLEL_DEFAULT
}

/// What babybot manages, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "resource", content = "spec", rename_all = "kebab-case")]
pub enum Spec {
    /// See [`ResourceId::Image`].
    Image(ImageSpec),
    /// See [`ResourceId::Model`].
    Model(ModelSpec),
    /// See [`ResourceId::GlobalMemory`].
    GlobalMemory,
    /// See [`ResourceId::Folder`].
    Folder,
    /// A [`Spec::Folder`] that is given to the user that the agent runs as.
    GivenFolder(UserId),
    /// See [`ResourceId::Settings`]: the environment of the group's tools.
    Settings {
        /// Variable to value.
        env: BTreeMap<String, String>,
    },
    /// See [`ResourceId::Group`].
    Group(Box<GroupSpec>),
    /// See [`ResourceId::Channel`].
    Channel(ChannelSpec),
}

/// One field of a spec as a plan shows it: its path in the manifest's words, and its value.
pub type Field = (String, String);

impl Spec {
    /// The spec as fields in a fixed order, for comparing and printing.
    #[must_use]
    pub fn fields(&self) -> Vec<Field> {
        let field = |name: &str, value: &dyn fmt::Display| (name.to_owned(), value.to_string());
        match self {
            Self::GlobalMemory | Self::Folder => Vec::new(),
            Self::GivenFolder(user) => vec![field("owner", user)],
            Self::Image(ImageSpec::Built { base, packages, content, user, binary }) => {
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
            Self::Image(ImageSpec::Named { reference }) => vec![field("ref", reference)],
            Self::Channel(channel) => channel.fields(),
            Self::Settings { env } => {
                env.iter().map(|(name, value)| (format!("env.{name}"), value.clone())).collect()
            }
            Self::Model(ModelSpec::Ollama { url, model, context, keep_alive }) => vec![
                field("kind", &"ollama"),
                field("url", url),
                field("model", model),
                field("context", context),
                field("keep_alive", keep_alive),
            ],
            Self::Model(ModelSpec::Rehearsal { context, script }) => {
                let mut fields = vec![field("kind", &"rehearsal"), field("context", context)];
                fields.extend(script.as_ref().map(|script| field("script", script)));
                fields
            }
            Self::Group(group) => {
                let bind: Vec<String> = group.bind.iter().map(ToString::to_string).collect();
                let limits = &group.limits;
                let timezone = group.timezone.as_deref().unwrap_or("the machine's");
                let mut fields = vec![
                    field("assistant.name", &group.assistant),
                    field("assistant.timezone", &timezone),
                    field("main", &group.main),
                    field("bind", &bind.join(", ")),
                    field("trigger", &group.trigger),
                    field("requires_trigger", &group.requires_trigger),
                    field("model", &group.model),
                    field("lifecycle", &group.lifecycle.word()),
                    field("runtime", &group.runtime.word()),
                    field("limits.cpus", &limits.cpus),
                    field("limits.memory", &limits.memory),
                    field("limits.pids", &limits.pids),
                    field("limits.turn", &limits.turn),
                    field("limits.idle", &limits.idle),
                    field("limits.output", &limits.output),
                    field("limits.disk", &limits.disk),
                    field("runtime.parallel", &group.parallel),
                ];
                fields.extend(group.image.as_ref().map(|image| field("image", image)));
                fields.extend(group.user.as_ref().map(|user| field("user", user)));
                fields.extend(
                    group.engine.as_ref().map(|engine| field("runtime.docker.host", engine)),
                );
                fields
            }
        }
    }
}
