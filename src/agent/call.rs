//! One tool call, however it was written.

use serde_json::Value;

/// A tool call as the model wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    /// The model's or a made-up identifier, unique within the reply.
    pub(super) id: String,
    /// The tool.
    pub(super) tool: String,
    /// Its arguments; an object, or whatever else the model wrote.
    pub(super) arguments: Value,
}
