//! The sections of the manifest, each by a reader of its own.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeTable;

use super::codes::Code;
use super::decode::{Decoder, Section, join};
use super::diagnostic::{Diagnostic, closest, listed, quote};
use super::fields::{GROUPS_MAX, SCHEMA_VERSION};
use super::{Declared, Group, Manifest, SecretSource, Span, Written};
use crate::name::{ChannelName, GroupName, ModelName, NameError, ProjectName, SecretName};
use crate::resource::{Binding, ChannelSpec, Lifecycle, Limits, MilliCpus, ModelSpec, RuntimeKind};
use crate::unit::{ByteSize, Period};

const ASSISTANT_NAME: &str = "Baby";
const OLLAMA_URL: &str = "http://127.0.0.1:11434";
const CONTEXT_TOKENS: u32 = 16_384;
const KEEP_ALIVE: Period = Period::seconds(30 * 60);

/// Runtimes that exist by name and come with a later release.
const RUNTIMES_TO_COME: &[&str] = &["auto", "docker", "apple-container"];

/// Variables that belong to the sandbox.
const RESERVED_VARIABLES: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "GLIBC_TUNABLES"];
/// Beginnings of variables that belong to the sandbox.
const RESERVED_VARIABLE_PREFIXES: &[&str] = &["LD_", "BABYBOT_"];

/// Reads the whole manifest. What comes back is to be believed only if no problem was noted.
pub(crate) fn manifest(decoder: &mut Decoder<'_>, tree: &DeTable<'_>) -> Option<Manifest> {
    let root = decoder.root(tree);
    decoder.check_keys(&root, None);
    schema(decoder, &root);
    let name = project_name(decoder, &root);
    let (assistant, timezone) = assistant(decoder, &root);
    let (runtime, runtime_limits) = runtime(decoder, &root);
    let secrets = secrets(decoder, &root);
    let (models, model_names) = models(decoder, &root);
    let (channels, channel_names) = channels(decoder, &root);
    let declared = Names { models: model_names, channels: channel_names };

    let unenforced = runtime.as_ref().map(|runtime| runtime.value);
    let defaults = match decoder.section(&root, "defaults") {
        Some(defaults) => {
            decoder.check_keys(&defaults, None);
            let section = decoder.section(&defaults, "group");
            section.map(|section| {
                decoder.check_keys(&section, None);
                GroupPart::read(decoder, &section, &declared, unenforced)
            })
        }
        None => None,
    }
    .unwrap_or_default();

    let drafts = groups(decoder, &root, &declared, unenforced);
    check_bindings(decoder, &drafts);
    check_mains(decoder, &drafts);
    let only_model = check_models(decoder, &defaults, &drafts, &declared);

    let inherited = Inherited { defaults, limits: runtime_limits, only_model };
    let trigger = format!("@{}", assistant.value);
    let groups =
        drafts.into_iter().filter_map(|draft| draft.complete(&inherited, &trigger)).collect();
    Some(Manifest {
        name: name?,
        assistant,
        timezone,
        runtime: runtime?,
        secrets,
        models,
        channels,
        groups,
    })
}

/// The names that can be referred to, whether or not what they name is valid.
#[derive(Debug)]
struct Names {
    models: BTreeSet<String>,
    channels: BTreeSet<String>,
}

fn schema(decoder: &mut Decoder<'_>, root: &Section<'_, '_>) {
    decoder.require(root, "schema", "begin the manifest with `schema = 1`");
    let Some(value) = root.table.get("schema") else { return };
    let Some(version) = value.get_ref().as_integer() else {
        decoder.integer(root, "schema");
        return;
    };
    if version.to_string() == SCHEMA_VERSION.to_string() {
        return;
    }
    let at = decoder.span(&value.span());
    let newer = version.as_str().parse::<u64>().is_ok_and(|version| version > SCHEMA_VERSION);
    let help = if newer {
        "this manifest was written for a later release of babybot: install that, or write `schema = 1`"
    } else {
        "write `schema = 1`"
    };
    decoder.note(
        Diagnostic::new(
            Code::SchemaVersion,
            format!("schema {} is not one that this release reads", quote(&version.to_string())),
        )
        .at(at, format!("this release reads {SCHEMA_VERSION}"))
        .helped(help),
    );
}

