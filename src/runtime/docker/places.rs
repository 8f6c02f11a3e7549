//! Which places are tried for an engine, in which order, and why.
//!
//! A function of what the machine says. What a person named, by the manifest,
//! `DOCKER_HOST` or a Docker context, is the only place then: another engine that
//! happens to answer is not the one that was meant.

use std::path::{Path, PathBuf};

use sha2::Digest as _;

use super::endpoint::Endpoint;

/// What a machine says of itself: the seam for tests.
pub trait Surroundings {
    /// A variable of the environment; never an empty one.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file.
    fn read(&self, path: &Path) -> Option<String>;
    /// Whether there is something at a path.
    fn exists(&self, path: &Path) -> bool;
    /// The names in a folder, sorted.
    fn names(&self, folder: &Path) -> Vec<String>;
}

/// Which places are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// The one that a person named, and no other.
    Named(Endpoint),
    /// The one that was applied, and no other: what else is there is only told of.
    Applied(Endpoint, Vec<Endpoint>),
    /// Those where engines usually are, in this order, as far as there is something.
    Usual(Vec<Endpoint>),
    /// What a person named cannot be used, and this is why.
    Unusable(String),
}

impl Places {
    /// The only place, where there is only one.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        match self {
            Self::Named(endpoint) | Self::Applied(endpoint, _) => Some(&endpoint.url),
            Self::Usual(_) | Self::Unusable(_) => None,
        }
    }
}

/// The place of the engine that was applied. Agents go on where they are, whichever other engine
/// happens to answer.
#[must_use]
pub fn applied(url: &str, here: &dyn Surroundings) -> Places {
    let others = usual(here).into_iter().filter(|other| other.url != url).collect();
    let endpoint = Endpoint { url: url.to_owned(), reason: "as it was applied".to_owned() };
    Places::Applied(endpoint, others)
}

/// Which places are tried on this machine. `named` is what the manifest says, `recorded` where the
/// engine is that was applied.
#[must_use]
pub fn places(named: Option<&str>, recorded: Option<&str>, here: &dyn Surroundings) -> Places {
    if let Some(named) = named {
        return place(named, "named by runtime.docker.host", Loopback::Accepted);
    }
    if let Some(host) = here.variable("DOCKER_HOST") {
        return place(&host, "named by DOCKER_HOST", Loopback::Refused);
    }
    if let Some((name, from)) = context(here) {
        let reason = format!("the Docker context `{name}`, by {from}");
        return match context_host(&name, here) {
            Some(host) => place(&host, &reason, Loopback::Refused),
            None => Places::Unusable(format!("{reason}, does not say where its engine is")),
        };
    }
    match recorded {
        Some(url) => applied(url, here),
        None => Places::Usual(usual(here)),
    }
}

/// Whether an engine may be reached over a port of this machine, where every program of it can.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loopback {
    Accepted,
    Refused,
}

fn place(url: &str, reason: &str, loopback: Loopback) -> Places {
    let is_socket = url.strip_prefix("unix://").is_some_and(|path| path.starts_with('/'));
    let is_loopback = url.strip_prefix("tcp://").is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        matches!(host, "127.0.0.1" | "localhost" | "[::1]")
    });
    let url = url.trim_end_matches('/').to_owned();
    if is_socket || is_loopback && loopback == Loopback::Accepted {
        return Places::Named(Endpoint { url, reason: reason.to_owned() });
    }
    let over_port = "an engine is reached over a socket of this machine (`unix:///path`), or over \
                     a port of it (`tcp://127.0.0.1:PORT`) where runtime.docker.host says so";
    Places::Unusable(format!("{url} is {reason}, and cannot be used: {over_port}"))
}

/// The Docker context that is in use, and where that is said. `default` is none.
fn context(here: &dyn Surroundings) -> Option<(String, &'static str)> {
    let by_variable = here.variable("DOCKER_CONTEXT").map(|name| (name, "DOCKER_CONTEXT"));
    let by_file = || {
        let text = here.read(&docker_folder(here)?.join("config.json"))?;
        let config: serde_json::Value = serde_json::from_str(&text).ok()?;
        let name = config.get("currentContext")?.as_str()?.to_owned();
        Some((name, "Docker's config.json"))
    };
    by_variable.or_else(by_file).filter(|(name, _)| !name.is_empty() && name != "default")
}

