//! What may go out to a model, whatever the client sent.
//!
//! Pure: a request comes in as JSON, and goes out rebuilt from the fields named
//! here. Everything else is dropped, so that a field Ollama learns tomorrow
//! opens nothing. Options that belong to the runner are set from the manifest:
//! two requests that differ in one of them make Ollama load the model again.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::upstream::{Endpoint, Refusal};
use crate::name::ModelName;
use crate::resource::{ModelSpec, is_cloud_model};
use crate::unit::Period;

/// Most tokens of one answer, however large the context is.
pub(super) const ANSWER_TOKENS_MAX: u64 = 4096;

/// What a client may send, beside what is set here.
const CHAT_FIELDS: &[&str] = &["messages", "tools", "format", "stream", "think"];
const GENERATE_FIELDS: &[&str] = &[
    "prompt", "suffix", "system", "template", "context", "raw", "images", "format", "stream",
    "think",
];
const EMBED_FIELDS: &[&str] = &["input", "dimensions"];
const SHOW_FIELDS: &[&str] = &["verbose"];

/// Options of the sampler: they differ from request to request and reload nothing.
const SAMPLING_OPTIONS: &[&str] = &[
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "stop",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Reads a request's body.
///
/// # Errors
/// 400 in the words Ollama has for it.
pub(super) fn object(body: &[u8]) -> Result<Object, Refusal> {
    if body.is_empty() {
        return Err(Refusal::bad_request("missing request body"));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Refusal::bad_request(format!(
            "json: cannot unmarshal {} into Go value of type api.ChatRequest",
            kind(&other)
        ))),
        Err(error) if error.is_eof() => Err(Refusal::bad_request("unexpected EOF")),
        Err(error) => Err(Refusal::bad_request(format!("invalid JSON: {error}"))),
    }
}

/// What Go calls this kind of value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks that the request names this model and no other.
///
/// # Errors
/// 400 without a name, 403 for a model in the cloud, 404 for any other.
pub(super) fn check_model(
    request: &Object,
    name: &ModelName,
    spec: &ModelSpec,
) -> Result<(), Refusal> {
    let asked = ["model", "name"].iter().find_map(|field| request.get(*field)?.as_str());
    let asked = asked.filter(|asked| !asked.is_empty());
    let asked = asked.ok_or_else(|| Refusal::bad_request("model is required"))?;
    if is_cloud_model(asked) || is_cloud_model(spec.wire_name()) {
        return Err(cloud_refused());
    }
    if same_model(asked, spec.wire_name()) || same_model(asked, name.as_str()) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::NOT_FOUND, format!("model '{asked}' not found")))
}

/// What is said about a model that is not on the user's own machines.
pub(super) fn cloud_refused() -> Refusal {
    let words = "cloud models are refused: the gateway serves only models of your own server";
    Refusal::new(StatusCode::FORBIDDEN, words)
}

/// Whether both mean the same model: `x` is `x:latest`.
pub(super) fn same_model(one: &str, other: &str) -> bool {
    fn parts(model: &str) -> (&str, &str) {
        let start = model.rfind('/').map_or(0, |slash| slash + 1);
        match model[start..].rfind(':') {
            Some(colon) => (&model[..start + colon], &model[start + colon + 1..]),
            None => (model, "latest"),
        }
    }
    parts(one) == parts(other)
}

/// Rebuilds a request so that it asks for no more than the manifest allows.
pub(super) fn rebuild(endpoint: Endpoint, mut request: Object, spec: &ModelSpec) -> Object {
    let fields = match endpoint {
        Endpoint::Chat => CHAT_FIELDS,
        Endpoint::Generate => GENERATE_FIELDS,
        Endpoint::Embed => EMBED_FIELDS,
        Endpoint::Show => SHOW_FIELDS,
        Endpoint::Version | Endpoint::Tags | Endpoint::Ps => &[],
    };
    let mut rebuilt = Object::new();
    rebuilt.insert("model".into(), spec.wire_name().into());
    for field in fields {
        if let Some(value) = request.remove(*field).filter(|value| !value.is_null()) {
            rebuilt.insert((*field).into(), value);
        }
    }
    if endpoint.works() {
        force_format(&mut rebuilt);
        rebuilt.insert("options".into(), options(endpoint, &request, spec).into());
        rebuilt.insert("keep_alive".into(), keep_alive(spec).into());
        // Ollama's defaults cut the prompt and say nothing.
        rebuilt.insert("truncate".into(), false.into());
    }
    if matches!(endpoint, Endpoint::Chat | Endpoint::Generate) {
        rebuilt.insert("shift".into(), false.into());
    }
    rebuilt
}

