//! Reads a call from JSON, under every name that its members have. Pure.

use serde_json::{Map, Value};

/// Members that hold the tool's name.
const NAMES: &[&str] = &["name", "tool", "tool_name", "function_name", "function", "action"];
/// Members that hold its arguments.
const ARGUMENTS: &[&str] =
    &["arguments", "parameters", "args", "input", "params", "kwargs", "tool_input", "action_input"];
/// Members that hold calls.
const WRAPPERS: &[&str] = &["tool_calls", "tool_call", "function_call"];
/// Members that say nothing about what is called.
const SAY_NOTHING: &[&str] = &["type", "id", "index", "call_id", "tool_call_id"];

/// A call as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    /// The tool's name.
    pub(super) name: String,
    /// The arguments if there are any, or in words why they cannot be known.
    pub(super) given: Result<Option<Value>, String>,
}

impl Written {
    pub(super) fn new(name: &str, arguments: Value) -> Self {
        Self { name: name.trim().to_owned(), given: Ok(Some(arguments)) }
    }
}

/// The calls in a value; none if it is something else.
pub(super) fn calls_in(value: &Value) -> Option<Vec<Written>> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let calls: Option<Vec<_>> = items.iter().map(calls_in).collect();
            calls.map(|calls| calls.into_iter().flatten().collect())
        }
        Value::Object(fields) => {
            let wrapped = WRAPPERS.iter().find_map(|name| fields.get(*name));
            match wrapped.filter(|inner| inner.is_object() || inner.is_array()) {
                Some(inner) => calls_in(inner),
                None => call(fields).map(|call| vec![call]),
            }
        }
        _ => None,
    }
}

fn call(outer: &Map<String, Value>) -> Option<Written> {
    let nothing = Map::new();
    let inner = outer.get("function").and_then(Value::as_object).unwrap_or(&nothing);
    let both = [inner, outer];
    let members = both.into_iter().flat_map(|fields| NAMES.iter().map(|name| fields.get(*name)));
    let mut names = members.filter_map(|member| member?.as_str()).map(str::trim);
    let name = names.find(|name| !name.is_empty())?.to_owned();
    Some(Written { name, given: arguments(both) })
}

/// What was given as arguments: in one place, and nothing beside it.
fn arguments(both: [&Map<String, Value>; 2]) -> Result<Option<Value>, String> {
    let mut found: Option<(&str, &Value)> = None;
    for (member, value) in both.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let member = member.as_str();
        if ARGUMENTS.contains(&member) {
            match found {
                Some((_, other)) if other == value || is_empty(value) => {}
                Some((first, other)) if !is_empty(other) => {
                    return Err(format!("it gives both `{first}` and `{member}`"));
                }
                _ => found = Some((member, value)),
            }
        } else if !NAMES.contains(&member) && !SAY_NOTHING.contains(&member) {
            return Err(format!(
                "it has an unknown member `{member}`; arguments belong in `arguments`"
            ));
        }
    }
    Ok(found.map(|(_, value)| match value {
        Value::Array(items) if matches!(items[..], [Value::Object(_)]) => items[0].clone(),
        other => other.clone(),
    }))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_found_under_every_name_and_beside_every_wrapper() {
        let given = json!({"path": "a"});
        for call in [
            json!({"name": "t", "arguments": given}),
            json!({"name": "t", "parameters": given}),
            json!({"name": "t", "args": given}),
            json!({"name": "t", "input": given, "arguments": {}}),
            json!({"name": "t", "input": given, "arguments": null}),
            json!({"type": "function", "id": 7, "name": "t", "arguments": given}),
            json!({"type": "function", "function": {"name": "t", "arguments": given}}),
            json!({"function": {"name": "t"}, "arguments": given}),
            json!({"function": "t", "arguments": given}),
            json!({"name": "t", "arguments": [given]}),
            json!([{"name": "t", "arguments": given}]),
            json!({"tool_calls": [{"function": {"name": "t", "arguments": given}}]}),
            json!({"action": "t", "action_input": given}),
        ] {
            assert_eq!(calls_in(&call), Some(vec![Written::new("t", given.clone())]), "{call}");
        }
    }

    #[test]
    fn what_is_given_elsewhere_is_never_left_out_in_silence() {
        for call in [
            json!({"name": "t", "path": "a"}),
            json!({"name": "t", "arguments": {}, "path": "a"}),
            json!({"name": "t", "arguments": {"a": 1}, "parameters": {"b": 1}}),
            json!({"function": {"name": "t", "content": "x"}}),
        ] {
            let calls = calls_in(&call).unwrap();
            assert!(calls[0].given.is_err(), "{call}: {calls:?}");
        }
        assert_eq!(calls_in(&json!({"name": "t"})).unwrap()[0].given, Ok(None));
    }

    #[test]
    fn what_has_no_name_is_no_call() {
        for value in [json!({}), json!(5), json!([]), json!({"name": 5}), json!({"name": " "})] {
            assert_eq!(calls_in(&value), None, "{value}");
        }
    }
}
