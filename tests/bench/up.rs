//! Turns through `babybot up`: the real controller in a project of its own, asked through its
//! socket, with agents in containers of a real engine.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use babybot::clock::{Clock as _, SystemClock};
use babybot::control::client::Client;
use babybot::control::{
    ChatEvent, ChatRequest, Condition, GroupStatus, Outcome, Person, PostOutcome, Said,
};
use babybot::name::{GroupName, InstanceId, ThreadId};
use babybot::project::Project;
use babybot::runtime::Runtime as _;
use babybot::runtime::docker::endpoint::Endpoint;
use babybot::runtime::docker::find::{self, Found};
use babybot::runtime::docker::places::{self, HostEnvironment};
use babybot::runtime::docker::{self, Docker};
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, EventsOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::harness::{Effort, Table, Times};
use crate::instant::Instantly;
use crate::turn::{TARGET, link_round_trips, runtime};

/// What a cold turn is to stay under.
const COLD_TARGET: Duration = Duration::from_millis(500);
/// How long anything may take that is waited for here.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a controller is left alone before what it does is measured.
const QUIET: Duration = Duration::from_millis(700);

/// An engine, asked without anything of what is measured.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) client: bollard::Docker,
    endpoint: Endpoint,
    pub(crate) version: String,
}

impl Engine {
    /// The one that babybot would find, or why there is none.
    pub(crate) async fn find() -> Result<Self, String> {
        match find::find(places::places(None, None, &HostEnvironment)).await {
            Found::Is(_, info) => {
                let (url, reason) = info.endpoint.split_once(' ').unwrap();
                let endpoint = Endpoint { url: url.to_owned(), reason: reason.to_owned() };
                let version = bollard::API_DEFAULT_VERSION;
                let client = bollard::Docker::connect_with_unix(url, 120, version).unwrap();
                Ok(Self { client, endpoint, version: info.version })
            }
            Found::Absent => Err("none was found".to_owned()),
            Found::Unknown(why) => Err(why),
        }
    }

    /// A container of an image that says one line, from the first call to its first byte; and when
    /// it was started.
    async fn bare_start(&self, image: &str) -> (Duration, Duration) {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(vec!["--version".to_owned()]),
            entrypoint: Some(vec!["/usr/local/bin/babybot".to_owned()]),
            attach_stdout: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let begun = Instant::now();
        let id = self.client.create_container(None, body).await.unwrap().id;
        let options = AttachContainerOptionsBuilder::default().stdout(true).stream(true).build();
        let mut attached = self.client.attach_container(&id, Some(options)).await.unwrap();
        self.client.start_container(&id, None).await.unwrap();
        let started = begun.elapsed();
        let first = attached.output.next().await.unwrap().unwrap();
        let spoke = begun.elapsed();
        assert!(matches!(first, LogOutput::StdOut { .. }), "{first:?}");
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.client.remove_container(&id, Some(options)).await.unwrap();
        (spoke, started)
    }
}

/// A controller that runs.
pub(crate) struct Up {
    pub(crate) child: Child,
    pub(crate) client: Client,
    instance: InstanceId,
    engine: Option<Engine>,
    _folder: tempfile::TempDir,
}

