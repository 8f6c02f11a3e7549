//! The agent's tools: what a model may do in its sandbox.
//!
//! Few, flat and strict: an argument that is not in a tool's schema is an error
//! that the model is told about, never a guess. What a tool gives is text, cut
//! to what the model's window can bear; the whole of it goes to a file.
//!
//! A tool is a file beneath this one and a line in [`Tools::own`]. The host may offer more in
//! its greeting: a call of those is a request.

mod capture;
mod edit_file;
mod file_tool;
mod files;
mod host_tool;
mod read_file;
mod shell;
mod tool;
mod workbench;
mod write_file;

use std::sync::Arc;

use serde_json::Value;

use super::children::Children;
use crate::link::client::Link;
use crate::protocol::Welcome;

use host_tool::HostTool;
use shell::Shell;
use tool::{Tool, refused};
use workbench::Workbench;

pub(super) use tool::{Bounds, CallOutcome, CallPlace};
pub(super) use workbench::Folders;

/// Where a shell may be.
const SHELLS: &[&str] = &["/bin/sh", "/usr/bin/sh"];

/// The tools that this agent has.
#[derive(Debug)]
pub(super) struct Tools {
    tools: Vec<Box<dyn Tool>>,
    schema: Value,
}

impl Tools {
    /// The tools of an agent that was welcomed like this, in the order in which a model is told
    /// of them.
    pub(super) fn new(
        folders: &Folders,
        welcome: &Welcome,
        children: &Children,
        link: &Link,
    ) -> Self {
        let mut tools = Self::own(SHELLS, folders, welcome, children);
        for told in &welcome.tools {
            tools.add(Box::new(HostTool::new(told.clone(), link.clone())));
        }
        tools
    }

    /// The tools that need no host.
    fn own(shells: &[&str], folders: &Folders, welcome: &Welcome, children: &Children) -> Self {
        let bench = Arc::new(Workbench::new(folders, welcome));
        let mut tools: Vec<Box<dyn Tool>> = Vec::new();
        if let Some(program) = shell::find(shells) {
            tools.push(Box::new(Shell::new(program, Arc::clone(&bench), children.clone())));
        }
        tools.push(Box::new(read_file::tool(Arc::clone(&bench))));
        tools.push(Box::new(write_file::tool(Arc::clone(&bench))));
        tools.push(Box::new(edit_file::tool(bench)));
        let mut own = Self { tools: Vec::new(), schema: Value::Array(Vec::new()) };
        tools.into_iter().for_each(|tool| own.add(tool));
        own
    }

    /// Adds a tool. Of two with one name the first stays: the host replaces none of the agent's own.
    fn add(&mut self, tool: Box<dyn Tool>) {
        let Value::Array(schema) = &mut self.schema else { return };
        if self.tools.iter().any(|known| known.spec().name == tool.spec().name) {
            tracing::warn!(tool = %tool.spec().name, "the host names a tool that the agent has");
            return;
        }
        schema.push(tool.spec().schema());
        self.tools.push(tool);
    }

    /// Whether a call that was interrupted may be made again, and happens once all the same.
    pub(super) fn may_be_repeated(&self, tool: &str) -> bool {
        self.find(tool).is_some_and(Tool::may_be_repeated)
    }

    fn find(&self, name: &str) -> Option<&dyn Tool> {
        self.tools.iter().find(|tool| tool.spec().name == name).map(|tool| &**tool)
    }

    /// The tools as Ollama wants them described. The same bytes every time.
    pub(super) fn schema(&self) -> &Value {
        &self.schema
    }

