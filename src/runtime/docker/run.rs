//! A command of the operator within a container.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use tokio::io::AsyncWriteExt as _;

use super::call::within;
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::screen;
use super::streams::{self, Of, Returned};
use super::{CREATE_DEADLINE, LIST_DEADLINE};
use crate::runtime::{Exec, ExecSpec, RuntimeError};

/// How long between two questions for the exit code of a command whose output has ended: at first,
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(20);
/// and at last, where it closed its outputs and goes on.
const ATTEMPT_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// Starts a command as the container's own user. Nothing ends it but itself: engines have no way.
pub(super) async fn exec(
    client: &Client,
    endpoint: &Endpoint,
    id: &str,
    spec: ExecSpec,
) -> Result<Exec, Failure> {
    let tty = spec.terminal.is_some();
    let env = spec.place.map_or_else(BTreeMap::new, |place| place.env);
    let env = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(tty),
        cmd: Some(spec.argv),
        env: Some(env),
        privileged: Some(false),
        ..ExecConfig::default()
    };
    let call = client.create_exec(id, config);
    let exec = within("making the command", CREATE_DEADLINE, call).await?.id;
    let (output, input) = if tty {
        let starting = screen::start(endpoint, &exec);
        let late = |_| Failure::Late { what: "starting the command", limit: CREATE_DEADLINE };
        tokio::time::timeout(CREATE_DEADLINE, starting).await.map_err(late)??
    } else {
        let call = client.start_exec(&exec, Some(StartExecOptions::default()));
        let started = within("starting the command", CREATE_DEADLINE, call).await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(Failure::Nonsense("the engine detached the command".to_owned()));
        };
        (output, input)
    };
    if let Some((columns, rows)) = spec.terminal {
        let size = ResizeExecOptionsBuilder::default().w(columns.into()).h(rows.into()).build();
        let call = client.resize_exec(&exec, size);
        // A command that has ended already has no size.
        let _ = within("sizing the terminal", LIST_DEADLINE, call).await;
    }
    let outputs = streams::apart(output, Of::Command);
    let (stdin, returned) = Returned::new(input);
    tokio::spawn(async move {
        if let Ok(mut input) = returned.await {
            let _ = input.shutdown().await;
        }
    });
    let (client, end) = (client.clone(), outputs.end);
    Ok(Exec {
        stdin: Box::new(stdin),
        stdout: outputs.stdout,
        stderr: outputs.stderr,
        exit: Box::pin(async move {
            let _ = end.await;
            code(&client, &exec).await
        }),
    })
}

/// The exit code of a command that has said everything, once it has ended: for as long as somebody
/// waits for it.
async fn code(client: &Client, exec: &str) -> Result<i32, RuntimeError> {
    let mut interval = ATTEMPT_INTERVAL;
    loop {
        let call = client.inspect_exec(exec);
        let found = within("looking at the command", LIST_DEADLINE, call).await;
        let found = found.map_err(Failure::into_error)?;
        if let (Some(false), Some(code)) = (found.running, found.exit_code) {
            return Ok(i32::try_from(code).unwrap_or(i32::MAX));
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 2).min(ATTEMPT_INTERVAL_MAX);
    }
}
