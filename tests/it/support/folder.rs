//! A project folder and the real binary run in it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

/// How long any command of these tests may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// A manifest that needs nothing: one group at the terminal, on the rehearsal model.
pub(crate) const QUICK: &str = r#"schema = 1
name = "home"

[runtime]
kind = "none"

[models.rehearsal]
kind = "rehearsal"

[groups.home]
bind = ["terminal"]
requires_trigger = false
"#;

/// A temporary project.
pub(crate) struct Folder {
    root: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    /// A folder with this manifest.
    pub(crate) fn with(manifest: &str) -> Self {
        let folder = Self::empty();
        folder.write("babybot.toml", manifest);
        folder
    }

    pub(crate) fn empty() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    pub(crate) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap()
    }

    /// Replaces text in the manifest.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = self.read("babybot.toml");
        assert!(text.contains(from), "{from:?} is not in the manifest");
        self.write("babybot.toml", &text.replace(from, to));
    }

    /// `babybot` with these arguments, in this folder, with nothing on stdin.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command_in(self.root.path(), arguments)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.feed(arguments, "")
    }

    /// Runs with this text on stdin.
    pub(crate) fn feed(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that does not read its stdin is no error here.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let ended = child.wait_with_output().unwrap();
        Ran {
            code: ended.status.code(),
            stdout: String::from_utf8(ended.stdout).unwrap(),
            stderr: String::from_utf8(ended.stderr).unwrap(),
        }
    }

    /// Runs at a terminal of its own.
    pub(crate) fn at_terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::start(interruptible(self.command(arguments)))
    }
}

/// `babybot` with these arguments, in a folder, with nothing on stdin.
pub(crate) fn command_in(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babybot"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .env_remove("OLLAMA_HOST")
        .env("TERM", "xterm");
    command
}

/// The same command with the default for Ctrl-C, as a shell at a terminal starts it. Tests that run in
/// the background hand on that it is ignored.
fn interruptible(command: Command) -> Command {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let interrupt = 1 << (rustix::process::Signal::INT.as_raw() - 1);
    if ignored.unwrap_or_default() & interrupt == 0 {
        return command;
    }
    let mut wrapped = Command::new("env");
    wrapped.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    wrapped.current_dir(command.get_current_dir().expect("a folder of its own"));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// A command at a terminal: what a person would see, and a way to type.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    keyboard: File,
    screen: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
    /// What a person sees.
    picture: vt100::Parser,
    /// The settings of the terminal before the command.
    before: String,
}

/// The rows and columns of a terminal.
const SIZE: (u16, u16) = (24, 80);

impl Terminal {
    pub(crate) fn start(mut command: Command) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let (ws_row, ws_col) = SIZE;
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let before = settings(&master);
        let child = command.spawn().unwrap();
        // The command's own copies of the slave go with it, so that its end is seen.
        drop(command);
        let mut reader = File::from(master.try_clone().unwrap());
        let (sender, screen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let picture = vt100::Parser::new(SIZE.0, SIZE.1, 0);
        let (keyboard, seen) = (File::from(master), String::new());
        Self { child, keyboard, screen, seen, picture, before }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.picture.process(bytes);
        self.seen.push_str(&String::from_utf8_lossy(bytes));
    }

    /// Waits until the screen as a person sees it is like this; gives it.
    pub(crate) fn see(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let picture = self.picture.screen().contents();
            if is_so(&picture) {
                return picture;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.take(&bytes),
                Err(error) => panic!("{what}: not on the screen ({error}):\n{picture}"),
            }
        }
    }

    /// Whether the terminal is set as it was before the command.
    pub(crate) fn is_as_before(&self) -> bool {
        settings(&self.keyboard) == self.before
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the screen shows `text` after what was waited for before.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.take(&bytes),
                Err(error) => panic!("no {text:?} on the screen ({error}):\n{}", self.seen),
            }
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }

    /// Waits for the end; gives the exit code and the rest of the screen.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.ended()
    }

    /// As [`Terminal::end`], of a terminal that is looked at once more.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    self.child.kill().unwrap();
                    panic!("it does not end; the screen shows:\n{}", self.seen);
                }
            }
        };
        while let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(200)) {
            self.take(&bytes);
        }
        (status.code(), std::mem::take(&mut self.seen))
    }
}

fn settings(terminal: &impl std::os::fd::AsFd) -> String {
    format!("{:?}", rustix::termios::tcgetattr(terminal).unwrap())
}

/// A text without the places where its lines are broken.
pub(crate) fn unbroken(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
