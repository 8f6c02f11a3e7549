//! A sandbox: what it is made from, and one that runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::exec::ExecPlace;
use crate::name::{GroupName, Incarnation, InstanceId, SandboxId};
use crate::process::Process;
use crate::resource::ContainerSpec;

/// Where an agent finds its group's folder, and works.
pub const WORKDIR: &str = "/workspace/group";
/// Where an agent is at home.
pub const HOME: &str = "/home/agent";

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
    /// The generation it is started from; it is a label and nothing more.
    pub generation: u64,
    /// What it is made of.
    pub container: ContainerSpec,
    /// Folders of the host as it sees them, those at [`WORKDIR`] and [`HOME`] among them.
    pub mounts: Vec<Mount>,
    /// User and group it runs as, where that is not the controller's own.
    pub user: Option<(u32, u32)>,
    /// Further environment; never a secret.
    pub env: BTreeMap<String, String>,
}

impl SandboxSpec {
    /// By what every process of this sandbox is known, where it is one of this machine.
    #[must_use]
    pub fn marker(&self) -> String {
        format!("{}/{}/{}", self.instance, self.group, self.incarnation)
    }

    /// Where its tools run.
    #[must_use]
    pub fn place(&self) -> ExecPlace {
        ExecPlace {
            marker: self.marker(),
            workdir: self.source_of(WORKDIR),
            home: self.source_of(HOME),
            user: self.user,
            env: self.env.clone(),
        }
    }

    /// Where the folder is on the host that the agent finds there.
    fn source_of(&self, target: &str) -> PathBuf {
        let mount = self.mounts.iter().find(|mount| mount.target == target);
        mount.map(|mount| mount.source.clone()).unwrap_or_default()
    }
}

/// A folder of the host within a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host: a folder, absolute, with no link in it.
    pub source: PathBuf,
    /// Where the agent finds it.
    pub target: String,
    /// Whether it may write there.
    pub access: Access,
}

/// What an agent may do in a mounted folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// A running sandbox. Dropping it closes the link, which ends the agent.
pub struct Sandbox {
    /// As its runtime calls it.
    pub id: SandboxId,
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
        f.debug_struct("Sandbox").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed, and something of it had been killed for want of memory: itself, or a tool
    /// before.
    OutOfMemory,
    /// Nobody knows.
    Lost(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}
