//! Tool calls that a model wrote out as text, and calls that are nearly right. Pure.
//!
//! Servers hand calls over as such, but now and then one comes through as the
//! text the model wrote. It is taken for a call only where the answer starts
//! with it: one in the middle of prose may be an example, or somebody else's
//! words. Whatever it is taken for, its syntax is never shown to a person.

use serde_json::{Map, Value, json};

use super::model::Call;

/// What was found in an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// An answer and nothing else.
    Answer,
    /// Calls, in order.
    Calls(Vec<Call>),
    /// Something that was meant as a call and cannot be one, for this reason.
    Broken(&'static str),
}

/// A call as it was written: the tool's name and its arguments.
type Written = (String, Value);

/// Reads calls at the start of a text, and gives what follows them.
type Grammar = fn(&str) -> Option<(Vec<Written>, &str)>;

/// Ways to write a call that are nothing else, each by how it begins.
const MARKED: &[(&str, Grammar)] =
    &[("<tool_call>", tool_call), ("<function=", function), ("[TOOL_CALLS]", tool_calls)];

/// Ways that may as well be an answer.
const PLAIN: &[(&str, Grammar)] = &[("{", bare), ("[", bare), ("```", fenced)];

const UNREADABLE: &str = "the tool call could not be read";
const NOT_ALONE: &str = "a tool call must stand alone, with no text before it";

/// Looks for calls in the visible text of an answer. `schema` is the tools as the model was
/// given them.
pub(super) fn find(text: &str, schema: &Value) -> Found {
    let text = text.trim();
    if let Some((_, grammar)) = MARKED.iter().find(|(begin, _)| text.starts_with(begin)) {
        return match grammar(text) {
            Some((mut calls, rest)) => {
                more(&mut calls, rest);
                Found::Calls(numbered(calls))
            }
            None => Found::Broken(UNREADABLE),
        };
    }
    if let Some((_, grammar)) = PLAIN.iter().find(|(begin, _)| text.starts_with(begin)) {
        return match grammar(text) {
            // With a name that is no tool's, or prose behind it, it may be data like any other.
            Some((calls, rest))
                if rest.trim().is_empty() || calls.iter().all(|call| is_known(call, schema)) =>
            {
                Found::Calls(numbered(calls))
            }
            None if looks_like_call(text, schema) => Found::Broken(UNREADABLE),
            _ => Found::Answer,
        };
    }
    if ends_with_call(text, schema) { Found::Broken(NOT_ALONE) } else { Found::Answer }
}

/// Mends what is nearly right in a call: its name but for case and dashes, arguments as a text,
/// numbers in quotes. What is not mended is the tool's to refuse.
pub(super) fn mend(call: Call, schema: &Value) -> Call {
    let tool = match canonical(&call.tool, schema) {
        Some(name) => name.to_owned(),
        None => call.tool,
    };
    let arguments = match call.arguments {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        other => other,
    };
    let arguments = match arguments {
        Value::Object(fields) => Value::Object(typed(fields, &tool, schema)),
        Value::Null => json!({}),
        // A server takes nothing but an object back; the tool's answer says what is wrong.
        other => json!({ "arguments": other }),
    };
    Call { tool, arguments, ..call }
}

fn typed(fields: Map<String, Value>, tool: &str, schema: &Value) -> Map<String, Value> {
    let properties = &described(schema, tool)["parameters"]["properties"];
    let typed = |name: &str, value: Value| match (&value, properties[name]["type"].as_str()) {
        (Value::String(text), Some("integer")) => {
            text.trim().parse::<i64>().map_or(value, Value::from)
        }
        _ => value,
    };
    fields.into_iter().map(|(name, value)| (name.clone(), typed(&name, value))).collect()
}

fn described<'a>(schema: &'a Value, tool: &str) -> &'a Value {
    let tools = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = tools.iter().map(|entry| &entry["function"]).find(|entry| entry["name"] == tool);
    found.unwrap_or(&Value::Null)
}

/// The tool that a name can only mean.
fn canonical<'a>(name: &str, schema: &'a Value) -> Option<&'a str> {
    let key = |name: &str| {
        let letters = name.chars().filter(|letter| letter.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect::<String>()
    };
    let tools = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let names = tools.iter().filter_map(|tool| tool["function"]["name"].as_str());
    let alike: Vec<&str> = names.filter(|known| key(known) == key(name)).collect();
    match alike[..] {
        [only] => Some(only),
        _ => alike.into_iter().find(|known| *known == name),
    }
}

fn is_known((name, _): &Written, schema: &Value) -> bool {
    canonical(name, schema).is_some()
}

/// Whether text that cannot be read was meant as a call: it names a tool and its arguments.
fn looks_like_call(text: &str, schema: &Value) -> bool {
    let tools = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let names = tools.iter().map(|tool| tool["function"]["name"].to_string());
    text.contains("\"name\"")
        && (text.contains("\"arguments\"") || text.contains("\"parameters\""))
        && names.into_iter().any(|name| text.contains(&name))
}

