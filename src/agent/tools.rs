//! The agent's tools: what a model may do in its sandbox.
//!
//! Few, flat and strict: an argument that is not in a tool's schema is an error
//! that the model is told about, never a guess. What a tool gives is text, cut
//! to what the model's window can bear; the whole of it goes to a file.

mod capture;
mod files;
mod shell;

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::clock;
use super::disk::{Disk, Room};
use crate::protocol::{PathMapping, Welcome};

/// Smallest and largest number of characters of a result that a model is given.
const RESULT_CHARACTERS: (u64, u64) = (1_600, 24_000);
/// Where a shell may be.
const SHELLS: &[&str] = &["/bin/sh", "/usr/bin/sh"];

/// Where tools work, and within which bounds.
#[derive(Debug)]
pub(super) struct Workbench {
    workdir: PathBuf,
    home: PathBuf,
    places: Vec<PathMapping>,
    env: Vec<(String, String)>,
    /// `None` in a sandbox that has no shell.
    shell: Option<PathBuf>,
    /// What tools run as.
    children: Children,
    /// What is kept of one call's output, in bytes.
    output_max: u64,
    /// What the model is given of it, in bytes.
    result_max: usize,
}

/// A tool as the model sees it.
struct Tool {
    name: &'static str,
    description: &'static str,
    /// Name, JSON type, description and whether it must be given.
    parameters: &'static [(&'static str, &'static str, &'static str, bool)],
}

const SHELL: Tool = Tool {
    name: "bb_shell",
    description: "Run a shell command in the working directory and return its output. \
                  What it leaves in the background is stopped when it ends.",
    parameters: &[
        ("command", "string", "the command line", true),
        ("timeout_seconds", "integer", "stop it after this many seconds, at most 1800", false),
    ],
};
const READ_FILE: Tool = Tool {
    name: "bb_read_file",
    description: "Read a file of text.",
    parameters: &[
        ("path", "string", "the file", true),
        ("offset", "integer", "first line to read, from 1", false),
        ("limit", "integer", "how many lines to read", false),
    ],
};
const WRITE_FILE: Tool = Tool {
    name: "bb_write_file",
    description: "Write a file of text; an existing file is replaced.",
    parameters: &[
        ("path", "string", "the file", true),
        ("content", "string", "all of its new content", true),
    ],
};
const EDIT_FILE: Tool = Tool {
    name: "bb_edit_file",
    description: "Replace one passage of a file. old_text must occur exactly once.",
    parameters: &[
        ("path", "string", "the file", true),
        ("old_text", "string", "the passage as it is", true),
        ("new_text", "string", "the passage as it shall be", true),
    ],
};

/// How a tool call ended.
#[derive(Debug)]
pub(super) enum CallOutcome {
    /// With this result, which may well be an error for the model to read.
    Result(String),
    /// It was cancelled, and nothing of it is left running.
    Cancelled,
}

/// Within which bounds a call runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    pub(super) disk: &'a Disk,
    /// What was left when it began.
    pub(super) room: Room,
    pub(super) cancel: &'a CancellationToken,
}

