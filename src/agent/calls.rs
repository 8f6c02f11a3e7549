//! Tool calls in every known form. Pure.
//!
//! A server sends calls as JSON members of many shapes. Sometimes it passes a
//! call through as the text that the model wrote. One rule holds for all forms:
//! an answer that ends in a call of a known tool calls it. A call followed by
//! words is an example, and the answer stays an answer. If a call cannot be
//! read, the model is told why. A person never sees the syntax of calls, except
//! code and JSON in an answer.
//!
//! `grammar` is the table of forms with a mark of their own. `written` reads a
//! call from JSON, `literal` reads JSON as models write it, `parts` splits an
//! answer, `mend` repairs a call that is nearly right, and `quoted` recognizes
//! a call that the model only repeats.

mod grammar;
mod literal;
mod mend;
mod parts;
mod quoted;
mod written;

use serde_json::Value;

use super::call::Call;
use parts::{Kind, Part, TextState, parts};
use written::Written;

pub(super) use mend::mend;
pub(super) use quoted::is_quoted;

/// The result of reading an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// An answer and nothing else, as a person may read it.
    Answer(String),
    /// Calls, in order, and the words before them.
    Calls(Vec<Call>, String),
    /// A call that cannot be run, for this reason.
    Broken(String),
}

/// Finds the calls in the visible text of an answer. `schema` is the tools as the model was
/// given them.
pub(super) fn find(text: &str, schema: &Value) -> Found {
    let parts = parts(text.trim_start(), schema, TextState::Whole);
    let says_nothing = |part: &&Part| match part {
        Part::Text(text) => text.trim().is_empty(),
        Part::Mark(_) => true,
        _ => false,
    };
    let end = parts.iter().rposition(|part| !says_nothing(&part)).map_or(0, |last| last + 1);
    let begin = parts[..end]
        .iter()
        .rposition(|part| !says_nothing(&part) && !matches!(part, Part::Calls { .. }));
    let begin = begin.map_or(0, |before| before + 1);
    if begin < end {
        let calls = parts[begin..end].iter().filter_map(|part| match part {
            Part::Calls { calls, .. } => Some(calls),
            _ => None,
        });
        let calls = (0..).zip(calls.flatten());
        let calls: Result<Vec<Call>, String> =
            calls.map(|(index, call)| read(call.clone(), format!("call_{index}"))).collect();
        return match calls {
            Ok(calls) => Found::Calls(calls, shown(&parts[..begin])),
            Err(why) => Found::Broken(why),
        };
    }
    match parts[..end].last() {
        Some(Part::Broken { why, .. }) => return Found::Broken(unreadable(why)),
        Some(Part::Open { why: Some(why), .. }) => return Found::Broken(unreadable(why)),
        _ => {}
    }
    match parts.iter().find(|part| !says_nothing(part)) {
        Some(Part::Calls { kind: Kind::Bare | Kind::Marked, .. }) => {
            Found::Broken("text follows the tool call, which must be the last thing".to_owned())
        }
        _ => Found::Answer(shown(&parts)),
    }
}

/// As much of a growing text as may be shown: what may yet become a call or a thought is held back.
pub(super) fn preview(text: &str, schema: &Value) -> String {
    let parts = parts(text.trim_start(), schema, TextState::Growing);
    let words = |part: &Part| matches!(part, Part::Text(text) if !text.trim().is_empty());
    let first = parts.iter().find(|part| !matches!(part, Part::Mark(_)));
    if matches!(first, Some(Part::Calls { kind: Kind::Bare | Kind::Marked, .. })) {
        return String::new();
    }
    let open = parts.iter().position(|part| matches!(part, Part::Open { .. }));
    let last = parts[..open.unwrap_or(parts.len())].iter().rposition(words);
    shown(&parts[..last.map_or(0, |last| last + 1)])
}

/// The text of these parts that a person may read.
fn shown(parts: &[Part]) -> String {
    let shown = parts.iter().map(|part| match part {
        Part::Text(text) => text,
        Part::Calls { kind: Kind::Marked, .. } | Part::Broken { kind: Kind::Marked, .. } => "",
        Part::Calls { source, .. } | Part::Broken { source, .. } => source,
        Part::Mark(_) => "",
        Part::Open { .. } => "",
    });
    shown.collect::<String>().trim().to_owned()
}

fn unreadable(why: &str) -> String {
    format!("the tool call could not be read: {why}")
}

