//! The answers of broken servers, with the right end of each.

use serde_json::{Value, json};

use crate::support::ollama::{Reply, Step};
use crate::support::workshop::says;

/// The right end of a turn.
#[derive(Clone, Debug)]
pub(super) enum Right {
    /// The call runs once, and the turn is answered.
    Runs,
    /// Exactly this is the answer.
    Says(String),
    /// The answer holds this, and nothing runs.
    Holds(&'static str),
    /// The model is told this, nothing runs, and the turn is answered.
    Told(&'static str),
    /// One line says so, with these words.
    Line(&'static str),
}
pub(super) use Right::{Holds, Line, Runs, Says, Told};

pub(super) struct Shape {
    pub(super) name: String,
    pub(super) reply: Reply,
    pub(super) right: Right,
}

/// A message of a stream, not the last.
fn message(message: &Value) -> Value {
    json!({"model": "m", "message": message, "done": false})
}

fn content(content: &Value) -> Value {
    message(&json!({"role": "assistant", "content": content}))
}

fn end() -> Value {
    json!({"message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop"})
}

fn stream(lines: &[Value]) -> Reply {
    Reply::stream(lines.iter().map(|line| format!("{line}\n")))
}

/// A stream of these bytes.
fn bytes(text: &str) -> Reply {
    Reply::stream([text])
}

/// An answer whose text is this.
pub(super) fn text(text: &str) -> Reply {
    says(text)
}

/// An answer whose `tool_calls` is this.
pub(super) fn calls(calls: &Value) -> Reply {
    stream(&[message(&json!({"role": "assistant", "content": null, "tool_calls": calls})), end()])
}

/// A shape's command leaves a line in a file of its name each time it runs.
fn command(name: &str) -> String {
    format!("echo hello >> {name}.txt")
}

/// The shapes that were recorded, with what is right for each.
fn recorded() -> Vec<Shape> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/shapes.jsonl");
    let file = std::fs::read_to_string(path).unwrap();
    let shape = |line: &str| {
        let shape: Value = serde_json::from_str(line).unwrap();
        let name = shape["case"].as_str().unwrap().to_owned();
        let reply = match shape["lines"].as_array() {
            Some(lines) => stream(lines),
            None => bytes(shape["body"].as_str().unwrap()),
        };
        let headers = shape["headers"].as_array().cloned().unwrap_or_default();
        let reply = Reply {
            status: u16::try_from(shape["status"].as_u64().unwrap()).unwrap(),
            content_type: shape["content_type"].as_str().unwrap().to_owned(),
            headers: headers.iter().map(|line| line.as_str().unwrap().to_owned()).collect(),
            ..reply
        };
        let right = match name.as_str() {
            "null-message-final" => Says("Hello null message.".to_owned()),
            "no-fn-name" => Told("names no tool"),
            "err-null" | "done-reason-no-done" => Says("Hello you.".to_owned()),
            "err-object" => Line("CUDA error"),
            "prose-fence-after" => Holds("To do that, I use the tool:"),
            "emoji40" => Says(format!("{} done", "😊".repeat(40))),
            "dots" => Says(format!("Chapter 1 {} 7\nChapter 2 .... 9", ".".repeat(48))),
            "thinking-length" => Line("all its tokens for thinking"),
            "s301" => Line("301"),
            "s504-html" => Line("504"),
            _ => Runs,
        };
        Shape { name, reply, right }
    };
    file.lines().map(shape).collect()
}

/// Shapes of calls that a server hands over as such.
fn handed_over() -> Vec<(&'static str, Reply, Right)> {
    let given = |name| json!({ "command": command(name) });
    let function = |name| json!({"name": "bb_shell", "arguments": given(name)});
    let call = |name| json!({ "function": function(name) });
    let twice = |name| message(&json!({"content": "", "tool_calls": [call(name)]}));
    let mut last = twice("in-both-lines");
    last["done"] = true.into();
    vec![
        ("object-for-list", calls(&call("object-for-list")), Runs),
        ("list-as-string", calls(&json!([call("list-as-string")]).to_string().into()), Runs),
        ("list-by-position", calls(&json!({"0": call("list-by-position")})), Runs),
        ("numeric-id", calls(&json!([{"id": 7, "function": function("numeric-id")}])), Runs),
        (
            "null-function",
            calls(&json!([{"function": null, "name": "bb_shell",
            "args": given("null-function")}])),
            Runs,
        ),
        (
            "input",
            calls(&json!([{"function": {"name": "bb_shell", "input": given("input"),
            "arguments": {}}}])),
            Runs,
        ),
        (
            "arguments-as-string",
            calls(&json!([{"function": {"name": "bb_shell",
            "arguments": given("arguments-as-string").to_string()}}])),
            Runs,
        ),
        (
            "arguments-with-comma",
            calls(&json!([{"function": {"name": "bb_shell",
            "arguments": "{'command': 'echo hello >> arguments-with-comma.txt',}"}}])),
            Runs,
        ),
        (
            "wrapped-twice",
            calls(&json!([{"function": {"name": "functions.BB-Shell",
            "arguments": {"arguments": given("wrapped-twice")}}}])),
            Runs,
        ),
        (
            "seconds-as-float",
            calls(&json!([{"function": {"name": "bb_shell", "arguments": {
            "command": command("seconds-as-float"), "timeout_seconds": 30.0}}}])),
            Runs,
        ),
        ("same-twice", calls(&json!([call("same-twice"), call("same-twice")])), Runs),
        ("in-both-lines", stream(&[twice("in-both-lines"), last]), Runs),
        (
            "name-is-number",
            calls(&json!([{"function": {"name": 7, "arguments": {}}}])),
            Told("names no tool"),
        ),
        ("call-is-number", calls(&json!([7])), Told("could not be read")),
        (
            "unknown-member",
            calls(&json!([{"function": {"name": "bb_shell",
            "arguments": {}, "command": "true"}}])),
            Told("unknown member `command`"),
        ),
        (
            "arguments-are-words",
            calls(&json!([{"function": {"name": "bb_shell",
            "arguments": "ls -l"}}])),
            Told("unknown field `arguments`"),
        ),
        ("too-many", calls(&vec![call("too-many"); 40].into()), Told("more than 32 tool calls")),
        (
            "one-cannot-be-read",
            calls(&json!([call("one-cannot-be-read"), {}])),
            Told("could not be read"),
        ),
    ]
}

/// Shapes of calls that are the text of an answer.
fn written_out() -> Vec<(&'static str, Reply, Right)> {
    let json = |name| json!({"name": "bb_shell", "arguments": {"command": command(name)}});
    let tag = |name| format!("<parameter name=\"command\">{}</parameter>", command(name));
    vec![
        ("bare", text(&format!("Now: {}", json("bare"))), Runs),
        ("bare-first", text(&json("bare-first").to_string()), Runs),
        ("fenced-open", text(&format!("So.\n```json\n{}", json("fenced-open"))), Runs),
        ("tool-calls", text(&format!("I do it. [TOOL_CALLS][{}]", json("tool-calls"))), Runs),
        ("python-tag", text(&format!("<|python_tag|>{}<|eom_id|>", json("python-tag"))), Runs),
        (
            "function",
            text(&format!(
                "Well\n<function=bb_shell><parameter=command>\n{}\n</parameter></function>\n</tool_call>",
                command("function")
            )),
            Runs,
        ),
        (
            "invoke",
            text(&format!(
                "Well\n<minimax:tool_call><invoke name=\"bb_shell\">{}</invoke></minimax:tool_call>",
                tag("invoke")
            )),
            Runs,
        ),
        (
            "kimi",
            text(&format!(
                "Well <|tool_calls_section_begin|><|tool_call_begin|>functions.bb_shell:0<|tool_call_argument_begin|>{{\"command\": \"{}\"}}<|tool_call_end|><|tool_calls_section_end|>",
                command("kimi")
            )),
            Runs,
        ),
        (
            "single-quotes",
            text(&format!(
                "Well {{'name': 'bb_shell', 'arguments': {{'command': '{}'}},}}",
                command("single-quotes")
            )),
            Runs,
        ),
        (
            "thought-before",
            text(&format!("<think>I call <tool_call> it</think>{}", json("thought-before"))),
            Runs,
        ),
        (
            "cut-call",
            text("<tool_call>{\"name\": \"bb_shell\", \"argu"),
            Told("it ends in the middle"),
        ),
        (
            "bad-call",
            text("Ok <tool_call>{\"name\": \"bb_shell\" \"arguments\": {}}</tool_call>"),
            Told("could not be read"),
        ),
        (
            "no-such-tool",
            text("<tool_call>{\"name\": \"rocket\", \"arguments\": {}}</tool_call>"),
            Told("there is no tool `rocket`"),
        ),
        (
            "example",
            text(&format!("As in <tool_call>{}</tool_call> it is done.", json("example"))),
            Says("As in  it is done.".to_owned()),
        ),
        ("marks", text("Hello<|im_end|></tool_call>"), Says("Hello".to_owned())),
    ]
}

/// Shapes of lines, and of their end.
fn lines_and_ends() -> Vec<(&'static str, Reply, Right)> {
    let hello = || Says("Hello you.".to_owned());
    let half = || content(&json!("Hello "));
    let you = || content(&json!("you."));
    let whole = json!({"message": {"content": "Hello you."}});
    let said = |line: &Value| format!("{line}\n");
    vec![
        ("done-word", bytes(&format!("{}{}[DONE]\n", said(&half()), said(&you()))), hello()),
        (
            "events",
            bytes(&format!(": hi\n\ndata: {}\n\ndata: {}\n\ndata: [DONE]\n\n", half(), you())),
            hello(),
        ),
        ("whole", bytes(&whole.to_string()), hello()),
        (
            "whole-pretty",
            bytes(&format!("{:#}\n", json!({"message": {"content": "Hello you."}, "done": true}))),
            hello(),
        ),
        ("one-list", bytes(&json!([half(), you(), end()]).to_string()), hello()),
        ("done-as-string", stream(&[half(), you(), json!({"done": "true"})]), hello()),
        ("message-as-string", stream(&[message(&json!("Hello ")), you(), end()]), hello()),
        (
            "content-in-parts",
            stream(&[content(&json!([{"type": "text", "text": "Hello "}])), you(), end()]),
            hello(),
        ),
        (
            "content-is-object",
            stream(&[content(&json!({"text": "Hello "})), you(), end()]),
            hello(),
        ),
        (
            "wrong-types",
            stream(&[
                json!({"model": 5, "created_at": [], "message": {"content": "Hello you.", "thinking": 7, "role": null}, "error": {}}),
                json!(null),
                json!(5),
                end(),
            ]),
            hello(),
        ),
        (
            "silent-end",
            Reply::steps([
                Step::Chunk(said(&half()).into()),
                Step::Chunk(
                    said(&json!({"message": {"content": "you."}, "done_reason": "stop"})).into(),
                ),
                Step::Silence,
            ]),
            hello(),
        ),
        ("no-end", stream(&[half()]), Line("the model's answer broke off")),
        (
            "closed",
            Reply::steps([Step::Chunk(said(&half()).into()), Step::Break]),
            Line("the model's answer broke off"),
        ),
        (
            "too-deep",
            bytes(&format!("{}\n", "[".repeat(200))),
            Line("the model's answer broke off"),
        ),
        (
            "half-a-pair",
            bytes("{\"message\": {\"content\": \"\\ud83d\"}}\n"),
            Line("the model's answer broke off"),
        ),
        (
            "error-in-string",
            stream(&[
                half(),
                json!({"error": json!({"error": {"message": "it is on fire"}}).to_string()}),
            ]),
            Line("it is on fire"),
        ),
        ("error-is-number", stream(&[json!({"error": 7})]), Line("7")),
        (
            "page-for-stream",
            Reply::page(200, "<html><body>Sign in</body></html>"),
            Line("web page"),
        ),
        ("forbidden", Reply { status: 403, ..bytes("") }, Line("403")),
        ("broken-page", Reply::page(500, "<html><h1>Oh no</h1></html>"), Line("500")),
        ("nothing-at-all", stream(&[end()]), Line("the message was empty")),
    ]
}

pub(super) fn all() -> Vec<Shape> {
    let own = [handed_over(), written_out(), lines_and_ends()];
    let own = own.into_iter().flatten().map(|(name, reply, right)| Shape {
        name: name.to_owned(),
        reply,
        right,
    });
    recorded().into_iter().chain(own).collect()
}
