//! A project with one group, its store, its gateway and a worker: all that lies
//! between a stored message and a stored reply.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use babybot::channel::terminal::Terminal;
use babybot::channel::{InboundEvent, Sender};
use babybot::clock::SystemClock;
use babybot::gateway::Gateway;
use babybot::host::{self, Host, Worker};
use babybot::name::{
    ChannelName, GroupName, InstanceId, ModelName, SandboxId, SenderId, ThreadId, TurnId,
};
use babybot::observed::SandboxSeen;
use babybot::process::Process;
use babybot::project::Project;
use babybot::resource::{
    Binding, Capabilities, GroupSpec, InstanceSpec, Lifecycle, Limits, ModelSpec, ResourceId,
    RuntimeKind, RuntimeRef, Spec, Writers,
};
use babybot::runtime::process::{ProcessRuntime, Records, Strays};
use babybot::runtime::{
    Exec, ExecSpec, Exit, Runtime, RuntimeError, RuntimeInfo, Runtimes, Sandbox, SandboxSpec,
};
use babybot::session::{Parts, Progress, SteerHandle};
use babybot::store::{MessageSeq, Post, PostKind, Store};
use babybot::unit::Period;
use futures_util::future::BoxFuture;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::ollama::{FakeOllama, Reply};

/// Longer than anything here takes; only a defect reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What comes of some work, which may not take for ever.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes for ever")
}

/// What a workshop is made of where it is not as usual.
pub(crate) struct Plan {
    pub(crate) model: ModelSpec,
    pub(crate) limits: Limits,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) records: Arc<Recorded>,
    pub(crate) script: String,
}

impl Plan {
    /// A real agent whose model is this server.
    pub(crate) fn with(fake: &FakeOllama) -> Self {
        let model = ModelSpec::Ollama {
            url: fake.url.clone(),
            model: "qwen3:8b".into(),
            context: 8192,
            keep_alive: Period::seconds(60),
        };
        let records = Arc::default();
        let runtime = Arc::new(agents(env!("CARGO_BIN_EXE_babybot"), &records));
        Self { model, limits: Limits::default(), runtime, records, script: String::new() }
    }

    /// A real agent whose model plays this script.
    pub(crate) fn scripted(script: &str) -> Self {
        let model = ModelSpec::Rehearsal { context: 8192, script: Some("play.toml".into()) };
        let records = Arc::default();
        let runtime = Arc::new(agents(env!("CARGO_BIN_EXE_babybot"), &records));
        Self { model, limits: Limits::default(), runtime, records, script: script.to_owned() }
    }

    pub(crate) fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    pub(crate) fn runtime(self, runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, ..self }
    }

    pub(crate) async fn build(self) -> Workshop {
        Workshop::new(self, tempfile::tempdir().unwrap(), SystemInstance::Fresh).await
    }
}

/// Which installation a workshop is.
pub(crate) enum SystemInstance {
    Fresh,
    Known(InstanceId),
}

/// What is on record of the agents of a workshop, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Recorded(OnceLock<Arc<dyn Records>>);

impl Records for Recorded {
    fn lock(&self, group: &GroupName) -> PathBuf {
        self.0.get().unwrap().lock(group)
    }

    fn agents(&self) -> Result<Vec<(GroupName, Process)>, String> {
        self.0.get().unwrap().agents()
    }
}

/// Processes that run `program` as the agent.
pub(crate) fn agents(program: &str, records: &Arc<Recorded>) -> ProcessRuntime {
    let records = Arc::clone(records);
    ProcessRuntime::new(program.into(), Strays::Marked, records)
}

pub(crate) struct Workshop {
    pub(crate) project: Project,
    pub(crate) store: Store,
    pub(crate) host: Host,
    pub(crate) group: GroupName,
    pub(crate) instance: InstanceId,
    pub(crate) audience: mpsc::Sender<Progress>,
    pub(crate) progress: mpsc::Receiver<Progress>,
    folder: tempfile::TempDir,
}

