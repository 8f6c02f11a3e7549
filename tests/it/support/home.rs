//! An installation with a controller: the real program in a project of its own, and its engine.
//!
//! What happens to its containers is read from the engine's own events, with
//! the engine's own times; what the controller says, from its status as it
//! changes. Whatever is left when a test ends, because it failed, is removed.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use babybot::process::Process;
use babybot::project::Project;
use babybot::runtime::docker::{GROUP, INSTANCE};
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use rustix::process::Signal;
use serde_json::Value;

use super::docker::{Engine, block_on, outside};
use super::installation::{Ended, Installation, PATIENCE, User, comes_true, wait_for_end};

/// Everything that can be approved.
pub(crate) const YES: &str = "--yes=safe,disruptive,destructive,privileged";

/// One group, at the terminal.
pub(crate) const HOME: &str = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n";

/// The same with an agent that always runs.
pub(crate) const ALWAYS: &str = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n\
                                 lifecycle = \"always\"\n";

/// A turn that is under way until the group has a file `go`, and says where it ran.
pub(crate) const LONG: &str = r#"
[[rule]]
when = "long"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "echo begun >> ran; echo $HOSTNAME > host; while ! [ -e go ]; do sleep 0.02; done; echo ended >> ran" } } },
  { reply = "done with {message}" },
]
[[rule]]
when = "quick"
steps = [ { reply = "done with {message}" } ]
"#;

/// What a test that is no task starts tasks with.
pub(crate) fn within_tasks() -> tokio::runtime::EnterGuard<'static> {
    outside().enter()
}

/// A project with a controller of its own.
pub(crate) struct Home {
    pub(crate) place: Installation,
    engine: Option<Engine>,
}

impl Home {
    /// On processes.
    pub(crate) fn none(settings: &str, groups: &str, script: &str) -> Self {
        Self::new(None, "none", settings, "", groups, script)
    }

    /// In containers, from an image with a shell.
    pub(crate) fn docker(engine: Engine, settings: &str, groups: &str, script: &str) -> Self {
        let image = format!("[runtime.image]\nref = \"{}\"\n", engine.agent_image());
        Self::new(Some(engine), "docker", settings, &image, groups, script)
    }

    /// In containers, from an image that is described.
    pub(crate) fn docker_with(
        engine: Engine,
        settings: &str,
        image: &str,
        groups: &str,
        script: &str,
    ) -> Self {
        Self::new(Some(engine), "docker", settings, image, groups, script)
    }

    fn new(
        engine: Option<Engine>,
        kind: &str,
        settings: &str,
        image: &str,
        groups: &str,
        script: &str,
    ) -> Self {
        let place = Installation::new(User::Oneself, script);
        let manifest = format!(
            "schema = 1\nname = \"home\"\n\n[runtime]\nkind = \"{kind}\"\n{settings}\n{image}\n\
             [models.stand-in]\nkind = \"rehearsal\"\nscript = \"script.toml\"\n\n{groups}"
        );
        place.write("babybot.toml", &manifest);
        Self { place, engine }
    }

    /// Applies the manifest as a whole, without a controller that runs or through it.
    #[track_caller]
    pub(crate) fn apply(&self) -> Ended {
        let ended = self.place.run(&["apply", YES]);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended
    }

    /// Applies and starts the controller.
    #[track_caller]
    pub(crate) fn up(&self) -> Up {
        self.up_with(&[YES])
    }

    #[track_caller]
    pub(crate) fn up_with(&self, arguments: &[&str]) -> Up {
        let up = self.start_up(arguments);
        up.wait_until_it_serves();
        up
    }

    /// Starts the controller and does not wait until it serves.
    pub(crate) fn start_up(&self, arguments: &[&str]) -> Up {
        let mut command = self.place.command(["up"].iter().chain(arguments));
        self.start(&mut command)
    }

    /// Starts something that says much, and does not wait for it.
    pub(crate) fn start(&self, command: &mut std::process::Command) -> Up {
        Up::start(&self.place, command)
    }

    /// What the controller says of itself, for a program.
    pub(crate) fn status(&self) -> Value {
        let ended = self.place.run(&["status", "--format", "json"]);
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
    }

    /// Waits until a status is as it should be, and gives it.
    #[track_caller]
    pub(crate) fn status_when(&self, what: &str, is_so: impl FnMut(&Value) -> bool) -> Value {
        self.watch().wait_for(what, is_so)
    }

