//! One runtime with an instance of its own, and sandboxes in it that do what a script says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use babybot::clock::{Clock as _, SystemClock};
use babybot::name::{GroupName, InstanceId};
use babybot::process::Process;
use babybot::resource::{ContainerSpec, MilliCpus, RuntimeRef, UserId};
use babybot::runtime::docker::Docker;
use babybot::runtime::process::{ProcessRuntime, Records, Strays};
use babybot::runtime::{Access, Duplex, Exit, Mount, Runtime, Sandbox, SandboxSpec};
use babybot::unit::ByteSize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::docker::{AGENT, Engine};

/// Longest wait for something that takes moments, so that a busy machine fails no test.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What runs as the agent of a container: what its environment says.
const SCRIPTED: [&str; 3] = ["/bin/sh", "-c", "exec sh -c \"$SCRIPT\""];

/// One runtime, and an instance that nobody else has.
pub(super) struct Place {
    pub(super) instance: InstanceId,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) engine: Option<Engine>,
    pub(super) records: Arc<Recorded>,
    folder: Arc<tempfile::TempDir>,
}

impl Place {
    pub(super) fn docker(engine: Engine) -> Self {
        let runtime = scripted(Docker::new(engine.endpoint.clone()).unwrap());
        Self::new(Arc::new(runtime), Some(engine), SystemClock.instance_id())
    }

    pub(super) fn none() -> Self {
        let records = Arc::new(Recorded::default());
        let runtime = Arc::new(processes("scripted", &records));
        let mut place = Self::new(runtime, None, SystemClock.instance_id());
        place.records = records;
        place
    }

    /// The same place for an instance that is known already.
    pub(super) fn of(self, instance: InstanceId) -> Self {
        let mut place = self.shared();
        place.instance = instance;
        place
    }

    /// The same runtime and folder, and another instance.
    pub(super) fn neighbour(&self) -> Self {
        self.shared().of(SystemClock.instance_id())
    }

    /// The same instance by another way to its runtime.
    pub(super) fn by(&self, runtime: Arc<dyn Runtime>) -> Self {
        let mut place = self.shared();
        place.runtime = runtime;
        place
    }

    fn shared(&self) -> Self {
        Self {
            instance: self.instance.clone(),
            runtime: Arc::clone(&self.runtime),
            engine: self.engine.clone(),
            records: Arc::clone(&self.records),
            folder: Arc::clone(&self.folder),
        }
    }

    fn new(runtime: Arc<dyn Runtime>, engine: Option<Engine>, instance: InstanceId) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self { instance, runtime, engine, records: Arc::default(), folder }
    }

    pub(super) fn is_docker(&self) -> bool {
        self.engine.is_some()
    }

    /// A folder of this test, which exists, and belongs to whom agents run as.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(&path).unwrap();
        if self.is_docker() && rustix::process::geteuid().is_root() {
            let (uid, gid) = AGENT;
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// A sandbox for `group` that runs `script`.
    pub(super) fn spec(&self, group: &str, script: &str) -> SandboxSpec {
        let (workdir, home) = (self.folder(group), self.folder(&format!("{group}-home")));
        let user = self.is_docker().then_some(if rustix::process::geteuid().is_root() {
            UserId { uid: AGENT.0, gid: AGENT.1 }
        } else {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            UserId { uid: uid.as_raw(), gid: gid.as_raw() }
        });
        SandboxSpec {
            instance: self.instance.clone(),
            group: name(group),
            incarnation: SystemClock.incarnation(),
            generation: 7,
            container: ContainerSpec {
                runtime: self.runtime.reference().kind,
                image: self.engine.as_ref().map(|engine| engine.image.clone()),
                user,
                main: false,
                cpus: self.is_docker().then_some(MilliCpus(2000)),
                memory: self.is_docker().then_some(ByteSize::bytes(64 << 20)),
                pids: self.is_docker().then_some(64),
                engine: None,
            },
            mounts: vec![
                mount(&workdir, "/workspace/group", Access::Write),
                mount(&home, "/home/agent", Access::Write),
            ],
            user: None,
            env: BTreeMap::from([("SCRIPT".to_owned(), script.to_owned())]),
        }
    }

    pub(super) async fn start(&self, group: &str, script: &str) -> Running {
        Running::from(self.runtime.launch(self.spec(group, script)).await.unwrap())
    }

    /// What a script says until it ends.
    pub(super) async fn says(&self, group: &str, script: &str) -> String {
        let mut running = self.start(group, script).await;
        running.close().await;
        let said = running.rest().await;
        assert_eq!(running.exit().await, Exit::Code(0), "{said}");
        said
    }

    /// How many sandboxes there are of each group.
    pub(super) async fn count(&self) -> usize {
        let all = self.runtime.list(&self.instance).await.unwrap();
        all.values().map(Vec::len).sum()
    }

    pub(super) fn reference(&self) -> RuntimeRef {
        self.runtime.reference()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test leaves behind is taken away, whatever state its own runtime is in.
        let Some(engine) = self.engine.clone().filter(|_| std::thread::panicking()) else { return };
        let instance = self.instance.clone();
        let reap = move || {
            let docker = Docker::new(engine.endpoint).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = runtime.block_on(docker.reap(instance));
        };
        let _ = std::thread::spawn(reap).join();
    }
}