    /// Runs a call to its end.
    pub(super) async fn call(
        &self,
        tool: &str,
        arguments: &Value,
        place: CallPlace<'_>,
        bounds: Bounds<'_>,
    ) -> CallOutcome {
        match self.find(tool) {
            Some(tool) => tool.call(arguments, place, bounds).await,
            None => {
                let names: Vec<&str> = self.tools.iter().map(|tool| &*tool.spec().name).collect();
                refused(format!("there is no tool `{tool}`; there are: {}", names.join(", ")))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::super::disk::Disk;
    use super::*;
    use crate::name::{GroupName, TurnId};
    use crate::protocol::{self, PathMapping};
    use crate::unit::ByteSize;

    /// What an agent has whose folders are below a root.
    pub(in super::super) struct Bench {
        pub(super) folders: Folders,
        pub(in super::super) welcome: Welcome,
    }

    impl Bench {
        pub(in super::super) fn new(root: &Path, output: u64) -> Self {
            let folders = Folders { workdir: root.join("group"), home: root.join("home") };
            std::fs::create_dir_all(&folders.workdir).unwrap();
            std::fs::create_dir_all(&folders.home).unwrap();
            let welcome = Welcome {
                group: GroupName::new("home").unwrap(),
                assistant: "Baby".to_owned(),
                model: "rehearsal:latest".to_owned(),
                context: 4096,
                output: ByteSize::bytes(output),
                disk: protocol::Disk { limit: ByteSize::bytes(1 << 30), folders: Vec::new() },
                places: vec![PathMapping {
                    guest: "/workspace/group".to_owned(),
                    host: root.join("group").to_str().unwrap().to_owned(),
                }],
                env: BTreeMap::from([("GREETING".to_owned(), "hello there".to_owned())]),
                tools: Vec::new(),
            };
            Self { folders, welcome }
        }

        pub(super) fn tools(&self) -> Tools {
            Tools::own(SHELLS, &self.folders, &self.welcome, &Children::default())
        }
    }

    pub(super) async fn call(tools: &Tools, tool: &str, arguments: Value) -> String {
        call_at(0, tools, tool, arguments).await
    }

    /// The call at this index of a round.
    pub(super) async fn call_at(index: u32, tools: &Tools, tool: &str, arguments: Value) -> String {
        let turn = TurnId::new("0".repeat(32)).unwrap();
        let place = CallPlace { turn: &turn, round: 0, index };
        let (limit, folders) = (ByteSize::bytes(1 << 30), Vec::new());
        let disk = Disk::new(&protocol::Disk { limit, folders });
        let (room, cancel) = (disk.room().await, CancellationToken::new());
        let bounds = Bounds { disk: &disk, room, cancel: &cancel };
        match tools.call(tool, &arguments, place, bounds).await {
            CallOutcome::Result(result) => result,
            CallOutcome::Cancelled => panic!("nobody cancelled"),
        }
    }

    #[tokio::test]
    async fn arguments_are_strict_and_the_model_is_told_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        let tools = Bench::new(root.path(), 1 << 20).tools();
        let unknown =
            call(&tools, "bb_write_file", json!({"path": "a", "content": "b", "mode": "x"})).await;
        assert!(unknown.starts_with("error: bb_write_file: unknown field `mode`"), "{unknown}");
        assert!(unknown.contains("it takes path (string), content (string)"), "{unknown}");
        assert!(!root.path().join("group/a").exists());
        let wrong_type = call(&tools, "bb_shell", json!({"command": 7})).await;
        assert!(wrong_type.contains("invalid type"), "{wrong_type}");
        let missing = call(&tools, "bb_edit_file", json!({"path": "a"})).await;
        assert!(missing.contains("missing field `old_text`"), "{missing}");
        let no_tool = call(&tools, "shell", json!({"command": "true"})).await;
        assert!(no_tool.contains("there are: bb_shell, bb_read_file"), "{no_tool}");
    }

    #[tokio::test]
    async fn where_there_is_no_shell_none_is_offered() {
        let root = tempfile::tempdir().unwrap();
        let bench = Bench::new(root.path(), 1);
        assert!(bench.tools().schema().to_string().contains("bb_shell"));
        let inert = root.path().join("sh");
        std::fs::write(&inert, "not executable").unwrap();
        let shells = ["/no/such/sh", inert.to_str().unwrap(), root.path().to_str().unwrap()];
        let (folders, children) = (&bench.folders, Children::default());
        let tools = Tools::own(&shells, folders, &bench.welcome, &children);
        assert!(!tools.schema().to_string().contains("bb_shell"));
        let answer = call(&tools, "bb_shell", json!({"command": "true"})).await;
        assert!(
            answer.ends_with("there are: bb_read_file, bb_write_file, bb_edit_file"),
            "{answer}"
        );
    }
}
