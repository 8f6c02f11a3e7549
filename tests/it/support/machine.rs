//! Machines that differ from this one in the container engine they have: a mount namespace hides
//! this machine's sockets and shows others.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::installation::{Installation, User};

/// What a machine has of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EngineHere {
    /// Neither a program nor a socket.
    Nothing,
    /// A `docker` program and no socket.
    DeadClient,
    /// A socket that only root may open.
    DeniedSocket,
    /// A socket on which nobody answers.
    SilentSocket,
    /// A Docker context whose engine nobody knows.
    DeadContext,
}

impl EngineHere {
    /// All that this user can meet.
    pub(crate) fn all(user: User) -> Vec<Self> {
        let all = [
            Self::Nothing,
            Self::DeadClient,
            Self::DeniedSocket,
            Self::SilentSocket,
            Self::DeadContext,
        ];
        // Nothing is denied to root.
        let met = |here: &Self| *here != Self::DeniedSocket || user == User::Nobody;
        all.into_iter().filter(met).collect()
    }

    /// What a person is told was found, and what helps.
    pub(crate) fn words(self) -> [&'static str; 2] {
        match self {
            Self::Nothing => ["no container engine was found", "install Docker or Podman"],
            Self::DeadClient => ["`docker` is installed and has no socket", "systemctl start"],
            Self::DeniedSocket => ["permission denied", "group `docker`"],
            Self::SilentSocket => ["does not answer", "/var/run/docker.sock"],
            Self::DeadContext => ["the Docker context `elsewhere`", "DOCKER_CONTEXT"],
        }
    }
}

/// Hides `/run`, where the sockets of engines are, and shows a socket in its place.
const NAMESPACE: &str = "mount --make-rprivate / && mount -t tmpfs -o mode=755 none /run || exit 99
if [ -n \"$1\" ]; then : > /run/docker.sock; mount --bind \"$1\" /run/docker.sock || exit 99; fi
shift; exec \"$@\"";

/// A machine, for as long as it is used.
pub(crate) struct Machine {
    here: EngineHere,
    user: User,
    place: TempDir,
    socket: Option<UnixListener>,
}

impl Machine {
    /// A machine with this engine, for this user. `None`: nobody may make one here, which it says.
    pub(crate) fn with(here: EngineHere, user: User) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.path().join("bin")).unwrap();
        if here == EngineHere::DeadClient {
            symlink("/bin/true", place.path().join("bin/docker")).unwrap();
        }
        let path = place.path().join("docker.sock");
        let mode = match here {
            EngineHere::DeniedSocket => Some(0o600),
            EngineHere::SilentSocket => Some(0o666),
            EngineHere::Nothing | EngineHere::DeadClient | EngineHere::DeadContext => None,
        };
        let socket = mode.map(|mode| {
            let socket = UnixListener::bind(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            socket
        });
        let machine = Self { here, user, place, socket };
        let tried = machine.namespace().arg("true").output();
        let elsewhere = fs::canonicalize("/var/run").is_ok_and(|run| run != Path::new("/run"));
        if elsewhere || !tried.is_ok_and(|tried| tried.status.success()) {
            super::skipped("nobody here may hide the sockets of engines");
            return None;
        }
        Some(machine)
    }

    /// The program of an installation, on this machine.
    pub(crate) fn command(&self, installation: &Installation, arguments: &[&str]) -> Command {
        let inner = installation.command(arguments);
        let mut command = self.namespace();
        if self.user == User::Nobody {
            command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        let bin = self.place.path().join("bin");
        command.arg("env").arg(format!("PATH={}", bin.display()));
        command.arg(inner.get_program()).args(inner.get_args());
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if self.here == EngineHere::DeadContext {
            command.env("DOCKER_CONTEXT", "elsewhere");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `unshare`, up to the command that is run within.
    fn namespace(&self) -> Command {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--", "sh", "-c", NAMESPACE, "sh"]);
        match self.socket {
            Some(_) => command.arg(self.place.path().join("docker.sock")),
            None => command.arg(""),
        };
        command
    }
}