/// Where a call stands, which names its spill file.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallPlace<'a> {
    /// The turn, in short.
    pub(super) turn: &'a str,
    /// The round.
    pub(super) round: u32,
    /// The call.
    pub(super) index: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShellArguments {
    command: String,
    timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    path: String,
    offset: Option<u64>,
    limit: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    path: String,
    content: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EditArguments {
    path: String,
    old_text: String,
    new_text: String,
}

/// A call of one of the file tools.
#[derive(Debug)]
enum FileCall {
    Read(ReadArguments),
    Write(WriteArguments),
    Edit(EditArguments),
}

impl Workbench {
    /// The workbench of an agent that was welcomed like this.
    pub(super) fn new(welcome: &Welcome, children: Children) -> io::Result<Self> {
        let workdir = std::env::current_dir()?;
        let home = std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .ok_or_else(|| io::Error::other("HOME is not set"))?;
        let bench = Self {
            workdir,
            home,
            shell: find_shell(SHELLS),
            children,
            places: Vec::new(),
            env: Vec::new(),
            output_max: 0,
            result_max: 0,
        };
        Ok(bench.settled(welcome))
    }

    /// The same workbench under another welcome.
    pub(super) fn settled(&self, welcome: &Welcome) -> Self {
        let (least, most) = RESULT_CHARACTERS;
        // 15 % of the window, at four characters a token.
        let share = u64::from(welcome.context) * 4 * 15 / 100;
        Self {
            workdir: self.workdir.clone(),
            home: self.home.clone(),
            shell: self.shell.clone(),
            children: self.children.clone(),
            places: welcome.places.clone(),
            env: welcome
                .env
                .iter()
                .map(|(name, value)| (name.clone(), clock::understood(name, value.clone())))
                .collect(),
            output_max: welcome.output.as_bytes(),
            result_max: usize::try_from(share.clamp(least, most)).unwrap_or(usize::MAX),
        }
    }

    /// The agent's home.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The group's folder, where tools work.
    pub(super) fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// The tools as Ollama wants them described. The same bytes every time.
    pub(super) fn schema(&self) -> Value {
        let shell = self.shell.is_some().then_some(&SHELL);
        let tools = shell.into_iter().chain([&READ_FILE, &WRITE_FILE, &EDIT_FILE]);
        tools.map(describe).collect()
    }

    /// Runs a call to its end.
    pub(super) async fn call(
        self: &Arc<Self>,
        tool: &str,
        arguments: &Value,
        place: CallPlace<'_>,
        bounds: Bounds<'_>,
    ) -> CallOutcome {
        let call = match tool {
            "bb_shell" if self.shell.is_some() => match parse(&SHELL, arguments) {
                Ok(arguments) => return self.shell(arguments, place, bounds).await,
                Err(message) => Err(message),
            },
            "bb_read_file" => parse(&READ_FILE, arguments).map(FileCall::Read),
            "bb_write_file" => parse(&WRITE_FILE, arguments).map(FileCall::Write),
            "bb_edit_file" => parse(&EDIT_FILE, arguments).map(FileCall::Edit),
            _ => Err(format!("there is no tool `{tool}`; there are: {}", self.names().join(", "))),
        };
        let result = match call {
            Ok(call) => {
                // A slow disk must hold up neither a cancellation nor the link.
                let bench = Arc::clone(self);
                let (disk, room) = (bounds.disk.clone(), bounds.room);
                let work = tokio::task::spawn_blocking(move || bench.file(&call, (&disk, room)));
                tokio::select! {
                    () = bounds.cancel.cancelled() => return CallOutcome::Cancelled,
                    result = work => result.unwrap_or_else(|error| Err(error.to_string())),
                }
            }
            Err(message) => Err(message),
        };
        CallOutcome::Result(result.unwrap_or_else(|message| format!("error: {message}")))
    }

    fn file(&self, call: &FileCall, disk: (&Disk, Room)) -> Result<String, String> {
        match call {
            FileCall::Read(arguments) => self.read_file(arguments),
            FileCall::Write(arguments) => self.write_file(arguments, disk),
            FileCall::Edit(arguments) => self.edit_file(arguments, disk),
        }
    }

    fn names(&self) -> Vec<&'static str> {
        let shell = self.shell.is_some().then_some(SHELL.name);
        shell.into_iter().chain([READ_FILE.name, WRITE_FILE.name, EDIT_FILE.name]).collect()
    }

    /// The real path of what the model calls `path`.
    ///
    /// In a container every path is the sandbox's own. Where nothing walls the agent in, the
    /// file tools keep to the group's places, links followed; the shell keeps to nothing.
    fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        let path = self.locate(path);
        if self.places.is_empty() {
            return Ok(path);
        }
        let real = real_path(&path);
        let places = self.places.iter().map(|place| PathBuf::from(&place.host));
        let allowed = places.chain([self.home.clone(), self.workdir.clone()]);
        for place in allowed {
            if real.starts_with(std::fs::canonicalize(&place).unwrap_or(place)) {
                return Ok(path);
            }
        }
        Err(format!("{}: outside this group's folders", path.display()))
    }

    fn locate(&self, path: &str) -> PathBuf {
        if let Some(below) = path.strip_prefix("~/") {
            return self.home.join(below);
        }
        let written = Path::new(path);
        for place in &self.places {
            if let Ok(below) = written.strip_prefix(&place.guest) {
                return Path::new(&place.host).join(below);
            }
        }
        self.workdir.join(written)
    }
}

