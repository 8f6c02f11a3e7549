//! An installation whose agents run in containers, and what the engine says of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use babybot::name::InstanceId;
use babybot::process::Process;
use babybot::project::Project;
use babybot::runtime::docker::{GROUP, INSTANCE};
use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};
use rustix::process::Signal;

use crate::support::docker::{Engine, block_on};
use crate::support::home::YES;
use crate::support::installation::{
    Ended, Installation, PATIENCE, User, comes_true, wait_for_end, wait_until,
};

/// Longest that one verb may take, a start or two of a container included.
pub(super) const VERB_MAX: Duration = Duration::from_secs(60);
/// A script by which the message `run` runs `run.sh` of the group's folder and replies with its
/// result; all else is answered at once.
pub(super) const RUN: &str = r#"
[[rule]]
when = "run"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "sh run.sh" } } },
  { reply = "{result}" },
]
[[rule]]
steps = [{ reply = "here" }]
"#;

/// An installation and its engine.
pub(super) struct House {
    pub(super) installation: Installation,
    engine: Engine,
}

impl House {
    /// A house whose agents run in an image that is there already.
    pub(super) fn new(engine: &Engine, groups: &str, script: &str) -> Self {
        Self::of(engine, User::Oneself, "", groups, script)
    }

    /// The same of another user, with more in the section of the runtime.
    pub(super) fn of(
        engine: &Engine,
        user: User,
        runtime: &str,
        groups: &str,
        script: &str,
    ) -> Self {
        let image = format!("[runtime.image]\nref = \"{}\"\n", engine.agent_image());
        let runtime = format!("kind = \"docker\"\n{runtime}\n{image}");
        Self::written(engine, user, &runtime, groups, script)
    }

    /// A house with a manifest of its own.
    pub(super) fn written(
        engine: &Engine,
        user: User,
        runtime: &str,
        groups: &str,
        script: &str,
    ) -> Self {
        let installation = Installation::new(user, script);
        let house = Self { installation, engine: engine.clone() };
        house.write_manifest(runtime, groups);
        house
    }

    /// A house that builds its images.
    pub(super) fn building(engine: &Engine, groups: &str, script: &str) -> Self {
        let runtime = format!("kind = \"docker\"\n[runtime.image]\nbase = \"{}\"\n", engine.image);
        Self::written(engine, User::Oneself, &runtime, groups, script)
    }

    /// Another base, which only this one builds on.
    fn other_base(&self) -> String {
        let name = self.installation.mark().replace('.', "-");
        format!("localhost/babybot-test-walls:{name}")
    }

    /// Builds on another base from the next apply on.
    pub(super) fn change_base(&self) {
        let other = self.other_base();
        let (repository, tag) = other.rsplit_once(':').unwrap();
        let options = bollard::query_parameters::TagImageOptionsBuilder::default();
        let options = options.repo(repository).tag(tag).build();
        block_on(self.engine.client().tag_image(&self.engine.image, Some(options))).unwrap();
        self.edit(&self.engine.image, &other);
    }

    /// Builds on the first base again.
    pub(super) fn restore_base(&self) {
        self.edit(&self.other_base(), &self.engine.image);
    }

    pub(super) fn write_manifest(&self, runtime: &str, groups: &str) {
        let manifest = format!(
            "schema = 1\nname = \"home\"\n\n[runtime]\n{runtime}\n[models.stand-in]\n\
             kind = \"rehearsal\"\nscript = \"script.toml\"\ncontext = 4096\n\n{groups}"
        );
        self.installation.write("babybot.toml", &manifest);
    }

    /// Puts other words into the manifest.
    pub(super) fn edit(&self, from: &str, to: &str) {
        let manifest = self.root().join("babybot.toml");
        let text = std::fs::read_to_string(manifest).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        self.installation.write("babybot.toml", &text.replace(from, to));
    }

    pub(super) fn root(&self) -> PathBuf {
        self.installation.root()
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(&self.root(), arguments)
    }

