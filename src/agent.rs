//! The agent: what runs inside a sandbox.
//!
//! It takes orders over the link, lets the model answer, runs its tools and
//! reports what happens. It has no network, no secret and no say in which model
//! it talks to; the host takes nothing it says on trust. When the link ends, so
//! does the agent, with everything it started.

mod answer;
mod calls;
mod children;
mod chunk;
mod clock;
mod context;
mod disk;
mod filter;
mod limits;
pub mod loopback;
mod model;
mod start;
mod tools;
mod transcript;
mod turn;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::Signal;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::link::LinkError;
use crate::link::client::{self, Link};
use crate::name::TurnId;
use crate::protocol::{Event, Failure, Hello, Order, PROTOCOL, TurnOrder, Welcome};
use children::Children;
use disk::Disk;
use limits::Limits;
use start::Duplex;
use tools::{Folders, Tools};
use transcript::Transcript;
use turn::{Steering, Turn};

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

/// Why an agent ended otherwise than by order.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The sandbox is not what the agent needs.
    #[error("cannot start: {0}")]
    Start(String),
    /// Another agent of the same group still runs.
    #[error("another agent of this group is still running")]
    Occupied,
    /// Nobody is at the other end of what looked like a link.
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
    let mut become_it = Command::new(program);
    // Meant for this program alone.
    become_it.env_remove("GLIBC_TUNABLES");
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
    let orders = link.orders().await?;
    let ended = tokio::select! {
        ended = obey_orders(&link, welcome, children, orders) => ended,
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

/// What an agent answers turns with: what it was told about itself last, and what follows from it.
struct Desk<'a> {
    link: &'a Link,
    welcome: Welcome,
    folders: Folders,
    children: Children,
    tools: Tools,
    transcript: Transcript,
    limits: Limits,
    disk: Disk,
}

impl<'a> Desk<'a> {
    fn new(link: &'a Link, welcome: Welcome, children: Children) -> Result<Self, AgentError> {
        start::limit_files(welcome.disk.limit);
        let disk = Disk::new(&welcome.disk);
        let folders = Folders::find().map_err(|error| AgentError::Start(error.to_string()))?;
        let tools = Tools::new(&folders, &welcome, &children);
        let transcript = Transcript::open(&folders.home)
            .map_err(|error| AgentError::Start(format!("the transcript: {error}")))?;
        let limits = if start::is_first() { Limits::of_sandbox() } else { Limits::none() };
        Ok(Self { link, welcome, folders, children, tools, transcript, limits, disk })
    }

    /// Goes on under another welcome.
    fn adopt_welcome(&mut self, welcome: Welcome) {
        start::limit_files(welcome.disk.limit);
        self.disk = Disk::new(&welcome.disk);
        self.tools = Tools::new(&self.folders, &welcome, &self.children);
        self.welcome = welcome;
    }

    /// Runs one turn and reports its end.
    async fn answer(
        &mut self,
        order: &TurnOrder,
        (steering, cancel): (Steering, CancellationToken),
    ) -> Result<(), AgentError> {
        let Self { link, welcome, folders, tools, transcript, limits, disk, .. } = self;
        let (limits, workdir) = ((&*limits, &*disk), &*folders.workdir);
        let mut turn =
            Turn { link, welcome, workdir, tools, transcript, limits, order, steering, cancel };
        match turn.run().await {
            Ok(()) => Ok(()),
            Err(turn::TurnError::Link(error)) => Err(error.into()),
            Err(turn::TurnError::Failed { reason, message }) => {
                turn.transcript.end(&order.turn, transcript::Ending::from(reason));
                let failed = Event::Failed { reason, message };
                link.report(&order.turn, &[failed]).await?;
                Ok(())
            }
        }
    }
}

/// Does what is ordered until the orders end.
async fn obey_orders(
    link: &Link,
    welcome: Welcome,
    children: Children,
    orders: impl futures_util::Stream<Item = Result<Order, LinkError>> + Send,
) -> Result<(), AgentError> {
    let mut desk = Desk::new(link, welcome, children)?;
    let mut orders = std::pin::pin!(orders);
    let mut later = Later::default();
    loop {
        if later.next.is_none() {
            if later.drain {
                return Ok(());
            }
            match orders.next().await {
                Some(order) => later.take(order?, None),
                None => return Ok(()),
            }
        }
        let Some(PendingTurn { order, handle, welcome }) = later.next.take() else { continue };
        if let Some(welcome) = welcome {
            desk.adopt_welcome(*welcome);
        }
        let mut work = std::pin::pin!(desk.answer(&order, handle.parts()));
        loop {
            tokio::select! {
                outcome = &mut work => break outcome?,
                order = orders.next() => match order {
                    Some(order) => later.take(order?, Some(&handle)),
                    // The host is gone: nobody is left to report to.
                    None => return Ok(()),
                },
            }
        }
    }
}

/// What was ordered and is not done yet.
#[derive(Default)]
struct Later {
    /// The next turn. The host may order it as soon as it knows of the end of the turn before,
    /// which is before that end is through here.
    next: Option<PendingTurn>,
    /// What the turns after that are answered under.
    welcome: Option<Box<Welcome>>,
    drain: bool,
}

/// A turn that was not begun yet.
struct PendingTurn {
    order: TurnOrder,
    handle: Handle,
    /// What the agent was told about itself since the turn before was ordered.
    welcome: Option<Box<Welcome>>,
}

impl Later {
    /// Takes an order; `present` is the turn under way.
    fn take(&mut self, order: Order, present: Option<&Handle>) {
        let next = self.next.as_ref().map(|next| &next.handle);
        let meant = |turn: &TurnId| [present, next].into_iter().flatten().find(|h| h.turn == *turn);
        match order {
            Order::Turn(order) => {
                let handle = Handle::new(&order.turn);
                self.next = Some(PendingTurn { order, handle, welcome: self.welcome.take() });
            }
            Order::Steer { turn, prompt } => match meant(&turn) {
                Some(handle) => handle.steering.push(prompt),
                // It is for a turn that ended meanwhile; the host knows.
                None => tracing::debug!(%turn, "a message arrived after its turn had finished"),
            },
            Order::Cancel { turn } => match meant(&turn) {
                Some(handle) => handle.cancel.cancel(),
                None => {
                    tracing::debug!(%turn, "a cancellation arrived after its turn had finished")
                }
            },
            Order::Settle(welcome) => self.welcome = Some(welcome),
            Order::Drain => self.drain = true,
        }
    }
}

/// The side of a turn under way that orders reach.
struct Handle {
    turn: TurnId,
    steering: Steering,
    cancel: CancellationToken,
}

impl Handle {
    fn new(turn: &TurnId) -> Self {
        Self { turn: turn.clone(), steering: Steering::default(), cancel: CancellationToken::new() }
    }

    fn parts(&self) -> (Steering, CancellationToken) {
        (self.steering.clone(), self.cancel.clone())
    }
}

impl From<Failure> for transcript::Ending {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}