/// Whether prose ends in a call of one of these tools.
fn ends_with_call(text: &str, schema: &Value) -> bool {
    let line_starts = text.match_indices('\n').map(|(at, _)| text[at..].trim_start());
    line_starts.into_iter().any(|rest| {
        let grammar = MARKED.iter().find(|(begin, _)| rest.starts_with(begin));
        let read = grammar.and_then(|(_, grammar)| grammar(rest));
        read.is_some_and(|(calls, rest)| {
            rest.trim().is_empty() && calls.iter().all(|call| is_known(call, schema))
        })
    })
}

/// Further calls behind the first.
fn more(calls: &mut Vec<Written>, mut rest: &str) {
    loop {
        let text = rest.trim_start();
        let Some((_, grammar)) = MARKED.iter().find(|(begin, _)| text.starts_with(begin)) else {
            return;
        };
        let Some((further, left)) = grammar(text) else { return };
        calls.extend(further);
        rest = left;
    }
}

fn numbered(calls: Vec<Written>) -> Vec<Call> {
    let call = |(index, (tool, arguments))| Call { id: format!("call_{index}"), tool, arguments };
    calls.into_iter().enumerate().map(call).collect()
}

/// `<tool_call>{…}</tool_call>`, with a function of the other kind inside, or never closed.
fn tool_call(text: &str) -> Option<(Vec<Written>, &str)> {
    let inner = text.strip_prefix("<tool_call>")?.trim_start();
    if inner.starts_with("<function=") {
        return function(inner);
    }
    let (value, rest) = json_prefix(inner)?;
    let calls = calls_in(&value, Arguments::Optional)?;
    Some((calls, past(rest, "</tool_call>")))
}

/// `<function=name>{…}</function>`, or with `<parameter=key>value</parameter>` inside.
fn function(text: &str) -> Option<(Vec<Written>, &str)> {
    let (name, inner) = text.strip_prefix("<function=")?.split_once('>')?;
    let inner = inner.trim_start();
    let (arguments, rest) = match json_prefix(inner) {
        Some((value, rest)) if value.is_object() => (value, rest),
        _ => parameters(inner)?,
    };
    // Some models leave the closing tag of an opening one that they left out.
    let rest = past(past(rest, "</function>"), "</tool_call>");
    Some((vec![(name.trim().to_owned(), arguments)], rest))
}

fn parameters(text: &str) -> Option<(Value, &str)> {
    let mut found = Map::new();
    let mut rest = text;
    while let Some(parameter) = rest.trim_start().strip_prefix("<parameter=") {
        let (name, after) = parameter.split_once('>')?;
        let (value, after) = after.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        found.insert(name.trim().to_owned(), value.into());
        rest = after;
    }
    let ended = rest.trim_start().starts_with("</function>") || !found.is_empty();
    ended.then_some((Value::Object(found), rest))
}

/// `[TOOL_CALLS][{…}, …]`
fn tool_calls(text: &str) -> Option<(Vec<Written>, &str)> {
    let (value, rest) = json_prefix(text.strip_prefix("[TOOL_CALLS]")?)?;
    Some((calls_in(&value, Arguments::Optional)?, rest))
}

/// `{"name": …, "arguments": {…}}`, alone, in a list, or wrapped as in a request.
fn bare(text: &str) -> Option<(Vec<Written>, &str)> {
    let (value, rest) = json_prefix(text)?;
    Some((calls_in(&value, Arguments::Needed)?, rest))
}

/// The same in a fenced block.
fn fenced(text: &str) -> Option<(Vec<Written>, &str)> {
    let (language, inner) = text.strip_prefix("```")?.split_once('\n')?;
    if !matches!(language.trim(), "" | "json" | "tool_call" | "tool_code") {
        return None;
    }
    let (calls, rest) = bare(inner)?;
    Some((calls, rest.trim_start().strip_prefix("```")?))
}

/// Whether something without arguments is a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arguments {
    Needed,
    Optional,
}