/// Ollama enforces a schema in every mode, but `"json"` only in some, and
/// neither while the model thinks. Other words it ignores.
fn force_format(request: &mut Object) {
    match request.get("format") {
        Some(Value::String(word)) if word == "json" => {
            request.insert("format".into(), json!({ "type": "object" }));
        }
        Some(Value::Object(_)) => {}
        _ => {
            request.remove("format");
            return;
        }
    }
    request.insert("think".into(), false.into());
}

fn options(endpoint: Endpoint, request: &Object, spec: &ModelSpec) -> Object {
    let mut options = Object::new();
    options.insert("num_ctx".into(), spec.context().into());
    if endpoint == Endpoint::Embed {
        return options;
    }
    let asked = request.get("options").and_then(Value::as_object);
    for name in SAMPLING_OPTIONS {
        if let Some(value) = asked.and_then(|asked| asked.get(*name)) {
            options.insert((*name).into(), value.clone());
        }
    }
    let predict = asked.and_then(|asked| asked.get("num_predict")).and_then(Value::as_u64);
    options.insert("num_predict".into(), answer_tokens(predict, spec).into());
    options
}

/// The bound on an answer: without one a looping model runs for ten contexts.
/// Ollama's negative values mean "no bound", so they ask for the most there is.
fn answer_tokens(asked: Option<u64>, spec: &ModelSpec) -> u64 {
    let most = u64::from(spec.context() / 4).clamp(1, ANSWER_TOKENS_MAX);
    asked.map_or(most, |asked| asked.min(most))
}

/// In milliseconds, since Go knows no unit for a day.
fn keep_alive(spec: &ModelSpec) -> String {
    let period = match spec {
        ModelSpec::Ollama { keep_alive, .. } => *keep_alive,
        ModelSpec::Rehearsal { .. } => Period::seconds(0),
    };
    format!("{}ms", period.as_milliseconds())
}

/// The bound on the answer to a request that was rebuilt here, in tokens.
pub(super) fn tokens_of(request: &Object) -> u64 {
    request["options"]["num_predict"].as_u64().unwrap_or(ANSWER_TOKENS_MAX)
}

/// Keeps of a list of models only this one.
pub(super) fn only_own(mut list: Value, spec: &ModelSpec) -> Value {
    if let Some(models) = list.get_mut("models").and_then(Value::as_array_mut) {
        models.retain(|model| {
            let own = |field: &str| {
                model[field].as_str().is_some_and(|name| same_model(name, spec.wire_name()))
            };
            (own("name") || own("model")) && !is_remote(model)
        });
    }
    list
}

/// Whether Ollama says that the model, whatever its name, is served elsewhere.
pub(super) fn is_remote(model: &Value) -> bool {
    ["remote_host", "remote_model"]
        .iter()
        .any(|field| model[*field].as_str().is_some_and(|text| !text.is_empty()))
}

/// Whether Ollama says that the model can call tools; an old one says nothing of that.
pub(super) fn knows_tools(shown: &Value) -> bool {
    let capabilities = shown["capabilities"].as_array().map(Vec::as_slice).unwrap_or_default();
    capabilities.is_empty() || capabilities.iter().any(|capability| capability == "tools")
}

/// Whether a request offers tools.
pub(super) fn offers_tools(request: &Value) -> bool {
    request["tools"].as_array().is_some_and(|tools| !tools.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_tag_is_the_latest() {
        assert!(same_model("qwen3", "qwen3:latest"));
        assert!(same_model("host:80/me/qwen3", "host:80/me/qwen3:latest"));
        assert!(!same_model("qwen3:8b", "qwen3"));
        assert!(!same_model("qwen3:8b", "qwen3:14b"));
    }

    #[test]
    fn cloud_models_are_known_by_their_names() {
        assert!(is_cloud_model("gpt-oss:120b-cloud"));
        assert!(is_cloud_model("x:Cloud"));
        assert!(is_cloud_model("x-cloud:latest"));
        assert!(!is_cloud_model("cloudy:8b"));
    }
}
