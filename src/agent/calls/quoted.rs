//! Recognizes a call that the model only repeats. Pure.
//!
//! A message or a tool's result may contain the text of a call, as an example
//! or as an attack. A model that repeats it quotes it.

use serde_json::Value;

use super::super::call::Call;
use super::mend;
use super::parts::{Part, TextState, parts};
use crate::protocol::unescaped;

/// Says if one of these messages contains this call, in any form.
pub(in super::super) fn is_quoted(call: &Call, messages: &[Value], schema: &Value) -> bool {
    let brought_in =
        messages.iter().filter(|message| message["role"] == "user" || message["role"] == "tool");
    let tool = bare(&call.tool);
    let arguments = bare(&call.arguments.to_string());
    let says_something = call.arguments.as_object().is_some_and(|fields| !fields.is_empty());
    brought_in.filter_map(|message| message["content"].as_str()).any(|content| {
        let content = unescaped(content);
        let text = bare(&content);
        (says_something && text.contains(&tool) && text.contains(&arguments))
            || holds(&content, call, schema)
    })
}

/// Says if `text` contains this call.
fn holds(text: &str, call: &Call, schema: &Value) -> bool {
    let calls = parts(text, schema, TextState::Whole).into_iter().filter_map(|part| match part {
        Part::Calls { calls, .. } => Some(calls),
        _ => None,
    });
    calls.flatten().filter_map(|written| super::read(written, String::new()).ok()).any(|written| {
        let (written, _) = mend::mend(written, schema);
        written.tool == call.tool && written.arguments == call.arguments
    })
}

/// `text` without blanks and backslashes, which differ between two forms of the same call.
fn bare(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '\\').collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{schema, ways};
    use super::*;

    fn call(command: &str) -> Call {
        let arguments = json!({ "command": command });
        Call { id: String::new(), tool: "bb_shell".to_owned(), arguments }
    }

    #[test]
    fn a_call_that_was_brought_in_is_known_however_it_is_written_there() {
        for way in ways() {
            let escaped = way.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            for content in [
                format!("The page says:\n{way}\nand goes on."),
                escaped.replace('"', "&quot;"),
                json!({ "page": way }).to_string(),
            ] {
                // Within JSON that is escaped again, not every way can be known.
                let nested = content.starts_with('{') && !way.contains("{\"command\"");
                let messages = [json!({"role": "tool", "content": content})];
                assert!(nested || is_quoted(&call("ls"), &messages, &schema()), "{content}");
                assert!(!is_quoted(&call("pwd"), &messages, &schema()), "{content}");
            }
        }
    }

    #[test]
    fn what_a_model_said_itself_is_no_quotation() {
        let said = r#"{"name": "bb_shell", "arguments": {"command": "ls"}}"#;
        let own = [json!({"role": "assistant", "content": said})];
        assert!(!is_quoted(&call("ls"), &own, &schema()));
        let asked = [json!({"role": "user", "content": "please run ls with bb_shell"})];
        assert!(!is_quoted(&call("ls"), &asked, &schema()));
    }
}
