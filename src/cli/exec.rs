//! `babybot exec`: a command of the operator within a group's sandbox.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::time::Duration;

use rustix::termios::{self, OptionalActions, Termios};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::join::{control_error, controller, known_group};
use crate::cli::{Context, Outcome, preview};
use crate::control::Lease;
use crate::error::{Error, Exit};
use crate::runtime::{Exec, ExecSpec, RuntimeError};

/// How long the sandbox may take to start the command.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// What is carried at once, in bytes.
const CHUNK: usize = 16 << 10;
/// Chunks of stdin that wait to be taken.
const CHUNKS_MAX: usize = 4;

/// Runs a command within a group's sandbox, as its agent's user and behind the same walls.
///
/// Starts the agent if none runs, and keeps it while the command does. At a terminal the command
/// has one too. Ends with the exit code of the command. Needs a controller (`babybot up`).
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// The group whose sandbox it is
    pub group: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Runs a command within a sandbox.
///
/// # Errors
/// When no controller runs, or the command cannot be started.
pub async fn run(args: &ExecArgs, context: &Context) -> Outcome {
    let client = controller(context).await?;
    let failed = |error| control_error("look inside", &error);
    let status = client.status().await.map_err(failed)?;
    let (group, known) = known_group(&args.group, &status)?;
    if known.sandbox.is_none() {
        context.progress(&format!("Starting the agent of {group}.\n"));
    }
    let mut interrupts = Interrupts::new()?;
    let (lease, mut guard) = tokio::select! {
        leased = client.lease(group) => leased.map_err(failed)?,
        () = interrupts.recv() => return Ok(Exit::Interrupted),
    };
    let terminal = Terminal::of_operator();
    let command = ExecSpec {
        argv: args.command.clone(),
        terminal: terminal.as_ref().map(|terminal| terminal.size),
    };
    let exec = start(&lease, command).await.map_err(|error| Error::failed("run it", &error))?;
    // From here on, every way out leads past the drop of this.
    let raw = terminal.map(Terminal::raw).transpose();
    let _raw = raw.map_err(|error| Error::failed("use this terminal", &error))?;
    tokio::select! {
        carried = carry(exec) => carried,
        () = guard.ended() => {
            Err(Error::new(Exit::Failed, "the controller ended, and the sandbox with it"))
        }
        () = interrupts.recv() => Ok(Exit::Interrupted),
    }
}

async fn start(lease: &Lease, command: ExecSpec) -> Result<Exec, RuntimeError> {
    let runtimes = preview::runtimes();
    let runtime = runtimes.get(lease.runtime)?;
    if lease.endpoint.is_some() && runtime.endpoint() != lease.endpoint {
        let place = |endpoint: Option<&str>| endpoint.unwrap_or("another place").to_owned();
        let there = place(lease.endpoint.as_deref());
        let why = format!(
            "the controller has it at {there}, and here it is at {}",
            place(runtime.endpoint().as_deref())
        );
        return Err(RuntimeError::Unavailable { runtime: lease.runtime, why });
    }
    match tokio::time::timeout(START_PATIENCE, runtime.exec(&lease.sandbox, command)).await {
        Ok(started) => started,
        Err(_) => Err(RuntimeError::Timeout {
            what: "starting the command".to_owned(),
            seconds: START_PATIENCE.as_secs(),
        }),
    }
}

/// Carries what is typed to the command and what it says back, until it ends.
async fn carry(exec: Exec) -> Outcome {
    let Exec { stdin, stdout, stderr, exit } = exec;
    let typing = tokio::spawn(carry_in(stdin));
    let saying = async {
        let said = tokio::try_join!(
            carry_out(stdout, io::stdout()),
            carry_out(stderr, io::stderr()),
            async { Ok(exit.await) },
        );
        said.map(|((), (), code)| code)
    };
    let said = saying.await;
    typing.abort();
    match said {
        Ok(Ok(code)) => Ok(Exit::Command(u8::try_from(code).unwrap_or(1))),
        Ok(Err(error)) => Err(Error::failed("see the command's end", &error)),
        // A reader that went away is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(Error::failed("carry the command's output", &error)),
    }
}

async fn carry_in(mut to: Box<dyn AsyncWrite + Send + Unpin>) {
    let (sender, mut chunks) = mpsc::channel(CHUNKS_MAX);
    // Waiting for a key holds up nothing else.
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    while let Some(chunk) = chunks.recv().await {
        if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn carry_out(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    mut to: impl Write,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            // An engine ends a stream as it likes; the exit code tells the rest.
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
        }
    }
}

/// What ends a command from outside.
struct Interrupts([tokio::signal::unix::Signal; 3]);

impl Interrupts {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|error| Error::failed("hear of signals", &error));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(listen);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn recv(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The operator's terminal.
struct Terminal {
    /// Columns and rows.
    size: (u16, u16),
    was: Termios,
}

/// A terminal that hands every key on as it is, until this is dropped.
struct Raw {
    was: Termios,
}

impl Terminal {
    /// The terminal of this process, where it reads from one and writes to one.
    fn of_operator() -> Option<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return None;
        }
        let size = termios::tcgetwinsize(io::stdout()).ok()?;
        let was = termios::tcgetattr(io::stdin()).ok()?;
        Some(Self { size: (size.ws_col, size.ws_row), was })
    }

    fn raw(self) -> io::Result<Raw> {
        let mut raw = self.was.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw { was: self.was })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.was);
    }
}
