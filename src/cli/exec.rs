//! `babybot exec`: a command of the operator in a group's container, or beside its process.

use std::io::{self, Read as _, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::termios::{self, OptionalActions, Termios};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::join::{busy, control_error, join, known_group, unknown_group};
use crate::cli::serve::{self, COMING_MAX, LOOK_EVERY, Own, REST_MAX};
use crate::cli::{Context, VerbResult};
use crate::control::client::Client;
use crate::control::{Lease, LeasedPlace};
use crate::error::{Error, Exit};
use crate::machine;
use crate::machine::HostContext;
use crate::machine::project_error;
use crate::project::Project;
use crate::resource::{Capabilities, ResourceId};
use crate::runtime::process::Records;
use crate::runtime::{self, Exec, ExecPlace, ExecSpec, Runtime, RuntimeError, Runtimes};

/// The exit code of a command that cannot be started, as shells and engines have it.
const NOT_STARTED: u8 = 126;
/// The exit code of a command that does not exist.
const NOT_FOUND: u8 = 127;
/// How long starting the command may take.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// What is carried at once, in bytes.
const CHUNK: usize = 16 << 10;
/// Chunks of stdin that may wait for the command.
const CHUNKS_MAX: usize = 4;

/// Runs a command in a group's container, as its agent's user and isolated like it.
///
/// Starts the agent if it is not running, and keeps it running until the command ends. At a
/// terminal the command has a terminal too. The exit code is that of the command. If no controller
/// is running, this is one until the command ends. On the runtime `none` there is no container, and
/// the command is a process beside the agent's.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// The group
    pub group: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Runs a command in a group's container.
///
/// # Errors
/// When nothing was applied, or the command cannot be started.
pub async fn run(args: &ExecArgs, context: &Context) -> VerbResult {
    let until = Instant::now() + COMING_MAX;
    let (project, client, own) = loop {
        match begin(args, context).await {
            // Somebody else is just becoming the controller, or is about to go.
            Err(error) if error.exit() == Exit::Locked && Instant::now() < until => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            begun => break begun?,
        }
    };
    let runtimes = own.as_ref().map(|own| own.runtimes.clone());
    let runtimes = runtimes.ok_or_else(|| machine::records(&project));
    let mut interrupts = Interrupts::new()?;
    let outcome = look_inside(args, &client, runtimes, &mut interrupts, context).await;
    if let Some(own) = own {
        let stopped = matches!(outcome, Ok(Exit::Interrupted));
        let patience = if stopped { Duration::ZERO } else { REST_MAX };
        own.end(patience, interrupts.recv(), context).await;
    }
    outcome
}

/// Joins the controller that runs, or becomes one with what was applied last.
async fn begin(
    args: &ExecArgs,
    context: &Context,
) -> Result<(Project, Client, Option<Own>), Error> {
    if let (project, Some(client)) = join(context).await? {
        return Ok((project, client, None));
    }
    let ground = HostContext::of_project(context.project())?;
    let Some(applied) = ground.applied().await else {
        return match ground.project.lock_holder().map_err(project_error)? {
            Some(holder) => Err(busy(&holder)),
            None => Err(Error::new(Exit::Failed, "nothing is applied yet")
                .hinted(format!("run `babybot apply{}`", context.manifest_argument()))),
        };
    };
    // A mistyped group is no reason to start anything.
    let groups = applied.specs.keys().filter_map(|id| match id {
        ResourceId::Group(name) => Some(name),
        _ => None,
    });
    if !groups.clone().any(|name| name.as_str() == args.group) {
        return Err(unknown_group(&args.group, groups));
    }
    let (lock, store, applied) = serve::open_instance("exec", &ground).await?;
    let project = ground.project.clone();
    let (client, own) = serve::serve_shortly(ground, lock, store, applied, context).await?;
    Ok((project, client, Some(own)))
}

/// Runs the command while a lease keeps the container. `runtimes` are those of a controller in this
/// process, or what is on record for one that is opened here.
async fn look_inside(
    args: &ExecArgs,
    client: &Client,
    runtimes: Result<Runtimes, Arc<dyn Records>>,
    interrupts: &mut Interrupts,
    context: &Context,
) -> VerbResult {
    let failed = |error| control_error("run the command", &error);
    let status = client.status().await.map_err(failed)?;
    let (group, known) = known_group(&args.group, &status)?;
    if known.sandbox.is_none() {
        context.progress(&format!("Starting the agent of {group}.\n"));
    }
    let (lease, mut guard) = tokio::select! {
        leased = client.lease(group) => leased.map_err(failed)?,
        () = interrupts.recv() => return Ok(Exit::Interrupted),
    };
    let terminal = Terminal::of(io::stdin(), io::stdout());
    let command = ExecSpec {
        argv: args.command.clone(),
        terminal: terminal.as_ref().map(|terminal| terminal.size),
        place: Some(place_of(&lease)),
    };
    let failed = |error: RuntimeError| Error::failed("run the command", &error);
    let runtime = runtime_of(&lease, runtimes).map_err(failed)?;
    let exec = start(&*runtime, &lease, command).await.map_err(failed)?;
    // From here on, every way out leads past the drop of this.
    let raw = terminal.map(Terminal::raw).transpose();
    let raw = raw.map_err(|error| Error::failed("use this terminal", &error))?;
    let outcome = tokio::select! {
        carried = carry(exec, keys(), io::stdout(), io::stderr()) => carried,
        () = guard.ended() => {
            Err(Error::new(Exit::Failed, "the controller ended, and the command with it"))
        }
        () = interrupts.recv() => Ok(Exit::Interrupted),
    };
    // A raw terminal would begin the next line below the end of this one.
    drop(raw);
    if Capabilities::expected(lease.runtime.kind).images
        && matches!(outcome, Ok(Exit::Command(NOT_STARTED | NOT_FOUND)))
    {
        context.note(
            "note: the image may lack this command: one built on `scratch` has babybot and no shell\n",
        );
    }
    outcome
}

fn place_of(lease: &Lease) -> ExecPlace {
    let LeasedPlace { marker, workdir, home, user, env } = lease.place.clone();
    ExecPlace { marker, workdir, home, user, env }
}

/// The runtime of the group's agent: the controller's own, if the controller is in this process.
fn runtime_of(
    lease: &Lease,
    runtimes: Result<Runtimes, Arc<dyn Records>>,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let records = match runtimes {
        Ok(own) => return own.get(&lease.runtime),
        Err(records) => records,
    };
    let failed =
        |error: Errno| RuntimeError::Failed(format!("cannot protect this process: {error}"));
    // No process of the agent can read this one, and this process adopts whatever the command
    // leaves behind.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(failed)?;
    runtime::open(&lease.runtime, "the engine of the controller", &records)
}

async fn start(
    runtime: &dyn Runtime,
    lease: &Lease,
    command: ExecSpec,
) -> Result<Exec, RuntimeError> {
    match tokio::time::timeout(START_PATIENCE, runtime.exec(&lease.sandbox, command)).await {
        Ok(started) => started,
        Err(_) => Err(RuntimeError::Timeout {
            what: "starting the command".to_owned(),
            seconds: START_PATIENCE.as_secs(),
        }),
    }
}

/// What is typed, chunk by chunk. It is read in a thread of its own, so that nothing else waits for a
/// key.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    chunks
}