fn context_host(name: &str, here: &dyn Surroundings) -> Option<String> {
    let digest = sha2::Sha256::digest(name.as_bytes());
    let digest = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let path = docker_folder(here)?.join("contexts/meta").join(digest).join("meta.json");
    let meta: serde_json::Value = serde_json::from_str(&here.read(&path)?).ok()?;
    Some(meta.pointer("/Endpoints/docker/Host")?.as_str()?.to_owned())
}

fn docker_folder(here: &dyn Surroundings) -> Option<PathBuf> {
    let named = here.variable("DOCKER_CONFIG").map(PathBuf::from);
    named.or_else(|| Some(Path::new(&here.variable("HOME")?).join(".docker")))
}

/// The sockets of Docker, of what speaks its language, and of Podman, as far as they are there.
fn usual(here: &dyn Surroundings) -> Vec<Endpoint> {
    let runtime = here.variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let home = here.variable("HOME").map(PathBuf::from);
    let colima = here.variable("COLIMA_HOME").map(PathBuf::from);
    let below = |folder: &Option<PathBuf>, path: &str| folder.as_ref().map(|f| f.join(path));
    let mut all = vec![
        (below(&runtime, "docker.sock"), "rootless Docker"),
        (Some("/var/run/docker.sock".into()), "the system's Docker"),
        (below(&home, ".docker/run/docker.sock"), "Docker Desktop"),
        (below(&home, ".docker/desktop/docker.sock"), "Docker Desktop"),
        (below(&home, ".orbstack/run/docker.sock"), "OrbStack"),
        (below(&colima.or_else(|| below(&home, ".colima")), "default/docker.sock"), "Colima"),
        (below(&home, ".rd/docker.sock"), "Rancher Desktop"),
    ];
    if let Some(lima) = below(&home, ".lima") {
        for name in here.names(&lima) {
            all.push((Some(lima.join(name).join("sock/docker.sock")), "Lima"));
        }
    }
    all.push((below(&runtime, "podman/podman.sock"), "your own Podman"));
    all.push((Some("/run/podman/podman.sock".into()), "the system's Podman"));
    all.into_iter()
        .filter_map(|(path, reason)| Some((path?, reason)))
        .filter(|(path, _)| here.exists(path))
        .map(|(path, reason)| Endpoint {
            url: format!("unix://{}", path.display()),
            reason: format!("the socket of {reason}"),
        })
        .collect()
}

/// The machine itself.
#[derive(Clone, Copy, Debug)]
pub struct HostEnvironment;

