//! The JSON Schema of the manifest, printed from the list of fields.

use serde_json::{Map, Value, json};

use super::fields::{FIELDS, Field, KNOWN_KEYS, TEXT_LENGTH_MAX, Type, field, of_kind};
use crate::name::NAME_LENGTH_MAX;

/// The JSON Schema (draft 7) that editors take by `#:schema ./babybot.schema.json`.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "babybot.toml",
        "description": "The manifest of a babybot installation.",
    });
    if let (Value::Object(schema), Value::Object(table)) = (&mut schema, table("", None)) {
        schema.extend(table);
    }
    schema
}

/// The schema of a table, of one `kind` if it comes in several.
fn table(path: &str, kind: Option<&str>) -> Value {
    let keys = KNOWN_KEYS.get(path).map(Vec::as_slice).unwrap_or_default();
    if let Some(name) = keys.first().filter(|key| key.starts_with('<')) {
        return names(path, name);
    }
    if kind.is_none() && has_kinds(path) {
        let Some(Type::Choice(kinds)) = field(path, "kind").map(|field| field.takes) else {
            return json!({});
        };
        let each: Vec<Value> = kinds.iter().map(|kind| table(path, Some(kind))).collect();
        return json!({ "type": "object", "oneOf": each });
    }
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in keys {
        let own = field(path, key);
        let of = of_kind(path, key);
        if of.is_some() && kind.is_some() && of != kind {
            continue;
        }
        let value = match own {
            Some(field) if *key == "kind" && kind.is_some() => {
                json!({ "enum": [kind], "description": field.doc })
            }
            Some(field) => scalar(field),
            None => table(&inner(path, key), None),
        };
        properties.insert((*key).to_owned(), value);
        if own.is_some_and(Field::required) || required_within(&inner(path, key)) {
            required.push(*key);
        }
    }
    let mut schema =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if path.is_empty() {
        required.push("groups");
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if path == "secrets.<secret>" {
        schema["minProperties"] = json!(1);
        schema["maxProperties"] = json!(1);
    }
    if path == "channels.<channel>.callback" {
        schema["minProperties"] = json!(2);
    }
    schema
}

/// Whether a table has to be there, because a key of it must be written wherever it could stand.
fn required_within(table: &str) -> bool {
    FIELDS.iter().any(|field| field.table() == table && field.of_kind.is_some() && field.required())
        && field(table, "kind").is_none()
}

/// Whether a table's keys depend on its `kind`.
fn has_kinds(path: &str) -> bool {
    field(path, "kind").is_some()
        && FIELDS.iter().any(|field| field.table() == path && field.of_kind.is_some())
}

/// The schema of a table whose keys a person chooses.
fn names(path: &str, name: &str) -> Value {
    let pattern = if name == "<variable>" {
        "^[A-Za-z_][A-Za-z0-9_]*$".to_owned()
    } else {
        format!("^[a-z0-9][a-z0-9-]{{0,{}}}$", NAME_LENGTH_MAX - 1)
    };
    let value = match field(path, name) {
        Some(field) => scalar(field),
        None => table(&inner(path, name), None),
    };
    let mut patterns = Map::new();
    patterns.insert(pattern, value);
    json!({ "type": "object", "additionalProperties": false, "patternProperties": patterns })
}

fn inner(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn scalar(field: &Field) -> Value {
    let mut schema = match field.takes {
        Type::Text => json!({ "type": "string", "maxLength": TEXT_LENGTH_MAX }),
        Type::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Type::Boolean => json!({ "type": "boolean" }),
        Type::Integer { min, max } => {
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        Type::Cpus { min, max } => json!({
            "type": "number",
            "minimum": f64::from(min.0) / 1000.0,
            "maximum": f64::from(max.0) / 1000.0,
        }),
        Type::Duration { .. } => json!({ "type": "string", "pattern": "^[0-9]+ *(ms|s|m|h|d)$" }),
        Type::Size { .. } => {
            json!({ "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB|TiB)$" })
        }
        Type::Choice(words) => json!({ "type": "string", "enum": words }),
    };
    schema["description"] = json!(describe(field));
    schema
}

/// What a field means, its default and its bounds.
fn describe(field: &Field) -> String {
    let mut text = field.doc.to_owned();
    if !field.required() {
        text.push_str(&format!(" Default: {}.", field.default));
    }
    text
}