/// Carries input to the command and its output back, until the command ends.
async fn carry(
    exec: Exec,
    keys: mpsc::Receiver<Vec<u8>>,
    out: impl Write,
    complaints: impl Write,
) -> VerbResult {
    let Exec { stdin, stdout, stderr, exit } = exec;
    let typing = tokio::spawn(carry_in(keys, stdin));
    let said =
        tokio::try_join!(pump(stdout, out), pump(stderr, complaints), async { Ok(exit.await) },);
    typing.abort();
    match said {
        Ok(((), (), Ok(code))) => Ok(Exit::Command(u8::try_from(code).unwrap_or(1))),
        Ok(((), (), Err(error))) => Err(Error::failed("wait for the command", &error)),
        // A reader that went away is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(Error::failed("write the command's output", &error)),
    }
}

async fn carry_in(mut keys: mpsc::Receiver<Vec<u8>>, mut to: Box<dyn AsyncWrite + Send + Unpin>) {
    while let Some(chunk) = keys.recv().await {
        if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn pump(mut from: Box<dyn AsyncRead + Send + Unpin>, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            // Engines end a stream with or without an error; the exit code says how the command ended.
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
        }
    }
}

/// The signals that end a command from outside.
struct Interrupts([tokio::signal::unix::Signal; 3]);