    /// Every status from now on.
    pub(crate) fn watch(&self) -> Watch {
        let mut command = self.place.command(["status", "--watch", "--format", "json"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, inbox) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if serde_json::from_str(&line).is_ok_and(|value| sender.send(value).is_err()) {
                    break;
                }
            }
        });
        Watch { child, inbox, last: Value::Null }
    }

    /// Waits until the group's agent rests.
    #[track_caller]
    pub(crate) fn wait_for_agent(&self) -> String {
        let status = self.status_when("its agent runs", |status| {
            let home = &status["groups"]["home"];
            home["stage"] == "idle" && home["sandbox"].is_string()
        });
        status["groups"]["home"]["sandbox"].as_str().unwrap().to_owned()
    }

    /// Says something to a group and does not wait for the answer.
    pub(crate) fn say(&self, group: &str, message: &str) -> Child {
        self.place.command(["chat", group, message]).spawn().unwrap()
    }

    /// Says something, and waits for `done with` it.
    #[track_caller]
    pub(crate) fn ask(&self, message: &str) {
        self.assert_answers(self.say("home", message), message);
    }

    /// Waits for the answer to what was said.
    #[track_caller]
    pub(crate) fn assert_answers(&self, said: Child, message: &str) {
        let ended = wait_for_end(said, PATIENCE);
        let right = (ended.code, ended.stdout.trim()) == (0, &format!("done with {message}"));
        assert!(right, "{ended:?}\nlog:\n{}", self.log());
    }

    /// Waits for some answer to what was said.
    #[track_caller]
    pub(crate) fn assert_answered(&self, said: Child) {
        let ended = wait_for_end(said, PATIENCE);
        assert!(ended.code == 0 && !ended.stdout.is_empty(), "{ended:?}\nlog:\n{}", self.log());
    }

    /// Has the long turn go on to its end.
    pub(crate) fn let_go(&self) {
        std::fs::write(self.place.workplace("go"), "").unwrap();
    }

    /// Waits until the long turn's tool runs.
    #[track_caller]
    pub(crate) fn wait_until_begun(&self, times: usize) {
        let begun = || {
            let lines = self.place.lines("ran");
            lines.iter().filter(|line| *line == "begun").count() >= times
        };
        assert!(comes_true(PATIENCE, begun), "the tool does not run:\n{}", self.log());
    }

    /// Fails unless each message that was ever stored has exactly one reply and no notice.
    #[track_caller]
    pub(crate) fn assert_each_message_has_one_reply(&self, messages: usize) {
        let open = self.place.column(
            "SELECT text FROM messages WHERE
             (SELECT group_concat(kind) FROM outbox WHERE turn = messages.turn) IS NOT 'reply'",
        );
        assert!(open.is_empty(), "without exactly one reply: {open:?}\n{}", self.log());
        let said = self.place.column("SELECT text FROM messages");
        assert_eq!(said.len(), messages, "{said:?}");
    }

    /// What was found changed, in the store, oldest first.
    pub(crate) fn drift(&self) -> Vec<String> {
        self.place.column("SELECT what || ' ' || text FROM drift ORDER BY id")
    }

    /// Fails unless a drift is told in the log, in the store and in the status.
    #[track_caller]
    pub(crate) fn assert_drift_is_told(&self, id: &str, words: &str) {
        let fits = |text: &str| text.contains(id) && text.contains(words);
        let told = || {
            let status = self.status();
            let shown = status["drift"].as_array().unwrap().iter().any(|drift| {
                fits(&format!("{} {}", id_of(&drift["id"]), drift["text"]))
                    && drift["mended"] == true
            });
            let kept = self.place.column("SELECT text FROM drift WHERE mended");
            let logged = self.place.run(&["logs", "-n", "1000"]).stdout;
            [
                shown,
                kept.iter().any(|text| text.contains(words)),
                logged.lines().any(|line| line.contains("repaired") && fits(line)),
            ]
        };
        let mut last = [false; 3];
        let is_told = comes_true(Duration::from_secs(10), || {
            last = told();
            last == [true; 3]
        });
        assert!(
            is_told,
            "{id} {words:?} in status, store, log: {last:?}\n{}\n{:?}\n{}",
            self.status()["drift"],
            self.drift(),
            self.log()
        );
    }

    /// Everything in the log.
    pub(crate) fn log(&self) -> String {
        let path = self.place.root().join("data/logs/babybot.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub(crate) fn instance(&self) -> String {
        let project = Project::open(&self.place.root()).unwrap();
        project.known_instance().unwrap().expect("it was applied").to_string()
    }

    /// What its containers are called.
    pub(crate) fn container(&self, group: &str) -> String {
        format!("bb-{}-{group}", &self.instance()[..8])
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it runs in containers")
    }

    /// Asks the engine something.
    pub(crate) fn ask_engine<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
        &self,
        ask: impl FnOnce(Docker) -> F,
    ) -> T {
        let asked = async {
            tokio::time::timeout(PATIENCE, ask(self.engine().client())).await.unwrap().unwrap()
        };
        block_on(asked)
    }

    /// What the engine has of this installation, by name; the ids.
    pub(crate) fn containers(&self) -> BTreeMap<String, String> {
        let label = format!("{INSTANCE}={}", self.instance());
        let found = self.ask_engine(|client| async move {
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options = ListContainersOptionsBuilder::default().all(true).filters(&filters);
            client.list_containers(Some(options.build())).await
        });
        let named = found.into_iter().map(|container| {
            let name = container.names.unwrap_or_default().remove(0);
            (name.trim_start_matches('/').to_owned(), container.id.unwrap())
        });
        named.collect()
    }

    /// The images that were built for this installation.
    pub(crate) fn images(&self) -> Vec<String> {
        let label = format!("{INSTANCE}={}", self.instance());
        let found = self.ask_engine(|client| async move {
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options = ListImagesOptionsBuilder::default().filters(&filters).build();
            client.list_images(Some(options)).await
        });
        found.into_iter().map(|image| image.id).collect()
    }

    /// What the engine tells of its containers from now on.
    pub(crate) fn events(&self) -> Events {
        Events::new(self.engine(), &format!("{INSTANCE}={}", self.instance()))
    }

    /// Runs somebody else's container.
    pub(crate) fn stranger(&self, name: &str, labels: &[(&str, &str)]) -> Stranger {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let body = ContainerCreateBody {
            image: Some(self.engine().image.clone()),
            entrypoint: Some(vec!["/bin/sleep".into(), "600".into()]),
            labels: Some(labels.collect()),
            network_disabled: Some(true),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let id = self.ask_engine(|client| async move {
            let id = client.create_container(Some(options), body).await?.id;
            client.start_container(&id, None).await?;
            Ok::<_, bollard::errors::Error>(id)
        });
        let mut stranger = Stranger { engine: self.engine().clone(), id, started: String::new() };
        stranger.started = stranger.started_at().expect("it was just started");
        stranger
    }
}