/// The calls of a `tool_calls` member of any shape. A call without an identifier gets an empty one.
///
/// # Errors
/// Says what is wrong with one of them.
pub(super) fn native(value: &Value) -> Result<Vec<Call>, String> {
    match value {
        Value::Null | Value::Bool(false) => Ok(Vec::new()),
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::String(text) => match literal::whole(text) {
            Some(value) if !value.is_string() => native(&value),
            _ => Err(unreadable("it is a string that is not JSON")),
        },
        Value::Array(items) => {
            let calls: Result<Vec<_>, _> = items.iter().map(native).collect();
            Ok(calls?.into_iter().flatten().collect())
        }
        Value::Object(fields) if fields.is_empty() => Err(unreadable("it is empty")),
        Value::Object(fields) => match written::calls_in(value) {
            Some(calls) => {
                let id = id(&fields.get("id").cloned().unwrap_or_default());
                calls.into_iter().map(|call| read(call, id.clone())).collect()
            }
            // A list that became an object, by position.
            None if fields.keys().all(|key| key.parse::<u32>().is_ok()) => {
                let calls: Result<Vec<_>, _> = fields.values().map(native).collect();
                Ok(calls?.into_iter().flatten().collect())
            }
            None => Err(unreadable("it names no tool")),
        },
        other => Err(unreadable(&format!("it is {other}"))),
    }
}

fn id(value: &Value) -> String {
    match value {
        Value::String(id) => id.trim().to_owned(),
        Value::Number(id) => id.to_string(),
        _ => String::new(),
    }
}

