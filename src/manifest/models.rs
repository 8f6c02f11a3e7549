//! `[models]`: which models answer, and what may not be one.

use std::collections::{BTreeMap, BTreeSet};

use super::codes::Code;
use super::decode::{Decoder, Section};
use super::diagnostic::{Diagnostic, quote};
use super::names::check_name;
use super::{Declared, Written};
use crate::name::ModelName;
use crate::resource::{ModelSpec, is_cloud_model};
use crate::unit::Period;

const OLLAMA_URL: &str = "http://127.0.0.1:11434";
const CONTEXT_TOKENS: u32 = 16_384;
const KEEP_ALIVE: Period = Period::seconds(30 * 60);

pub(super) fn models(
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
    let kind = decoder.text(section, "kind").map(|kind| kind.value);
    decoder.check_keys(section, kind.as_deref());
    decoder.require(section, "kind", "write `kind = \"ollama\"` or `kind = \"rehearsal\"`");
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
                url: url.map_or_else(|| OLLAMA_URL.to_owned(), |url| server_of(&url.value)),
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
    let name = model.value.as_str();
    if is_cloud_model(name) {
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

/// The server that an address names: a final slash says nothing.
fn server_of(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

/// Checks that an address is `http(s)://host[:port][/path]` and nothing more.
pub(super) fn url_fault(url: &str) -> Result<(), &'static str> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or("does not start with http:// or https://")?;
    if rest.contains('@') {
        return Err("has credentials in it");
    }
    if rest.contains(['?', '#', '\\']) {
        return Err("has more in it than a host and a path");
    }
    let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
    check_server_path(path.trim_end_matches('/'))?;
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

/// Checks the path under which a proxy serves Ollama.
fn check_server_path(path: &str) -> Result<(), &'static str> {
    let is_plain = |part: &str| {
        let known = |c: u8| c.is_ascii_alphanumeric() || b"-._~%+:".contains(&c);
        !part.is_empty() && !matches!(part, "." | "..") && part.bytes().all(known)
    };
    if path.is_empty() || path.split('/').all(is_plain) { Ok(()) } else { Err("has no valid path") }
}

pub(super) fn is_port(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_path(decoder: &mut Decoder<'_>, path: &Written<String>) {
    if let (Some(at), Some(reason)) = (path.at, path_fault(&path.value)) {
        decoder.note(
            Diagnostic::new(Code::BadPath, format!("the path {} {reason}", quote(&path.value)))
                .at(at, reason)
                .helped("write a path relative to the folder of the manifest, without `..`"),
        );
    }
}

/// Why a path does not lead to something within the folder it starts in.
pub(super) fn path_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("is empty")
    } else if text.starts_with(['/', '~']) {
        Some("does not start in the project folder")
    } else if text.split('/').any(|part| part == "..") {
        Some("leads out of its folder with `..`")
    } else if text.chars().any(|c| c.is_control() || c == '\\') {
        Some("has a character in it that no path here has")
    } else {
        None
    }
}
