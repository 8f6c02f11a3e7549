//! The runtime `none`: an agent as a plain process of this machine.
//!
//! It does not isolate. What it does hold to: the link is a socket pair, which
//! nobody can open through `/proc`; the agent dies with its controller and its
//! tools with the agent; and whatever escaped both carries the instance in its
//! environment and is killed at the next start. What none of that can see is a
//! process that left session and environment behind while both ends died at
//! once: only a pid namespace closes that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command as StdCommand, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags, Uid};
use rustix::process::Signal;
use rustix::pty::{self, OpenptFlags};
use rustix::termios::Winsize;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{
    Exec, ExecPlace, ExecSpec, Exit, Runtime, RuntimeError, RuntimeInfo, Sandbox, SandboxSpec,
};
use crate::name::{GroupName, InstanceId, SandboxId};
use crate::observed::{Owner, SandboxSeen, SandboxState};
use crate::process::{self, Process};
use crate::resource::RuntimeKind;

/// The variable that every process of a sandbox carries: `<instance>/<group>/<incarnation>`.
pub const MARKER: &str = "BABYBOT_SANDBOX";

/// How long an agent of a dead controller may take to clean up by itself.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Memory of glibc that is freed goes back to the system, so that a large message leaves no mark.
pub(super) const MALLOC_TUNABLES: &str =
    "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

/// Who is killed when an agent ended and left processes behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strays {
    /// Every child of this process that it did not start itself: right for a
    /// controller that is a child subreaper and starts nothing but agents.
    Adopted,
    /// Only what carries the sandbox's marker.
    Marked,
}

/// The runtime `none`.
#[derive(Debug)]
pub struct ProcessRuntime {
    program: PathBuf,
    strays: Strays,
    agents: Agents,
}

impl ProcessRuntime {
    /// A runtime that starts `program` as the agent: this executable, but in tests.
    #[must_use]
    pub fn new(program: PathBuf, strays: Strays) -> Self {
        Self { program, strays, agents: Arc::default() }
    }

    fn command(&self, spec: &SandboxSpec) -> StdCommand {
        let mut command = self.command_at(&spec.place());
        command
            .arg0(title(&spec.instance))
            .arg("agent")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--lock")
            .arg(&spec.lock)
            .env("GLIBC_TUNABLES", MALLOC_TUNABLES);
        command
    }