impl Surroundings for HostEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn read(&self, path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }

    fn exists(&self, path: &Path) -> bool {
        // One that may not be looked at is there: only its absence is certain.
        !matches!(path.try_exists(), Ok(false))
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A machine made of words: `NAME=value` or `/path=text`.
    struct Told(BTreeMap<String, String>);

    impl Told {
        fn new(words: &[&str]) -> Self {
            let words = words.iter().map(|word| word.split_once('=').unwrap_or((word, "")));
            Self(words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        }
    }

    impl Surroundings for Told {
        fn variable(&self, name: &str) -> Option<String> {
            self.0.get(name).cloned()
        }
        fn read(&self, path: &Path) -> Option<String> {
            self.0.get(path.to_str()?).cloned()
        }
        fn exists(&self, path: &Path) -> bool {
            self.0.contains_key(path.to_str().unwrap())
        }
        fn names(&self, folder: &Path) -> Vec<String> {
            let prefix = format!("{}/", folder.display());
            let names = self.0.keys().filter_map(|path| path.strip_prefix(&prefix));
            names.map(|rest| rest.split('/').next().unwrap().to_owned()).collect()
        }
    }

    #[track_caller]
    fn check(named: Option<&str>, words: &[&str], expected: &[&str]) {
        check_after(None, named, words, expected);
    }

    #[track_caller]
    fn check_after(recorded: Option<&str>, named: Option<&str>, words: &[&str], expected: &[&str]) {
        let found = match places(named, recorded, &Told::new(words)) {
            Places::Named(endpoint) => vec![format!("only {endpoint}")],
            Places::Applied(endpoint, others) => {
                let others = others.iter().map(|other| format!("told of {other}"));
                std::iter::once(format!("only {endpoint}")).chain(others).collect()
            }
            Places::Usual(all) => all.iter().map(ToString::to_string).collect(),
            Places::Unusable(why) => vec![why],
        };
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        let fits = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        assert!(fits, "{found:#?}");
    }

    #[test]
    fn what_a_person_named_is_the_only_place() {
        let here = ["/var/run/docker.sock", "DOCKER_HOST=unix:///b.sock", "DOCKER_CONTEXT=desk"];
        check(
            Some("unix:///a.sock"),
            &here,
            &["only unix:///a.sock (named by runtime.docker.host)"],
        );
        check(None, &here, &["only unix:///b.sock (named by DOCKER_HOST)"]);
    }

    #[test]
    fn what_was_applied_is_the_only_place_until_a_person_names_another() {
        let here = ["XDG_RUNTIME_DIR=/r", "/r/docker.sock", "/var/run/docker.sock"];
        let applied = Some("unix:///var/run/docker.sock");
        check_after(
            applied,
            None,
            &here,
            &[
                "only unix:///var/run/docker.sock (as it was applied)",
                "told of unix:///r/docker.sock (the socket of rootless Docker)",
            ],
        );
        let named = "only unix:///b.sock (named by";
        check_after(applied, Some("unix:///b.sock"), &here, &[named]);
        check_after(applied, None, &["DOCKER_HOST=unix:///b.sock"], &[named]);
    }

    #[test]
    fn only_the_manifest_may_name_a_port_and_only_one_of_this_machine() {
        let over = "tcp://127.0.0.1:2375";
        check(Some(over), &[], &["only tcp://127.0.0.1:2375 (named by runtime.docker.host)"]);
        check(Some("tcp://10.0.0.1:2375"), &[], &["tcp://10.0.0.1:2375 is named by"]);
        check(Some("tcp://127.0.0.1.evil.org:1"), &[], &["tcp://127.0.0.1.evil.org:1 is named by"]);
        check(None, &["DOCKER_HOST=tcp://127.0.0.1:2375"], &["tcp://127.0.0.1:2375 is named by"]);
        check(None, &["DOCKER_HOST=ssh://me@there"], &["ssh://me@there is named by DOCKER_HOST"]);
    }

    #[test]
    fn a_context_is_followed_to_its_engine() {
        let digest = sha2::Sha256::digest(b"desk");
        let digest = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let meta = format!(
            "/h/.docker/contexts/meta/{digest}/meta.json={{\"Endpoints\":{{\"docker\":\
             {{\"Host\":\"unix:///h/desk.sock\"}}}}}}"
        );
        let config = r#"/h/.docker/config.json={"currentContext":"desk"}"#;
        let by_file = "only unix:///h/desk.sock (the Docker context `desk`, by Docker's config";
        check(None, &["HOME=/h", config, &meta], &[by_file]);
        let by_variable = "only unix:///h/desk.sock (the Docker context `desk`, by DOCKER_CONTEXT";
        check(None, &["HOME=/h", "DOCKER_CONTEXT=desk", &meta], &[by_variable]);
        check(None, &["HOME=/h", config], &["the Docker context `desk`"]);
        check(None, &["DOCKER_CONTEXT=default"], &[]);
    }

    #[test]
    fn sockets_that_are_there_are_tried_in_order() {
        let here = [
            "HOME=/h",
            "XDG_RUNTIME_DIR=/r",
            "/run/podman/podman.sock",
            "/h/.lima/one/sock/docker.sock",
            "/var/run/docker.sock",
            "/r/docker.sock",
            "/r/podman/podman.sock",
            "/h/.colima/default/docker.sock",
        ];
        check(
            None,
            &here,
            &[
                "unix:///r/docker.sock (the socket of rootless Docker)",
                "unix:///var/run/docker.sock (the socket of the system's Docker)",
                "unix:///h/.colima/default/docker.sock (the socket of Colima)",
                "unix:///h/.lima/one/sock/docker.sock (the socket of Lima)",
                "unix:///r/podman/podman.sock (the socket of your own Podman)",
                "unix:///run/podman/podman.sock (the socket of the system's Podman)",
            ],
        );
        check(None, &[], &[]);
    }
}
