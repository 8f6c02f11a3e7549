//! Why an agent ended otherwise than by order.

use std::io;

use thiserror::Error;

use crate::link::LinkError;

/// Why an agent ended otherwise than by order.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The sandbox is not what the agent needs.
    #[error("cannot start: {0}")]
    Start(String),
    /// Another agent of the same group still runs.
    #[error("another agent of this group is still running")]
    Occupied,
    /// No host answers on the descriptors that looked like a link.
    #[error("no controller answers; a controller starts `babybot agent`, do not run it by hand")]
    Unanswered(#[source] LinkError),
    /// A command of the operator cannot be run.
    #[error("cannot run {program}: {source}")]
    Command {
        /// The command.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}
