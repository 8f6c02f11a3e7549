//! An installation of its own for one test: a project folder, the real program, a real user.
//!
//! Everything an installation starts can be found again, because the command
//! lines of its controllers and agents hold the project's path and those of its
//! tools a number that no other test has. What is left when a test ends, because
//! it failed, is killed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use babybot::process::Process;
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use tempfile::TempDir;

/// Longest wait for something that takes milliseconds, so that a busy machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The user that is nobody in particular.
const NOBODY: u32 = 65_534;

/// Variables of this machine that the program is run with; all others would make tests differ.
const INHERITED: [&str; 2] = ["PATH", "TMPDIR"];

/// Who runs the controller, and who its agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests, for both.
    Oneself,
    /// A user without any power, for both.
    Nobody,
    /// Root runs the controller in a project of the user without power, who runs the agents.
    RootForNobody,
}

impl User {
    /// Everybody that whoever runs the tests can be. Says so where that is only one.
    pub(crate) fn all() -> Vec<Self> {
        let all = [Self::Oneself, Self::Nobody, Self::RootForNobody];
        all.into_iter().filter(|user| user.is_possible()).collect()
    }

    /// Whether whoever runs the tests can be this user; if not, a note says what is skipped.
    pub(crate) fn is_possible(self) -> bool {
        let possible = self == Self::Oneself || rustix::process::geteuid().is_root();
        if !possible {
            // Past the harness, which keeps what a passing test prints to itself.
            let note = format!("skipped: only root can test as {self:?}\n");
            let _ = std::io::stderr().write_all(note.as_bytes());
        }
        possible
    }

    /// Whom the project belongs to, where that is not whoever runs the tests.
    fn owner(self) -> Option<u32> {
        (self != Self::Oneself).then_some(NOBODY)
    }

    /// The user that agents run as.
    pub(crate) fn agent_uid(self) -> u32 {
        self.owner().unwrap_or_else(|| rustix::process::geteuid().as_raw())
    }
}

/// A project folder in which the real program is run.
pub(crate) struct Installation {
    user: User,
    base: TempDir,
    programs: Arc<Programs>,
    mark: String,
}

