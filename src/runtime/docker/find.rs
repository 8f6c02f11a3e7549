//! Whether this machine has an engine: the places asked, one by one.

use std::time::Duration;

use super::call::within;
use super::endpoint::Endpoint;
use super::places::Places;
use super::{Docker, PROBE_DEADLINE, look};
use crate::runtime::{RuntimeError, RuntimeInfo};

/// How long one place may take to answer.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// The programs by which a machine shows that it has an engine.
const PROGRAMS: &[&str] = &["docker", "podman"];

/// Whether this machine has an engine.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one is made, and taken apart at once")]
pub enum Found {
    /// It has, and it answers.
    Is(Docker, RuntimeInfo),
    /// It has none: neither a program of one nor a socket.
    Absent,
    /// There is something that does not answer or may not be asked: what it is, and what helps.
    Unknown(String),
}

/// Looks for an engine: at the only place, or the first that answers.
pub async fn find(places: Places) -> Found {
    let program = PROGRAMS.iter().find(|name| which::which(name).is_ok());
    find_among(places, program.copied()).await
}

/// Looks for an engine at these places. `program` is one that stands for an engine, where one is
/// installed.
pub async fn find_among(places: Places, program: Option<&str>) -> Found {
    let (endpoints, others) = match places {
        Places::Unusable(why) => return Found::Unknown(why),
        Places::Named(endpoint) => (vec![endpoint], Vec::new()),
        Places::Applied(endpoint, others) => (vec![endpoint], others),
        Places::Usual(endpoints) => (endpoints, Vec::new()),
    };
    let mut silent = Vec::new();
    for endpoint in endpoints {
        match ask(endpoint).await {
            Ok((docker, info)) => return Found::Is(docker, info),
            Err(why) => silent.push(why),
        }
    }
    for other in others {
        if let Ok((_, info)) = ask(other).await {
            silent.push(format!(
                "{} answers at {}, but another engine is applied; to use it, name it (runtime.docker.host or DOCKER_HOST) and apply",
                info.version, info.endpoint
            ));
            break;
        }
    }
    match (silent.is_empty(), program) {
        (false, _) => Found::Unknown(silent.join("; ")),
        (true, None) => Found::Absent,
        (true, Some(program)) => {
            let start = match program {
                "podman" => "`systemctl --user start podman.socket`",
                _ => "`sudo systemctl start docker`, or Docker Desktop",
            };
            Found::Unknown(format!("`{program}` is installed and has no socket; start it: {start}"))
        }
    }
}

async fn ask(endpoint: Endpoint) -> Result<(Docker, RuntimeInfo), String> {
    let why = |error: RuntimeError| match error {
        RuntimeError::Unavailable { why, .. } => why,
        other => other.to_string(),
    };
    let docker = Docker::new(endpoint.clone()).map_err(why)?;
    let answers = within("answering", PING_DEADLINE, docker.client.ping()).await;
    let info = match answers {
        Ok(_) => look::engine(&docker.client, &endpoint, PROBE_DEADLINE).await,
        Err(failure) => Err(failure),
    };
    match info {
        Ok(info) => Ok((docker.described(&info), info)),
        Err(failure) => Err(why(endpoint.unavailable(failure))),
    }
}
