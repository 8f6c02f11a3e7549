//! Every key of the manifest, once: what it takes, what it means, what it defaults to.
//!
//! The decoders take their known keys and bounds from this list; the JSON
//! Schema and docs/MANIFEST.md are printed from it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::resource::{MilliCpus, Risk, SenderMode};
use crate::unit::{ByteSize, Period};

/// Most groups of one manifest.
pub const GROUPS_MAX: usize = 10_000;
/// Longest text of one value, in bytes.
pub const TEXT_LENGTH_MAX: usize = 4 << 10;
/// Largest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The only version of the manifest's shape that this release reads.
pub const SCHEMA_VERSION: u64 = 1;

/// The image that agents' images are built on where nothing is said.
pub const IMAGE_BASE: &str = "debian:stable-slim";
/// The image that is none: nothing has to be pulled for it.
pub const IMAGE_SCRATCH: &str = "scratch";
/// Most packages of an image.
pub const PACKAGES_MAX: usize = 256;

const PARALLEL_MIN: u64 = 1;
const PARALLEL_MAX: u64 = 64;
const CONTEXT_TOKENS_MIN: u64 = 2048;
const CONTEXT_TOKENS_MAX: u64 = 10 << 20;
const CPUS_MIN: MilliCpus = MilliCpus(10);
const CPUS_MAX: MilliCpus = MilliCpus(1_024_000);
const MEMORY_MIN: ByteSize = ByteSize::bytes(16 << 20);
const MEMORY_MAX: ByteSize = ByteSize::bytes(4 << 40);
const PIDS_MIN: u64 = 8;
/// What Linux can number on 64 bits.
const PIDS_MAX: u64 = 4 << 20;
/// The shortest turn.
pub const TURN_MIN: Period = Period::seconds(1);
/// The longest turn.
pub const TURN_MAX: Period = Period::seconds(7 * 24 * 60 * 60);
const IDLE_MIN: Period = Period::seconds(1);
const IDLE_MAX: Period = Period::seconds(30 * 24 * 60 * 60);
const OUTPUT_MIN: ByteSize = ByteSize::bytes(1 << 10);
const OUTPUT_MAX: ByteSize = ByteSize::bytes(1 << 30);
const DISK_MIN: ByteSize = ByteSize::bytes(1 << 20);
const DISK_MAX: ByteSize = ByteSize::bytes(16 << 40);
const KEEP_ALIVE_MIN: Period = Period::seconds(0);
const KEEP_ALIVE_MAX: Period = Period::seconds(30 * 24 * 60 * 60);

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// `true` or `false`.
    Boolean,
    /// A whole number within bounds.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A number of cores, such as `2` or `0.5`.
    Cpus {
        /// The least.
        min: MilliCpus,
        /// The most.
        max: MilliCpus,
    },
    /// A length of time with a unit, such as `"30m"`.
    Duration {
        /// The shortest.
        min: Period,
        /// The longest.
        max: Period,
    },
    /// A number of bytes with a unit, such as `"2GiB"`.
    Size {
        /// The smallest.
        min: ByteSize,
        /// The largest.
        max: ByteSize,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One key of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it stands, names in angle brackets: `groups.<group>.limits.memory`.
    pub path: String,
    /// What it takes.
    pub takes: Type,
    /// What holds where nothing is written, in words or as TOML; `required` where it must be.
    pub default: &'static str,
    /// A value it accepts, as TOML.
    pub sample: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// The worst that a change of it can be planned as, where that is more than `safe`.
    pub risk: Option<Risk>,
    /// The `kind` beside it that it belongs to; `None`: any.
    pub of_kind: Option<&'static str>,
}

/// How [`Field::default`] says that a key must be written.
pub const REQUIRED: &str = "required";

/// Every key of the manifest, in the order of the reference.
pub static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(all_fields);