    /// This program with a sandbox's surroundings and nothing of its own.
    fn command_at(&self, place: &ExecPlace) -> StdCommand {
        let mut command = StdCommand::new(&self.program);
        let path =
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        command
            .current_dir(&place.workdir)
            .env_clear()
            .env("PATH", path)
            .env("HOME", &place.home)
            .env("USER", "agent")
            .env("LOGNAME", "agent")
            .envs(&place.env)
            .env(MARKER, &place.marker);
        if let Some((uid, gid)) = place.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts a command of the operator as a process beside the agent's.
    async fn run(&self, spec: ExecSpec) -> Result<Exec, RuntimeError> {
        let failed =
            |error: io::Error| RuntimeError::Failed(format!("the command does not start: {error}"));
        let place = spec.place.ok_or_else(|| RuntimeError::Unsupported {
            runtime: RuntimeKind::None,
            what: "running a command without knowing the agent's folders".to_owned(),
        })?;
        let mut command = self.command_at(&place);
        command
            .arg("agent")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(&spec.argv);
        let screen = match spec.terminal {
            Some(size) => Some(Screen::attach(&mut command, size, place.user).map_err(failed)?),
            None => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
        };
        let mut child = spawn(command, Arc::clone(&self.agents)).await.map_err(failed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = pid_of(&child).and_then(Process::find);
        let (agents, strays) = (Arc::clone(&self.agents), self.strays);
        let marker = place.marker;
        let running = Running { child, process, agents, strays, marker, over: false };
        let exit = Box::pin(running.end());
        match (screen, stdin, stdout, stderr) {
            (Some(Screen { keys, shown }), ..) => Ok(Exec {
                stdin: Box::new(keys),
                stdout: Box::new(shown),
                stderr: Box::new(tokio::io::empty()),
                exit,
            }),
            (None, Some(stdin), Some(stdout), Some(stderr)) => Ok(Exec {
                stdin: Box::new(stdin),
                stdout: Box::new(stdout),
                stderr: Box::new(stderr),
                exit,
            }),
            _ => Err(RuntimeError::Failed("the command has no streams".to_owned())),
        }
    }

    async fn start(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        let launch = |error: io::Error| RuntimeError::Launch(error.to_string());
        let (ours, theirs) = StdUnixStream::pair().map_err(launch)?;
        // The log is a socket for the same reason as the link.
        let (log, their_log) = StdUnixStream::pair().map_err(launch)?;
        let theirs = OwnedFd::from(theirs);
        let mut command = self.command(&spec);
        command
            .stdin(Stdio::from(theirs.try_clone().map_err(launch)?))
            .stdout(Stdio::from(theirs))
            .stderr(Stdio::from(OwnedFd::from(their_log)));
        let mut child = spawn(command, Arc::clone(&self.agents)).await.map_err(launch)?;
        let pid = pid_of(&child);
        let (agents, strays) = (Arc::clone(&self.agents), self.strays);
        let marker = spec.marker();
        let exit = async move {
            let status = child.wait().await;
            let left = sweep(agents, pid, strays, marker).await;
            if left > 0 {
                tracing::warn!(left, "cannot kill processes of an agent that has stopped");
            }
            match status {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => {
                        Exit::Lost("it stopped: neither an exit code nor a signal".to_owned())
                    }
                },
                Err(error) => Exit::Lost(error.to_string()),
            }
        };
        // It runs whether or not somebody waits for it, so that nothing is left behind.
        let exit = tokio::spawn(exit);
        let process = pid.and_then(Process::find);
        Ok(Sandbox {
            id: identify(process.unwrap_or(Process { pid: pid.unwrap_or(0), start_time: 0 })),
            process,
            link: Box::new(asynchronous(ours).map_err(launch)?),
            log: Box::new(asynchronous(log).map_err(launch)?),
            exit: Box::pin(async move {
                exit.await.unwrap_or_else(|error| Exit::Lost(error.to_string()))
            }),
        })
    }
}

/// A command of the operator. It ends with this, and so does whatever it left behind.
struct Running {
    child: Child,
    process: Option<Process>,
    agents: Agents,
    strays: Strays,
    marker: String,
    over: bool,
}

impl Running {
    async fn end(mut self) -> Result<i32, RuntimeError> {
        let status = self.child.wait().await;
        self.over = true;
        let (agents, marker) = (Arc::clone(&self.agents), self.marker.clone());
        let pid = self.process.map(|process| process.pid);
        // Its output ends only when nobody is left who could write.
        let left = sweep(agents, pid, self.strays, marker).await;
        if left > 0 {
            tracing::warn!(left, "cannot kill processes of a command");
        }
        match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Ok(code),
                // As a shell counts.
                (None, signal) => Ok(128 + signal.unwrap_or_default()),
            },
            Err(error) => Err(RuntimeError::Failed(error.to_string())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let (Some(process), false) = (self.process, self.over) {
            process::kill_tree(process);
            process::kill_marked(MARKER, &self.marker);
        }
    }
}

/// A terminal whose other end a command has.
struct Screen {
    keys: pipe::Sender,
    shown: pipe::Receiver,
}

impl Screen {
    /// Makes a terminal of this size, as columns and rows, that is all a command reads and writes.
    fn attach(
        command: &mut StdCommand,
        (columns, rows): (u16, u16),
        user: Option<(u32, u32)>,
    ) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = pty::openpt(flags)?;
        pty::grantpt(&ours)?;
        pty::unlockpt(&ours)?;
        let name = pty::ptsname(&ours, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name, flags, Mode::empty())?;
        if let Some((uid, _)) = user {
            rustix::fs::fchown(&theirs, Some(Uid::from_raw(uid)), None)?;
        }
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&theirs, size)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        if let Some(kind) = std::env::var_os("TERM") {
            command.env("TERM", kind);
        }
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok(Self {
            keys: pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?,
            shown: pipe::Receiver::from_owned_fd_unchecked(ours)?,
        })
    }
}