impl Workshop {
    async fn new(plan: Plan, folder: tempfile::TempDir, instance: SystemInstance) -> Self {
        use babybot::clock::Clock as _;
        let group = GroupName::new("family").unwrap();
        let project = Project::open(folder.path()).unwrap();
        project.prepare().unwrap();
        for made in project.folders(&group).iter().chain([&project.global()]) {
            project.make_folder(made).unwrap();
        }
        std::fs::write(folder.path().join("play.toml"), &plan.script).unwrap();
        plan.records.0.set(babybot::machine::records(&project)).unwrap();
        let store = Store::open(&project.database()).unwrap();
        let parts = Parts {
            project: project.clone(),
            store: store.clone(),
            runtimes: Runtimes::new([plan.runtime]),
            gateway: Gateway::new(folder.path().to_owned()).unwrap(),
            clock: Arc::new(SystemClock),
        };
        let instance = match instance {
            SystemInstance::Fresh => SystemClock.instance_id(),
            SystemInstance::Known(instance) => instance,
        };
        let specs = specs(&group, plan.model, plan.limits);
        let host = Host::take_over(parts, instance.clone(), specs, TimeZone::UTC).await.unwrap();
        let host = host.retrying_after(Duration::from_millis(5));
        let (audience, progress) = mpsc::channel(1024);
        Self { project, store, host, group, instance, audience, progress, folder }
    }

    /// The same project under the next controller.
    pub(crate) async fn reopened(self, plan: Plan) -> Self {
        let Self { store, host, folder, instance, .. } = self;
        drop(host);
        drop(store);
        Self::new(plan, folder, SystemInstance::Known(instance)).await
    }

    pub(crate) fn worker(&self) -> Worker {
        self.host.worker(&self.group).unwrap()
    }

    /// A file in the group's folder.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.project.group(&self.group).join(name)
    }

    pub(crate) async fn say(&self, text: &str) {
        self.say_as("owner", text).await;
    }

    /// Says something under this name, in the one conversation that there is.
    pub(crate) async fn say_as(&self, name: &str, text: &str) {
        use babybot::clock::Clock as _;
        let sender = Sender { id: SenderId::new("1").unwrap(), name: name.to_owned() };
        let said = (SystemClock.message_id(), text.to_owned());
        let thread = ThreadId::new("one").unwrap();
        let message = Terminal::message(&self.group, thread, sender, said, SystemClock.now());
        self.host.accept(InboundEvent::Message(Box::new(message)), Writers::Owner).await.unwrap();
    }

    /// Works on what waits, to the end of one turn.
    pub(crate) async fn work(&self, worker: &mut Worker) -> Worked {
        let cancel = CancellationToken::new();
        let worked = to_its_end(worker, &cancel, &self.audience);
        tokio::time::timeout(PATIENCE, worked).await.unwrap().unwrap()
    }

    /// Works in another task, which gives the worker back.
    pub(crate) fn working(&self, mut worker: Worker, cancel: &CancellationToken) -> Working {
        let (audience, cancel) = (self.audience.clone(), cancel.clone());
        tokio::spawn(async move {
            let worked = to_its_end(&mut worker, &cancel, &audience);
            let worked = tokio::time::timeout(PATIENCE, worked).await.unwrap().unwrap();
            (worker, worked)
        })
    }

    /// Says something and gives what was answered.
    pub(crate) async fn ask(&self, worker: &mut Worker, text: &str) -> String {
        self.say(text).await;
        assert_eq!(self.work(worker).await, Worked::Answered, "{text}");
        let posts = self.posts().await;
        let [(PostKind::Reply, reply)] = &posts[..] else { panic!("{posts:?}") };
        reply.clone()
    }

    /// Takes what waits in the outbox.
    pub(crate) async fn posts(&self) -> Vec<(PostKind, String)> {
        use babybot::clock::Clock as _;
        let mut posts = Vec::new();
        for post in self.due() {
            self.store.sending(post.id).await.unwrap();
            self.store.delivered(post.id, None, SystemClock.now()).await.unwrap();
            posts.push((post.kind, post.text));
        }
        posts
    }

    /// What waits in the outbox, oldest first.
    pub(crate) fn due(&self) -> Vec<Post> {
        let reader = Store::read_only(&self.project.database()).unwrap().unwrap();
        let mut posts = reader.outbox(None, 1_000).unwrap();
        posts.reverse();
        posts
    }

    /// The turn under way.
    pub(crate) async fn turn(&self) -> TurnId {
        self.store.unfinished(Some(&self.group)).await.unwrap()[0].id.clone()
    }

    /// Steers with whatever waits.
    pub(crate) async fn steer(&self, steer_handle: &SteerHandle) -> bool {
        let messages = self.store.waiting(&self.group).await.unwrap();
        let seqs: Vec<MessageSeq> = messages.iter().map(|message| message.seq).collect();
        steer_handle.steer(seqs, self.host.prompt(&messages)).await.unwrap()
    }

    /// The agent that runs.
    pub(crate) async fn agent(&self) -> Process {
        let open = self.store.open_sandboxes().await.unwrap();
        let [sandbox] = &open[..] else { panic!("{open:?}") };
        Process { pid: i32::try_from(sandbox.pid).unwrap(), start_time: sandbox.start_time }
    }

    /// Waits until a tool runs.
    pub(crate) async fn tool(&mut self) {
        loop {
            let step = tokio::time::timeout(PATIENCE, self.progress.recv()).await.unwrap();
            if matches!(step, Some(Progress::Tool { .. })) {
                return;
            }
        }
    }

    /// The pids that a tool writes into this file, once it is whole.
    pub(crate) async fn pids(&self, name: &str, count: usize) -> Vec<Process> {
        let path = self.file(name);
        let mut found = Vec::new();
        until(|| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let pids = text.lines().filter_map(|line| line.trim().parse().ok());
            found = pids.filter_map(Process::find).collect();
            text.ends_with('\n') && found.len() == count
        })
        .await;
        found
    }
}