/// The fields of every table, by the table's path and the key.
static BY_TABLE: LazyLock<BTreeMap<&'static str, BTreeMap<&'static str, &'static Field>>> =
    LazyLock::new(|| {
        let mut tables: BTreeMap<&'static str, BTreeMap<_, _>> = BTreeMap::new();
        for field in FIELDS.iter() {
            tables.entry(field.table()).or_default().insert(field.key(), field);
        }
        tables
    });

impl Field {
    /// The path of the table it stands in.
    #[must_use]
    pub fn table(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Its last word.
    #[must_use]
    pub fn key(&self) -> &str {
        self.path.rsplit_once('.').map_or(self.path.as_str(), |(_, key)| key)
    }

    /// Whether it must be written.
    #[must_use]
    pub fn required(&self) -> bool {
        self.default == REQUIRED
    }
}

/// The field at a table's path and key.
pub(crate) fn field(table: &str, key: &str) -> Option<&'static Field> {
    BY_TABLE.get(table)?.get(key).copied()
}

/// The `kind` that a key of a table belongs to, be it a value or a table of its own.
pub(crate) fn of_kind(table: &str, key: &str) -> Option<&'static str> {
    let within = |path: &str| {
        let rest = path.strip_prefix(table)?.strip_prefix('.')?.strip_prefix(key)?;
        (rest.is_empty() || rest.starts_with('.')).then_some(())
    };
    FIELDS.iter().find(|field| within(&field.path).is_some())?.of_kind
}

/// The keys that a table takes: its own, and those of the tables within it.
pub(crate) fn known_keys(table: &str) -> Vec<&'static str> {
    let mut keys: Vec<&'static str> = Vec::new();
    let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
    for field in FIELDS.iter() {
        let key = field.path.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
        keys.extend(key.filter(|key| keys.last() != Some(key)));
    }
    keys
}

/// The keys of every table, by the table's path; a table of names has one key in angle brackets.
pub(crate) static KNOWN_KEYS: LazyLock<BTreeMap<&'static str, Vec<&'static str>>> =
    LazyLock::new(|| {
        let mut tables = BTreeMap::new();
        for field in FIELDS.iter() {
            let mut table = field.table();
            loop {
                tables.entry(table).or_insert_with(|| known_keys(table));
                match table.rsplit_once('.') {
                    Some((outer, _)) => table = outer,
                    None => break,
                }
            }
        }
        tables.entry("").or_insert_with(|| known_keys(""));
        tables
    });

fn row(
    path: impl Into<String>,
    takes: Type,
    default: &'static str,
    sample: &'static str,
    risk: Option<Risk>,
    doc: &'static str,
) -> Field {
    Field { path: path.into(), takes, default, sample, doc, risk, of_kind: None }
}

impl Field {
    fn of(self, kind: &'static str) -> Self {
        Self { of_kind: Some(kind), ..self }
    }
}

fn all_fields() -> Vec<Field> {
    let mut fields = project();
    fields.extend(image());
    fields.extend(limits("runtime", true));
    fields.extend(secrets());
    fields.extend(models());
    fields.extend(channels());
    fields.extend(group_parts("defaults.group", false));
    fields.extend(groups());
    fields
}

