//! What a sandbox is made with: one trait, one implementation per runtime.
//!
//! A runtime starts, lists and ends sandboxes and knows nothing of what is said
//! over their links. Launching is all or nothing, listing is complete or an
//! error, stopping and reaping are idempotent, and every call has a deadline.

pub mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::name::{GroupName, Incarnation, InstanceId};
use crate::process::Process;
use crate::resource::RuntimeKind;

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a runtime makes a sandbox from.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The installation it belongs to.
    pub instance: InstanceId,
    /// The group it serves.
    pub group: GroupName,
    /// This start of it.
    pub incarnation: Incarnation,
    /// Its working directory on the host.
    pub workdir: PathBuf,
    /// Its home on the host.
    pub home: PathBuf,
    /// The file whose lock it holds for life.
    pub lock: PathBuf,
    /// User and group it runs as, where that is not the controller's own.
    pub user: Option<(u32, u32)>,
    /// Further environment; never a secret.
    pub env: BTreeMap<String, String>,
}

/// A running sandbox. Dropping it closes the link, which ends the agent.
pub struct Sandbox {
    /// The agent's process, where the runtime has one on this machine.
    pub process: Option<Process>,
    /// The link's byte stream.
    pub link: Box<dyn Duplex>,
    /// The agent's log.
    pub log: Box<dyn AsyncRead + Send + Unpin>,
    /// Becomes ready when the sandbox is gone.
    pub exit: BoxFuture<'static, Exit>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("process", &self.process).finish_non_exhaustive()
    }
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody knows.
    Lost(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}

/// Why a runtime did not do what was asked.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The sandbox could not be started. Nothing of it is left.
    #[error("cannot start the agent: {0}")]
    Launch(String),
    /// Something did not end within its deadline.
    #[error("{what} did not end within {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The deadline.
        seconds: u64,
    },
}

/// What ends sandboxes and starts them.
pub trait Runtime: Send + Sync + fmt::Debug {
    /// Which one this is.
    fn kind(&self) -> RuntimeKind;

    /// Starts a sandbox, with its link open before the agent's first word.
    fn launch(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>>;

    /// Ends `process`, first by asking, after `grace` by force, with everything it started.
    fn stop(&self, process: Process, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Ends whatever of `instance` still runs from an earlier controller; `known` are its agents
    /// as the store remembers them. Touches nothing else.
    fn reap(
        &self,
        instance: InstanceId,
        known: Vec<Process>,
    ) -> BoxFuture<'_, Result<(), RuntimeError>>;
}
