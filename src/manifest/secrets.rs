//! `[secrets]`: where each secret is, never what it is.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::codes::Code;
use super::decode::{Decoder, Section, join};
use super::diagnostic::{Diagnostic, quote};
use super::names::{check_name, check_word, is_variable_name};
use super::{Span, Written};
use crate::name::SecretName;
use crate::resource::SecretSource;

pub(super) fn secrets(
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
                    format!("the manifest contains the secret {}", quote(name.get_ref())),
                )
                .at(at, "a secret's value")
                .helped("say where the secret is: { env = \"VARIABLE\" } or { file = \"~/path\" }; if this file was shared, replace the secret"),
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
            check_variable_of_secret(decoder, &env.value, env.at?);
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

/// Notes a text that no environment variable is called. It may be the secret itself, so it is not
/// repeated.
fn check_variable_of_secret(decoder: &mut Decoder<'_>, name: &str, at: Span) {
    if !is_variable_name(name) {
        decoder.note(
            Diagnostic::new(Code::BadVariable, "`env` does not name an environment variable")
                .at(at, "is not a name")
                .helped("`env` takes the name of a variable, never what is in it: letters, digits and _, and no digit first"),
        );
    }
}
