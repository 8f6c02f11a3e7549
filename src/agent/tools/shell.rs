//! `bb_shell`: a command line, its output, and nothing of it left afterwards.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::super::children::{Children, pid_of};
use super::capture::Capture;
use super::tool::{Bounds, CallOutcome, CallPlace, Tool, parse, refused};
use super::workbench::Workbench;
use crate::protocol::ParameterKind::{Integer, String as Text};
use crate::protocol::ToolSpec;

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

/// The tool.
#[derive(Debug)]
pub(super) struct Shell {
    spec: ToolSpec,
    program: PathBuf,
    bench: Arc<Workbench>,
    children: Children,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    command: String,
    timeout_seconds: Option<u64>,
}

/// The first of these that this user can run.
pub(super) fn find(candidates: &[&str]) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    candidates.iter().map(PathBuf::from).find(runs)
}

impl Tool for Shell {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(
        &'a self,
        arguments: &'a Value,
        place: CallPlace<'a>,
        bounds: Bounds<'a>,
    ) -> BoxFuture<'a, CallOutcome> {
        Box::pin(async move {
            match parse(&self.spec, arguments) {
                Ok(arguments) => self.run(arguments, place, bounds).await,
                Err(why) => refused(why),
            }
        })
    }
}

impl Shell {
    pub(super) fn new(program: PathBuf, bench: Arc<Workbench>, children: Children) -> Self {
        let about = "Run a shell command in the working directory and return its output. \
                     What it leaves in the background is stopped when it ends.";
        let bound = "stop it after this many seconds, at most 1800";
        let spec = ToolSpec::new("bb_shell", about)
            .required("command", Text, "the command line")
            .optional("timeout_seconds", Integer, bound);
        Self { spec, program, bench, children }
    }

    async fn run(
        &self,
        arguments: Arguments,
        place: CallPlace<'_>,
        Bounds { disk, room, cancel }: Bounds<'_>,
    ) -> CallOutcome {
        let seconds = arguments.timeout_seconds.unwrap_or(SECONDS_DEFAULT).clamp(1, SECONDS_MAX);
        let (mut child, mut output) = match self.start(&arguments.command, place).await {
            Ok(started) => started,
            Err(error) => return refused(format!("cannot run a shell: {error}")),
        };
        let pid = pid_of(&child);
        let spill = self.bench.folders.home.join(format!(".bb/out/{place}.txt"));
        let mut capture = Capture::new(self.bench.result_max, self.bench.output_max, spill);
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
        self.children.end(&mut child, pid).await;
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

    async fn start(&self, command: &str, place: CallPlace<'_>) -> io::Result<(Child, Output)> {
        // One pipe for both, so that their order is kept.
        let (reader, writer) = io::pipe()?;
        let mut line = Command::new(&self.program);
        line.arg("-c")
            .arg(command)
            .current_dir(&self.bench.folders.workdir)
            .env_remove("GLIBC_TUNABLES")
            .envs(self.bench.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = self.children.start(&mut line, &place.to_string()).await?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command as StdCommand;

    use serde_json::json;
    use tokio::time::timeout;

    use super::super::tests::{Bench, call_at};
    use crate::process::Process;

    /// Set in the process that plays the agent. It ends all that it has as children but what it
    /// knows, so nothing else may run in it.
    const ALONE: &str = "BABYBOT_TEST_ALONE";
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
    /// What a call leaves behind, each of which writes down its pid.
    const LEFT: [(&str, &str); 4] = [
        ("group", ""),
        ("session", "setsid"),
        ("named", "env A=b setsid"),
        ("nameless", "env -i setsid"),
    ];

    #[test]
    fn what_a_call_leaves_behind_ends_with_it_and_not_with_another() {
        let name = "agent::tools::shell::tests::the_program_that_runs_two_calls";
        let mut alone = StdCommand::new(std::env::current_exe().unwrap());
        let ended = alone.args([name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn the_program_that_runs_two_calls() {
        if std::env::var_os(ALONE).is_none() {
            return;
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(PATIENCE, two_calls()).await.unwrap() });
    }

    async fn two_calls() {
        let root = tempfile::tempdir().unwrap();
        let tools = Bench::new(root.path(), 1 << 20).tools();
        let group = root.path().join("group");
        let run = async |index, call| {
            let command = json!({"command": script(call)});
            assert_eq!(call_at(index, &tools, "bb_shell", command).await, "(no output)");
        };
        let first = async {
            run(0, "first").await;
            let alive = |call| LEFT.map(|(name, _)| left(&group, call, name).is_alive());
            assert_eq!((alive("first"), alive("second")), ([false; 4], [true; 4]));
            fs::write(group.join("second.go"), "").unwrap();
        };
        let second = async {
            is_there(&group.join("first.begun")).await;
            // Who started before another call began cannot be of it.
            let last = left(&group, "first", "nameless").start_time;
            while newborn() <= last {}
            tokio::join!(run(1, "second"), async {
                is_there(&group.join("second.begun")).await;
                fs::write(group.join("first.go"), "").unwrap();
            });
        };
        tokio::join!(first, second);
        assert!(LEFT.iter().all(|(name, _)| !left(&group, "second", name).is_alive()));
    }

    /// Leaves processes behind, says that it did, and waits to be let go.
    fn script(call: &str) -> String {
        let mut script = String::new();
        for (name, through) in LEFT {
            let file = format!("{call}.{name}");
            script += &format!("({through} sh -c 'echo $$ > {file}; exec sleep 600' & )\n");
            script += &format!("until [ -s {file} ]; do sleep 0.01; done\n");
        }
        script + &format!(": > {call}.begun; until [ -e {call}.go ]; do sleep 0.01; done")
    }

    async fn is_there(path: &Path) {
        while !path.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// When a process starts that is started now.
    fn newborn() -> i64 {
        let mut child = StdCommand::new("sleep").arg("600").spawn().unwrap();
        let born = Process::find(child.id().try_into().unwrap()).unwrap().start_time;
        child.kill().unwrap();
        child.wait().unwrap();
        born
    }

    fn left(group: &Path, call: &str, name: &str) -> Process {
        let pid = fs::read_to_string(group.join(format!("{call}.{name}"))).unwrap();
        let pid = pid.trim().parse().unwrap();
        Process::find(pid).unwrap_or(Process { pid, start_time: 0 })
    }
}
