//! Reads the frame of a line of a model's stream, and the end of an answer.
//!
//! Pure. `null` means absent, a member of the wrong type does not count, and
//! every known mark of an answer's end does: servers and proxies differ.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use serde_json::Value;

/// One line of a stream.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A comment of an event stream, or a value without a meaning.
    Blank,
    /// The beginning of a value that goes on in the next line.
    Open,
    /// The words that end an event stream.
    End,
    /// Objects, nearly always one.
    Objects(Vec<Value>, Exact),
    /// Not JSON.
    Strange,
}

/// Says if a line can be passed on byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exact {
    Yes,
    No,
}

/// Fields of an event stream that carry no data.
const EVENT_FIELDS: &[&str] = &[":", "event:", "id:", "retry:"];

/// Reads a line.
pub(super) fn read(line: &[u8]) -> Line {
    let text = String::from_utf8_lossy(line);
    let trimmed = text.trim_start_matches('\u{feff}').trim();
    if EVENT_FIELDS.iter().any(|field| trimmed.starts_with(field)) {
        return Line::Blank;
    }
    let body = trimmed.strip_prefix("data:").map_or(trimmed, str::trim_start);
    if body.is_empty() {
        return Line::Blank;
    }
    if body == "[DONE]" {
        return Line::End;
    }
    let exact = if text.trim().as_bytes() == line.trim_ascii() && body.len() == text.trim().len() {
        Exact::Yes
    } else {
        Exact::No
    };
    match serde_json::from_str(body) {
        Ok(object @ Value::Object(_)) => Line::Objects(vec![object], exact),
        Ok(Value::Array(items)) => {
            let objects: Vec<Value> = items.into_iter().filter(Value::is_object).collect();
            if objects.is_empty() { Line::Blank } else { Line::Objects(objects, Exact::No) }
        }
        Ok(_) => Line::Blank,
        Err(error) if error.is_eof() => Line::Open,
        Err(_) => Line::Strange,
    }
}

/// Says if an answer ends with this line.
pub(super) fn is_end(line: &Value) -> bool {
    let reason = |name: &str| line[name].as_str().is_some_and(|reason| !reason.is_empty());
    says_yes(&line["done"]) || reason("done_reason") || reason("finish_reason")
}

/// Says if a line can be a whole answer that has no mark of its end.
pub(super) fn may_be_whole(line: &Value) -> bool {
    let says = ["message", "response"].iter().any(|name| !line[*name].is_null());
    says && line["done"].is_null()
}

fn says_yes(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::String(text) => text.eq_ignore_ascii_case("true"),
        Value::Number(number) => number.as_u64() == Some(1),
        _ => false,
    }
}

/// The error in a line, if there is one.
pub(super) fn error(line: &Value) -> Option<&Value> {
    let error = line.get("error")?;
    let empty = match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    (!empty).then_some(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_read_in_whatever_frame_it_comes() {
        let exact = Line::Objects(vec![json!({"done": true})], Exact::Yes);
        assert_eq!(read(b"{\"done\":true}\n"), exact);
        let framed = || Line::Objects(vec![json!({"done": true})], Exact::No);
        for line in ["data: {\"done\":true}", "data:{\"done\":true}\r\n", "\u{feff}{\"done\":true}"]
        {
            assert_eq!(read(line.as_bytes()), framed(), "{line:?}");
        }
        assert_eq!(read(b"[{\"done\":true}, 5]"), framed());
        assert_eq!(read(b"data: [DONE]\n"), Line::End);
        assert_eq!(read(b"[DONE]"), Line::End);
        for blank in [": ping", "event: message", "id: 7", "data:", "null", "5", "[]", "\"x\""] {
            assert_eq!(read(blank.as_bytes()), Line::Blank, "{blank:?}");
        }
        assert_eq!(read(b"{\n"), Line::Open);
        assert_eq!(read(b"<html>"), Line::Strange);
        assert_eq!(
            read(b"{\"a\":\"\xf0\x9f\"}"),
            Line::Objects(vec![json!({"a": "\u{fffd}"})], Exact::No)
        );
    }

    #[test]
    fn every_known_mark_of_an_end_counts_and_null_is_none() {
        for end in [
            json!({"done": true}),
            json!({"done": "true"}),
            json!({"done": false, "done_reason": "stop"}),
            json!({"done_reason": "length"}),
            json!({"finish_reason": "stop"}),
        ] {
            assert!(is_end(&end), "{end}");
        }
        for middle in [
            json!({}),
            json!({"done": null}),
            json!({"done": false, "done_reason": null}),
            json!({"done": false, "done_reason": ""}),
            json!({"done": [true]}),
        ] {
            assert!(!is_end(&middle), "{middle}");
        }
    }

    #[test]
    fn an_error_that_says_nothing_is_none() {
        for none in [json!({}), json!({"error": null}), json!({"error": ""}), json!({"error": {}})]
        {
            assert_eq!(error(&none), None, "{none}");
        }
        assert!(error(&json!({"error": {"message": "x"}})).is_some());
        assert!(error(&json!({"error": 7})).is_some());
    }
}
