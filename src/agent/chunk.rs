//! Reads one line of a model's stream. Pure.
//!
//! Servers differ, so every shape is accepted. `null` means absent, a member of
//! the wrong type counts where it has a meaning, and an unreadable call becomes
//! a message for the model.

use serde_json::Value;

use super::call::Call;
use super::calls;

/// The content of a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chunk {
    /// More of the answer's text.
    pub(super) content: String,
    /// Whether it holds a thought.
    pub(super) thought: bool,
    /// Calls, each with its own identifier or an empty one.
    pub(super) calls: Vec<Call>,
    /// What is wrong with calls that cannot be read.
    pub(super) unread: Option<String>,
    /// How the answer ended, if it did.
    pub(super) end: Option<String>,
    /// Why there is no answer, in the server's words.
    pub(super) error: Option<String>,
}

impl Chunk {
    /// Reads a line, however it is framed.
    pub(super) fn of(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let text = text.strip_prefix("data:").map_or(text, str::trim);
        if text == "[DONE]" {
            return Self { end: Some("stop".to_owned()), ..Self::default() };
        }
        let mut chunk = Self::default();
        match serde_json::from_str::<Value>(text) {
            Ok(value) => chunk.add(&value),
            Err(error) => chunk.error = Some(format!("the model's answer is not JSON: {error}")),
        }
        chunk
    }

    fn add(&mut self, value: &Value) {
        if let Value::Array(items) = value {
            items.iter().filter(|item| item.is_object()).for_each(|item| self.add(item));
            return;
        }
        match &value["message"] {
            Value::Null => self.message(value),
            Value::String(text) => self.content.push_str(text),
            Value::Array(items) => items.iter().for_each(|item| self.message(item)),
            message => self.message(message),
        }
        self.error = self.error.take().or_else(|| error_words(&value["error"]));
        let reasons = ["done_reason", "finish_reason"];
        let reason =
            reasons.iter().find_map(|name| value[*name].as_str().filter(|r| !r.is_empty()));
        if is_yes(&value["done"]) || reason.is_some() {
            self.end = Some(reason.unwrap_or("stop").to_owned());
        }
    }

    fn message(&mut self, message: &Value) {
        text_into(&mut self.content, &message["content"]);
        let thoughts = ["thinking", "reasoning", "reasoning_content"];
        self.thought |=
            thoughts.iter().any(|name| message[*name].as_str().is_some_and(|t| !t.is_empty()));
        for member in ["tool_calls", "function_call"] {
            match calls::native(&message[member]) {
                Ok(calls) => self.calls.extend(calls),
                Err(why) => self.unread = Some(why),
            }
        }
    }
}

/// The text in a member that should be a string: its own, or that of its parts.
fn text_into(text: &mut String, value: &Value) {
    match value {
        Value::String(more) => text.push_str(more),
        Value::Array(parts) => parts.iter().for_each(|part| text_into(text, part)),
        Value::Object(part) => {
            let inner = ["text", "content"].iter().find_map(|name| part.get(*name));
            inner.into_iter().for_each(|inner| text_into(text, inner));
        }
        Value::Number(_) | Value::Bool(true) => text.push_str(&value.to_string()),
        Value::Null | Value::Bool(false) => {}
    }
}

fn is_yes(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::String(text) => text.eq_ignore_ascii_case("true"),
        Value::Number(number) => number.as_u64() == Some(1),
        _ => false,
    }
}