fn read(call: Written, id: String) -> Result<Call, String> {
    match call.given {
        Ok(arguments) => Ok(Call { id, tool: call.name, arguments: arguments.unwrap_or_default() }),
        Err(why) => Err(unreadable(&why)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn schema() -> Value {
        let tool = |name: &str, properties: Value| {
            json!({"type": "function", "function": {
                "name": name, "parameters": {"type": "object", "properties": properties},
            }})
        };
        let shell = json!({"command": {"type": "string"}, "timeout_seconds": {"type": "integer"}});
        json!([tool("bb_shell", shell), tool("bb_read_file", json!({"path": {"type": "string"}}))])
    }

    const LS: &str = r#"bb_shell {"command":"ls"}"#;
    const CALL: &str = r#"{"name": "bb_shell", "arguments": {"command": "ls"}}"#;

    /// The call of [`LS`] in every way that it can be written.
    pub(in super::super) fn ways() -> Vec<String> {
        let text = CALL;
        let parameter = "<parameter=command>\nls\n</parameter>";
        let named = "<parameter name=\"command\">ls</parameter>";
        vec![
            format!("<tool_call>\n{text}\n</tool_call>"),
            format!("<tool_call>{text}"),
            format!("<tool_call>\n```json\n{text}\n```\n</tool_call>"),
            format!("<tool_calls>[{text}]</tool_calls>"),
            format!("<function_call>{text}</function_call>"),
            format!("<TOOLCALL>[{text}]</TOOLCALL>"),
            format!("<|tool_call|>[{text}]<|/tool_call|>"),
            "<tool_call>bb_shell\n<arg_key>command</arg_key>\n<arg_value>ls</arg_value>\n</tool_call>"
                .to_owned(),
            format!("  {text}\n"),
            format!("[{text}]"),
            format!("{{\"tool_calls\": [{{\"type\": \"function\", \"function\": {text}}}]}}"),
            format!("```json\n{text}\n```"),
            format!("```\n{text}\n```\n"),
            format!("```json\n{text}"),
            format!("```{text}```"),
            format!("```xml\n<tool_call>{text}</tool_call>\n```"),
            format!("[TOOL_CALLS][{text}]"),
            format!("[TOOL_CALLS] {text}"),
            "[TOOL_CALLS]bb_shell[ARGS]{\"command\": \"ls\"}".to_owned(),
            "[TOOL_CALLS]bb_shell{\"command\": \"ls\"}".to_owned(),
            format!("<|python_tag|>{text}<|eom_id|>"),
            "<|python_tag|>bb_shell(command=\"ls\")".to_owned(),
            "<|python_tag|>bb_shell.call(command='ls')".to_owned(),
            "[bb_shell(command='ls')]".to_owned(),
            "<function=bb_shell>{\"command\": \"ls\"}</function>".to_owned(),
            format!("<function=bb_shell>\n{parameter}\n</function>"),
            format!("<function=bb_shell>{parameter}</function></tool_call>"),
            format!("<tool_call><function=bb_shell>{parameter}</function></tool_call>"),
            format!("<invoke name=\"bb_shell\">\n{named}\n</invoke>"),
            format!("<minimax:tool_call>\n<invoke name=\"bb_shell\">\n{named}\n</invoke>\n</minimax:tool_call>"),
            format!("<function_calls><invoke name='bb_shell'>{named}</invoke></function_calls>"),
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.bb_shell:0\
             <|tool_call_argument_begin|>{\"command\": \"ls\"}<|tool_call_end|>\
             <|tool_calls_section_end|>"
                .to_owned(),
            "<|tool_call_begin|>functions.bb_shell:0<|tool_call_argument_begin|>\
             {\"command\": \"ls\"}<|tool_call_end|>"
                .to_owned(),
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>bb_shell\n```json\n\
             {\"command\": \"ls\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
                .to_owned(),
            "<|channel|>commentary to=functions.bb_shell <|constrain|>json<|message|>\
             {\"command\": \"ls\"}<|call|>"
                .to_owned(),
            text.replace("arguments", "parameters"),
            text.replace("arguments", "args"),
            text.replace("arguments", "input"),
            text.replace("}}", "},}"),
            text.replace('"', "'"),
        ]
    }

    /// Checks the calls in `text`, each as `tool {arguments}`, and the words before them.
    #[track_caller]
    fn check(text: &str, expected: &[&str], words: &str) {
        let Found::Calls(calls, before) = find(text, &schema()) else {
            panic!("no calls in {text:?}: {:?}", find(text, &schema()));
        };
        let mended = calls.into_iter().map(|call| mend(call, &schema()).0);
        let calls: Vec<String> =
            mended.map(|call| format!("{} {}", call.tool, call.arguments)).collect();
        assert_eq!(
            (calls, before.as_str()),
            (expected.iter().map(|c| (*c).to_owned()).collect(), words),
            "{text:?}"
        );
    }

    #[test]
    fn an_answer_that_ends_in_a_call_is_one_in_whatever_way_it_is_written() {
        for way in ways() {
            check(&way, &[LS], "");
            check(
                &format!("I look at [1] `it`, {{now}}:\n\n{way}"),
                &[LS],
                "I look at [1] `it`, {now}:",
            );
            check(&format!("Sure. {way}\n"), &[LS], "Sure.");
        }
        check(
            &format!("<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>"),
            &[LS, LS],
            "",
        );
        check(&format!("<tool_call>{CALL}\n{CALL}</tool_call>"), &[LS, LS], "");
        check(&format!("[TOOL_CALLS][{CALL}, {CALL}]"), &[LS, LS], "");
        check(&format!("```json\n{CALL}\n{CALL}\n```"), &[LS, LS], "");
        check(r#"<tool_call>{"name": "shell", "arguments": {}}</tool_call>"#, &["shell {}"], "");
    }

    #[test]
    fn an_example_with_words_behind_it_is_none_and_shows_no_marks() {
        for way in ways() {
            let text = format!("It looks so:\n{way}\nand is only an example.");
            let Found::Answer(shown) = find(&text, &schema()) else {
                panic!("{text:?}: {:?}", find(&text, &schema()))
            };
            assert!(
                shown.starts_with("It looks so:") && shown.ends_with("only an example."),
                "{shown}"
            );
            let marked = way.trim_start().starts_with('<') || way.contains("TOOL_CALLS");
            assert_eq!(shown.contains("bb_shell"), !marked, "{shown}");
        }
        for words in [
            "",
            "Hello",
            "{\"name\": \"Ada\", \"age\": 36}",
            "{\"name\": \"Ada\", \"arguments\": {\"x\": 1}}",
            "[1, 2]",
            "[{\"name\": \"bb_shell\"}]",
            "[a link](https://example.org)",
            "```rust\nfn main() {}\n```",
            "```json\n{\"a\": 1}\n```",
            "a < b, {x}, [y], `z` and `{\"name\": \"bb_shell\", \"arguments\": {}}`.",
            "Qwen writes `<tool_call>` before it.",
            "if (x) { return \"name\"; }",
        ] {
            assert_eq!(find(words, &schema()), Found::Answer(words.to_owned()), "{words:?}");
        }
        let marks = "Hi<|im_end|></tool_call> there<｜end▁of▁sentence｜>";
        assert_eq!(find(marks, &schema()), Found::Answer("Hi there".to_owned()));
    }

    #[test]
    fn what_was_meant_as_a_call_is_neither_run_nor_shown() {
        for text in [
            "<tool_call>{\"name\": \"bb_shell\", \"argum",
            "<tool_call>",
            "<tool_call>{\"name\": \"bb_shell\" \"arguments\": {}}</tool_call>",
            "<tool_call>{\"arguments\": {\"command\": \"ls\"}}</tool_call>",
            "<tool_call>{\"name\": \"bb_shell\", \"command\": \"ls\"}</tool_call>",
            "{\"name\": \"bb_shell\", \"command\": \"ls\"}",
            "<function=bb_shell>ls</function>",
            "<function=bb_shell><parameter=command>ls",
            "<invoke name=\"bb_shell\"><parameter name=\"command\">ls",
            "[TOOL_CALLS]bb_shell",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.bb_shell:0",
            "{\"name\": \"bb_shell\", \"arguments\": {\"command\": \"ls",
            "{\"name\": \"bb_shell\", \"arguments\": {\"command\": \"ls\"} \"x\"}",
            "```json\n{\"name\": \"bb_shell\", \"arguments\": {\"command\": \"ls\"}",
        ] {
            for text in [text.to_owned(), format!("Sure:\n{text}")] {
                let found = find(&text, &schema());
                let Found::Broken(why) = &found else { panic!("{text:?}: {found:?}") };
                assert!(why.starts_with("the tool call could not be read: "), "{why}");
            }
        }
        let first = format!("{CALL}\nI have listed the files.");
        assert!(
            matches!(find(&first, &schema()), Found::Broken(why) if why.contains("text follows"))
        );
    }

    #[test]
    fn a_growing_answer_is_held_back_from_what_may_be_a_call_until_it_is_clear() {
        let shown = |text: &str| preview(text, &schema());
        for (text, expected) in [
            ("Hello ", "Hello"),
            ("Hello <", "Hello"),
            ("Hello <b", "Hello <b"),
            ("Hello <tool", "Hello"),
            ("Hello <tool_call>", "Hello"),
            ("Hello <|im_", "Hello"),
            ("Hello <|im_end|>", "Hello"),
            ("See [", "See"),
            ("See [the", "See [the"),
            ("See [TOOL_", "See"),
            ("{\"name\": \"bb_shell\", ", ""),
            ("{\"a\": 1} is", "{\"a\": 1} is"),
            ("So {", "So"),
            ("So {x", "So {x"),
            ("As `", "As"),
            ("As `<tool_call>` is", "As `<tool_call>` is"),
            ("```", ""),
            ("```rust\nfn", "```rust\nfn"),
            ("```json\n{\"name\"", ""),
            ("```json\n{\"a\": 1}\n```", "```json\n{\"a\": 1}\n```"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
        assert_eq!(shown(&format!("So:\n{CALL}")), "So:");
        assert_eq!(shown(&format!("So:\n{CALL}\nis one")), format!("So:\n{CALL}\nis one"));
    }

    proptest::proptest! {
        /// More text never takes back what a preview has shown.
        #[test]
        fn what_was_shown_stays_and_is_what_the_answer_begins_with(
            pieces in proptest::collection::vec(0usize..70, 1..8)
        ) {
            let words = ["Well, ", "a < b ", "`code` ", "[1] ", "{\"a\": 1} ", "\n", "```rust\nx\n```\n",
                "{x} ", "`", "<|im_end|>", "é<", "[link](x) ", "</tool_call>", "<b>", "``` ", "[", "{\""];
            let ways = ways();
            let text: String = pieces.iter().map(|piece| {
                words.get(piece % (words.len() + 6)).map_or_else(|| ways[piece % ways.len()].clone(), |w| (*w).to_owned())
            }).collect();
            let schema = schema();
            let mut before = String::new();
            for (at, _) in text.char_indices() {
                let now = preview(&text[..at], &schema);
                proptest::prop_assert!(now.starts_with(&before), "{:?}: {:?} then {:?}", text, before, now);
                before = now;
            }
            if let Found::Answer(answer) = find(&text, &schema) {
                proptest::prop_assert!(answer.starts_with(&before), "{:?}: {:?} then {:?}", text, before, answer);
            }
        }
    }

    #[test]
    fn calls_of_a_server_are_read_whatever_their_shape() {
        let call = json!({"function": {"name": "t", "arguments": {"a": 1}}});
        let names = |value: &Value| {
            native(value)
                .map(|calls| calls.iter().map(|call| call.tool.clone()).collect::<Vec<_>>())
        };
        for value in [
            json!([call]),
            call.clone(),
            json!({"0": call}),
            json!([call]).to_string().into(),
            json!([[call], null]),
            json!([call.to_string()]),
        ] {
            assert_eq!(names(&value), Ok(vec!["t".to_owned()]), "{value}");
        }
        for none in [json!(null), json!([]), json!([null]), json!(""), json!(false)] {
            assert_eq!(native(&none), Ok(Vec::new()), "{none}");
        }
        for wrong in [
            json!([{"function": {"arguments": {"a": 1}}}]),
            json!([{"function": {"name": 7}}]),
            json!([{}]),
            json!([7]),
            json!("bb_shell"),
            json!([{"function": {"name": "t", "stuff": {}}}]),
        ] {
            let why = native(&wrong).unwrap_err();
            assert!(why.starts_with("the tool call could not be read: "), "{wrong}: {why}");
        }
        let numbered = json!([{"id": 7, "function": {"name": "t"}}]);
        assert_eq!(native(&numbered).unwrap()[0].id, "7");
    }
}