fn project() -> Vec<Field> {
    vec![
        row(
            "schema",
            Type::Integer { min: SCHEMA_VERSION, max: SCHEMA_VERSION },
            REQUIRED,
            "1",
            None,
            "The version of the manifest's shape. This release reads version 1.",
        ),
        row(
            "name",
            Type::Text,
            REQUIRED,
            "\"home\"",
            None,
            "The name of this installation: a-z, 0-9 and -, at most 31 characters.",
        ),
        row(
            "assistant.name",
            Type::Text,
            "\"Baby\"",
            "\"Baby\"",
            Some(Risk::Disruptive),
            "The assistant's name. The default trigger is `@` and this name.",
        ),
        row(
            "assistant.timezone",
            Type::Text,
            "the machine's",
            "\"Europe/Berlin\"",
            None,
            "The IANA time zone of messages, tools and `exec`.",
        ),
        row(
            "runtime.kind",
            Type::Choice(&["auto", "docker", "none"]),
            "\"auto\"",
            "\"docker\"",
            Some(Risk::Privileged),
            "The runtime of agents. `docker`: a container without a network, on Docker or an engine that speaks its API. `none`: a process of this machine, which is not isolated. `auto`: `docker` where an engine answers, else `runtime.fallback`, and never weaker than the applied runtime.",
        ),
        row(
            "runtime.fallback",
            Type::Choice(&["none", "error"]),
            "\"none\"",
            "\"error\"",
            None,
            "The runtime that `auto` takes where there is no container engine. `error`: none, it is an error.",
        ),
        row(
            "runtime.parallel",
            Type::Integer { min: PARALLEL_MIN, max: PARALLEL_MAX },
            "5",
            "2",
            None,
            "How many agents of all groups may run a turn at once; the others wait.",
        ),
    ]
}

fn image() -> Vec<Field> {
    vec![
        row(
            "runtime.image.base",
            Type::Text,
            "\"debian:stable-slim\"",
            "\"debian:stable-slim\"",
            Some(Risk::Privileged),
            "The base of the agents' image. `scratch` is empty: nothing is pulled, and there is no shell.",
        ),
        row(
            "runtime.image.packages",
            Type::Texts,
            "none",
            "[\"git\", \"curl\"]",
            None,
            "Packages of the base's distribution that are installed when the image is built. Not with base `scratch`.",
        ),
        row(
            "runtime.image.ref",
            Type::Text,
            "the image that babybot builds",
            "\"registry.example/agent:1\"",
            Some(Risk::Privileged),
            "An image that exists and contains babybot, instead of one that is built: not beside `base` or `packages`.",
        ),
        row(
            "runtime.image.binary",
            Type::Text,
            "this program",
            "\"dist/babybot-linux\"",
            None,
            "The Linux program that the image is built around, where this one does not fit (another processor, or not static): a path in the project folder, or one that begins with `~/`.",
        ),
        row(
            "runtime.docker.host",
            Type::Text,
            "the one that is found",
            "\"unix:///var/run/docker.sock\"",
            Some(Risk::Privileged),
            "The container engine: `unix://` and a path, or `tcp://` and an address of this machine.",
        ),
    ]
}

fn limits(table: &str, built_in: bool) -> Vec<Field> {
    let or = |default: &'static str| if built_in { default } else { "inherited" };
    let limit = |key: &str, takes, default, sample, doc| {
        row(format!("{table}.limits.{key}"), takes, or(default), sample, None, doc)
    };
    vec![
        limit(
            "cpus",
            Type::Cpus { min: CPUS_MIN, max: CPUS_MAX },
            "2",
            "0.5",
            "Processor cores of the whole container. Not with runtime `none`, which cannot enforce it.",
        ),
        limit(
            "memory",
            Type::Size { min: MEMORY_MIN, max: MEMORY_MAX },
            "\"1GiB\"",
            "\"2GiB\"",
            "Memory of the whole container. Not with runtime `none`, which cannot enforce it.",
        ),
        limit(
            "pids",
            Type::Integer { min: PIDS_MIN, max: PIDS_MAX },
            "256",
            "128",
            "Processes and threads of the whole container. Not with runtime `none`, which cannot enforce it.",
        ),
        limit(
            "turn",
            Type::Duration { min: TURN_MIN, max: TURN_MAX },
            "\"30m\"",
            "\"10m\"",
            "Hard stop of one turn.",
        ),
        limit(
            "idle",
            Type::Duration { min: IDLE_MIN, max: IDLE_MAX },
            "\"30m\"",
            "\"5m\"",
            "An on-demand agent with nothing to do stops after this.",
        ),
        limit(
            "output",
            Type::Size { min: OUTPUT_MIN, max: OUTPUT_MAX },
            "\"10MiB\"",
            "\"1MiB\"",
            "How much output of one tool call the agent sees; the rest goes to a file.",
        ),
        limit(
            "disk",
            Type::Size { min: DISK_MIN, max: DISK_MAX },
            "\"2GiB\"",
            "\"500MiB\"",
            "How much the group's folders may hold, its home included. Over the limit, only calls that free space run.",
        ),
    ]
}

