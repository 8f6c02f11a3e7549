//! A command of the operator, as a process beside the agent's.

use std::io;
use std::process::Stdio;

use std::os::unix::process::ExitStatusExt as _;

use tokio::process::Child;

use super::terminal::Screen;
use super::{MARKER, ProcessRuntime, Strays, sweep};
use crate::process::{self, Process, children};
use crate::resource::RuntimeKind;
use crate::runtime::{Exec, ExecSpec, RuntimeError};

impl ProcessRuntime {
    /// Starts a command of the operator as a process beside the agent's.
    pub(super) async fn run(&self, spec: ExecSpec) -> Result<Exec, RuntimeError> {
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
        let mut child = children::start(command).await.map_err(failed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = children::pid_of(&child).and_then(Process::find);
        let (strays, marker) = (self.strays, place.marker);
        let running = Running { child, process, strays, marker, over: false };
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
}

/// A command of the operator. It ends with this, and so does whatever it left behind.
struct Running {
    child: Child,
    process: Option<Process>,
    strays: Strays,
    marker: String,
    over: bool,
}

impl Running {
    async fn end(mut self) -> Result<i32, RuntimeError> {
        let status = self.child.wait().await;
        self.over = true;
        let marker = self.marker.clone();
        let pid = self.process.map(|process| process.pid);
        // Its output ends only when nobody is left who could write.
        let left = sweep(pid, self.strays, marker).await;
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
