//! Repairs calls that are nearly right. Pure.
//!
//! The tool's schema decides. A repair is made only where the call has one
//! meaning, and each repair is noted. The tool refuses the rest. Nothing is left
//! out and nothing is guessed.

use serde_json::{Map, Value, json};

use super::super::call::Call;
use super::literal;

/// Largest number that is the same as a whole number and as a float.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Names under which a model wraps arguments a second time.
const WRAPPERS: &[&str] = &["arguments", "parameters", "args", "input"];

/// The tools, each as its `function` object.
pub(super) fn tools(schema: &Value) -> impl Iterator<Item = &Value> {
    let tools = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().map(|tool| &tool["function"])
}

/// The one tool that a name can mean.
pub(super) fn canonical<'a>(name: &str, schema: &'a Value) -> Option<&'a str> {
    let names = || tools(schema).filter_map(|tool| tool["name"].as_str());
    // As in `functions.bb_shell`.
    let last = name.rsplit('.').next().unwrap_or(name);
    only(name, names()).or_else(|| only(last, names()))
}

/// The one of these names that is this one, but for case and what joins its words.
fn only<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let key = |name: &str| {
        let letters = name.chars().filter(|letter| letter.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect::<String>()
    };
    let alike: Vec<&str> = names.filter(|known| key(known) == key(name)).collect();
    match alike[..] {
        [only] => Some(only),
        _ => alike.into_iter().find(|known| *known == name),
    }
}

/// Repairs a call where its meaning is certain, and lists the repairs.
pub(in super::super) fn mend(call: Call, schema: &Value) -> (Call, Vec<String>) {
    let mut notes = Vec::new();
    let tool = match canonical(&call.tool, schema) {
        Some(name) if name == call.tool => call.tool,
        Some(name) => {
            notes.push(format!("`{}` is {name}", call.tool));
            name.to_owned()
        }
        None => call.tool,
    };
    let described = tools(schema).find(|known| known["name"] == *tool);
    let properties = described.and_then(|known| known["parameters"]["properties"].as_object());
    let nothing = Map::new();
    let properties = properties.unwrap_or(&nothing);
    let arguments = match unwrapped(call.arguments, properties, &mut notes) {
        Value::Object(fields) => Value::Object(typed(fields, properties, &mut notes)),
        Value::Null => json!({}),
        // A server takes nothing but an object back; the tool's answer says what is wrong.
        other => json!({ "arguments": other }),
    };
    (Call { tool, arguments, ..call }, notes)
}

/// Takes arguments out of a string, or out of a second object around them.
fn unwrapped(given: Value, properties: &Map<String, Value>, notes: &mut Vec<String>) -> Value {
    let given = match given {
        Value::String(text) => match literal::whole(&text) {
            Some(value @ Value::Object(_)) => {
                notes.push("the arguments were a string".to_owned());
                value
            }
            _ => Value::String(text),
        },
        other => other,
    };
    let Value::Object(mut fields) = given else { return given };
    let wrapper = WRAPPERS.iter().find(|name| {
        fields.len() == 1
            && !properties.contains_key(**name)
            && fields.get(**name).is_some_and(Value::is_object)
    });
    match wrapper.and_then(|name| fields.remove(*name)) {
        Some(inner) => {
            notes.push("the arguments were wrapped twice".to_owned());
            inner
        }
        None => Value::Object(fields),
    }
}