    pub(super) fn command_in(&self, root: &Path, arguments: &[&str]) -> Command {
        let mut command = self.installation.command_in(root, arguments);
        command.env("DOCKER_HOST", &self.engine.endpoint.url);
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub(super) fn run(&self, arguments: &[&str]) -> Ended {
        wait_for_end(self.command(arguments).spawn().unwrap(), VERB_MAX)
    }

    /// Applies the manifest as a whole; nothing but a success will do.
    #[track_caller]
    pub(super) fn apply(&self) -> Ended {
        let ended = self.run(&["apply", YES]);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended
    }

    #[track_caller]
    pub(super) fn chat(&self, group: &str, message: &str) -> Ended {
        self.run(&["chat", group, message])
    }

    pub(super) fn begin_chat(&self, group: &str, message: &str) -> Child {
        self.command(&["chat", group, message]).spawn().unwrap()
    }

    /// What a script says that a tool of the group `home` runs. Applies first.
    #[track_caller]
    pub(super) fn says(&self, script: &str) -> String {
        self.installation.write("groups/home/script.sh", script);
        self.installation.write("groups/home/run.sh", "sh script.sh > said 2>&1\n");
        let ended = self.chat("home", "run");
        assert_eq!(ended.code, 0, "{ended:?}");
        self.read("groups/home/said")
    }

    /// A file of the project; without words if it is not there.
    pub(super) fn read(&self, path: &str) -> String {
        let bytes = std::fs::read(self.root().join(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Applies and starts the controller, and waits until it serves.
    #[track_caller]
    pub(super) fn up(&self) -> Up<'_> {
        let log = std::fs::File::create(self.installation.beside("up.log")).unwrap();
        let mut command = self.command(&["up", YES]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let up = Up { house: self, child: Some(command.spawn().unwrap()) };
        wait_until("the controller is ready", || up.log().contains("Up: "));
        up
    }

    /// Who this installation is; it has been applied.
    pub(super) fn instance(&self) -> InstanceId {
        let project = Project::open(&self.root()).unwrap();
        project.known_instance().unwrap().expect("it was applied")
    }

    /// Its containers, running or not.
    pub(super) fn containers(&self) -> Vec<Container> {
        block_on(containers(&self.engine, &self.instance()))
    }

    /// The one container that runs.
    #[track_caller]
    pub(super) fn container(&self) -> Container {
        let mut all = self.containers();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Whether there is one container, and it runs.
    pub(super) fn runs(&self) -> bool {
        matches!(&self.containers()[..], [one] if one.state == "running")
    }

    /// The first process of a container, as the host sees it.
    pub(super) fn first_process(&self, container: &Container) -> Process {
        let pid = block_on(self.engine.client().inspect_container(&container.id, None));
        let pid = pid.unwrap().state.unwrap().pid.unwrap();
        Process::find(i32::try_from(pid).unwrap()).unwrap()
    }

    /// The names of the images that were built for it.
    pub(super) fn images(&self) -> Vec<String> {
        block_on(images(&self.engine, &self.instance()))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let project = Project::open(&self.root());
        let instance = project.ok().and_then(|project| project.known_instance().ok().flatten());
        let Some(instance) = instance else { return };
        // Its controllers first, which would start others.
        for process in self.installation.processes().into_keys() {
            let _ = process.signal(Signal::KILL);
        }
        let (engine, base) = (self.engine.clone(), self.other_base());
        let clean = move || {
            block_on(async {
                engine.sweep(&instance).await;
                engine.remove_image(&base).await;
            });
        };
        // A test may be within a runtime of its own.
        let _ = std::thread::spawn(clean).join();
    }
}

/// A container as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) state: String,
    pub(super) started: String,
}

async fn containers(engine: &Engine, instance: &InstanceId) -> Vec<Container> {
    let client = engine.client();
    let filters = HashMap::from([("label", vec![format!("{INSTANCE}={instance}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let mut all = Vec::new();
    for found in client.list_containers(Some(options)).await.unwrap() {
        let id = found.id.unwrap();
        // Gone since it was listed.
        let Ok(about) = client.inspect_container(&id, None).await else { continue };
        let state = about.state.unwrap();
        all.push(Container {
            id,
            group: found.labels.unwrap_or_default().remove(GROUP).unwrap_or_default(),
            state: state.status.map(|status| status.to_string()).unwrap_or_default(),
            started: state.started_at.unwrap_or_default(),
        });
    }
    all.sort_by(|a, b| a.group.cmp(&b.group));
    all
}

async fn images(engine: &Engine, instance: &InstanceId) -> Vec<String> {
    let filters = HashMap::from([("label", vec![format!("{INSTANCE}={instance}")])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let found = engine.client().list_images(Some(options)).await.unwrap();
    let mut names: Vec<String> = found.into_iter().flat_map(|image| image.repo_tags).collect();
    // The newest one of all is called so too.
    names.retain(|name| name.starts_with("localhost/"));
    names.sort();
    names
}

/// A controller that stays.
pub(super) struct Up<'a> {
    house: &'a House,
    child: Option<Child>,
}

impl Up<'_> {
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.house.installation.beside("up.log")).unwrap_or_default()
    }

    /// Waits until the status says this. What happens is in it a moment later.
    #[track_caller]
    pub(super) fn wait_until_status_says(&self, words: &str) {
        let mut status = String::new();
        let says = comes_true(PATIENCE, || {
            let ended = self.house.run(&["status"]);
            assert_eq!(ended.code, 0, "{ended:?}");
            status = ended.stdout;
            status.contains(words)
        });
        assert!(says, "{words} is not in {status}");
    }

    /// Kills it without a word.
    pub(super) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it as it is meant to be.
    #[track_caller]
    pub(super) fn down(mut self) {
        let down = self.house.run(&["down"]);
        assert_eq!(down.code, 0, "{down:?}");
        let ended = wait_for_end(self.child.take().unwrap(), VERB_MAX);
        assert_eq!(ended.code, 0, "{}", self.log());
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
