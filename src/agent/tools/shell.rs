//! `bb_shell`: a command line, its output, and nothing of it left afterwards.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::super::children::{Children, pid_of};
use super::capture::Capture;
use super::{Bounds, CallOutcome, CallPlace, ShellArguments, Workbench};

/// How long a command may take where the model does not say.
const SECONDS_DEFAULT: u64 = 120;
/// How long a command may take at all.
const SECONDS_MAX: u64 = 1_800;
/// How long output may still arrive once nothing is left that could write it.
const DRAIN: Duration = Duration::from_secs(2);

/// How much the kernel prefers a tool where it has to kill something: as much as there is.
const VICTIM: &str = "1000";

/// Why the waiting ended.
enum End {
    Exited(io::Result<ExitStatus>),
    TimedOut,
    Full,
    Cancelled,
}

impl Workbench {
    pub(super) async fn shell(
        &self,
        arguments: ShellArguments,
        place: CallPlace<'_>,
        Bounds { disk, room, cancel }: Bounds<'_>,
    ) -> CallOutcome {
        let seconds = arguments.timeout_seconds.unwrap_or(SECONDS_DEFAULT).clamp(1, SECONDS_MAX);
        let (mut child, mut output) = match self.start(&arguments.command).await {
            Ok(started) => started,
            Err(error) => {
                return CallOutcome::Result(format!("error: cannot run a shell: {error}"));
            }
        };
        let pid = pid_of(&child);
        let spill = format!(".bb/out/{}-{}-{}.txt", place.turn, place.round, place.index);
        let mut capture = Capture::new(self.result_max, self.output_max, self.home.join(spill));
        let end = {
            let timeout = tokio::time::sleep(Duration::from_secs(seconds));
            let mut timeout = std::pin::pin!(timeout);
            let mut full = std::pin::pin!(disk.filled_by_call(room));
            let mut open = true;
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break End::Cancelled,
                    () = &mut timeout => break End::TimedOut,
                    () = &mut full => break End::Full,
                    status = child.wait() => break End::Exited(status),
                    more = output.read_into(&mut capture), if open => open = more,
                }
            }
        };
        end_all(&self.children, &mut child, pid).await;
        // Whoever could write is gone, so the end of the output is there or on its way.
        let _ =
            tokio::time::timeout(DRAIN, async { while output.read_into(&mut capture).await {} })
                .await;
        let text = capture.finish();
        match end {
            End::Cancelled => CallOutcome::Cancelled,
            End::TimedOut => CallOutcome::Result(format!("{text}\n[stopped after {seconds} s]")),
            End::Full => CallOutcome::Result(format!("{text}\n[stopped: the folders are full]")),
            End::Exited(Ok(status)) if status.success() => CallOutcome::Result(text),
            End::Exited(Ok(status)) => CallOutcome::Result(format!("{text}\n[{status}]")),
            End::Exited(Err(error)) => {
                CallOutcome::Result(format!("{text}\n[cannot wait: {error}]"))
            }
        }
    }

    async fn start(&self, command: &str) -> io::Result<(Child, Output)> {
        // One pipe for both, so that their order is kept.
        let (reader, writer) = io::pipe()?;
        let shell = self.shell.as_deref().unwrap_or(Path::new("/bin/sh"));
        let mut line = Command::new(shell);
        line.arg("-c")
            .arg(command)
            .current_dir(&self.workdir)
            .env_remove("GLIBC_TUNABLES")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let child = self.children.start(&mut line).await?;
        prefer_as_victim(&child);
        let pipe = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((child, Output { pipe, buffer: vec![0; 16 << 10] }))
    }
}

/// What a command writes, and room for a part of it.
struct Output {
    pipe: pipe::Receiver,
    buffer: Vec<u8>,
}

impl Output {
    /// Reads some output; says whether there may be more.
    async fn read_into(&mut self, capture: &mut Capture) -> bool {
        match self.pipe.read(&mut self.buffer).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                capture.push(&self.buffer[..count]);
                true
            }
        }
    }
}

/// Asks the kernel to kill a tool rather than its agent where memory is short. What the tool starts
/// inherits it.
fn prefer_as_victim(child: &Child) {
    let Some(pid) = pid_of(child) else { return };
    // A kernel that does not let us knows better, and the tool may have ended already.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), VICTIM);
}

/// Kills the command's process group, then whatever it started that left the group.
async fn end_all(children: &Children, child: &mut Child, pid: Option<i32>) {
    if let Some(pid) = pid_of(child).and_then(Pid::from_raw) {
        // Its id is there, so it was not waited for yet and the number is still its own.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = child.start_kill();
        let _ = child.wait().await;
    }
    if let Some(pid) = pid {
        children.ended(pid).await;
    }
    // What lost its parent is a child of this agent now.
    let left = children.kill_adopted().await;
    if left > 0 {
        tracing::warn!(left, "cannot kill processes of a tool");
    }
}