impl Up {
    /// `babybot up` with this manifest; its image is built first, if it has one.
    pub(crate) async fn new(manifest: &str, engine: Option<&Engine>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("babybot.toml"), manifest).unwrap();
        let errors = std::fs::File::create(folder.path().join("stderr.txt")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_babybot"));
        command
            .args(["up", "--yes=safe,disruptive,destructive,privileged"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (client, instance) = Self::join(folder.path(), &mut child).await;
        Self { child, client, instance, engine: engine.cloned(), _folder: folder }
    }

    async fn join(folder: &Path, child: &mut Child) -> (Client, InstanceId) {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = || std::fs::read_to_string(folder.join("stderr.txt")).unwrap_or_default();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", said());
            let project = Project::open(folder).unwrap();
            if let Some(instance) = project.known_instance().unwrap()
                && let Ok(Some(client)) = Client::connect(&project.data(), &instance).await
            {
                return (client, instance);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Says something and waits for the end of the answer; gives when it was said and when the
    /// reply was there.
    async fn say(&self, group: &GroupName) -> (Instant, Instant) {
        let thread: ThreadId = SystemClock.ordered_bits().parse().unwrap();
        let request = ChatRequest {
            group: group.clone(),
            thread: thread.clone(),
            person: Person { id: "uid-0".parse().unwrap(), name: "owner".to_owned() },
            resumed: false,
        };
        let mut events = self.client.chat(&request).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap(), ChatEvent::Joined);
        let begun = Instant::now();
        let text = "What is on today?".to_owned();
        let said = Said { id: SystemClock.message_id(), text };
        self.client.say(&thread, &said).await.unwrap();
        let mut came = None;
        while let Some(event) = events.next().await {
            match event.unwrap() {
                ChatEvent::Post { id, reply, text, .. } => {
                    came = Some(Instant::now());
                    assert!(reply, "{text}");
                    self.client.acknowledge(id, &PostOutcome::Shown).await.unwrap();
                }
                ChatEvent::Over { outcome, .. } => {
                    assert_eq!(outcome, Outcome::Answered);
                    break;
                }
                _ => {}
            }
        }
        (begun, came.expect("a turn that is answered has a reply"))
    }

    /// The containers of this controller: their ids and their groups.
    async fn containers(&self) -> Vec<(String, String)> {
        let engine = self.engine.as_ref().unwrap();
        let filters = HashMap::from([("label", self.labels())]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = engine.client.list_containers(Some(options)).await.unwrap();
        let ours = found.into_iter().map(|container| {
            let group = container.labels.unwrap_or_default().remove(docker::GROUP).unwrap();
            (container.id.unwrap(), group)
        });
        ours.collect()
    }

    /// Waits until so many of its containers are there.
    async fn wait_for(&self, count: usize) -> Vec<(String, String)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let containers = self.containers().await;
            if containers.len() == count {
                return containers;
            }
            assert!(Instant::now() < until, "{} containers instead of {count}", containers.len());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every group is as it should be.
    async fn wait_ready(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.client.status().await.unwrap();
            let ready = |group: &GroupStatus| group.conditions[&Condition::Ready].holds;
            if !status.groups.is_empty() && status.groups.values().all(ready) {
                return;
            }
            assert!(Instant::now() < until, "{:?}", status.groups);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What its containers are known by. An image hands its own labels on, but none of a group.
    fn labels(&self) -> Vec<String> {
        vec![format!("{}={}", docker::INSTANCE, self.instance), docker::GROUP.to_owned()]
    }

    /// The image that its agents run from.
    async fn image(&self, container: &str) -> String {
        let engine = self.engine.as_ref().unwrap();
        let found = engine.client.inspect_container(container, None).await.unwrap();
        found.config.unwrap().image.unwrap()
    }

    /// The process of a container's agent, as the machine counts.
    async fn agent(&self, container: &str) -> u32 {
        let engine = self.engine.as_ref().unwrap();
        let found = engine.client.inspect_container(container, None).await.unwrap();
        found.state.unwrap().pid.unwrap().try_into().unwrap()
    }

    /// Ends it and what it made.
    pub(crate) async fn end(mut self) {
        self.client.shut_down(Duration::from_secs(5)).await.unwrap();
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        let Some(engine) = &self.engine else { return };
        let docker = Docker::new(engine.endpoint.clone()).unwrap();
        for tag in docker.images(&self.instance).await.unwrap() {
            // One that somebody else's container stands on is theirs by now.
            let _ = docker.remove_image(&self.instance, &tag).await;
        }
    }
}

fn manifest(kind: &str, model: &str, groups: &[&str], more: &str) -> String {
    let head = format!(
        "schema = 1\nname = \"home\"\n[runtime]\nkind = \"{kind}\"\n[runtime.image]\n\
         base = \"scratch\"\n[models.local]\n{model}\n"
    );
    let groups = groups.iter().map(|group| format!("[groups.{group}]\n{more}\n"));
    head + &groups.collect::<String>()
}

/// Warm turns of a plain process.
pub(crate) fn on_none(effort: Effort, table: &mut Table) {
    runtime().block_on(async {
        let floor = link_round_trips(effort.samples(400)).await;
        let instant = Instantly::serve().await;
        let up = Up::new(&manifest("none", &instant.lines(), &["home"], ""), None).await;
        table.heading("A warm turn on `none`, through `babybot up`");
        warm_lines(effort, table, &up, &instant, &floor).await;
        up.end().await;
    });
}

/// Warm turns in a container, and what its agent then uses.
pub(crate) fn warm(effort: Effort, table: &mut Table) {
    on_engine(table, async |table, engine| {
        let floor = link_round_trips(effort.samples(400)).await;
        let instant = Instantly::serve().await;
        let up = Up::new(&manifest("docker", &instant.lines(), &["home"], ""), Some(engine)).await;
        table.heading(&format!("A warm turn on {}, through `babybot up`", engine.version));
        warm_lines(effort, table, &up, &instant, &floor).await;
        let containers = up.containers().await;
        let agent = up.agent(&containers[0].0).await;
        crate::rest::agent(effort, table, agent).await;
        up.end().await;
    });
}

/// From a message to a group whose agent rests, to the request at the model.
pub(crate) fn cold(effort: Effort, table: &mut Table) {
    on_engine(table, async |table, engine| cold_turns(effort, table, engine).await);
}

/// From the death of an agent that is always to run, to the start of the next.
pub(crate) fn killed(effort: Effort, table: &mut Table) {
    on_engine(table, async |table, engine| killed_agents(effort, table, engine).await);
}

/// Does it where an engine answers, and says so where none does.
fn on_engine(table: &mut Table, measure: impl AsyncFnOnce(&mut Table, &Engine)) {
    runtime().block_on(async {
        match Engine::find().await {
            Ok(engine) => measure(table, &engine).await,
            Err(why) => table.note(&format!("Not measured on an engine: {why}")),
        }
    });
}

async fn warm_lines(
    effort: Effort,
    table: &mut Table,
    up: &Up,
    instant: &Instantly,
    floor: &Times,
) {
    let count = effort.samples(400);
    let home = GroupName::new("home").unwrap();
    let (mut before, mut after, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let unmeasured = count.div_ceil(10);
    for round in 0..count + unmeasured {
        let (begun, came) = up.say(&home).await;
        let (asked, answered) = instant.only_note();
        if round >= unmeasured {
            before.push(asked - begun);
            after.push(came - answered);
            both.push((asked - begun) + (came - answered));
        }
    }
    let floor = Some(floor);
    table.line("message said → request at the model", &Times::new(before), floor, None);
    table.line("model's last byte → reply at the terminal", &Times::new(after), floor, None);
    table.line("both: the overhead", &Times::new(both), floor, Some(TARGET));
}

async fn cold_turns(effort: Effort, table: &mut Table, engine: &Engine) {
    let count = effort.samples(40);
    let instant = Instantly::serve().await;
    let limits = "limits = { idle = \"1s\" }";
    let up = Up::new(&manifest("docker", &instant.lines(), &["home"], limits), Some(engine)).await;
    let home = GroupName::new("home").unwrap();
    // Once for whatever is done only once.
    up.say(&home).await;
    instant.only_note();
    let image = up.image(&up.wait_for(1).await[0].0).await;
    let events = Events::of(&up).await;
    let (mut bare, mut times, mut moments) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        up.wait_for(0).await;
        tokio::time::sleep(QUIET).await;
        // Alternately, so that both have the same machine.
        bare.push(engine.bare_start(&image).await);
        tokio::time::sleep(QUIET).await;
        let at = now();
        let (begun, _) = up.say(&home).await;
        let (asked, _) = instant.only_note();
        times.push(asked - begun);
        moments.push((at, at + (asked - begun)));
    }
    let floor = Times::new(bare.iter().map(|(spoke, _)| *spoke).collect());
    table.heading(&format!(
        "A cold turn on {}; the floor is a bare container of the same image, from its making to \
         its first byte",
        engine.version
    ));
    let times = Times::new(times);
    table.line("message said → request at the model", &times, Some(&floor), Some(COLD_TARGET));
    let target = floor.median().mul_f64(1.25);
    table.line("the same, against 1.25 × the floor", &times, Some(&floor), Some(target));
    let started = Times::new(bare.iter().map(|(_, started)| *started).collect());
    table.line("the floor until it was started", &started, None, None);
    stages(table, &events.end().await, &moments);
    up.end().await;
}

/// Where the time of cold turns went, by the engine's own events.
fn stages(
    table: &mut Table,
    events: &[(Duration, String, String)],
    turns: &[(Duration, Duration)],
) {
    let (mut made, mut started, mut spoke) = (Vec::new(), Vec::new(), Vec::new());
    for (begun, asked) in turns {
        let within = |what: &str| {
            let event = events.iter().find(|(at, is, _)| is == what && at > begun && at < asked);
            event.map(|(at, _, _)| *at)
        };
        let (Some(create), Some(start)) = (within("create"), within("start")) else { continue };
        made.push(create - *begun);
        started.push(start - create);
        spoke.push(*asked - start);
    }
    if made.is_empty() {
        return;
    }
    table.line("… message said → container made", &Times::new(made), None, None);
    table.line("… container made → started", &Times::new(started), None, None);
    table.line("… started → request at the model", &Times::new(spoke), None, None);
}

async fn killed_agents(effort: Effort, table: &mut Table, engine: &Engine) {
    const NAMES: &[&str] = &["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"];
    let rounds = effort.samples(4);
    let names = if effort == Effort::Quick { &NAMES[..2] } else { NAMES };
    let instant = Instantly::serve().await;
    let always = "lifecycle = \"always\"";
    let up = Up::new(&manifest("docker", &instant.lines(), names, always), Some(engine)).await;
    up.wait_ready().await;
    let containers = up.wait_for(names.len()).await;
    let image = up.image(&containers[0].0).await;
    tokio::time::sleep(QUIET * 4).await;
    let events = Events::of(&up).await;
    let mut bare = Vec::new();
    for round in 0..rounds {
        for (id, group) in up.wait_for(names.len()).await {
            let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
            engine.client.kill_container(&id, Some(options)).await.unwrap();
            let until = Instant::now() + PATIENCE;
            while up.containers().await.iter().all(|(other, of)| *of != group || *other == id) {
                assert!(Instant::now() < until, "{group} does not come back");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            tokio::time::sleep(QUIET).await;
            bare.push(engine.bare_start(&image).await.1);
        }
        // One that is tried again and again is waited for longer each time, as it should be.
        tokio::time::sleep(Duration::from_millis(200 << round)).await;
    }
    let events = events.end().await;
    let mut times = Vec::new();
    for group in names.iter().copied() {
        let mut died = None;
        let own = events.iter().filter(|(_, what, of)| *of == group && what != "create");
        for (at, what, _) in own {
            match (what.as_str(), died.take()) {
                ("die", _) => died = Some(*at),
                ("start", Some(died)) => times.push(*at - died),
                _ => {}
            }
        }
    }
    assert_eq!(times.len(), rounds * names.len(), "as many as were killed came back");
    table.heading(&format!(
        "`docker kill` of an agent that always runs on {}, by the engine's events; the floor is a \
         bare container of the same image, made and started",
        engine.version
    ));
    let floor = Times::new(bare);
    let target = Some(Duration::from_secs(1));
    table.line("died → the next was started", &Times::new(times), Some(&floor), target);
    up.end().await;
}

/// What happens to containers of a controller: when, what, and to whose. Listened to while it
/// happens, since engines remember little.
struct Events {
    heard: Arc<Mutex<Vec<(Duration, String, String)>>>,
    task: JoinHandle<()>,
}

impl Events {
    async fn of(up: &Up) -> Self {
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", up.labels()),
            ("event", ["create", "start", "die"].map(ToOwned::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut events = up.engine.as_ref().unwrap().client.events(Some(options));
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let told = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let event = event.unwrap();
                let mut attributes = event.actor.unwrap().attributes.unwrap();
                let at = Duration::from_nanos(event.time_nano.unwrap().try_into().unwrap());
                let group = attributes.remove(docker::GROUP).unwrap();
                told.lock().unwrap().push((at, event.action.unwrap(), group));
            }
        });
        // The engine says nothing once it listens.
        tokio::time::sleep(QUIET).await;
        Self { heard, task }
    }

    async fn end(self) -> Vec<(Duration, String, String)> {
        tokio::time::sleep(QUIET).await;
        self.task.abort();
        let mut heard = std::mem::take(&mut *self.heard.lock().unwrap());
        heard.sort();
        heard
    }
}

/// The time of the machine, as engines give it.
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}