impl Interrupts {
    fn new() -> Result<Self, Error> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::failed("listen for signals", &error));
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

/// A terminal in its original mode.
struct Terminal<Input: AsFd> {
    input: Input,
    /// Columns and rows.
    size: (u16, u16),
    was: Termios,
}

/// A terminal in raw mode, until this is dropped.
struct Raw<Input: AsFd> {
    input: Input,
    was: Termios,
}

impl<Input: AsFd> Terminal<Input> {
    /// The terminal that is read from and written to, where both are one.
    fn of(input: Input, output: impl AsFd) -> Option<Self> {
        let size = termios::tcgetwinsize(output).ok()?;
        let was = termios::tcgetattr(&input).ok()?;
        Some(Self { input, size: (size.ws_col, size.ws_row), was })
    }

    fn raw(self) -> io::Result<Raw<Input>> {
        let mut raw = self.was.clone();
        raw.make_raw();
        termios::tcsetattr(&self.input, OptionalActions::Now, &raw)?;
        Ok(Raw { input: self.input, was: self.was })
    }
}

impl<Input: AsFd> Drop for Raw<Input> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.input, OptionalActions::Now, &self.was);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// `cat`, until its input ends; then it complains and fails.
    fn cat() -> Exec {
        let (stdin, mut typed) = tokio::io::duplex(64);
        let (stdout, mut out) = tokio::io::duplex(64);
        let (stderr, mut complaints) = tokio::io::duplex(64);
        let work = tokio::spawn(async move {
            tokio::io::copy(&mut typed, &mut out).await.unwrap();
            complaints.write_all(b"no more\n").await.unwrap();
            42
        });
        let (stdin, stdout, stderr) = (Box::new(stdin), Box::new(stdout), Box::new(stderr));
        Exec { stdin, stdout, stderr, exit: Box::pin(async { Ok(work.await.unwrap()) }) }
    }

    #[tokio::test]
    async fn a_command_is_given_what_is_typed_and_ends_as_it_ends() {
        let (sender, keys) = mpsc::channel(1);
        let typed = vec![b'x'; 1000];
        let typing = async {
            for _ in 0..100 {
                sender.send(typed.clone()).await.unwrap();
            }
            drop(sender);
        };
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let (ended, ()) = tokio::join!(carry(cat(), keys, &mut out, &mut complaints), typing);
        assert_eq!(ended.unwrap(), Exit::Command(42));
        assert_eq!((out.len(), complaints.as_slice()), (100_000, &b"no more\n"[..]));
    }

    #[tokio::test]
    async fn a_command_that_ends_by_itself_waits_for_no_key() {
        let (_sender, keys) = mpsc::channel(1);
        let exit = Box::pin(async { Ok(300) });
        let ended = Exec {
            stdin: Box::new(tokio::io::duplex(1).0),
            stdout: Box::new(tokio::io::empty()),
            stderr: Box::new(tokio::io::empty()),
            exit,
        };
        let ended = carry(ended, keys, Vec::new(), Vec::new()).await.unwrap();
        assert_eq!(ended.code(), 1, "a code that is none is a failure");
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_it() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, keys) = mpsc::channel(1);
        sender.send(b"hello".to_vec()).await.unwrap();
        assert_eq!(carry(cat(), keys, Gone, Vec::new()).await.unwrap(), Exit::Ok);
    }

    #[test]
    fn a_terminal_is_given_back_as_it_was() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let echoes = || termios::tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO);
        assert!(echoes());
        let raw = Terminal::of(&slave, &slave).unwrap().raw().unwrap();
        assert!(!echoes());
        drop(raw);
        assert!(echoes());
        assert!(Terminal::of(std::fs::File::open("/dev/null").unwrap(), &slave).is_none());
    }
}