fn project_name(decoder: &mut Decoder<'_>, root: &Section<'_, '_>) -> Option<Written<ProjectName>> {
    decoder.require(root, "name", "name the installation, such as `name = \"home\"`");
    let written = decoder.text(root, "name")?;
    match ProjectName::new(written.value.as_str()) {
        Ok(value) => Some(Written { value, at: written.at }),
        Err(error) => {
            note_name(decoder, "project", &written.value, &error, written.at?);
            None
        }
    }
}

fn assistant(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
) -> (Written<String>, Option<Written<String>>) {
    let default = Written { value: ASSISTANT_NAME.to_owned(), at: None };
    let Some(section) = decoder.section(root, "assistant") else { return (default, None) };
    decoder.check_keys(&section, None);
    let name = decoder.text(&section, "name");
    if let Some(name) = &name {
        check_word(decoder, "the assistant's name", name);
    }
    let timezone = decoder.text(&section, "timezone");
    if let Some(timezone) = &timezone {
        check_timezone(decoder, timezone);
    }
    (name.unwrap_or(default), timezone)
}

/// Notes a text that a person could not type or see.
fn check_word(decoder: &mut Decoder<'_>, what: &str, written: &Written<String>) {
    let text = &written.value;
    let reason = if text.is_empty() {
        "is empty"
    } else if text.chars().any(char::is_control) {
        "has a line end or another control character in it"
    } else if text.trim() != text {
        "has space around it"
    } else {
        return;
    };
    if let Some(at) = written.at {
        decoder.note(
            Diagnostic::new(Code::BadText, format!("{what} {reason}"))
                .at(at, reason)
                .helped("write a word that a person would type"),
        );
    }
}

fn check_timezone(decoder: &mut Decoder<'_>, written: &Written<String>) {
    let zones = jiff::tz::TimeZoneDatabase::bundled();
    if zones.get(&written.value).is_ok() {
        return;
    }
    let names: Vec<String> = zones.available().map(|name| name.to_string()).collect();
    let meant = closest(&written.value, names.iter().map(String::as_str));
    let label = meant
        .map_or_else(|| "no such zone".to_owned(), |meant| format!("did you mean \"{meant}\"?"));
    if let Some(at) = written.at {
        decoder.note(
            Diagnostic::new(
                Code::UnknownTimezone,
                format!("there is no time zone {}", quote(&written.value)),
            )
            .at(at, label)
            .helped("write an IANA name such as \"Europe/Berlin\", or leave it out for the machine's own"),
        );
    }
}

fn runtime(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
) -> (Option<Written<RuntimeKind>>, LimitParts) {
    let default = Written { value: RuntimeKind::None, at: None };
    let Some(section) = decoder.section(root, "runtime") else {
        return (Some(default), LimitParts::default());
    };
    decoder.check_keys(&section, None);
    let kind = runtime_kind(decoder, &section, default);
    let known = kind.as_ref().map(|kind| kind.value);
    let limits = LimitParts::read(decoder, &section, known);
    (kind, limits)
}

fn runtime_kind(
    decoder: &mut Decoder<'_>,
    section: &Section<'_, '_>,
    default: Written<RuntimeKind>,
) -> Option<Written<RuntimeKind>> {
    let Some(value) = section.table.get("kind") else { return Some(default) };
    if let Some(word) = value.get_ref().as_str().filter(|word| RUNTIMES_TO_COME.contains(word)) {
        let at = decoder.span(&value.span());
        decoder.note(
            Diagnostic::new(
                Code::RuntimeUnavailable,
                format!("runtime `{word}` is not available in this release"),
            )
            .at(at, "not available yet")
            .helped("`kind = \"none\"` works: agents are plain processes of this machine, without a wall around them"),
        );
        return None;
    }
    let kind = decoder.text(section, "kind")?;
    Some(Written { value: RuntimeKind::None, at: kind.at })
}

