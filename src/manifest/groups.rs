//! `[groups]` and `[defaults.group]`: what each group says, what it inherits,
//! and what no two groups may say.

use std::collections::{BTreeMap, BTreeSet};

use super::codes::Code;
use super::decode::{Decoder, Section, join};
use super::diagnostic::{Diagnostic, closest, listed, quote};
use super::fields::GROUPS_MAX;
use super::hidden::names_secret;
use super::limits::LimitParts;
use super::names::{check_name, check_word, is_variable_name};
use super::scope::Names;
use super::senders::senders;
use super::token::has_token;
use super::{Declared, Group, KindWish, Span, Written, channels};
use crate::name::{ChannelName, GroupName, ModelName};
use crate::resource::{Binding, Lifecycle, Limits, RuntimeKind, Senders};

/// Variables that belong to the sandbox.
const RESERVED_VARIABLES: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "GLIBC_TUNABLES"];
/// The variable that `assistant.timezone` sets.
const ZONE: &str = "TZ";
/// Beginnings of variables that belong to the sandbox.
const RESERVED_VARIABLE_PREFIXES: &[&str] = &["LD_", "BABYBOT_"];

/// The runtime that a group names for itself; the defaults of all groups name none.
fn own_runtime(
    decoder: &mut Decoder<'_>,
    section: &Section<'_, '_>,
) -> Option<Written<RuntimeKind>> {
    section.table.get("runtime")?;
    let Written { value, at } = decoder.text(section, "runtime")?;
    let kind = KindWish::named(&value).and_then(KindWish::kind)?;
    Some(Written { value: kind, at })
}

/// What a group and the defaults of all groups have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupPart {
    trigger: Option<Written<String>>,
    requires_trigger: Option<Written<bool>>,
    model: Option<Written<String>>,
    lifecycle: Option<Written<Lifecycle>>,
    runtime: Option<Written<RuntimeKind>>,
    limits: LimitParts,
    env: BTreeMap<String, Written<String>>,
}

impl GroupPart {
    pub(super) fn read(
        decoder: &mut Decoder<'_>,
        section: &Section<'_, '_>,
        declared: &Names,
        runtime: Option<KindWish>,
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
        let own = own_runtime(decoder, section);
        let runtime = match &own {
            Some(own) => KindWish::named(own.value.word()),
            None => runtime,
        };
        Self {
            runtime: own,
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
        // By its name or by its value; the message repeats no value.
        let by_value = has_token(&value.value);
        if by_value || names_secret(&name) {
            let (at, otherwise) = match value.at.filter(|_| by_value) {
                Some(at) => (at, ""),
                None => (at, "; if it is not a secret, give the variable another name"),
            };
            decoder.note(
                Diagnostic::new(
                    Code::SecretVariable,
                    format!("the variable {} looks like a secret", quote(&name)),
                )
                .at(at, "a secret?")
                .helped(format!("remove it: agents and everyone who reads this file can read `env`; if the file was shared, replace the secret{otherwise}")),
            );
        }
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
    if name == ZONE {
        decoder.note(
            Diagnostic::new(Code::BadVariable, "the variable `TZ` is set by babybot")
                .at(at, "set by babybot")
                .helped(
                    "write `timezone` under `[assistant]`: it holds for messages and tools alike",
                ),
        );
        return false;
    }
    if reserved && is_variable_name(name) {
        decoder.note(
            Diagnostic::new(Code::BadVariable, format!("the variable {} is reserved", quote(name)))
                .at(at, "is reserved")
                .helped(
                    "PATH, HOME, USER, LOGNAME, LD_*, GLIBC_TUNABLES and BABYBOT_* cannot be set",
                ),
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

/// A group as written, before defaults.
#[derive(Debug)]
pub(super) struct Draft {
    /// `None` where the name cannot be used.
    name: Option<GroupName>,
    path: String,
    at: Span,
    main: Option<Written<bool>>,
    bind: Vec<(Binding, Span)>,
    bind_at: Option<Span>,
    senders: Option<Declared<Senders>>,
    part: GroupPart,
}

pub(super) fn groups(
    decoder: &mut Decoder<'_>,
    root: &Section<'_, '_>,
    declared: &Names,
    runtime: Option<KindWish>,
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
        // There is one value: it is checked, and says no more.
        decoder.text(&section, "conversation");
        let bind_at = section.table.get("bind").map(|bind| decoder.span(&bind.span()));
        drafts.push(Draft {
            name: GroupName::new(name).ok(),
            path: section.path.clone(),
            at: section.at,
            main: decoder.boolean(&section, "main"),
            bind: bindings(decoder, &section, declared),
            bind_at,
            senders: senders(decoder, &section, declared),
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
        let Some(chats) = declared.channels.get(channel) else {
            channels::note_unknown(decoder, channel, &declared.channels, at);
            continue;
        };
        let chat = channels::chat(decoder, channel, *chats, chat, at);
        if let (Some(chat), Ok(channel)) = (chat, ChannelName::new(channel)) {
            found.push((Binding { channel, chat }, at));
        }
    }
    found
}

pub(super) fn check_bindings(decoder: &mut Decoder<'_>, drafts: &[Draft]) {
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

pub(super) fn check_mains(decoder: &mut Decoder<'_>, drafts: &[Draft]) {
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
            .helped("there is one main group: remove `main = true` from one of them"),
        );
    }
}

/// The model of a group that names none; notes that there is none where one is needed.
pub(super) fn check_models(
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
pub(super) struct Inherited {
    pub(super) defaults: GroupPart,
    pub(super) limits: LimitParts,
    pub(super) only_model: Option<ModelName>,
}

impl Draft {
    pub(super) fn complete(
        self,
        inherited: &Inherited,
        trigger: &str,
    ) -> Option<(GroupName, Group)> {
        let mut places = BTreeMap::new();
        let own = self.part;
        let defaults = &inherited.defaults;
        let main = first_written(&mut places, "main", &[&self.main]).unwrap_or(false);
        if let Some(at) = self.bind_at {
            places.insert("bind".to_owned(), at);
        }
        if let Some(senders) = &self.senders {
            places.extend(senders.fields.iter().map(|(key, at)| (format!("senders.{key}"), *at)));
        }
        let model = first_written(&mut places, "model", &[&own.model, &defaults.model]);
        let model = match model {
            Some(model) => ModelName::new(model).ok(),
            None => inherited.only_model.clone(),
        };
        let trigger = first_written(&mut places, "trigger", &[&own.trigger, &defaults.trigger])
            .unwrap_or_else(|| trigger.to_owned());
        let requires_trigger = first_written(
            &mut places,
            "requires_trigger",
            &[&own.requires_trigger, &defaults.requires_trigger],
        )
        .unwrap_or(!main);
        let runtime = first_written(&mut places, "runtime", &[&own.runtime]);
        let lifecycle =
            first_written(&mut places, "lifecycle", &[&own.lifecycle, &defaults.lifecycle])
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
            senders: self.senders.map(|senders| senders.spec),
            model: model?,
            lifecycle,
            runtime,
            limits,
            env: env.into_iter().map(|(name, written)| (name, written.value)).collect(),
            fields: places,
        };
        Some((self.name?, group))
    }
}

/// The first value that was written, its place noted.
fn first_written<T: Clone>(
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
            first_written(
                places,
                concat!("limits.", stringify!($key)),
                &parts.map(|part| &part.$key),
            )
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