fn secrets() -> Vec<Field> {
    vec![
        row(
            "secrets.<secret>.env",
            Type::Text,
            "one of env and file",
            "\"TELEGRAM_TOKEN\"",
            None,
            "The environment variable of the controller that holds the value.",
        ),
        row(
            "secrets.<secret>.file",
            Type::Text,
            "one of env and file",
            "\"~/.config/babybot/telegram\"",
            None,
            "The file that holds the value; `~` is your home folder.",
        ),
    ]
}

fn models() -> Vec<Field> {
    vec![
        row(
            "models.<model>.kind",
            Type::Choice(&["ollama", "rehearsal"]),
            REQUIRED,
            "\"rehearsal\"",
            Some(Risk::Privileged),
            "`ollama`: a model on an Ollama server. `rehearsal`: the built-in stand-in, which follows rules and needs no server.",
        ),
        row(
            "models.<model>.url",
            Type::Text,
            "\"http://127.0.0.1:11434\"",
            "\"http://127.0.0.1:11434\"",
            Some(Risk::Privileged),
            "The Ollama server, as `http://host:port`, with a path where a proxy serves it under one; without `/api` and without credentials.",
        )
        .of("ollama"),
        row(
            "models.<model>.model",
            Type::Text,
            REQUIRED,
            "\"qwen3:8b\"",
            None,
            "The model as Ollama calls it. Cloud models are refused: what is said here stays here.",
        )
        .of("ollama"),
        row(
            "models.<model>.context",
            Type::Integer { min: CONTEXT_TOKENS_MIN, max: CONTEXT_TOKENS_MAX },
            "16384",
            "8192",
            None,
            "The context window in tokens (`num_ctx`): one value per model, or Ollama loads it anew for each.",
        ),
        row(
            "models.<model>.keep_alive",
            Type::Duration { min: KEEP_ALIVE_MIN, max: KEEP_ALIVE_MAX },
            "\"30m\"",
            "\"1h\"",
            None,
            "How long Ollama keeps the model loaded after a request.",
        )
        .of("ollama"),
        row(
            "models.<model>.script",
            Type::Text,
            "built-in rules",
            "\"rehearsal.toml\"",
            None,
            "A script for the rehearsal, relative to the project folder.",
        )
        .of("rehearsal"),
    ]
}

fn channels() -> Vec<Field> {
    vec![
        row(
            "channels.<channel>.kind",
            Type::Choice(&["terminal", "webhook"]),
            REQUIRED,
            "\"terminal\"",
            Some(Risk::Privileged),
            "`terminal`: the terminal of `babybot chat`. `webhook`: an HTTP API for programs, see [WEBHOOK.md](WEBHOOK.md). The channel `terminal` is there without being declared.",
        ),
        row(
            "channels.<channel>.listen",
            Type::Text,
            "\"127.0.0.1:8787\"",
            "\"127.0.0.1:8788\"",
            Some(Risk::Privileged),
            "The address and port that it listens on. Another address than loopback lets other machines reach it, and is privileged.",
        )
        .of("webhook"),
        row(
            "channels.<channel>.token.secret",
            Type::Text,
            REQUIRED,
            "\"api\"",
            Some(Risk::Privileged),
            "The secret that a program sends to prove that it may write and read: `Authorization: Bearer …`.",
        )
        .of("webhook"),
        row(
            "channels.<channel>.callback.url",
            Type::Text,
            "none",
            "\"https://example.org/replies\"",
            Some(Risk::Privileged),
            "Where each reply is posted to, besides being readable: on https, or on http at a loopback address.",
        )
        .of("webhook"),
        row(
            "channels.<channel>.callback.secret",
            Type::Text,
            "required with `callback.url`",
            "\"api\"",
            Some(Risk::Privileged),
            "The secret that signs what is posted (HMAC-SHA256).",
        )
        .of("webhook"),
    ]
}