/// How a run of the program came out.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; a signal is 128 more than its number.
    pub(crate) code: i32,
    /// Its result.
    pub(crate) stdout: String,
    /// What it said meanwhile.
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let status = output.status;
        Self {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Installation {
    /// An installation with one group, `home`, whose rehearsal plays `script`.
    ///
    /// In the script, `MARK` stands for a number of seconds that no other test
    /// sleeps for.
    pub(crate) fn new(user: User, script: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("98765.{:07}{number:04}", std::process::id());
        let base = open_folder("babybot-it-");
        let installation = Self { user, base, programs: Programs::shared(), mark };
        fs::create_dir(installation.root()).unwrap();
        installation.write("babybot.toml", MANIFEST);
        installation.write("script.toml", &script.replace("MARK", &installation.mark));
        installation.give(&installation.root());
        installation
    }

    /// The project folder.
    pub(crate) fn root(&self) -> PathBuf {
        self.base.path().join("project")
    }

    /// A path beside the project folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A path in the group's folder, where its tools work.
    pub(crate) fn workplace(&self, name: &str) -> PathBuf {
        self.root().join("groups/home").join(name)
    }

    /// The number of seconds that only the tools of this installation sleep for.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// This test program, at a place where the installation's tools can run it.
    pub(crate) fn test_program(&self) -> PathBuf {
        self.programs.folder.path().join("it")
    }

    /// Writes a file of the project, for its owner.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::write(&path, content).unwrap();
        self.give(&path);
    }

    fn give(&self, path: &Path) {
        let owner = self.user.owner();
        std::os::unix::fs::chown(path, owner, owner).unwrap();
    }

    /// The program with these arguments, in the project folder.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        self.command_in(&self.root(), arguments)
    }

    /// The program with these arguments, in another folder.
    pub(crate) fn command_in<S: AsRef<OsStr>>(
        &self,
        root: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(self.programs.folder.path().join("babybot"));
        command
            .arg("--manifest")
            // The whole path, so that the process can be found by it.
            .arg(root.join("babybot.toml"))
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("HOME", root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.user == User::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Applies the manifest; nothing but a success will do.
    pub(crate) fn apply(&self) {
        let ended = self.run(&["apply", "--yes"]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }

    /// Says something and waits for the answer.
    pub(crate) fn chat(&self, message: &str) -> Ended {
        self.run(&["chat", "home", message])
    }

    /// Says something and does not wait for the answer.
    pub(crate) fn begin_chat(&self, message: &str) -> Child {
        self.command(["chat", "home", message]).spawn().unwrap()
    }

    /// The lines of a file of the group; none where there is no such file.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.workplace(name)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// The store, to look at.
    pub(crate) fn store(&self) -> Connection {
        let path = self.root().join("data/babybot.db");
        let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        store
    }

    /// The one value that a query has.
    pub(crate) fn value<T: rusqlite::types::FromSql>(&self, query: &str) -> T {
        self.store().query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// The first column of what a query finds.
    pub(crate) fn column(&self, query: &str) -> Vec<String> {
        let store = self.store();
        let mut statement = store.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Every process of this installation with its command line: controllers, agents and tools.
    pub(crate) fn processes(&self) -> BTreeMap<Process, String> {
        self.processes_with(&[&self.root().to_string_lossy(), &self.mark])
    }

    /// The processes of this installation's tools that sleep for [`Self::mark`].
    pub(crate) fn sleepers(&self) -> BTreeMap<Process, String> {
        self.processes_with(&[&format!("sleep\0{}\0", self.mark)])
    }

    /// The agents: one, while there is work.
    pub(crate) fn agents(&self) -> Vec<Process> {
        let lock = format!("{}/data/locks/home.lock", self.root().display());
        self.processes_with(&[&lock]).into_keys().collect()
    }

    /// The agent at work.
    #[track_caller]
    pub(crate) fn agent(&self) -> Process {
        let agents = self.agents();
        assert_eq!(agents.len(), 1, "agents at work");
        agents[0]
    }

    fn processes_with(&self, parts: &[&str]) -> BTreeMap<Process, String> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).into_owned();
            if parts.iter().any(|part| line.contains(part))
                && let Some(process) = Process::find(pid).filter(|process| process.is_alive())
            {
                found.insert(process, line.replace('\0', " "));
            }
        }
        found
    }

    /// Fails if any process of this installation is left.
    #[track_caller]
    pub(crate) fn assert_nothing_runs(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "these processes are left: {left:#?}");
    }

    /// Waits until no process of this installation is left.
    #[track_caller]
    pub(crate) fn wait_until_nothing_runs(&self, patience: Duration) {
        if !comes_true(patience, || self.processes().is_empty()) {
            self.assert_nothing_runs();
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // A stopped process takes this too. What forks meanwhile is seen in the next round.
        let _ = comes_true(Duration::from_secs(5), || {
            let left = self.processes();
            for process in left.keys() {
                let _ = process.signal(Signal::KILL);
            }
            left.is_empty()
        });
    }
}

/// Waits until `is_true`; says whether it was within the time there is.
pub(crate) fn comes_true(patience: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if is_true() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // The kernel tells nobody of other processes' files and children.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `is_true`, or fails with what was waited for.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_true: impl FnMut() -> bool) {
    assert!(comes_true(PATIENCE, is_true), "waited in vain until {what}");
}

/// Waits for a program to end, at most for `patience`.
#[track_caller]
pub(crate) fn wait_for_end(mut child: Child, patience: Duration) -> Ended {
    if !comes_true(patience, || child.try_wait().unwrap().is_some()) {
        child.kill().unwrap();
        panic!("it did not end: {:?}", Ended::from(child.wait_with_output().unwrap()));
    }
    child.wait_with_output().unwrap().into()
}

const MANIFEST: &str = r#"schema = 1
name = "home"

[runtime]
kind = "none"

[models.stand-in]
kind = "rehearsal"
script = "script.toml"
context = 4096

[groups.home]
bind = ["terminal"]
requires_trigger = false
limits = { output = "1MiB" }
"#;

/// The programs at a place that every user can reach, wherever they were built.
struct Programs {
    folder: TempDir,
}

impl Programs {
    /// One copy for all installations there are at a time, gone with the last of them.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Programs>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(programs) = shared.upgrade() {
            return programs;
        }
        let folder = open_folder("babybot-it-programs-");
        let this = std::env::current_exe().unwrap();
        for (name, program) in
            [("babybot", Path::new(env!("CARGO_BIN_EXE_babybot"))), ("it", &this)]
        {
            put(program, &folder.path().join(name));
        }
        let programs = Arc::new(Self { folder });
        *shared = Arc::downgrade(&programs);
        programs
    }
}

/// Puts a program somewhere else: by a second name where that will do, else by a copy.
fn put(program: &Path, to: &Path) {
    let runs_for_all = fs::metadata(program).unwrap().mode() & 0o005 == 0o005;
    if runs_for_all && fs::hard_link(program, to).is_ok() {
        return;
    }
    fs::copy(program, to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
}

/// A temporary folder that every user can reach.
fn open_folder(prefix: &str) -> TempDir {
    let reachable = |path: &PathBuf| {
        let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
        path.ancestors().all(open)
    };
    let places = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    let place = places.into_iter().find(reachable).expect("some place that every user can reach");
    let mode = Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix(prefix).permissions(mode).tempdir_in(place).unwrap()
}
