//! The runtime `none`: an agent as a plain process of this machine.
//!
//! It does not isolate. What it does hold to: the link is a socket pair, which
//! nobody can open through `/proc`; the agent dies with its controller and its
//! tools with the agent; and whatever escaped both carries the instance in its
//! environment and is killed at the next start. What none of that can see is a
//! process that left session and environment behind while both ends died at
//! once: only a pid namespace closes that.

mod exec;
mod found;
mod terminal;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command as StdCommand, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio::net::UnixStream;

use super::{
    Exec, ExecPlace, ExecSpec, Exit, Runtime, RuntimeError, RuntimeInfo, Sandbox, SandboxSpec,
};
use crate::name::{GroupName, InstanceId, SandboxId};
use crate::observed::SandboxSeen;
use crate::process::{self, Process, children};
use crate::resource::{Capabilities, RuntimeRef};

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
    /// controller that is a child subreaper.
    Adopted,
    /// Only what carries the sandbox's marker.
    Marked,
}

/// What is on record of the processes of one instance: they themselves keep no list.
pub trait Records: fmt::Debug + Send + Sync {
    /// The file whose lock the agent of a group holds for life.
    fn lock(&self, group: &GroupName) -> PathBuf;

    /// The agents that were started and not seen to end.
    ///
    /// # Errors
    /// Why they cannot be told.
    fn agents(&self) -> Result<Vec<(GroupName, Process)>, String>;
}

/// The runtime `none`.
#[derive(Debug)]
pub struct ProcessRuntime {
    program: PathBuf,
    strays: Strays,
    records: Arc<dyn Records>,
}

impl ProcessRuntime {
    /// A runtime that starts `program` as the agent: this executable, but in tests.
    #[must_use]
    pub fn new(program: PathBuf, strays: Strays, records: Arc<dyn Records>) -> Self {
        Self { program, strays, records }
    }

    fn command(&self, spec: &SandboxSpec) -> StdCommand {
        let mut command = self.command_at(&spec.place());
        command
            .arg0(title(&spec.instance))
            .arg("agent")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--lock")
            .arg(self.records.lock(&spec.group))
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
        let mut child = children::start(command).await.map_err(launch)?;
        let pid = children::pid_of(&child);
        let (strays, marker) = (self.strays, spec.marker());
        let exit = async move {
            let status = child.wait().await;
            let left = sweep(pid, strays, marker).await;
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
async fn sweep(pid: Option<i32>, strays: Strays, marker: String) -> usize {
    let sweep = move || {
        if let Some(pid) = pid {
            children::ended(pid);
        }
        let adopted = match strays {
            Strays::Adopted => children::kill_adopted(),
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

impl Runtime for ProcessRuntime {
    fn reference(&self) -> RuntimeRef {
        RuntimeRef::NONE
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        let info = RuntimeInfo {
            version: String::new(),
            endpoint: "this machine".to_owned(),
            capabilities: Capabilities::PROCESS,
            user: None,
            architecture: std::env::consts::ARCH.to_owned(),
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
    ) -> BoxFuture<'_, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, RuntimeError>> {
        let (instance, records) = (instance.clone(), Arc::clone(&self.records));
        Box::pin(async move {
            let look = move || Ok(found::found(&instance, records.agents()?));
            let found = tokio::task::spawn_blocking(look).await;
            let found = found.map_err(|error| error.to_string()).flatten();
            found.map_err(RuntimeError::Failed)
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

    fn reap(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let records = Arc::clone(&self.records);
        Box::pin(blocking(move || {
            // An agent whose controller died is about to kill its own tools, some of
            // which only it can find. It is killed only if it does not.
            let known = records.agents().map_err(RuntimeError::Failed)?;
            for (_, agent) in known.into_iter().filter(|(_, agent)| is_agent_of(&instance, *agent))
            {
                if !agent.wait_gone(LAST_WORDS) {
                    process::kill_tree(agent);
                }
            }
            let left = process::kill_marked(MARKER, &format!("{instance}/"));
            gone(left, "a process of an earlier run", LAST_WORDS)
        }))
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