/// A resource as a status writes it, in the words of a person.
fn id_of(id: &Value) -> String {
    match id {
        Value::String(id) => id.clone(),
        other => other.to_string(),
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Some(engine) = self.engine.clone() else { return };
        let Ok(project) = Project::open(&self.place.root()) else { return };
        let Ok(Some(instance)) = project.known_instance() else { return };
        for process in self.place.processes().keys() {
            let _ = process.signal(Signal::KILL);
        }
        block_on(engine.sweep(&instance));
    }
}

/// A controller, or another command, that runs. It is killed when it is dropped.
pub(crate) struct Up {
    child: Option<Child>,
    pub(crate) process: Process,
    said: tempfile::NamedTempFile,
    status: Mutex<std::process::Command>,
}

impl Up {
    /// Starts something in this installation, and does not wait for it.
    pub(crate) fn start(place: &Installation, command: &mut std::process::Command) -> Self {
        let said = tempfile::NamedTempFile::new().unwrap();
        command.stdout(said.reopen().unwrap()).stderr(said.reopen().unwrap());
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
        let status = place.command(["status", "--format", "json"]);
        Self { child: Some(child), process, said, status: Mutex::new(status) }
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.said.path()).unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid
    }

    #[track_caller]
    pub(crate) fn wait_until_it_serves(&self) {
        let serves = || {
            assert!(self.process.is_alive(), "it ended: {}", self.said());
            let output = self.status.lock().unwrap().output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            status["controller"]["pid"] == self.pid() && status["controller"]["role"] == "up"
        };
        assert!(comes_true(PATIENCE, serves), "it does not serve: {}", self.said());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self, patience: Duration) -> (i32, String) {
        let ended = wait_for_end(self.child.take().unwrap(), patience);
        (ended.code, self.said())
    }

    /// Has it end as a service manager would.
    #[track_caller]
    pub(crate) fn end(self) {
        self.signal(Signal::TERM);
        let (code, said) = self.wait(PATIENCE);
        assert_eq!(code, 0, "{said}");
    }

    /// Kills it, as nobody should.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The statuses of a controller as they change.
