//! The front door: read the command line, run one verb, report how it went.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use babybot::agent::AgentError;
use babybot::cli::{self, Cli, Command};
use babybot::error::{Error, Exit};
use babybot::{agent, logging};
use clap::Parser as _;

/// Threads for work that blocks. What may hang on a disk takes far fewer of them.
const BLOCKING_MAX: usize = 24;
/// How long such a thread waits for more work: looks come in bursts, and memory is dear at rest.
const BLOCKING_REST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nothing is left to say where even this cannot be printed.
            let _ = error.print();
            return exit.into();
        }
    };
    logging::init(
        i32::from(cli.verbose) - i32::from(cli.quiet),
        cli::Context::new(&cli).color_stderr,
    );
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            cli::report(&error);
            error.exit().into()
        }
    }
}

fn run(cli: &Cli) -> cli::VerbResult {
    if let Command::Agent { parent, lock, loopback, command } = &cli.command {
        // Its first steps come before any other thread.
        if !command.is_empty() {
            return Err(not_run(&agent::become_command(*parent, command)));
        }
        let arguments =
            agent::Arguments { parent: *parent, lock: lock.clone(), loopback: *loopback };
        return match agent::run(&arguments) {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => Err(Error::failed("run the agent", &error)),
        };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_keep_alive(BLOCKING_REST)
        .enable_all()
        .build()
        .map_err(|error| Error::failed("start", &error))?;
    let outcome = runtime.block_on(cli::run(cli));
    // A thread may still wait for a line that nobody will type.
    runtime.shutdown_background();
    outcome
}

/// Why a command of the operator does not run, with the exit codes that shells have for it.
fn not_run(error: &AgentError) -> Error {
    let exit = match error {
        AgentError::Command { source, .. } if source.kind() == ErrorKind::NotFound => {
            Exit::Command(127)
        }
        AgentError::Command { .. } => Exit::Command(126),
        _ => Exit::Failed,
    };
    Error::new(exit, error.to_string())
}