/// The first of these that this user can run.
fn find_shell(candidates: &[&str]) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    candidates.iter().map(PathBuf::from).find(runs)
}

/// Where a path leads, as far as it is there; what is not there yet is appended as it is written.
fn real_path(path: &Path) -> PathBuf {
    for folder in path.ancestors() {
        if let Ok(real) = std::fs::canonicalize(folder) {
            let rest = path.strip_prefix(folder).unwrap_or(Path::new(""));
            return rest.components().fold(real, |mut real, component| {
                match component {
                    Component::ParentDir => {
                        real.pop();
                    }
                    component => real.push(component),
                }
                real
            });
        }
    }
    path.to_path_buf()
}

fn describe(tool: &Tool) -> Value {
    let properties: serde_json::Map<String, Value> = tool
        .parameters
        .iter()
        .map(|(name, kind, text, _)| {
            ((*name).to_owned(), json!({"type": kind, "description": text}))
        })
        .collect();
    let required: Vec<&str> = tool
        .parameters
        .iter()
        .filter(|(_, _, _, needed)| *needed)
        .map(|(name, ..)| *name)
        .collect();
    json!({"type": "function", "function": {
        "name": tool.name,
        "description": tool.description,
        "parameters": {"type": "object", "required": required, "properties": properties},
    }})
}

