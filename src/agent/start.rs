//! The first steps of an agent, taken single-threaded before anything else.

use std::fs::{File, TryLockError};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{AgentError, Arguments};

/// How long an earlier agent of the group may take to let go of the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often the lock is tried meanwhile: the kernel tells nobody.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Open files of the agent and of each of its tools.
const OPEN_FILES_MAX: u64 = 4096;

/// What the first steps leave: the link's descriptor and the group's lock.
#[derive(Debug)]
pub(super) struct Prepared {
    link: OwnedFd,
    /// Held until the process ends.
    _lock: Option<File>,
}

impl Prepared {
    /// The link as a byte stream. Needs a running runtime.
    pub(super) fn stream(&self) -> std::io::Result<tokio::net::UnixStream> {
        let stream = StdUnixStream::from(self.link.try_clone()?);
        stream.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(stream)
    }
}

/// Makes this process one that its tools cannot reach into, and takes the link off stdin and stdout.
pub(super) fn prepare(arguments: &Arguments) -> Result<Prepared, AgentError> {
    let failed =
        |what: &'static str| move |error: Errno| AgentError::Start(format!("{what}: {error}"));
    // First of all: a tool of the same user must not write through /proc into the link.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("not dumpable"))?;
    close_inherited()?;
    match rustix::process::setsid() {
        // A process group leader has a session of its own already.
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => return Err(failed("setsid")(error)),
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(failed("child subreaper"))?;
    drop_privileges()?;
    limit_resources();
    let link = take_stdio()?;
    let lock = arguments.lock.as_deref().map(take_lock).transpose()?;
    Ok(Prepared { link, _lock: lock })
}

/// Asks for SIGTERM when the parent dies, and makes sure that it has not died already.
pub(super) fn die_with_parent(parent: Option<i32>) -> Result<(), AgentError> {
    let Some(parent) = parent else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| AgentError::Start(format!("parent-death signal: {error}")))?;
    if rustix::process::getppid().map(Pid::as_raw_pid) == Some(parent) {
        Ok(())
    } else {
        Err(AgentError::Start("the controller died".to_owned()))
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
    for (resource, most) in [(Resource::Core, 0), (Resource::Nofile, OPEN_FILES_MAX)] {
        let present = rustix::process::getrlimit(resource);
        let most = present.maximum.map_or(most, |maximum| maximum.min(most));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            tracing::warn!(%error, ?resource, "cannot set a limit");
        }
    }
}

/// Moves the link to a descriptor that tools do not inherit, and points stdin at nothing and
/// stdout at the log.
fn take_stdio() -> Result<OwnedFd, AgentError> {
    let failed = |error: std::io::Error| AgentError::Start(format!("the link on stdin: {error}"));
    let link = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    if !rustix::fs::fstat(&link).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket
    }) {
        return Err(AgentError::Start(
            "stdin is not a link: `babybot agent` is started by a controller, not by hand".into(),
        ));
    }
    let nothing = File::open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(|error| failed(error.into()))?;
    rustix::stdio::dup2_stdout(std::io::stderr()).map_err(|error| failed(error.into()))?;
    Ok(link)
}

fn take_lock(path: &Path) -> Result<File, AgentError> {
    let failed = |error: std::io::Error| AgentError::Start(format!("{}: {error}", path.display()));
    let lock =
        File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => return Err(AgentError::Occupied),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}
