//! The first steps of an agent. It takes them while it has one thread, before anything else.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::fs::{FileType, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::error::AgentError;
use super::filter::{self, NamedPipes};
use crate::file;
use crate::unit::ByteSize;

/// How long an earlier agent of the group may take to let go of the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often the lock is tried meanwhile: the kernel tells nobody.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Open files of the agent and of each of its tools.
const OPEN_FILES_MAX: u64 = 4096;

/// The folder of a container that all groups read, and the main group alone writes.
const SHARED: &str = "/workspace/global";

/// The link as bytes, of whatever kind its descriptors are.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The very first steps: tools cannot reach into this process, and it has nothing it does not need.
pub(super) fn seal() -> Result<(), AgentError> {
    // First of all: a tool of the same user must not write through /proc into the link.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("not dumpable"))?;
    close_inherited()
}

/// Makes this process the one that its tools are left to, and takes the link off stdin and stdout.
/// Needs a running runtime that has started no thread.
pub(super) fn prepare() -> Result<Box<dyn Duplex>, AgentError> {
    own_session()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(failed("child subreaper"))?;
    drop_privileges()?;
    filter::apply(named_pipes())?;
    limit_resources();
    take_stdio()
}

/// Takes the steps that an agent takes before its tools run, in a process that becomes a command of
/// the operator. What it reads and writes stays what it was given.
pub(super) fn prepare_command(parent: Option<i32>) -> Result<(), AgentError> {
    seal()?;
    // Nobody is asked to go who may not want to: a shell heeds nothing less.
    die_with_parent(parent, Signal::KILL)?;
    own_session()?;
    let stdin = std::io::stdin();
    if rustix::termios::isatty(&stdin) {
        rustix::process::ioctl_tiocsctty(&stdin).map_err(failed("the terminal"))?;
    }
    drop_privileges()?;
    filter::apply(named_pipes())?;
    limit_resources();
    Ok(())
}

/// An agent that may write where others may only read makes none: the main group's, in a container.
fn named_pipes() -> NamedPipes {
    let found = rustix::fs::statvfs(SHARED);
    match found.is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        true => NamedPipes::Refused,
        false => NamedPipes::Allowed,
    }
}

fn own_session() -> Result<(), AgentError> {
    match rustix::process::setsid() {
        // A process group leader has a session of its own already.
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(failed("setsid")(error)),
    }
}

/// Whether this process is the first of its sandbox: then what it sees of control groups is the
/// sandbox's own.
pub(super) fn is_first() -> bool {
    rustix::process::getpid() == Pid::INIT
}

fn failed(what: &'static str) -> impl Fn(Errno) -> AgentError {
    move |error| AgentError::Start(format!("{what}: {error}"))
}

/// Asks for a signal when the parent dies, and makes sure that it has not died already.
pub(super) fn die_with_parent(parent: Option<i32>, signal: Signal) -> Result<(), AgentError> {
    let Some(parent) = parent else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(signal))
        .map_err(|error| AgentError::Start(format!("parent-death signal: {error}")))?;
    if rustix::process::getppid().map(Pid::as_raw_pid) == Some(parent) {
        Ok(())
    } else {
        Err(AgentError::Start("the controller is not running any more".to_owned()))
    }
}

/// Closes every descriptor but stdin, stdout and stderr.
fn close_inherited() -> Result<(), AgentError> {
    let listed = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| AgentError::Start(format!("/proc/self/fd: {error}")))?;
    // Collected first, so that the listing's own descriptor is closed before its number is.
    let open: Vec<i32> =
        listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // Nothing in this process owns any of them yet. One that is closed already is no error.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Gives up for good what a tool could use against agent and controller, root's powers included.
fn drop_privileges() -> Result<(), AgentError> {
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| AgentError::Start(format!("no new privileges: {error}")))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // Without CAP_SYS_PTRACE not even root may look into a process that is not dumpable.
    for capability in CapabilitySet::all() {
        // In a container most or all are gone already, and with them the right to drop any.
        if !rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(true) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // EINVAL: this kernel does not know it.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => tracing::warn!(%error, ?capability, "cannot give up a capability"),
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
        .map_err(|error| AgentError::Start(format!("capabilities: {error}")))
}

fn limit_resources() {
    lower(Resource::Core, 0);
    lower(Resource::Nofile, OPEN_FILES_MAX);
    // An agent that writes more than a file may hold is told so rather than killed. Tools inherit
    // it; a shell that clears it ends what wrote too much, and says so.
    let too_large = SigSet::from(nix::sys::signal::Signal::SIGXFSZ);
    if let Err(error) = too_large.thread_block() {
        tracing::warn!(%error, "writing too large a file may end the agent");
    }
}

/// Bounds what one file of the agent and of its tools may hold. None of them can undo it.
pub(super) fn limit_files(limit: ByteSize) {
    lower(Resource::Fsize, limit.as_bytes());
}

/// Lowers a limit to this, for good.
fn lower(resource: Resource, most: u64) {
    let present = rustix::process::getrlimit(resource);
    let most = present.maximum.map_or(most, |maximum| maximum.min(most));
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    if let Err(error) = rustix::process::setrlimit(resource, limit) {
        tracing::warn!(%error, ?resource, "cannot set a limit");
    }
}

/// Moves the link to descriptors that tools do not inherit, and points stdin at nothing and
/// stdout at the log.
fn take_stdio() -> Result<Box<dyn Duplex>, AgentError> {
    let failed = |error: io::Error| AgentError::Start(format!("the link on stdin: {error}"));
    let link = link_of(std::io::stdin().as_fd(), std::io::stdout().as_fd()).map_err(failed)?;
    let link = link.ok_or_else(|| {
        let words = "stdin and stdout are not a link; a controller starts `babybot agent`, do not run it by hand";
        AgentError::Start(words.to_owned())
    })?;
    let nothing = File::open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(|error| failed(error.into()))?;
    rustix::stdio::dup2_stdout(std::io::stderr()).map_err(|error| failed(error.into()))?;
    Ok(link)
}

/// The two as one stream of bytes: one socket, as a plain process has, or two pipes, as a container
/// has. `None`: a terminal, a file or anything else that nobody speaks a link over.
fn link_of(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<Option<Box<dyn Duplex>>> {
    match (kind_of(input)?, kind_of(output)?) {
        (FileType::Socket, FileType::Socket) => {
            let socket = StdUnixStream::from(input.try_clone_to_owned()?);
            socket.set_nonblocking(true)?;
            Ok(Some(Box::new(UnixStream::from_std(socket)?)))
        }
        (FileType::Fifo, FileType::Fifo) => {
            // Each is checked for its direction and made non-blocking.
            let input = pipe::Receiver::from_owned_fd(input.try_clone_to_owned()?)?;
            let output = pipe::Sender::from_owned_fd(output.try_clone_to_owned()?)?;
            Ok(Some(Box::new(tokio::io::join(input, output))))
        }
        _ => Ok(None),
    }
}

fn kind_of(descriptor: BorrowedFd<'_>) -> io::Result<FileType> {
    let mode = rustix::fs::fstat(descriptor)?.st_mode;
    Ok(FileType::from_raw_mode(mode))
}

/// Takes the lock that this process holds until its end.
pub(super) async fn take_lock(path: &Path) -> Result<File, AgentError> {
    let failed = |error: io::Error| AgentError::Start(format!("{}: {error}", path.display()));
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let lock = file::open_with(path, &mut options).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(TryLockError::WouldBlock) => return Err(AgentError::Occupied),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}