fn calls_in(value: &Value, arguments: Arguments) -> Option<Vec<Written>> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let calls: Option<Vec<_>> =
                items.iter().map(|item| calls_in(item, arguments)).collect();
            calls.map(|calls| calls.into_iter().flatten().collect())
        }
        Value::Object(fields) => {
            if let Some(inner @ Value::Array(_)) = fields.get("tool_calls") {
                return calls_in(inner, arguments);
            }
            if let Some(inner @ Value::Object(_)) = fields.get("function") {
                return calls_in(inner, arguments);
            }
            let name = fields.get("name")?.as_str()?.to_owned();
            match fields.get("arguments").or_else(|| fields.get("parameters")) {
                Some(given @ (Value::Object(_) | Value::String(_))) => {
                    Some(vec![(name, given.clone())])
                }
                None if arguments == Arguments::Optional => Some(vec![(name, json!({}))]),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The JSON value at the start of a text, and what follows it.
fn json_prefix(text: &str) -> Option<(Value, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

fn past<'a>(text: &'a str, tag: &str) -> &'a str {
    text.trim_start().strip_prefix(tag).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        let tool = |name: &str, properties: Value| {
            json!({"type": "function", "function": {
                "name": name, "parameters": {"type": "object", "properties": properties},
            }})
        };
        json!([
            tool(
                "bb_shell",
                json!({
                    "command": {"type": "string"}, "timeout_seconds": {"type": "integer"},
                })
            ),
            tool("bb_read_file", json!({"path": {"type": "string"}})),
        ])
    }

    /// The calls that a text is, each as `tool {arguments}`.
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let Found::Calls(calls) = find(text, &schema()) else {
            panic!("no calls in {text:?}: {:?}", find(text, &schema()));
        };
        let mended = calls.into_iter().map(|call| mend(call, &schema()));
        let calls: Vec<String> =
            mended.map(|call| format!("{} {}", call.tool, call.arguments)).collect();
        assert_eq!(calls, expected, "{text:?}");
    }

    const LS: &str = r#"bb_shell {"command":"ls"}"#;

    #[test]
    fn a_call_at_the_start_of_an_answer_is_one_in_whatever_way_it_is_written() {
        let json = r#"{"name": "bb_shell", "arguments": {"command": "ls"}}"#;
        for text in [
            format!("<tool_call>\n{json}\n</tool_call>"),
            format!("<tool_call>{json}"),
            format!("  {json}\n"),
            format!("[{json}]"),
            format!("{{\"tool_calls\": [{{\"type\": \"function\", \"function\": {json}}}]}}"),
            format!("```json\n{json}\n```"),
            format!("```\n{json}\n```\n"),
            format!("[TOOL_CALLS][{json}]"),
            format!("[TOOL_CALLS] {json}"),
            format!("{json}\nI have listed the files."),
            json.replace("arguments", "parameters"),
            "<function=bb_shell>{\"command\": \"ls\"}</function>".to_owned(),
            "<function=bb_shell>\n<parameter=command>\nls\n</parameter>\n</function>".to_owned(),
            "<function=bb_shell><parameter=command>ls</parameter></function></tool_call>"
                .to_owned(),
            "<tool_call><function=bb_shell><parameter=command>ls</parameter></function>\
             </tool_call>"
                .to_owned(),
        ] {
            check(&text, &[LS]);
        }
        check(&format!("<tool_call>{json}</tool_call>\n<tool_call>{json}</tool_call>"), &[LS, LS]);
        check(&format!("[TOOL_CALLS][{json}, {json}]"), &[LS, LS]);
    }

    #[test]
    fn what_is_nearly_right_is_mended_and_never_guessed() {
        for name in ["bb_shell", "BB-Shell", "bbShell", "bb_Shell"] {
            check(&format!("<function={name}>{{\"command\": \"ls\"}}</function>"), &[LS]);
        }
        check(r#"{"name": "bb_shell", "arguments": "{\"command\": \"ls\"}"}"#, &[LS]);
        check(
            "<function=bb_shell><parameter=command>5</parameter>\
             <parameter=timeout_seconds> 5</parameter></function>",
            &[r#"bb_shell {"command":"5","timeout_seconds":5}"#],
        );
        check(r#"<tool_call>{"name": "shell", "arguments": {}}</tool_call>"#, &["shell {}"]);
        let mended = |arguments: Value| {
            let call = Call { id: "a".into(), tool: "bb_shell".into(), arguments };
            mend(call, &schema()).arguments
        };
        assert_eq!(mended(Value::Null), json!({}));
        assert_eq!(mended(json!("ls")), json!({"arguments": "ls"}));
        assert_eq!(mended(json!({"timeout_seconds": "soon"})), json!({"timeout_seconds": "soon"}));
    }

    #[test]
    fn an_answer_stays_one() {
        for text in [
            "",
            "Hello",
            "{\"name\": \"Ada\", \"age\": 36}",
            "{\"name\": \"Ada\", \"arguments\": {\"x\": 1}} is an example.",
            "[1, 2]",
            "[a link](https://example.org)",
            "```rust\nfn main() {}\n```",
            "```json\n{\"a\": 1}\n```",
            "Write <tool_call> and then the call.",
            "It looks so:\n<tool_call>{\"name\": \"bb_shell\", \"arguments\": {}}</tool_call>\nand \
             is closed.",
            "An example:\n<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>",
        ] {
            assert_eq!(find(text, &schema()), Found::Answer, "{text:?}");
        }
    }

    #[test]
    fn what_was_meant_as_a_call_is_neither_run_nor_shown() {
        for text in [
            "<tool_call>{\"name\": \"bb_shell\", \"argum",
            "<tool_call>",
            "<function=bb_shell>ls</function>",
            "[TOOL_CALLS]bb_shell",
            "{\"name\": \"bb_shell\", \"arguments\": {\"command\": \"ls",
            "```json\n{\"name\": \"bb_shell\", \"arguments\": {\"command\": \"ls\"}",
        ] {
            assert_eq!(find(text, &schema()), Found::Broken(UNREADABLE), "{text:?}");
        }
        let after_prose =
            "Sure!\n<tool_call>{\"name\": \"bb_shell\", \"arguments\": {}}</tool_call>";
        assert_eq!(find(after_prose, &schema()), Found::Broken(NOT_ALONE));
    }
}
