//! OpenAI's chat, translated to Ollama's and back.
//!
//! As much of it as Ollama itself has: what has no counterpart is ignored. The
//! rules see the translated request, so nothing gets around them this way.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::rules::{Object, kind};
use super::shape;
use super::upstream::{Refusal, error_words};
use crate::clock::{Clock as _, SystemClock};

/// An error in the shape that OpenAI's clients read.
#[derive(Debug)]
pub(super) struct OpenAiRefusal(Refusal);

impl From<Refusal> for OpenAiRefusal {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for OpenAiRefusal {
    fn into_response(self) -> Response {
        let kind = match self.0.status {
            StatusCode::NOT_FOUND => "not_found_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        };
        let body = error(&self.0.message, kind).to_string();
        (self.0.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

fn error(message: &str, kind: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": null } })
}

/// The list of models, from Ollama's.
pub(super) fn models(tags: &Value) -> Value {
    let models = tags["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    let data: Vec<Value> = models
        .iter()
        .map(|model| {
            let modified = model["modified_at"].as_str().unwrap_or_default();
            let created = modified.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
            json!({
                "id": model["name"], "object": "model", "created": created, "owned_by": "library",
            })
        })
        .collect();
    json!({ "object": "list", "data": data })
}

/// The request as Ollama reads it.
///
/// # Errors
/// 400 for messages that cannot be translated.
pub(super) fn request(mut asked: Object) -> Result<Object, Refusal> {
    let messages = messages(asked.remove("messages").unwrap_or_else(|| json!([])))?;
    let mut request = Object::new();
    request.insert("messages".into(), messages);
    // Ollama streams unless told otherwise, OpenAI only when asked to.
    request.insert("stream".into(), (asked.get("stream") == Some(&true.into())).into());
    request.insert("options".into(), options(&asked).into());
    if let Some(tools) = asked.remove("tools") {
        request.insert("tools".into(), tools);
    }
    if let Some(format) = format(&asked) {
        request.insert("format".into(), format);
    }
    match asked.get("reasoning_effort").and_then(Value::as_str) {
        Some("none") => drop(request.insert("think".into(), false.into())),
        Some(effort) => drop(request.insert("think".into(), effort.into())),
        None => {}
    }
    Ok(request)
}

fn options(asked: &Object) -> Object {
    let mut options = Object::new();
    let same = ["temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"];
    for name in same {
        if let Some(value) = asked.get(name).filter(|value| !value.is_null()) {
            options.insert(name.into(), value.clone());
        }
    }
    match asked.get("stop") {
        Some(Value::String(word)) => drop(options.insert("stop".into(), json!([word]))),
        Some(Value::Array(words)) => drop(options.insert("stop".into(), words.clone().into())),
        _ => {}
    }
    let most = ["max_completion_tokens", "max_tokens"].iter().find_map(|name| asked.get(*name));
    if let Some(most) = most {
        options.insert("num_predict".into(), most.clone());
    }
    options
}

fn format(asked: &Object) -> Option<Value> {
    let format = asked.get("response_format")?;
    match format["type"].as_str()? {
        "json_object" => Some("json".into()),
        "json_schema" => Some(format["json_schema"]["schema"].clone()),
        _ => None,
    }
}

fn messages(messages: Value) -> Result<Value, Refusal> {
    let Value::Array(messages) = messages else {
        return Err(Refusal::bad_request("messages must be an array"));
    };
    // OpenAI's tool results name only the call; Ollama's templates need the tool.
    let mut tools: BTreeMap<String, String> = BTreeMap::new();
    let translated: Result<Vec<Value>, Refusal> =
        messages.iter().map(|message| translate(message, &mut tools)).collect();
    translated.map(Value::Array)
}

fn translate(message: &Value, tools: &mut BTreeMap<String, String>) -> Result<Value, Refusal> {
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some(role) => role,
        None => return Err(Refusal::bad_request("a message must have a role")),
    };
    let (text, images) = content(&message["content"])?;
    let mut translated = json!({ "role": role, "content": text });
    if !images.is_empty() {
        translated["images"] = images.into();
    }
    if let Some(thinking) = message["reasoning"].as_str() {
        translated["thinking"] = thinking.into();
    }
    if let Some(calls) = message["tool_calls"].as_array() {
        let calls: Result<Vec<Value>, Refusal> =
            calls.iter().enumerate().map(|(index, call)| tool_call(index, call, tools)).collect();
        translated["tool_calls"] = calls?.into();
    }
    if let Some(id) = message["tool_call_id"].as_str() {
        translated["tool_call_id"] = id.into();
        let named = message["name"].as_str().or_else(|| tools.get(id).map(String::as_str));
        translated["tool_name"] = named.unwrap_or_default().into();
    }
    Ok(translated)
}

/// Text and images of a message, which is a text or a list of parts.
fn content(content: &Value) -> Result<(String, Vec<Value>), Refusal> {
    let (mut text, mut images) = (String::new(), Vec::new());
    match content {
        Value::Null => {}
        Value::String(words) => text.push_str(words),
        Value::Array(parts) => {
            for part in parts {
                match part["type"].as_str() {
                    Some("text") => text.push_str(part["text"].as_str().unwrap_or_default()),
                    Some("image_url") => images.push(image(&part["image_url"])?),
                    _ => return Err(Refusal::bad_request("invalid message format")),
                }
            }
        }
        other => {
            let words = format!("invalid message content type: {}", kind(other));
            return Err(Refusal::bad_request(words));
        }
    }
    Ok((text, images))
}

/// The bytes of an image, which must be in the request: nothing is fetched.
fn image(url: &Value) -> Result<Value, Refusal> {
    let url = url["url"].as_str().or(url.as_str()).unwrap_or_default();
    let data = url.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    match data {
        Some((_, base64)) => Ok(base64.into()),
        None => Err(Refusal::bad_request("invalid image input: only data: URLs are read")),
    }
}

fn tool_call(
    index: usize,
    call: &Value,
    tools: &mut BTreeMap<String, String>,
) -> Result<Value, Refusal> {
    let function = &call["function"];
    let text = function["arguments"].as_str().unwrap_or("{}");
    let arguments: Value = serde_json::from_str(text)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| Refusal::bad_request("invalid tool call arguments"))?;
    if let (Some(id), Some(name)) = (call["id"].as_str(), function["name"].as_str()) {
        tools.insert(id.to_owned(), name.to_owned());
    }
    Ok(json!({
        "id": call["id"],
        "function": { "index": index, "name": function["name"], "arguments": arguments },
    }))
}

/// The answer to one request, as OpenAI words it.
#[derive(Debug)]
pub(super) struct Reply {
    id: String,
    model: Value,
    created: i64,
    usage_wanted: bool,
    begun: bool,
    called: bool,
}

impl Reply {
    pub(super) fn to(asked: &Object) -> Self {
        let bits = SystemClock.random_bits();
        Self {
            id: format!("chatcmpl-{}", &bits[..12]),
            model: asked.get("model").cloned().unwrap_or_default(),
            created: SystemClock.now().0 / 1000,
            usage_wanted: asked
                .get("stream_options")
                .is_some_and(|options| options["include_usage"] == Value::Bool(true)),
            begun: false,
            called: false,
        }
    }

    /// An answer that came whole.
    pub(super) fn whole(&mut self, answer: &Value) -> Value {
        let delta = self.delta(&answer["message"]);
        let mut message = json!({ "role": "assistant", "content": answer["message"]["content"] });
        for field in ["tool_calls", "reasoning"] {
            if let Some(value) = delta.get(field) {
                message[field] = value.clone();
            }
        }
        let choice =
            json!({ "index": 0, "message": message, "finish_reason": self.finish_reason(answer) });
        let mut whole = self.frame("chat.completion", json!([choice]));
        whole["usage"] = usage(answer);
        whole
    }

    /// One line of a stream, as the events it becomes.
    pub(super) fn event(&mut self, line: &[u8]) -> Bytes {
        let line: Value = serde_json::from_slice(line).unwrap_or_default();
        if let Some(cause) = shape::error(&line) {
            return event(&error(&error_words(cause), "api_error")).into();
        }
        let done = line["done"] == Value::Bool(true);
        let delta = self.delta(&line["message"]);
        let mut events = String::new();
        // Where a server puts calls or words in the last line, they come first.
        let says = delta.contains_key("tool_calls")
            || delta.contains_key("reasoning")
            || delta.get("content").is_some_and(|content| content != "");
        if !done || says {
            events += &self.chunk(delta.into(), Value::Null);
        }
        if done {
            events += &self.chunk(json!({}), self.finish_reason(&line));
            if self.usage_wanted {
                let mut last = self.frame("chat.completion.chunk", json!([]));
                last["usage"] = usage(&line);
                events += &event(&last);
            }
            events += "data: [DONE]\n\n";
        }
        events.into()
    }

    fn chunk(&self, delta: Value, finish_reason: Value) -> String {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
        event(&self.frame("chat.completion.chunk", json!([choice])))
    }

    fn delta(&mut self, message: &Value) -> Object {
        let mut delta = Object::new();
        if !std::mem::replace(&mut self.begun, true) {
            delta.insert("role".into(), "assistant".into());
        }
        delta.insert("content".into(), message["content"].as_str().unwrap_or_default().into());
        if let Some(thinking) = message["thinking"].as_str().filter(|text| !text.is_empty()) {
            delta.insert("reasoning".into(), thinking.into());
        }
        let calls = message["tool_calls"].as_array().filter(|calls| !calls.is_empty());
        if let Some(calls) = calls {
            self.called = true;
            let calls: Vec<Value> = calls.iter().map(openai_call).collect();
            delta.insert("tool_calls".into(), calls.into());
        }
        delta
    }

    fn finish_reason(&self, last: &Value) -> Value {
        match last["done_reason"].as_str() {
            _ if self.called => "tool_calls".into(),
            // Clients know no word for an answer that was cut for its repetitions.
            Some("length" | "repeat") => "length".into(),
            _ => "stop".into(),
        }
    }

    fn frame(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": "fp_ollama", "choices": choices,
        })
    }
}

fn openai_call(call: &Value) -> Value {
    let function = &call["function"];
    json!({
        "id": call["id"],
        "index": function["index"].as_u64().unwrap_or(0),
        "type": "function",
        "function": { "name": function["name"], "arguments": function["arguments"].to_string() },
    })
}

fn usage(last: &Value) -> Value {
    let count = |name: &str| last[name].as_u64().unwrap_or(0);
    let (prompt, completion) = (count("prompt_eval_count"), count("eval_count"));
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
    })
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}
