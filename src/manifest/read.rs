//! The whole manifest, section by section, each by a reader of its own.

use toml::de::DeTable;

use super::channels::channels;
use super::codes::Code;
use super::decode::{Decoder, Section};
use super::diagnostic::{Diagnostic, closest, quote};
use super::fields::SCHEMA_VERSION;
use super::groups::{self, GroupPart, Inherited};
use super::models::models;
use super::names::{check_word, note_name};
use super::runtime::runtime;
use super::scope::Names;
use super::secrets::secrets;
use super::{Manifest, Written};
use crate::name::ProjectName;

const ASSISTANT_NAME: &str = "Baby";

/// Reads the whole manifest. What comes back is to be believed only if no problem was noted.
pub(crate) fn manifest(decoder: &mut Decoder<'_>, tree: &DeTable<'_>) -> Option<Manifest> {
    let root = decoder.root(tree);
    decoder.check_keys(&root, None);
    schema(decoder, &root);
    let name = project_name(decoder, &root);
    let (assistant, timezone) = assistant(decoder, &root);
    let (runtime, kind, runtime_limits) = runtime(decoder, &root);
    let secrets = secrets(decoder, &root);
    let (models, model_names) = models(decoder, &root);
    let (channels, channel_names) = channels(decoder, &root, &secrets);
    let declared = Names { models: model_names, channels: channel_names };

    let defaults = match decoder.section(&root, "defaults") {
        Some(defaults) => {
            decoder.check_keys(&defaults, None);
            let section = decoder.section(&defaults, "group");
            section.map(|section| {
                decoder.check_keys(&section, None);
                GroupPart::read(decoder, &section, &declared, kind)
            })
        }
        None => None,
    }
    .unwrap_or_default();

    let drafts = groups::groups(decoder, &root, &declared, kind);
    groups::check_bindings(decoder, &drafts);
    groups::check_mains(decoder, &drafts);
    let only_model = groups::check_models(decoder, &defaults, &drafts, &declared);

    let inherited = Inherited { defaults, limits: runtime_limits, only_model };
    let trigger = format!("@{}", assistant.value);
    let groups =
        drafts.into_iter().filter_map(|draft| draft.complete(&inherited, &trigger)).collect();
    Some(Manifest { name: name?, assistant, timezone, runtime, secrets, models, channels, groups })
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