/// The engine's runtime, with scripts as agents.
pub(super) fn scripted(docker: Docker) -> Docker {
    docker.with_agent(SCRIPTED.map(ToOwned::to_owned).to_vec())
}

/// What is on record of some agents.
#[derive(Debug)]
pub(super) struct Recorded {
    agents: Mutex<Vec<(GroupName, Process)>>,
    locks: tempfile::TempDir,
}

impl Default for Recorded {
    fn default() -> Self {
        Self { agents: Mutex::default(), locks: tempfile::tempdir().unwrap() }
    }
}

impl Recorded {
    /// Writes an agent down, as a store would.
    pub(super) fn remember(&self, running: &Running) {
        let agent = running.sandbox.process.map(|process| (name("family"), process));
        self.agents.lock().unwrap().extend(agent);
    }
}

impl Records for Recorded {
    fn lock(&self, group: &GroupName) -> PathBuf {
        self.locks.path().join(group.as_str())
    }

    fn agents(&self) -> Result<Vec<(GroupName, Process)>, String> {
        Ok(self.agents.lock().unwrap().clone())
    }
}

/// Plain processes that run one of the test agents.
pub(super) fn processes(agent: &str, records: &Arc<Recorded>) -> ProcessRuntime {
    let records = Arc::clone(records);
    let agents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/agents");
    ProcessRuntime::new(agents.join(agent), Strays::Marked, records)
}

pub(super) fn name(group: &str) -> GroupName {
    GroupName::new(group).unwrap()
}

pub(super) fn mount(source: &Path, target: &str, access: Access) -> Mount {
    Mount { source: source.to_owned(), target: target.to_owned(), access }
}

/// A sandbox at work.
pub(super) struct Running {
    pub(super) sandbox: Sandbox,
}

impl From<Sandbox> for Running {
    fn from(sandbox: Sandbox) -> Self {
        Self { sandbox }
    }
}

impl Running {
    fn link(&mut self) -> &mut Box<dyn Duplex> {
        &mut self.sandbox.link
    }

    pub(super) async fn say(&mut self, text: &str) {
        self.link().write_all(text.as_bytes()).await.unwrap();
        self.link().flush().await.unwrap();
    }

    pub(super) async fn close(&mut self) {
        let _ = self.link().shutdown().await;
    }

    /// The next line, with nothing read beyond it.
    pub(super) async fn line(&mut self) -> String {
        let read = async {
            let mut line = Vec::new();
            loop {
                match self.link().read_u8().await {
                    Ok(b'\n') => return String::from_utf8(line).unwrap(),
                    Ok(byte) => line.push(byte),
                    Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&line)),
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("no line comes")
    }

    /// Everything up to the end.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let read = self.link().read_to_end(&mut rest);
        tokio::time::timeout(PATIENCE, read).await.expect("no end comes").unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// The first line of the log.
    pub(super) async fn log_line(&mut self) -> String {
        let mut line = String::new();
        let mut log = BufReader::new(&mut self.sandbox.log);
        let read = log.read_line(&mut line);
        tokio::time::timeout(PATIENCE, read).await.expect("no log comes").unwrap();
        line.trim_end().to_owned()
    }

    pub(super) async fn exit(self) -> Exit {
        let Sandbox { exit, link, log, .. } = self.sandbox;
        let exit = tokio::time::timeout(PATIENCE, exit).await.expect("it does not end");
        drop((link, log));
        exit
    }
}