/// What a process is called as a sandbox.
fn identify(process: Process) -> SandboxId {
    SandboxId::new(format!("process-{}-{}", process.pid, process.start_time))
        .expect("numbers are printable")
}

/// The process that is called so.
fn identified(id: &SandboxId) -> Option<Process> {
    let (pid, start_time) = id.as_str().strip_prefix("process-")?.split_once('-')?;
    Some(Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

/// What an agent of this instance calls itself: unlike its environment, everybody may read that.
fn title(instance: &InstanceId) -> String {
    format!("babybot:{instance}")
}

/// Whether a process is an agent of this instance. A store that was copied along with its
/// project names the agents of the original.
#[must_use]
pub fn is_agent_of(instance: &InstanceId, process: Process) -> bool {
    process.title().is_some_and(|found| found == title(instance))
}

/// Kills what an agent left behind. Returns how many could not be.
async fn sweep(agents: Agents, pid: Option<i32>, strays: Strays, marker: String) -> usize {
    let sweep = move || {
        // Held to the end, so that no agent is started meanwhile and taken for a stray.
        let mut agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = pid {
            agents.remove(&pid);
        }
        let adopted = match strays {
            Strays::Adopted => process::kill_descendants(&|child| agents.contains(&child)),
            Strays::Marked => 0,
        };
        adopted + process::kill_marked(MARKER, &marker)
    };
    tokio::task::spawn_blocking(sweep).await.unwrap_or_default()
}

fn asynchronous(stream: StdUnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn pid_of(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}

type Agents = Arc<Mutex<BTreeSet<i32>>>;
type SpawnRequest = (StdCommand, Agents, Handle, oneshot::Sender<io::Result<Child>>);

/// Spawns from the one thread that lives as long as the process: a child's
/// parent-death signal fires when the *thread* that started it ends. The child is one of
/// `agents` from its first moment.
async fn spawn(command: StdCommand, agents: Agents) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<SpawnRequest>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (command, agents, runtime, answer) in inbox {
                    let _guard = runtime.enter();
                    let mut agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
                    let child = Command::from(command).spawn();
                    agents.extend(child.as_ref().ok().and_then(pid_of));
                    drop(agents);
                    let _ = answer.send(child);
                }
            })
            .expect("a thread can be started while the process starts");
        Mutex::new(requests)
    });
    let (answer, child) = oneshot::channel();
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, agents, Handle::current(), answer))
        .map_err(|_| io::Error::other("the spawning thread ended"))?;
    child.await.map_err(|_| io::Error::other("the spawning thread ended"))?
}

impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::None
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        let info = RuntimeInfo {
            kind: RuntimeKind::None,
            version: String::new(),
            endpoint: "this machine".to_owned(),
            user: None,
            architecture: std::env::consts::ARCH.to_owned(),
            unenforced: crate::resource::CONTAINER_LIMITS.map(ToOwned::to_owned).to_vec(),
            warnings: Vec::new(),
        };
        Box::pin(async move { Ok(info) })
    }

    fn launch(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>> {
        Box::pin(self.start(spec))
    }

    fn list(
        &self,
        instance: &InstanceId,
        known: Vec<(GroupName, Process)>,
    ) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, RuntimeError>> {
        let instance = instance.clone();
        Box::pin(async move {
            let look = move || found(&instance, known);
            tokio::task::spawn_blocking(look)
                .await
                .map_err(|error| RuntimeError::Failed(error.to_string()))
        })
    }

    fn stop(&self, id: &SandboxId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let Some(process) = identified(id) else {
            let error = RuntimeError::NotFound(id.clone());
            return Box::pin(async move { Err(error) });
        };
        Box::pin(blocking(move || {
            let _ = process.signal(Signal::TERM);
            if process.wait_gone(grace) {
                return Ok(());
            }
            gone(process::kill_tree(process), "the agent", grace)
        }))
    }

    fn sweep<'a>(
        &'a self,
        instance: &'a InstanceId,
        group: &'a GroupName,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let prefix = format!("{instance}/{group}/");
        Box::pin(blocking(move || {
            gone(process::kill_marked(MARKER, &prefix), "the leftovers of an agent", LAST_WORDS)
        }))
    }

    fn exec(
        &self,
        _id: &SandboxId,
        command: ExecSpec,
    ) -> BoxFuture<'_, Result<Exec, RuntimeError>> {
        Box::pin(self.run(command))
    }

    fn reap(
        &self,
        instance: InstanceId,
        known: Vec<Process>,
    ) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(blocking(move || {
            // An agent whose controller died is about to kill its own tools, some of
            // which only it can find. It is killed only if it does not.
            for agent in known.into_iter().filter(|agent| is_agent_of(&instance, *agent)) {
                if !agent.wait_gone(LAST_WORDS) {
                    process::kill_tree(agent);
                }
            }
            let left = process::kill_marked(MARKER, &format!("{instance}/"));
            gone(left, "a process of an earlier run", LAST_WORDS)
        }))
    }
}

/// The agents of an instance that run, and what they left behind.
fn found(
    instance: &InstanceId,
    known: Vec<(GroupName, Process)>,
) -> BTreeMap<GroupName, Vec<SandboxSeen>> {
    let mut agents: BTreeMap<GroupName, BTreeSet<Process>> = BTreeMap::new();
    let mut tools: BTreeMap<GroupName, BTreeSet<Process>> = BTreeMap::new();
    // An agent hides its environment; the store remembers its process.
    for (group, agent) in known {
        if is_agent_of(instance, agent) {
            agents.entry(group).or_default().insert(agent);
        }
    }
    for (process, value) in process::find_marked(MARKER, &format!("{instance}/")) {
        let group = value.split('/').nth(1).and_then(|group| GroupName::new(group).ok());
        let Some(group) = group else { continue };
        if !agents.get(&group).is_some_and(|agents| agents.contains(&process)) {
            tools.entry(group).or_default().insert(process);
        }
    }
    let mut all: BTreeMap<GroupName, Vec<SandboxSeen>> = BTreeMap::new();
    for (group, agents) in agents {
        let tools = tools.remove(&group).unwrap_or_default();
        for agent in agents {
            let count = u32::try_from(tools.len() + 1).unwrap_or(u32::MAX);
            all.entry(group.clone()).or_default().push(seen(&group, agent, count));
        }
    }
    // Without an agent: each of them is one of those that have to go.
    for (group, tools) in tools {
        let count = u32::try_from(tools.len()).unwrap_or(u32::MAX);
        all.entry(group.clone())
            .or_default()
            .extend(tools.first().map(|process| seen(&group, *process, count)));
    }
    all
}

fn seen(group: &GroupName, process: Process, processes: u32) -> SandboxSeen {
    SandboxSeen {
        id: identify(process),
        name: format!("pid {} of {group}", process.pid),
        owner: Owner::Ours,
        state: SandboxState::Running,
        digest: None,
        edits: Vec::new(),
        processes: Some(processes),
    }
}

fn gone(left: usize, what: &str, patience: Duration) -> Result<(), RuntimeError> {
    match left {
        0 => Ok(()),
        _ => Err(RuntimeError::Timeout { what: what.to_owned(), seconds: patience.as_secs() }),
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), RuntimeError> + Send + 'static,
) -> Result<(), RuntimeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(RuntimeError::Launch(error.to_string())))
}