pub(crate) struct Watch {
    child: Child,
    inbox: Receiver<Value>,
    last: Value,
}

impl Watch {
    /// Waits for the next status that is as it should be.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                Ok(status) => self.last = status,
                Err(error) => panic!("waited in vain until {what} ({error}): {:#}", self.last),
            }
            if is_so(&self.last) {
                return self.last.clone();
            }
        }
    }

    /// Every status that came until now.
    pub(crate) fn so_far(&mut self) -> Vec<Value> {
        self.inbox.try_iter().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A condition of the group `home`: why it holds, if it does.
pub(crate) fn condition(status: &Value, which: &str) -> Option<String> {
    let condition = &status["groups"]["home"]["conditions"][which];
    (condition["holds"] == true)
        .then(|| condition["reason"].as_str().unwrap_or_default().to_owned())
}

/// Something that happened to a container, as its engine tells it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) action: String,
    pub(crate) id: String,
    pub(crate) group: String,
    pub(crate) at: Duration,
}

/// What an engine tells of the containers with a label.
pub(crate) struct Events {
    seen: Arc<Mutex<Vec<Event>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Events {
    fn new(engine: &Engine, label: &str) -> Self {
        let seen: Arc<Mutex<Vec<Event>>> = Arc::default();
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![label.to_owned()]),
        ]);
        // What happened while the request was on its way is told as well.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let options = EventsOptionsBuilder::default().filters(&filters).since(&since).build();
        let (client, known) = (engine.client(), Arc::clone(&seen));
        let task = outside().spawn(async move {
            let mut events = client.events(Some(options));
            while let Some(Ok(event)) = events.next().await {
                let actor = event.actor.unwrap_or_default();
                let attributes = actor.attributes.unwrap_or_default();
                known.lock().unwrap().push(Event {
                    action: event.action.unwrap_or_default(),
                    id: actor.id.unwrap_or_default(),
                    group: attributes.get(GROUP).cloned().unwrap_or_default(),
                    at: Duration::from_nanos(event.time_nano.unwrap_or_default().unsigned_abs()),
                });
            }
        });
        Self { seen, task }
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for an event.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        let mut found = None;
        let came = comes_true(PATIENCE, || {
            found = self.all().into_iter().find(|event| fits(event));
            found.is_some()
        });
        assert!(came, "no event: {what}: {:#?}", self.all());
        found.unwrap()
    }

    /// How often something happened.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.all().iter().filter(|event| event.action == action).count()
    }

    /// Fails if two containers of one group ever ran at the same time.
    #[track_caller]
    pub(crate) fn assert_one_at_a_time(&self) {
        let mut running: BTreeMap<String, String> = BTreeMap::new();
        for event in self.all() {
            match event.action.as_str() {
                "start" => {
                    let before = running.insert(event.group.clone(), event.id.clone());
                    assert!(before.is_none(), "two at once: {event:?} and {before:?}");
                }
                "die" if running.get(&event.group) == Some(&event.id) => {
                    running.remove(&event.group);
                }
                _ => {}
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A container that nobody here may touch.
pub(crate) struct Stranger {
    engine: Engine,
    pub(crate) id: String,
    started: String,
}

impl Stranger {
    fn started_at(&self) -> Option<String> {
        let client = self.engine.client();
        let found = block_on(client.inspect_container(&self.id, None)).ok()?;
        found.state?.started_at
    }

    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.started_at().as_deref(), Some(self.started.as_str()), "{}", self.id);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let client = self.engine.client();
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        let _ = block_on(client.remove_container(&self.id, Some(force)));
    }
}

/// A figure for whoever runs the tests: past the harness, which keeps what passes to itself.
pub(crate) fn report(what: &str) {
    use std::io::Write as _;
    if std::env::var_os("BABYBOT_FIGURES").is_some() {
        let _ = writeln!(std::io::stderr(), "figure: {what}");
    }
}