fn parse<T: DeserializeOwned>(tool: &Tool, arguments: &Value) -> Result<T, String> {
    T::deserialize(arguments).map_err(|error| {
        let parameters: Vec<String> = tool
            .parameters
            .iter()
            .map(|(name, kind, _, needed)| {
                format!("{name} ({kind}{})", if *needed { "" } else { ", optional" })
            })
            .collect();
        format!("{}: {error}; it takes {}", tool.name, parameters.join(", "))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::name::GroupName;
    use crate::unit::ByteSize;
    use std::collections::BTreeMap;

    /// A workbench whose folders are below `root`.
    pub(crate) fn bench(root: &Path, output: u64) -> Arc<Workbench> {
        let welcome = Welcome {
            group: GroupName::new("home").unwrap(),
            assistant: "Baby".to_owned(),
            model: "rehearsal:latest".to_owned(),
            context: 4096,
            output: ByteSize::bytes(output),
            disk: crate::protocol::Disk { limit: ByteSize::bytes(1 << 30), folders: Vec::new() },
            places: vec![PathMapping {
                guest: "/workspace/group".to_owned(),
                host: root.join("group").to_str().unwrap().to_owned(),
            }],
            env: BTreeMap::from([("GREETING".to_owned(), "hello there".to_owned())]),
        };
        let mut bench = Workbench::new(&welcome, Children::default()).unwrap();
        bench.workdir = root.join("group");
        bench.home = root.join("home");
        std::fs::create_dir_all(&bench.workdir).unwrap();
        std::fs::create_dir_all(&bench.home).unwrap();
        Arc::new(bench)
    }

    pub(crate) async fn call(bench: &Arc<Workbench>, tool: &str, arguments: Value) -> String {
        let place = CallPlace { turn: "00000000", round: 0, index: 0 };
        let (limit, folders) = (ByteSize::bytes(1 << 30), Vec::new());
        let disk = Disk::new(&crate::protocol::Disk { limit, folders });
        let (room, cancel) = (disk.room().await, CancellationToken::new());
        let bounds = Bounds { disk: &disk, room, cancel: &cancel };
        match bench.call(tool, &arguments, place, bounds).await {
            CallOutcome::Result(result) => result,
            CallOutcome::Cancelled => panic!("nobody cancelled"),
        }
    }

    #[tokio::test]
    async fn arguments_are_strict_and_the_model_is_told_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        let bench = bench(root.path(), 1 << 20);
        let unknown =
            call(&bench, "bb_write_file", json!({"path": "a", "content": "b", "mode": "x"})).await;
        assert!(unknown.starts_with("error: bb_write_file: unknown field `mode`"), "{unknown}");
        assert!(unknown.contains("it takes path (string), content (string)"), "{unknown}");
        assert!(!root.path().join("group/a").exists());
        let wrong_type = call(&bench, "bb_shell", json!({"command": 7})).await;
        assert!(wrong_type.contains("invalid type"), "{wrong_type}");
        let missing = call(&bench, "bb_edit_file", json!({"path": "a"})).await;
        assert!(missing.contains("missing field `old_text`"), "{missing}");
        let no_tool = call(&bench, "shell", json!({"command": "true"})).await;
        assert!(no_tool.contains("there are: bb_shell, bb_read_file"), "{no_tool}");
    }

    #[tokio::test]
    async fn where_there_is_no_shell_none_is_offered() {
        let root = tempfile::tempdir().unwrap();
        let shared = bench(root.path(), 1);
        assert!(shared.schema().to_string().contains("bb_shell"));
        let inert = root.path().join("sh");
        std::fs::write(&inert, "not executable").unwrap();
        let candidates = ["/no/such/sh", inert.to_str().unwrap(), root.path().to_str().unwrap()];
        let shell = find_shell(&candidates);
        assert_eq!(shell, None);
        let bench = Arc::new(Workbench { shell, ..Arc::into_inner(shared).unwrap() });
        assert!(!bench.schema().to_string().contains("bb_shell"));
        let answer = call(&bench, "bb_shell", json!({"command": "true"})).await;
        assert!(
            answer.ends_with("there are: bb_read_file, bb_write_file, bb_edit_file"),
            "{answer}"
        );
    }

    #[test]
    fn a_guest_path_means_the_same_everywhere() {
        let root = tempfile::tempdir().unwrap();
        let bench = bench(root.path(), 1);
        let group = root.path().join("group");
        assert_eq!(bench.locate("/workspace/group/a/b"), group.join("a/b"));
        assert_eq!(bench.locate("a"), group.join("a"));
        assert_eq!(bench.locate("~/x"), root.path().join("home/x"));
        assert_eq!(bench.locate("/workspace/groupies"), Path::new("/workspace/groupies"));
    }

    #[tokio::test]
    async fn without_a_wall_the_file_tools_keep_to_the_groups_places() {
        let root = tempfile::tempdir().unwrap();
        let bench = bench(root.path(), 1 << 20);
        let secret = root.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(&secret, bench.workdir.join("link")).unwrap();
        for path in ["../secret", "link", "/etc/passwd", "new/../../secret"] {
            let read = call(&bench, "bb_read_file", json!({"path": path})).await;
            assert!(read.ends_with("outside this group's folders"), "{path}: {read}");
            let written =
                call(&bench, "bb_write_file", json!({"path": path, "content": "x"})).await;
            assert!(written.ends_with("outside this group's folders"), "{path}: {written}");
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
        let inside = call(&bench, "bb_write_file", json!({"path": "a/b", "content": "x"})).await;
        assert_eq!(inside, "wrote 1 bytes to a/b");
    }
}