/// The words of an `error` member: a string, an object, or a string that contains one.
pub(super) fn error_words(error: &Value) -> Option<String> {
    match error {
        Value::Null | Value::Bool(false) => None,
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(nested @ Value::Object(_)) => error_words(&nested),
            _ => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        },
        Value::Object(fields) if fields.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(fields) => {
            let inner = ["message", "error", "detail"].iter().filter_map(|name| fields.get(*name));
            inner.filter_map(error_words).next().or_else(|| Some(error.to_string()))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chunk(value: &Value) -> Chunk {
        Chunk::of(value.to_string().as_bytes())
    }

    fn says(text: &str) -> Chunk {
        Chunk { content: text.to_owned(), ..Chunk::default() }
    }

    #[test]
    fn null_is_absent_and_a_text_is_read_wherever_it_stands() {
        for nothing in [
            json!({"message": {"content": null, "tool_calls": null}, "error": null, "done": null}),
            json!({"message": null, "done_reason": null}),
            json!({"message": {"content": [], "tool_calls": []}, "error": ""}),
            json!({}),
            json!(null),
            json!(7),
        ] {
            assert_eq!(chunk(&nothing), says(""), "{nothing}");
        }
        for hello in [
            json!({"message": {"content": "Hello"}}),
            json!({"message": {"content": [{"type": "text", "text": "Hel"}, "lo"]}}),
            json!({"message": {"content": {"text": "Hello"}}}),
            json!({"message": "Hello"}),
            json!({"message": [{"content": "Hello"}]}),
            json!({"content": "Hello"}),
            json!([{"message": {"content": "Hel"}}, {"message": {"content": "lo"}}]),
        ] {
            assert_eq!(chunk(&hello), says("Hello"), "{hello}");
        }
        assert_eq!(chunk(&json!({"message": {"content": 42}})), says("42"));
    }

    #[test]
    fn every_mark_of_an_end_is_one() {
        for (end, reason) in [
            (json!({"done": true}), "stop"),
            (json!({"done": "true", "done_reason": "length"}), "length"),
            (json!({"done": false, "done_reason": "stop"}), "stop"),
            (json!({"finish_reason": "length"}), "length"),
        ] {
            assert_eq!(chunk(&end).end.as_deref(), Some(reason), "{end}");
        }
        assert_eq!(Chunk::of(b"data: [DONE]\n").end.as_deref(), Some("stop"));
        assert_eq!(chunk(&json!({"done": false, "done_reason": ""})).end, None);
    }

    #[test]
    fn an_error_keeps_its_words() {
        let words = "llama runner process has terminated: CUDA error";
        for error in [
            json!(words),
            json!({"code": 500, "message": words}),
            json!({"error": {"message": words}}),
            json!({"message": null, "detail": words}),
            json!(json!({"error": {"code": 400, "message": words}}).to_string()),
        ] {
            assert_eq!(chunk(&json!({ "error": error })).error.as_deref(), Some(words), "{error}");
        }
        assert!(chunk(&json!({"error": {"code": 7}})).error.unwrap().contains('7'));
        assert!(Chunk::of(b"<html>").error.unwrap().contains("not JSON"));
    }

    #[test]
    fn a_call_that_cannot_be_read_is_kept_in_words() {
        let call = json!({"function": {"arguments": {"path": "a"}}});
        let read = chunk(&json!({"message": {"tool_calls": [call]}}));
        assert_eq!(
            read.unread.as_deref(),
            Some("the tool call could not be read: it names no tool")
        );
        let flat = json!({"type": "function", "name": "t", "arguments": {"path": "a"}});
        assert_eq!(chunk(&json!({"message": {"tool_calls": [flat]}})).calls[0].tool, "t");
    }

    /// Any JSON, with the members that matter more often than others.
    fn anything() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let name = prop_oneof![
            prop::sample::select(vec![
                "message",
                "content",
                "tool_calls",
                "function",
                "name",
                "arguments",
                "done",
                "done_reason",
                "error",
                "id",
                "thinking",
                "parameters",
            ])
            .prop_map(str::to_owned),
            "[a-z]{0,3}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 48, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        /// Any JSON is read, and its content is not lost.
        #[test]
        fn any_json_is_read(value in anything(), text in "[a-z ]{1,9}") {
            let _ = chunk(&value);
            let mut value = value;
            if let Some(fields) = value.as_object_mut() {
                fields.insert("message".to_owned(), json!({"content": text}));
                proptest::prop_assert_eq!(chunk(&value).content, text);
            }
        }

        /// Any bytes are read.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = Chunk::of(&bytes);
        }
    }
}
