//! A tool as a model is told of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Name, purpose and parameters of a tool. Flat, for weak models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// The name that a call says. Long and unlike prose: servers look for it in text.
    pub name: String,
    /// What the tool does, in a sentence.
    pub description: String,
    /// What a call may say, in the order in which the model is told.
    pub parameters: Vec<ToolParameter>,
}

/// A tool of the host. A call of it is a request: the command, with the call's arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTool {
    /// What the model is told.
    pub spec: ToolSpec,
    /// The command that the request names.
    pub command: String,
}

/// One parameter of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolParameter {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ParameterKind,
    /// What it means, in a few words.
    pub description: String,
    /// Whether a call must say it.
    pub required: bool,
}

/// The type of a parameter, by its name in JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Text.
    String,
    /// A whole number.
    Integer,
}

impl ToolSpec {
    /// A tool without parameters.
    #[must_use]
    pub fn new(name: &str, description: &str) -> Self {
        Self { name: name.to_owned(), description: description.to_owned(), parameters: Vec::new() }
    }

    /// The same tool with a parameter more, which a call must say.
    #[must_use]
    pub fn required(self, name: &str, kind: ParameterKind, description: &str) -> Self {
        self.with(name, kind, description, true)
    }

    /// The same tool with a parameter more, which a call may leave out.
    #[must_use]
    pub fn optional(self, name: &str, kind: ParameterKind, description: &str) -> Self {
        self.with(name, kind, description, false)
    }

    fn with(mut self, name: &str, kind: ParameterKind, about: &str, required: bool) -> Self {
        let (name, description) = (name.to_owned(), about.to_owned());
        self.parameters.push(ToolParameter { name, kind, description, required });
        self
    }

    /// The tool as Ollama wants it described. The same bytes every time.
    #[must_use]
    pub fn schema(&self) -> Value {
        let properties: Map<String, Value> = self
            .parameters
            .iter()
            .map(|of| (of.name.clone(), json!({"type": of.kind, "description": of.description})))
            .collect();
        let required = self.parameters.iter().filter(|of| of.required).map(|of| &of.name);
        let required: Vec<&String> = required.collect();
        json!({"type": "function", "function": {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "required": required, "properties": properties},
        }})
    }

    /// What the tool takes, for a model whose call does not fit.
    #[must_use]
    pub fn usage(&self) -> String {
        let parameters = self.parameters.iter().map(|of| {
            let kind = match of.kind {
                ParameterKind::String => "string",
                ParameterKind::Integer => "integer",
            };
            format!("{} ({kind}{})", of.name, if of.required { "" } else { ", optional" })
        });
        format!("it takes {}", parameters.collect::<Vec<_>>().join(", "))
    }
}