fn typed(
    fields: Map<String, Value>,
    properties: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> Map<String, Value> {
    let written: Vec<String> = fields.keys().cloned().collect();
    let mut made = Map::new();
    for (name, value) in fields {
        let known = only(&name, properties.keys().map(String::as_str));
        let name = match known {
            Some(known) if known != name && !written.iter().any(|other| other == known) => {
                notes.push(format!("`{name}` is {known}"));
                known.to_owned()
            }
            _ => name,
        };
        let kind = properties.get(&name).and_then(|property| property["type"].as_str());
        let value = match kind.and_then(|kind| as_kind(&value, kind)) {
            Some(typed) => {
                notes.push(format!("{name} was {value}"));
                typed
            }
            None => value,
        };
        made.insert(name, value);
    }
    made
}

/// A value as the type that it should have, if it has another and can only mean that.
fn as_kind(value: &Value, kind: &str) -> Option<Value> {
    match (kind, value) {
        ("integer", Value::String(text)) => match text.trim().parse::<i64>() {
            Ok(number) => Some(number.into()),
            Err(_) => whole(text.trim().parse().ok()?),
        },
        ("integer", Value::Number(number)) if number.is_f64() => whole(number.as_f64()?),
        ("number", Value::String(text)) => text.trim().parse::<f64>().ok().map(Value::from),
        ("boolean", Value::String(text)) => match &*text.trim().to_ascii_lowercase() {
            "true" => Some(true.into()),
            "false" => Some(false.into()),
            _ => None,
        },
        ("string", Value::Number(_) | Value::Bool(_)) => Some(value.to_string().into()),
        _ => None,
    }
}

fn whole(number: f64) -> Option<Value> {
    let fits = number.fract() == 0.0 && number.abs() <= EXACT_MAX;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within bounds")]
    fits.then(|| Value::from(number as i64))
}

#[cfg(test)]
mod tests {
    use super::super::tests::schema;
    use super::*;

    #[track_caller]
    fn check(tool: &str, arguments: Value, expected: &str) {
        let call = Call { id: "a".into(), tool: tool.into(), arguments };
        let (call, _) = mend(call, &schema());
        assert_eq!(format!("{} {}", call.tool, call.arguments), expected);
    }

    #[test]
    fn a_name_is_known_but_for_case_and_joints_and_never_guessed() {
        for name in ["bb_shell", "BB-Shell", "bbShell", "bb_Shell", "functions.bb_shell"] {
            check(name, json!({"command": "ls"}), r#"bb_shell {"command":"ls"}"#);
        }
        check("shell", json!({}), "shell {}");
        check("bb_shel", json!({}), "bb_shel {}");
    }

    #[test]
    fn types_are_made_right_by_the_schema() {
        let shell = |seconds: Value| json!({"command": "ls", "timeout_seconds": seconds});
        for five in [json!(5), json!(5.0), json!("5"), json!(" 5 "), json!("5.0")] {
            check("bb_shell", shell(five), r#"bb_shell {"command":"ls","timeout_seconds":5}"#);
        }
        check("bb_shell", json!({"command": 5}), r#"bb_shell {"command":"5"}"#);
        check("bb_shell", json!({"Command": "ls"}), r#"bb_shell {"command":"ls"}"#);
        // An ambiguous value stays as it is, and the tool refuses it.
        for other in [json!(5.5), json!("soon"), json!([5]), json!(1e300), Value::Null] {
            let expected = format!("bb_shell {{\"command\":\"ls\",\"timeout_seconds\":{other}}}");
            check("bb_shell", shell(other), &expected);
        }
    }

    #[test]
    fn nothing_that_was_given_is_left_out() {
        check("bb_shell", json!(r#"{"command": "ls"}"#), r#"bb_shell {"command":"ls"}"#);
        check("bb_shell", json!("{'command': 'ls',}"), r#"bb_shell {"command":"ls"}"#);
        check("bb_shell", json!("ls"), r#"bb_shell {"arguments":"ls"}"#);
        check("bb_shell", json!(["ls"]), r#"bb_shell {"arguments":["ls"]}"#);
        check("bb_shell", json!({"args": {"command": "ls"}}), r#"bb_shell {"command":"ls"}"#);
        check("bb_shell", json!({"cmd": "ls"}), r#"bb_shell {"cmd":"ls"}"#);
        check("bb_shell", Value::Null, "bb_shell {}");
    }

    #[test]
    fn what_was_made_right_is_said() {
        let arguments = json!({"command": "ls", "timeout_seconds": 5.0});
        let call = Call { id: "a".into(), tool: "BB-Shell".into(), arguments };
        let (_, notes) = mend(call, &schema());
        assert_eq!(notes, ["`BB-Shell` is bb_shell", "timeout_seconds was 5.0"]);
        let right =
            Call { id: "a".into(), tool: "bb_shell".into(), arguments: json!({"command": "ls"}) };
        assert_eq!(mend(right.clone(), &schema()), (right, Vec::new()));
    }
}