fn group_parts(table: &str, built_in: bool) -> Vec<Field> {
    let or = |default: &'static str| if built_in { "inherited" } else { default };
    let part = |key: &str, takes, default, sample, risk, doc| {
        row(format!("{table}.{key}"), takes, or(default), sample, risk, doc)
    };
    let mut fields = vec![
        part(
            "trigger",
            Type::Text,
            "\"@\" and assistant.name",
            "\"@Baby\"",
            Some(Risk::Disruptive),
            "The word that wakes the agent in a chat that others write in, too. What is typed at `babybot chat` needs none.",
        ),
        part(
            "requires_trigger",
            Type::Boolean,
            "true; false for the main group",
            "false",
            Some(Risk::Privileged),
            "If true, only messages with the trigger wake the agent in chats that others write in. `babybot chat` always reaches it.",
        ),
        part(
            "model",
            Type::Text,
            "the only declared model",
            "\"local\"",
            Some(Risk::Privileged),
            "The model that answers, by its name under `[models]`.",
        ),
        part(
            "lifecycle",
            Type::Choice(&["on-demand", "always"]),
            "\"on-demand\"",
            "\"always\"",
            None,
            "When the agent runs: from the first message until it is idle, or as long as babybot does.",
        ),
        part(
            "env.<variable>",
            Type::Text,
            "none",
            "\"de_DE.UTF-8\"",
            None,
            "An environment variable of the agent's tools. Never a secret: the agent can read it.",
        ),
    ];
    fields.extend(limits(table, false));
    fields
}

fn groups() -> Vec<Field> {
    let mut fields = vec![
        row(
            "groups.<group>.main",
            Type::Boolean,
            "false",
            "true",
            Some(Risk::Privileged),
            "Makes this the main group: `babybot chat` without a name talks to it, and a later release lets it administer the others. At most one group is main.",
        ),
        row(
            "groups.<group>.runtime",
            Type::Choice(&["docker", "none"]),
            "runtime.kind",
            "\"none\"",
            Some(Risk::Privileged),
            "The runtime of this group's agent, where it is not that of the others: `docker` or `none`.",
        ),
        row(
            "groups.<group>.bind",
            Type::Texts,
            "nowhere",
            "[\"terminal\"]",
            Some(Risk::Privileged),
            "Where the group listens: a channel, or `channel:chat` where a channel has chats. `babybot chat GROUP` reaches every group, bound or not.",
        ),
        row(
            "groups.<group>.conversation",
            Type::Choice(&["per-chat"]),
            "\"per-chat\"",
            "\"per-chat\"",
            None,
            "The conversations that the agent keeps apart. `per-chat`: each chat that the group binds is a conversation of its own, in which the agent sees no messages of the other chats. This is the only value in this release.",
        ),
        row(
            "groups.<group>.senders.allow",
            Type::Texts,
            REQUIRED,
            "[\"*\"]",
            Some(Risk::Privileged),
            "The senders that are answered: `\"*\"` for everybody, or a channel, a colon and the sender's identifier on that channel. Of a webhook, `\"api:claimed:Ann\"` is the sender that a program calls Ann.",
        ),
        row(
            "groups.<group>.senders.mode",
            Type::Choice(&SenderMode::WORDS),
            "\"trigger\"",
            "\"drop\"",
            Some(Risk::Privileged),
            "The treatment of other senders. `trigger`: the agent reads their messages with the next message that it answers, and does not answer them. `drop`: their messages are not stored.",
        ),
    ];
    fields.extend(group_parts("groups.<group>", true));
    fields
}
