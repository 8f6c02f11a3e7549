//! A command of the operator within a sandbox.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::RuntimeError;

/// A command that the operator runs within a sandbox.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// The command and its arguments; never none.
    pub argv: Vec<String>,
    /// The size of the operator's terminal as columns and rows, where there is one.
    pub terminal: Option<(u16, u16)>,
    /// What it is started with; a container knows all of it but the environment.
    pub place: Option<ExecPlace>,
}

/// What a command beside the tools of a sandbox is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecPlace {
    /// By which all of its processes are known.
    pub marker: String,
    /// Their working directory.
    pub workdir: PathBuf,
    /// Their home.
    pub home: PathBuf,
    /// User and group they run as, where that is not the controller's own.
    pub user: Option<(u32, u32)>,
    /// Their further environment.
    pub env: BTreeMap<String, String>,
}

/// A command that runs within a sandbox.
pub struct Exec {
    /// What it reads.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes; with a terminal, its screen.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What it complains; with a terminal, nothing.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Becomes ready with its exit code once it has ended and its output was read.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}