/// How a turn came out, whatever it had to wait for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Worked {
    Answered,
    Cancelled,
    GivenUp(String),
}

/// Works on a turn and waits between attempts, as the controller does.
pub(crate) async fn to_its_end(
    worker: &mut Worker,
    cancel: &CancellationToken,
    audience: &mpsc::Sender<Progress>,
) -> Option<Worked> {
    loop {
        let mut wait = match worker.work(cancel, audience).await.unwrap()? {
            host::Worked::Answered => return Some(Worked::Answered),
            host::Worked::Cancelled => return Some(Worked::Cancelled),
            host::Worked::GivenUp(why) => return Some(Worked::GivenUp(why)),
            host::Worked::Waits(wait) => wait,
        };
        tokio::select! {
            () = worker.waited(&mut wait) => {}
            () = cancel.cancelled() => return Some(Worked::Cancelled),
        }
        worker.end_wait(&wait);
        if wait.ends_with_news() {
            let _ = audience.try_send(Progress::Back);
        }
    }
}

pub(crate) type Working = tokio::task::JoinHandle<(Worker, Worked)>;

/// Waits for what nobody tells of.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it never came true");
}

fn specs(group: &GroupName, model: ModelSpec, limits: Limits) -> BTreeMap<ResourceId, Spec> {
    let name = ModelName::new("local").unwrap();
    let spec = GroupSpec {
        main: false,
        bind: vec![Binding { channel: ChannelName::terminal(), chat: None }],
        trigger: "@Baby".into(),
        requires_trigger: false,
        senders: None,
        model: name.clone(),
        lifecycle: Lifecycle::OnDemand,
        runtime: RuntimeKind::None,
        capabilities: Capabilities::PROCESS,
        image: None,
        user: None,
        engine: None,
        limits,
    };
    let house = InstanceSpec {
        assistant: "Baby".into(),
        timezone: None,
        parallel: 5,
        runtime: RuntimeRef::NONE,
        environment: BTreeMap::new(),
    };
    BTreeMap::from([
        (ResourceId::Instance, Spec::Instance(house)),
        (ResourceId::Model(name), Spec::Model(model)),
        (ResourceId::Group(group.clone()), Spec::Group(Box::new(spec))),
    ])
}

/// What a list gives.
type Listed<'a> = BoxFuture<'a, Result<BTreeMap<GroupName, Vec<SandboxSeen>>, RuntimeError>>;