fn secrets(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
) -> BTreeMap<SecretName, Written<SecretSource>> {
    let mut found = BTreeMap::new();
    let Some(section) = decoder.section(root, "secrets") else { return found };
    // A literal is not merely of the wrong type, and its value is not to be repeated.
    for (name, value) in section.table.iter() {
        if value.get_ref().is_str() {
            let at = decoder.span(&value.span());
            decoder.note(
                Diagnostic::new(
                    Code::SecretLiteral,
                    format!("secret {} stands in the manifest itself", quote(name.get_ref())),
                )
                .at(at, "a secret's value")
                .helped("say where it is: { env = \"VARIABLE\" } or { file = \"~/path\" }; if this file was shared, replace the secret"),
            );
        }
        check_name(decoder, "secret", name.get_ref(), &name.span(), SecretName::new);
    }
    let literals = |table: &DeTable<'_>, name: &str| {
        table.get(name).is_some_and(|value| value.get_ref().is_str())
    };
    for (name, value) in
        section.table.iter().filter(|(name, _)| !literals(section.table, name.get_ref()))
    {
        let Some(source) = secret(decoder, &section, name.get_ref()) else { continue };
        if let Ok(name) = SecretName::new(name.get_ref().as_ref()) {
            let at = Some(decoder.span(&value.span()));
            found.insert(name, Written { value: source, at });
        }
    }
    found
}

fn secret(
    decoder: &mut Decoder<'_>,
    secrets: &Section<'_, '_>,
    name: &str,
) -> Option<SecretSource> {
    let section = decoder.named_section(secrets, name)?;
    decoder.check_keys(&section, None);
    let env = decoder.text(&section, "env");
    let file = decoder.text(&section, "file");
    let written = ["env", "file"].iter().filter(|key| section.table.contains_key(**key)).count();
    let lost = ["env", "file"].iter().any(|key| decoder.is_lost(&join(&section.path, key)));
    if written != 1 && !lost {
        decoder.note(
            Diagnostic::new(
                Code::MissingKey,
                format!("{} takes one of `env` and `file`", section.path),
            )
            .at(section.at, if written == 0 { "neither is written" } else { "both are written" })
            .helped("write { env = \"VARIABLE\" } or { file = \"~/path\" }"),
        );
    }
    let source = match (env, file) {
        (Some(env), None) => {
            check_variable_form(decoder, &env.value, env.at?);
            SecretSource::Env(env.value)
        }
        (None, Some(file)) => {
            check_word(decoder, "the path", &file);
            SecretSource::File(file.value)
        }
        _ => return None,
    };
    Some(source)
}

fn models(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
) -> (BTreeMap<ModelName, Declared<ModelSpec>>, BTreeSet<String>) {
    let mut found = BTreeMap::new();
    let Some(section) = decoder.section(root, "models") else { return (found, BTreeSet::new()) };
    let names = section.table.keys().map(|name| name.get_ref().to_string()).collect();
    for name in section.table.keys() {
        check_name(decoder, "model", name.get_ref(), &name.span(), ModelName::new);
    }
    for (name, section) in decoder.named(&section) {
        let spec = model(decoder, &section);
        if let (Some(spec), Ok(name)) = (spec, ModelName::new(name)) {
            let fields = decoder.places(&section);
            found.insert(name, Declared { at: section.at, spec, fields });
        }
    }
    (found, names)
}

fn model(decoder: &mut Decoder<'_>, section: &Section<'_, '_>) -> Option<ModelSpec> {
    decoder.require(section, "kind", "write `kind = \"ollama\"` or `kind = \"rehearsal\"`");
    let kind = decoder.text(section, "kind").map(|kind| kind.value);
    decoder.check_keys(section, kind.as_deref());
    let url = decoder.text(section, "url");
    let model = decoder.text(section, "model");
    let context = decoder.integer(section, "context");
    let keep_alive = decoder.period(section, "keep_alive");
    let script = decoder.text(section, "script");
    let context = context.map_or(CONTEXT_TOKENS, |context| context.value);
    match kind.as_deref()? {
        "ollama" => {
            decoder.require(
                section,
                "model",
                "name a model of your Ollama, such as `model = \"qwen3:8b\"`",
            );
            if let Some(url) = &url {
                check_url(decoder, url);
            }
            let model = model?;
            check_model_name(decoder, &model);
            Some(ModelSpec::Ollama {
                url: url.map_or_else(|| OLLAMA_URL.to_owned(), |url| url.value),
                model: model.value,
                context,
                keep_alive: keep_alive.map_or(KEEP_ALIVE, |keep_alive| keep_alive.value),
            })
        }
        _ => {
            if let Some(script) = &script {
                check_path(decoder, script);
            }
            Some(ModelSpec::Rehearsal { context, script: script.map(|script| script.value) })
        }
    }
}

