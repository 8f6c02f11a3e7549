//! The agent: what runs inside a sandbox.
//!
//! It takes orders over the link, lets the model answer, runs its tools and
//! reports what happens. It has no network, no secret and no say in which model
//! it talks to; the host takes nothing it says on trust. When the link ends, so
//! does the agent, with everything it started.

mod answer;
mod call;
mod calls;
mod children;
mod chunk;
mod clock;
mod context;
mod desk;
mod disk;
mod error;
mod filter;
mod limits;
pub mod loopback;
mod model;
mod orders;
mod start;
mod tools;
mod transcript;
mod transcripts;
mod turn;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::link::LinkError;
use crate::link::client::{self, Link};
use crate::protocol::{FILE_MAX, Hello, PROTOCOL};
use crate::unit::ByteSize;
use children::Children;
use start::Duplex;

pub use error::AgentError;

/// How long the end may take once the link is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the host gives an agent on its command line.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The controller's pid, where it is the parent: the agent dies with it.
    pub parent: Option<i32>,
    /// The file whose lock the agent holds for life.
    pub lock: Option<PathBuf>,
    /// Whether to serve the gateway on loopback: where that is the sandbox's own.
    pub loopback: bool,
}

/// Runs an agent to its end. Must be called before any thread was started.
///
/// # Errors
/// Why it could not start, or how the link failed.
pub fn run(arguments: &Arguments) -> Result<(), AgentError> {
    let io_error = |error: std::io::Error| AgentError::Start(error.to_string());
    start::seal()?;
    // Its one thread is this one: what `prepare` gives up is a thread's to give up.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error)?;
    let outcome = runtime.block_on(async {
        // The handler before all that takes time: the signal of a dying parent must find it, and
        // the first process of a container never hears of one that came before.
        let mut terminate = signal(SignalKind::terminate()).map_err(io_error)?;
        start::die_with_parent(arguments.parent, Signal::TERM)?;
        let io = start::prepare()?;
        tokio::select! {
            outcome = work(arguments, io) => outcome,
            _ = terminate.recv() => Ok(()),
        }
    });
    crate::process::kill_descendants(&|_| false);
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

/// Becomes a command of the operator, behind the same walls as an agent's tools. Must be called
/// before any thread was started. Returns only if it cannot.
///
/// # Errors
/// Why it could not.
pub fn become_command(parent: Option<i32>, command: &[String]) -> AgentError {
    let Some((program, arguments)) = command.split_first() else {
        return AgentError::Start("there is no command".to_owned());
    };
    if let Err(error) = start::prepare_command(parent) {
        return error;
    }
    // As for the agent and its tools.
    let file_max = std::env::var(FILE_MAX).ok().and_then(|bytes| bytes.parse().ok());
    if let Some(bytes) = file_max {
        start::limit_files(ByteSize::bytes(bytes));
    }
    let mut become_it = Command::new(program);
    // Meant for this program alone.
    become_it.env_remove("GLIBC_TUNABLES").env_remove(FILE_MAX);
    let source = become_it.args(arguments).envs(clock::own()).exec();
    AgentError::Command { program: program.clone(), source }
}

/// Takes the lock and serves, while what ends in this sandbox is reaped.
async fn work(arguments: &Arguments, io: Box<dyn Duplex>) -> Result<(), AgentError> {
    let _lock = match &arguments.lock {
        Some(path) => Some(start::take_lock(path).await?),
        None => None,
    };
    let children = Children::default();
    tokio::select! {
        outcome = serve(arguments, io, children.clone()) => outcome,
        error = reap(&children) => Err(AgentError::Start(error.to_string())),
    }
}

/// Reaps what this process adopted whenever something ends; returns only if it cannot.
async fn reap(children: &Children) -> std::io::Error {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => return error,
    };
    while ended.recv().await.is_some() {
        children.reap_adopted().await;
    }
    std::io::Error::other("cannot listen for signals any more")
}

async fn serve(
    arguments: &Arguments,
    io: Box<dyn Duplex>,
    children: Children,
) -> Result<(), AgentError> {
    let (link, connection) = client::connect(io).await?;
    let mut connection = tokio::spawn(connection);
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        capabilities: Vec::new(),
    };
    let welcome = link.hello(&hello).await.map_err(|error| match error {
        LinkError::Broken(_) => AgentError::Unanswered(error),
        other => other.into(),
    })?;
    if arguments.loopback {
        // Before the first turn, whose tools may look for it.
        listen(&link).await;
    }
    let stream = link.orders().await?;
    let ended = tokio::select! {
        ended = orders::obey_orders(&link, welcome, children, stream) => ended,
        ended = &mut connection => ended.unwrap_or(Ok(())).map_err(AgentError::from),
    };
    connection.abort();
    ended
}

/// Serves the gateway on loopback for as long as the runtime runs. Where it cannot, the agent
/// itself can do without.
async fn listen(link: &Link) {
    match loopback::bind().await {
        Ok(listener) => {
            tokio::spawn(loopback::serve(listener, link.clone()));
        }
        Err(error) => {
            let address = loopback::ADDRESS;
            tracing::warn!(%error, %address, "Ollama clients in this container cannot reach the model");
        }
    }
}