/// A runtime that passes everything on and remembers how agents ended.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: ProcessRuntime,
    pub(crate) exits: Arc<Mutex<Vec<Exit>>>,
}

impl Watched {
    pub(crate) fn new(inner: ProcessRuntime) -> Self {
        Self { inner, exits: Arc::default() }
    }
}

impl Runtime for Watched {
    fn reference(&self) -> RuntimeRef {
        self.inner.reference()
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        self.inner.probe()
    }

    fn list(&self, instance: &InstanceId) -> Listed<'_> {
        self.inner.list(instance)
    }

    fn exec(&self, id: &SandboxId, command: ExecSpec) -> BoxFuture<'_, Result<Exec, RuntimeError>> {
        self.inner.exec(id, command)
    }

    fn launch(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>> {
        Box::pin(async move {
            let sandbox = self.inner.launch(spec).await?;
            let (exits, exit) = (self.exits.clone(), sandbox.exit);
            let exit = Box::pin(async move {
                let exit = exit.await;
                exits.lock().unwrap().push(exit.clone());
                exit
            });
            Ok(Sandbox { exit, ..sandbox })
        })
    }

    fn stop(&self, id: &SandboxId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.inner.stop(id, grace)
    }

    fn reap(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.inner.reap(instance)
    }
}

/// A runtime whose agents are played by the test.
#[derive(Debug)]
pub(crate) struct Puppets(mpsc::UnboundedSender<Puppet>);

/// An agent that the test plays. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Puppet {
    pub(crate) io: DuplexStream,
    pub(crate) log: DuplexStream,
    pub(crate) exit: oneshot::Sender<Exit>,
}

impl Puppets {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Puppet>) {
        let (sender, puppets) = mpsc::unbounded_channel();
        (Arc::new(Self(sender)), puppets)
    }
}

impl Runtime for Puppets {
    fn reference(&self) -> RuntimeRef {
        RuntimeRef::NONE
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        Box::pin(async { Err(RuntimeError::Failed("it is a puppet".to_owned())) })
    }

    fn list(&self, _: &InstanceId) -> Listed<'_> {
        Box::pin(async { Ok(BTreeMap::new()) })
    }

    fn exec(&self, _: &SandboxId, _: ExecSpec) -> BoxFuture<'_, Result<Exec, RuntimeError>> {
        Box::pin(async { Err(RuntimeError::Failed("it is a puppet".to_owned())) })
    }

    fn launch(&self, _: SandboxSpec) -> BoxFuture<'_, Result<Sandbox, RuntimeError>> {
        let (link, io) = tokio::io::duplex(64 << 10);
        let (log_end, log) = tokio::io::duplex(64 << 10);
        let (exit, exited) = oneshot::channel();
        self.0.send(Puppet { io, log, exit }).unwrap();
        let exit = Box::pin(async move { exited.await.unwrap_or(Exit::Code(0)) });
        let (link, log) = (Box::new(link), Box::new(log_end));
        Box::pin(async move {
            let id = SandboxId::new("puppet").unwrap();
            Ok(Sandbox { id, process: None, link, log, exit })
        })
    }

    fn stop(&self, _: &SandboxId, _: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn reap(&self, _: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A streamed answer of a model.
pub(crate) fn says(text: &str) -> Reply {
    lines(&[json!({"message": {"role": "assistant", "content": text}, "done": false}), done()])
}

/// A model's answer that calls these tools.
pub(crate) fn calls(calls: &[(&str, Value)]) -> Reply {
    let calls: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(index, (tool, arguments))| {
            json!({"id": format!("call_{index}"), "function": {
                "index": index, "name": tool, "arguments": arguments,
            }})
        })
        .collect();
    let message = json!({"role": "assistant", "content": "", "tool_calls": calls});
    lines(&[json!({"message": message, "done": false}), done()])
}

pub(crate) fn shell(command: &str) -> Reply {
    calls(&[("bb_shell", json!({ "command": command }))])
}

fn done() -> Value {
    json!({
        "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop",
        "prompt_eval_count": 11, "eval_count": 7,
    })
}

pub(crate) fn lines(lines: &[Value]) -> Reply {
    Reply::stream(lines.iter().map(|line| format!("{line}\n").into_bytes()))
}