fn check_model_name(decoder: &mut Decoder<'_>, model: &Written<String>) {
    let Some(at) = model.at else { return };
    let name = model.value.to_ascii_lowercase();
    if name.ends_with(":cloud") || name.ends_with("-cloud") {
        decoder.note(
            Diagnostic::new(
                Code::CloudModel,
                format!("{} is a cloud model", quote(&model.value)),
            )
            .at(at, "does not run on your machine")
            .helped("choose a model that runs on your own server: with it, everything said would leave it"),
        );
    } else if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        decoder.note(
            Diagnostic::new(
                Code::BadText,
                format!("{} is not a model's name", quote(&model.value)),
            )
            .at(at, "not a model's name")
            .helped("write it as `ollama list` shows it, such as \"qwen3:8b\""),
        );
    }
}

fn check_url(decoder: &mut Decoder<'_>, url: &Written<String>) {
    let (Some(at), Err(reason)) = (url.at, url_fault(&url.value)) else { return };
    // An address with credentials in it is not repeated.
    decoder.note(
        Diagnostic::new(Code::BadUrl, format!("the server's address {reason}"))
            .at(at, reason)
            .helped(format!("write it as in \"{OLLAMA_URL}\"")),
    );
}

/// Checks that an address is `http(s)://host[:port]` and nothing more.
fn url_fault(url: &str) -> Result<(), &'static str> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or("does not start with http:// or https://")?;
    if rest.contains('@') {
        return Err("has credentials in it");
    }
    if rest.contains(['/', '?', '#', '\\']) {
        return Err("has a path in it");
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (address, after) = v6.split_once(']').ok_or("has an open bracket")?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("has no valid host");
            }
            if after.is_empty() {
                return Ok(());
            }
            (address, Some(after.strip_prefix(':').ok_or("has no valid port")?))
        }
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err("has no valid port");
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    if rest.starts_with('[') || host.trim_end_matches('.').split('.').all(is_label) {
        Ok(())
    } else {
        Err("has no valid host")
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_path(decoder: &mut Decoder<'_>, path: &Written<String>) {
    let Some(at) = path.at else { return };
    let text = path.value.as_str();
    let reason = if text.is_empty() {
        "is empty"
    } else if text.starts_with(['/', '~']) {
        "does not start in the project folder"
    } else if text.split('/').any(|part| part == "..") {
        "leads out of its folder with `..`"
    } else if text.chars().any(|c| c.is_control() || c == '\\') {
        "has a character in it that no path here has"
    } else {
        return;
    };
    decoder.note(
        Diagnostic::new(Code::BadPath, format!("the path {} {reason}", quote(text)))
            .at(at, reason)
            .helped("write a path relative to the folder of the manifest, without `..`"),
    );
}

fn channels(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
) -> (BTreeMap<ChannelName, Declared<ChannelSpec>>, BTreeSet<String>) {
    let mut found = BTreeMap::new();
    let mut names = BTreeSet::from([ChannelName::terminal().to_string()]);
    let Some(section) = decoder.section(root, "channels") else { return (found, names) };
    for name in section.table.keys() {
        names.insert(name.get_ref().to_string());
        check_name(decoder, "channel", name.get_ref(), &name.span(), ChannelName::new);
    }
    for (name, section) in decoder.named(&section) {
        decoder.require(&section, "kind", "write `kind = \"terminal\"`");
        decoder.check_keys(&section, None);
        let kind = decoder.text(&section, "kind");
        if let (Some(_), Ok(name)) = (kind, ChannelName::new(name)) {
            let fields = decoder.places(&section);
            found.insert(name, Declared { at: section.at, spec: ChannelSpec::Terminal, fields });
        }
    }
    (found, names)
}

/// The limits written in one place.
#[derive(Clone, Debug, Default)]
struct LimitParts {
    cpus: Option<Written<MilliCpus>>,
    memory: Option<Written<ByteSize>>,
    pids: Option<Written<u32>>,
    turn: Option<Written<Period>>,
    idle: Option<Written<Period>>,
    output: Option<Written<ByteSize>>,
    disk: Option<Written<ByteSize>>,
}

impl LimitParts {
    fn read(
        decoder: &mut Decoder<'_>,
        parent: &Section<'_, '_>,
        runtime: Option<RuntimeKind>,
    ) -> Self {
        let Some(section) = decoder.section(parent, "limits") else { return Self::default() };
        decoder.check_keys(&section, None);
        let limits = Self {
            cpus: decoder.cpus(&section, "cpus"),
            memory: decoder.size(&section, "memory"),
            pids: decoder.integer(&section, "pids"),
            turn: decoder.period(&section, "turn"),
            idle: decoder.period(&section, "idle"),
            output: decoder.size(&section, "output"),
            disk: decoder.size(&section, "disk"),
        };
        if runtime == Some(RuntimeKind::None) {
            limits.check_enforced(decoder, &section);
        }
        limits
    }

    /// Notes the limits that a plain process cannot be held to.
    fn check_enforced(&self, decoder: &mut Decoder<'_>, section: &Section<'_, '_>) {
        let written = [
            ("cpus", self.cpus.as_ref().and_then(|limit| limit.at)),
            ("memory", self.memory.as_ref().and_then(|limit| limit.at)),
            ("pids", self.pids.as_ref().and_then(|limit| limit.at)),
        ];
        for (key, at) in written {
            let Some(at) = at else { continue };
            decoder.note(
                Diagnostic::new(
                    Code::LimitNotEnforced,
                    format!("runtime `none` cannot enforce `{}`", join(&section.path, key)),
                )
                .at(at, "not enforced")
                .helped("leave it out: only a container runtime can enforce it, and this release has none"),
            );
        }
    }
}

/// What a group and the defaults of all groups have in common.
#[derive(Clone, Debug, Default)]
struct GroupPart {
    trigger: Option<Written<String>>,
    requires_trigger: Option<Written<bool>>,
    model: Option<Written<String>>,
    lifecycle: Option<Written<Lifecycle>>,
    limits: LimitParts,
    env: BTreeMap<String, Written<String>>,
}

impl GroupPart {
    fn read(
        decoder: &mut Decoder<'_>,
        section: &Section<'_, '_>,
        declared: &Names,
        runtime: Option<RuntimeKind>,
    ) -> Self {
        let trigger = decoder.text(section, "trigger");
        if let Some(trigger) = &trigger {
            check_word(decoder, "the trigger", trigger);
        }
        let model = decoder.text(section, "model");
        if let Some(model) = &model {
            check_model(decoder, model, &declared.models);
        }
        let lifecycle = decoder.text(section, "lifecycle").map(|written| Written {
            value: if written.value == Lifecycle::Always.word() {
                Lifecycle::Always
            } else {
                Lifecycle::OnDemand
            },
            at: written.at,
        });
        Self {
            trigger,
            requires_trigger: decoder.boolean(section, "requires_trigger"),
            model,
            lifecycle,
            limits: LimitParts::read(decoder, section, runtime),
            env: variables(decoder, section),
        }
    }
}

fn check_model(decoder: &mut Decoder<'_>, written: &Written<String>, names: &BTreeSet<String>) {
    let Some(at) = written.at else { return };
    if names.contains(&written.value) || decoder.loses_names("models") {
        return;
    }
    let names = || names.iter().map(String::as_str);
    let label = closest(&written.value, names())
        .map_or_else(|| "not declared".to_owned(), |meant| format!("did you mean \"{meant}\"?"));
    let help = if names().next().is_none() {
        "no model is declared: add one, such as `[models.local]` with `kind = \"rehearsal\"`"
            .to_owned()
    } else {
        format!("declared models: {}", listed(names()))
    };
    decoder.note(
        Diagnostic::new(Code::UnknownModel, format!("there is no model {}", quote(&written.value)))
            .at(at, label)
            .helped(help),
    );
}

fn variables(
    decoder: &mut Decoder<'_>,
    parent: &Section<'_, '_>,
) -> BTreeMap<String, Written<String>> {
    let mut found = BTreeMap::new();
    let Some(section) = decoder.section(parent, "env") else { return found };
    for (name, at, value) in decoder.named_texts(&section) {
        let sound = check_variable_name(decoder, &name, at);
        let unusable = value.value.contains(['\0', '\n', '\r']);
        if let Some(at) = value.at.filter(|_| unusable) {
            decoder.note(
                Diagnostic::new(
                    Code::BadVariable,
                    format!("the value of {} has a line end or NUL in it", quote(&name)),
                )
                .at(at, "not one line")
                .helped("write a value of one line"),
            );
        }
        if sound && !unusable {
            found.insert(name, value);
        }
    }
    found
}

/// Notes a variable that cannot be or may not be set in a sandbox.
fn check_variable_name(decoder: &mut Decoder<'_>, name: &str, at: Span) -> bool {
    let reserved = RESERVED_VARIABLES.contains(&name)
        || RESERVED_VARIABLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if reserved && is_variable_name(name) {
        decoder.note(
            Diagnostic::new(
                Code::BadVariable,
                format!("the variable {} belongs to the sandbox", quote(name)),
            )
            .at(at, "belongs to the sandbox")
            .helped("PATH, HOME, USER, LOGNAME, LD_*, GLIBC_TUNABLES and BABYBOT_* cannot be set"),
        );
        return false;
    }
    check_variable_form(decoder, name, at)
}

/// Notes a text that no environment variable is called.
fn check_variable_form(decoder: &mut Decoder<'_>, name: &str, at: Span) -> bool {
    let plain = is_variable_name(name);
    if !plain {
        decoder.note(
            Diagnostic::new(
                Code::BadVariable,
                format!("the variable {} is not a name", quote(name)),
            )
            .at(at, "is not a name")
            .helped("a name is letters, digits and _, and does not start with a digit"),
        );
    }
    plain
}

fn is_variable_name(name: &str) -> bool {
    name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// A group as written, before defaults.
#[derive(Debug)]
struct Draft {
    /// `None` where the name cannot be used.
    name: Option<GroupName>,
    path: String,
    at: Span,
    main: Option<Written<bool>>,
    bind: Vec<(Binding, Span)>,
    bind_at: Option<Span>,
    part: GroupPart,
}

fn groups(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
    declared: &Names,
    runtime: Option<RuntimeKind>,
) -> Vec<Draft> {
    let section = decoder.section(root, "groups");
    let Some(section) = section.filter(|section| !section.table.is_empty()) else {
        let written = root.table.get("groups").is_some_and(|groups| !groups.get_ref().is_table());
        if !written && !decoder.loses_names("groups") {
            decoder.note(
                Diagnostic::new(Code::NoGroups, "the manifest has no group")
                    .at(root.at, "no `[groups.…]` below")
                    .helped("add one, such as `[groups.home]` with `bind = [\"terminal\"]`"),
            );
        }
        return Vec::new();
    };
    if section.table.len() > GROUPS_MAX {
        decoder.note(
            Diagnostic::new(
                Code::TooManyGroups,
                format!("the manifest has {} groups", section.table.len()),
            )
            .at(section.at, "too many")
            .helped(format!("a manifest has at most {GROUPS_MAX} groups")),
        );
        return Vec::new();
    }
    for name in section.table.keys() {
        check_name(decoder, "group", name.get_ref(), &name.span(), GroupName::new);
    }
    let mut drafts = Vec::new();
    for (name, section) in decoder.named(&section) {
        decoder.check_keys(&section, None);
        let bind_at = section.table.get("bind").map(|bind| decoder.span(&bind.span()));
        drafts.push(Draft {
            name: GroupName::new(name).ok(),
            path: section.path.clone(),
            at: section.at,
            main: decoder.boolean(&section, "main"),
            bind: bindings(decoder, &section, declared),
            bind_at,
            part: GroupPart::read(decoder, &section, declared, runtime),
        });
    }
    // A table may continue further down, so the order of the tree is not that of the text.
    drafts.sort_by_key(|draft| draft.at.offset);
    drafts
}

fn bindings(
    decoder: &mut Decoder<'_>,
    section: &Section<'_, '_>,
    declared: &Names,
) -> Vec<(Binding, Span)> {
    let mut found = Vec::new();
    for (text, at) in decoder.texts(section, "bind") {
        let (channel, chat) = text
            .split_once(':')
            .map_or((text.as_str(), None), |(channel, chat)| (channel, Some(chat)));
        if !declared.channels.contains(channel) {
            if !decoder.loses_names("channels") {
                let names = || declared.channels.iter().map(String::as_str);
                let label = closest(channel, names()).map_or_else(
                    || "not declared".to_owned(),
                    |meant| format!("did you mean \"{meant}\"?"),
                );
                decoder.note(
                    Diagnostic::new(
                        Code::UnknownChannel,
                        format!("there is no channel {}", quote(channel)),
                    )
                    .at(at, label)
                    .helped(format!("channels: {}", listed(names()))),
                );
            }
            continue;
        }
        // Every channel of this release is a terminal.
        if chat.is_some() {
            decoder.note(
                Diagnostic::new(
                    Code::BadBinding,
                    format!("channel {} is a terminal, which has no chats", quote(channel)),
                )
                .at(at, "names a chat")
                .helped("write the channel's name alone"),
            );
            continue;
        }
        if let Ok(channel) = ChannelName::new(channel) {
            found.push((Binding { channel, chat: None }, at));
        }
    }
    found
}

fn check_bindings(decoder: &mut Decoder<'_>, drafts: &[Draft]) {
    let mut all: Vec<(&Binding, Span, &str)> = drafts
        .iter()
        .flat_map(|draft| draft.bind.iter().map(|(bind, at)| (bind, *at, draft.path.as_str())))
        .collect();
    all.sort_by_key(|(_, at, _)| at.offset);
    let mut first: BTreeMap<&Binding, (Span, &str)> = BTreeMap::new();
    for (binding, at, group) in all {
        let Some((earlier, earlier_group)) = first.get(binding) else {
            first.insert(binding, (at, group));
            continue;
        };
        let message = if *earlier_group == group {
            format!("{group} binds {} twice", quote(&binding.to_string()))
        } else {
            format!("{} is bound by {earlier_group} and {group}", quote(&binding.to_string()))
        };
        decoder.note(
            Diagnostic::new(Code::BoundTwice, message)
                .at(at, "bound again here")
                .at(*earlier, "first here")
                .helped("a message goes to one group: remove one; `babybot chat GROUP` reaches the other, too"),
        );
    }
}

fn check_mains(decoder: &mut Decoder<'_>, drafts: &[Draft]) {
    let mut mains: Vec<(Span, &str)> = drafts
        .iter()
        .filter_map(|draft| {
            let main = draft.main.as_ref().filter(|main| main.value)?;
            Some((main.at?, draft.path.as_str()))
        })
        .collect();
    mains.sort_by_key(|(at, _)| at.offset);
    let Some(((first, first_group), others)) = mains.split_first() else { return };
    for (at, group) in others {
        decoder.note(
            Diagnostic::new(
                Code::TwoMains,
                format!("both {first_group} and {group} are the main group"),
            )
            .at(*at, "main again here")
            .at(*first, "first here")
            .helped("one group administers the others: remove `main = true` from one of them"),
        );
    }
}

/// The model of a group that names none; notes that there is none where one is needed.
fn check_models(
    decoder: &mut Decoder<'_>,
    defaults: &GroupPart,
    drafts: &[Draft],
    declared: &Names,
) -> Option<ModelName> {
    if let (1, Some(only)) = (declared.models.len(), declared.models.first()) {
        return ModelName::new(only.as_str()).ok();
    }
    let uncertain = decoder.loses_names("models")
        || decoder.is_lost("defaults.group.model")
        || defaults.model.is_some();
    let needy: Vec<&Draft> = drafts
        .iter()
        .filter(|draft| draft.part.model.is_none() && !decoder.is_lost(&join(&draft.path, "model")))
        .collect();
    let (false, Some(first)) = (uncertain, needy.first()) else { return None };
    let others = match needy.len() - 1 {
        0 => String::new(),
        1 => " and 1 other group".to_owned(),
        others => format!(" and {others} other groups"),
    };
    let has = if needy.len() == 1 { "has" } else { "have" };
    let (why, help) = if declared.models.is_empty() {
        (
            "no model is declared",
            "add one, such as `[models.local]` with `kind = \"rehearsal\"`".to_owned(),
        )
    } else {
        (
            "several are declared",
            format!(
                "write `model = \"…\"` in the group or in `[defaults.group]`; declared models: {}",
                listed(declared.models.iter().map(String::as_str))
            ),
        )
    };
    decoder.note(
        Diagnostic::new(Code::NoModel, format!("{}{others} {has} no model: {why}", first.path))
            .at(first.at, "which model answers?")
            .helped(help),
    );
    None
}

/// What a group takes where it says nothing itself.
#[derive(Debug)]
struct Inherited {
    defaults: GroupPart,
    limits: LimitParts,
    only_model: Option<ModelName>,
}

impl Draft {
    fn complete(self, inherited: &Inherited, trigger: &str) -> Option<(GroupName, Group)> {
        let mut places = BTreeMap::new();
        let own = self.part;
        let defaults = &inherited.defaults;
        let main = settle(&mut places, "main", &[&self.main]).unwrap_or(false);
        if let Some(at) = self.bind_at {
            places.insert("bind".to_owned(), at);
        }
        let model = settle(&mut places, "model", &[&own.model, &defaults.model]);
        let model = match model {
            Some(model) => ModelName::new(model).ok(),
            None => inherited.only_model.clone(),
        };
        let trigger = settle(&mut places, "trigger", &[&own.trigger, &defaults.trigger])
            .unwrap_or_else(|| trigger.to_owned());
        let requires_trigger = settle(
            &mut places,
            "requires_trigger",
            &[&own.requires_trigger, &defaults.requires_trigger],
        )
        .unwrap_or(!main);
        let lifecycle = settle(&mut places, "lifecycle", &[&own.lifecycle, &defaults.lifecycle])
            .unwrap_or_default();
        let limits = limits(&mut places, &[&own.limits, &defaults.limits, &inherited.limits]);
        let mut env = defaults.env.clone();
        env.extend(own.env);
        for (name, value) in &env {
            places.extend(value.at.map(|at| (format!("env.{name}"), at)));
        }
        let group = Group {
            at: self.at,
            main,
            bind: self.bind.into_iter().map(|(binding, _)| binding).collect(),
            trigger,
            requires_trigger,
            model: model?,
            lifecycle,
            limits,
            env: env.into_iter().map(|(name, written)| (name, written.value)).collect(),
            fields: places,
        };
        Some((self.name?, group))
    }
}

/// The first value that was written, its place noted.
fn settle<T: Clone>(
    places: &mut BTreeMap<String, Span>,
    key: &str,
    candidates: &[&Option<Written<T>>],
) -> Option<T> {
    let written = candidates.iter().find_map(|candidate| candidate.as_ref())?;
    places.extend(written.at.map(|at| (key.to_owned(), at)));
    Some(written.value.clone())
}

fn limits(places: &mut BTreeMap<String, Span>, parts: &[&LimitParts; 3]) -> Limits {
    let built_in = Limits::default();
    macro_rules! limit {
        ($key:ident) => {
            settle(places, concat!("limits.", stringify!($key)), &parts.map(|part| &part.$key))
                .unwrap_or(built_in.$key)
        };
    }
    Limits {
        cpus: limit!(cpus),
        memory: limit!(memory),
        pids: limit!(pids),
        turn: limit!(turn),
        idle: limit!(idle),
        output: limit!(output),
        disk: limit!(disk),
    }
}

/// Notes a name that cannot be used.
fn check_name<T>(
    decoder: &mut Decoder<'_>,
    what: &str,
    name: &str,
    at: &std::ops::Range<usize>,
    check: impl Fn(String) -> Result<T, NameError>,
) {
    if let Err(error) = check(name.to_owned()) {
        let at = decoder.span(at);
        note_name(decoder, what, name, &error, at);
    }
}

fn note_name(decoder: &mut Decoder<'_>, what: &str, name: &str, error: &NameError, at: Span) {
    let help = match error {
        NameError::Reserved => {
            format!("`{name}` is the folder that all groups share: choose another name")
        }
        _ => match plain_name(name) {
            Some(plain) => format!("for example `{plain}`"),
            None => "for example `family`".to_owned(),
        },
    };
    decoder.note(
        Diagnostic::new(Code::BadName, format!("{} cannot name a {what}: {error}", quote(name)))
            .at(at, "not a usable name")
            .helped(help),
    );
}

/// The nearest usable name.
fn plain_name(name: &str) -> Option<String> {
    let mut plain = String::new();
    for character in name.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_alphanumeric() {
            plain.push(character);
        } else if !plain.is_empty() && !plain.ends_with('-') {
            plain.push('-');
        }
    }
    plain.truncate(crate::name::NAME_LENGTH_MAX);
    let plain = plain.trim_end_matches('-').to_owned();
    GroupName::new(plain.as_str()).is_ok().then_some(plain)
}
