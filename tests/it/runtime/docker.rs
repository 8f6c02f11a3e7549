//! The contract over a Docker engine, and what only an engine can show.

use std::collections::HashMap;
use std::time::Duration;

use babybot::name::GroupName;
use babybot::observed::{Owner, SandboxState};
use babybot::runtime::docker::endpoint::Endpoint;
use babybot::runtime::docker::{Docker, GENERATION, GROUP, INSTANCE, SPEC};
use babybot::runtime::{ExecSpec, Exit, Runtime as _, RuntimeError, Sandbox};
use babybot::unit::ByteSize;
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::place::{PATIENCE, Place, Running, name};
use super::{images, rows};
use crate::support::docker::{Context, Engine, needs};

/// An engine that is down is said with what helps, and one that hangs is given up.
#[tokio::test(start_paused = true)]
async fn row_01() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let endpoint =
        Endpoint { url: format!("unix://{}", socket.display()), reason: "a test's".into() };
    let missing = Docker::new(endpoint.clone()).unwrap_err().to_string();
    assert!(
        missing.contains("there is no such socket") && missing.contains("start it"),
        "{missing}"
    );

    let listener = UnixListener::bind(&socket).unwrap();
    let docker = Docker::new(endpoint).unwrap();
    let hung = docker.probe().await.unwrap_err();
    assert!(matches!(hung, RuntimeError::Timeout { seconds: 10, .. }), "{hung:?}");
    drop(listener);
    let down = docker.probe().await.unwrap_err();
    assert!(
        matches!(&down, RuntimeError::Unavailable { why, .. } if why.contains("start it")),
        "{down:?}"
    );
}

macro_rules! rows {
    ($($row:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $row() {
                rows::$row(Place::docker(needs!(docker))).await;
            }
        )*
    };
}

rows! {
    row_02 row_03 row_04 row_05 row_06 row_08 row_09 row_10 row_11 row_12 row_13 row_15 row_17
    row_22 row_22_lost
}

/// `none` has no images.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21() {
    images::row_21(Place::docker(needs!(docker))).await;
}

/// With decoys that look almost like ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_07() {
    let place = Place::docker(needs!(docker));
    let engine = place.engine.clone().unwrap();
    let instance = place.instance.clone();
    // One has a name of ours; the other has our label, as what is run from an image of ours has.
    let named = Decoy::start(&engine, &format!("bb-{}-decoy", instance.short()), &[]).await;
    let label = (INSTANCE, instance.as_str());
    let labelled = Decoy::start(&engine, &format!("decoy-{}", instance.short()), &[label]).await;
    // Nor is one ours that names what is no group's name.
    let labels = [label, (GROUP, "../No Group!")];
    let misnamed = Decoy::start(&engine, &format!("misnamed-{}", instance.short()), &labels).await;

    let all = place.runtime.list(&instance).await.unwrap();
    assert_eq!(all.keys().map(GroupName::as_str).collect::<Vec<_>>(), ["decoy"]);
    let [seen] = &all[&name("decoy")][..] else { panic!("{all:?}") };
    assert_eq!((seen.owner, seen.state), (Owner::Stranger, SandboxState::Running));
    let taken = place.runtime.launch(place.spec("decoy", "true")).await;
    assert!(matches!(taken, Err(RuntimeError::NameTaken { .. })), "{taken:?}");
    rows::row_07_of(&place).await;
    named.assert_untouched().await;
    labelled.assert_untouched().await;
    misnamed.assert_untouched().await;
}

/// A stranger's container.
struct Decoy {
    engine: Engine,
    id: String,
    started: String,
}

impl Decoy {
    async fn start(engine: &Engine, name: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let body = ContainerCreateBody {
            image: Some(engine.image.clone()),
            entrypoint: Some(vec!["/bin/sleep".into(), "600".into()]),
            labels: Some(labels.collect::<HashMap<String, String>>()),
            network_disabled: Some(true),
            ..Default::default()
        };
        let client = engine.client();
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let id = client.create_container(Some(options), body).await.unwrap().id;
        client.start_container(&id, None).await.unwrap();
        let mut decoy = Self { engine: engine.clone(), id, started: String::new() };
        decoy.started = decoy.started_at().await;
        decoy
    }

    async fn started_at(&self) -> String {
        let found = self.engine.client().inspect_container(&self.id, None).await.unwrap();
        found.state.and_then(|state| state.started_at).unwrap()
    }

    async fn assert_untouched(&self) {
        assert_eq!(self.started_at().await, self.started);
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let (engine, id) = (self.engine.clone(), self.id.clone());
        let remove = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let force = RemoveContainerOptionsBuilder::default().force(true).build();
            let _ = runtime.block_on(engine.client().remove_container(&id, Some(force)));
        };
        let _ = std::thread::spawn(remove).join();
    }
}

/// What it is made with can be read back from the engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_carries_its_name_and_its_labels() {
    let place = Place::docker(needs!(docker));
    let engine = place.engine.clone().unwrap();
    let mut spec = place.spec("family", "env; id; pwd; exec cat");
    spec.env.insert("LANG".into(), "de_DE.UTF-8".into());
    let digest = spec.container.digest();
    let mut running = Running::from(place.runtime.launch(spec).await.unwrap());
    let found = engine.client().inspect_container(running.sandbox.id.as_str(), None).await.unwrap();
    assert_eq!(found.name, Some(format!("/bb-{}-family", place.instance.short())));
    let labels = found.config.unwrap().labels.unwrap();
    assert_eq!(labels[INSTANCE], place.instance.as_str());
    assert_eq!(labels[GROUP], "family");
    assert_eq!(labels[SPEC], digest);
    assert_eq!(labels[GENERATION], "7");
    running.close().await;
    let said = running.rest().await;
    for part in ["HOME=/home/agent", "USER=agent", "LANG=de_DE.UTF-8", "/workspace/group\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let all = place.runtime.list(&place.instance).await.unwrap();
    running.exit().await;
    if let Some(seen) = all.get(&name("family")) {
        assert_eq!(seen[0].digest.as_deref(), Some(digest.as_str()));
    }
}

/// An image's volumes would be writable folders of the machine, and its check a process for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_image_declares_opens_no_wall() {
    let place = Place::docker(needs!(docker));
    let engine = place.engine.clone().unwrap();
    let image = async |volumes: &str| {
        let file = format!(
            "FROM {}\nRUN [\"/bin/sh\", \"-c\", \"mkdir /data && echo x > /data/x\"]\n\
             VOLUME {volumes}\nHEALTHCHECK --interval=1s CMD [\"/bin/true\"]\n",
            engine.image
        );
        Context::new(&file).build(&engine.client(), "localhost/babybot-test-declares").await
    };
    let script = "for place in /data /workspace; do (echo y >$place/y) 2>&1 | grep -o Read-only; \
                  done; echo z >/tmp/z; cat /tmp/z; ls /data; echo ready; exec cat";
    let mut spec = place.spec("family", script);
    spec.container.image = Some(image("/data /workspace /workspace/group /tmp /srv/new").await);
    let mut running = Running::from(place.runtime.launch(spec).await.unwrap());
    let found = engine.client().inspect_container(running.sandbox.id.as_str(), None).await.unwrap();
    let mounts = found.mounts.unwrap();
    let volumes = mounts.iter().filter(|mount| mount.typ.as_deref() != Some("bind"));
    assert_eq!(volumes.count(), 0, "{mounts:?}");
    assert!(
        found.state.unwrap().health.is_none_or(|health| {
            health.status.is_none_or(|status| status.to_string() == "none")
        })
    );
    for line in ["Read-only", "Read-only", "z"] {
        assert_eq!(running.line().await, line);
    }
    assert_eq!(running.line().await, "ready", "something of the volume is left");
    running.close().await;
    assert_eq!(running.exit().await, Exit::Code(0));

    let mut spec = place.spec("family", "true");
    let within = image("/workspace/group/data").await;
    spec.container.image = Some(within.clone());
    let refused = place.runtime.launch(spec).await;
    let Err(RuntimeError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains(&within) && why.contains("/workspace/group/data"), "{why}");
    assert_eq!(place.count().await, 0);
    assert!(!place.folder("family").join("data").exists());
}

/// Each change from outside is said; a container that was left alone has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_edited_from_outside_is_said() {
    let place = Place::docker(needs!(docker));
    let client = place.engine.clone().unwrap().client();
    let spec = place.spec("family", "exec cat");
    let container = spec.container.clone();
    let running = Running::from(place.runtime.launch(spec).await.unwrap());
    let id = running.sandbox.id.clone();
    assert_eq!(place.runtime.edits(&id, &container).await.unwrap(), [""; 0]);
    let update = ContainerUpdateBody {
        memory: Some(32 << 20),
        memory_swap: Some(32 << 20),
        pids_limit: Some(1000),
        nano_cpus: Some(500_000_000),
        cpu_shares: Some(512),
        memory_reservation: Some(8 << 20),
        cpuset_cpus: Some("0".into()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::ALWAYS),
            maximum_retry_count: None,
        }),
        ..Default::default()
    };
    client.update_container(id.as_str(), update).await.unwrap();
    let edits = place.runtime.edits(&id, &container).await.unwrap();
    assert_eq!(
        edits,
        [
            "memory is 32MiB instead of 64MiB",
            "memory with swap is 32MiB instead of 64MiB",
            "cpus is 0.5 instead of 2",
            "pids is 1000 instead of 64",
            "restart policy is always instead of no",
            "cpu shares is 512 instead of nothing",
            "reserved memory is 8MiB instead of nothing",
            "cpuset is 0 instead of nothing",
        ]
    );
    let mut meant = container.clone();
    meant.memory = Some(ByteSize::bytes(32 << 20));
    meant.image = Some("localhost/another:1".into());
    let edits = place.runtime.edits(&id, &meant).await.unwrap();
    assert!(edits.iter().any(|edit| edit.ends_with("instead of localhost/another:1")), "{edits:?}");
    place.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
    let gone = place.runtime.edits(&id, &container).await;
    assert_eq!(gone, Err(RuntimeError::NotFound(id)));
}

/// What happens to our containers wakes us; what happens to others' does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_this_instance_are_heard() {
    let place = Place::docker(needs!(docker));
    let neighbour = place.neighbour();
    let mut events = place.runtime.watch(&place.instance);
    // The stream begins with its first poll: until it is open, starts are not heard.
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let _ = sender.send(event);
        }
    });
    let first = loop {
        neighbour.says("family", "true").await;
        place.says("family", "true").await;
        if let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(500), heard.recv()).await
        {
            break event;
        }
    };
    assert_eq!(first.group, Some(name("family")));
    let client = place.engine.clone().unwrap().client();
    let mut running = place.start("family", "echo ready; exec cat").await;
    running.line().await;
    client.pause_container(running.sandbox.id.as_str()).await.unwrap();
    let paused = async {
        while let Some(event) = heard.recv().await {
            if event.what == "pause" {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, paused).await.unwrap();
    let all = place.runtime.list(&place.instance).await.unwrap();
    assert_eq!(all[&name("family")][0].state, SandboxState::Paused);
    // What is paused is ended all the same.
    let id = running.sandbox.id.clone();
    place.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(place.count().await, 0);
    let ended = async {
        while let Some(event) = heard.recv().await {
            if event.what == "destroy" || event.what == "remove" {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

/// A container that somebody else removed ended for its guardian as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_removed_from_outside_is_noticed() {
    let place = Place::docker(needs!(docker));
    let client = place.engine.clone().unwrap().client();
    let mut running = place.start("family", "echo ready; exec cat").await;
    running.line().await;
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    client.remove_container(running.sandbox.id.as_str(), Some(force)).await.unwrap();
    let exit = running.exit().await;
    assert!(matches!(exit, Exit::Signal(9) | Exit::Lost(_)), "{exit:?}");
    assert_eq!(place.says("family", "echo again").await, "again\n");
}

/// A start that nobody waits for any more leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_given_up_leaves_nothing() {
    let place = Place::docker(needs!(docker));
    let mut events = place.runtime.watch(&place.instance);
    let mut opened = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if event.what == "destroy" || event.what == "remove" {
                return;
            }
        }
    });
    for milliseconds in [5, 50, 150] {
        let launch = place.runtime.launch(place.spec("family", "exec cat"));
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), launch).await;
        tokio::time::timeout(PATIENCE, &mut opened).await.unwrap().unwrap();
        let mut events = place.runtime.watch(&place.instance);
        opened = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if event.what == "destroy" || event.what == "remove" {
                    return;
                }
            }
        });
        assert_eq!(place.count().await, 0);
    }
}

/// The operator's look inside: the same user, the same folder, and its own exit code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_inside_as_the_agents_user() {
    let place = Place::docker(needs!(docker));
    let running = place.start("family", "exec cat").await;
    let id = running.sandbox.id.clone();
    let script =
        "id -u; pwd; cat; echo complaint >&2; grep -c 'CapEff.*[1-9a-f]' /proc/self/status; exit 7";
    let argv = ["sh", "-c", script].map(ToOwned::to_owned).into();
    let mut exec =
        place.runtime.exec(&id, ExecSpec { argv, terminal: None, place: None }).await.unwrap();
    exec.stdin.write_all(b"what is typed\n").await.unwrap();
    drop(exec.stdin);
    let (mut out, mut err) = (String::new(), String::new());
    exec.stdout.read_to_string(&mut out).await.unwrap();
    exec.stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!(exec.exit.await, Ok(7));
    let user = place.spec("family", "").container.user.unwrap();
    assert_eq!(out, format!("{}\n/workspace/group\nwhat is typed\n0\n", user.uid));
    assert_eq!(err, "complaint\n");

    // A command that closes its outputs and goes on for longer than a moment.
    let script = "exec >/dev/null 2>&1; read word; sleep 3; exit 6";
    let argv = ["sh", "-c", script].map(ToOwned::to_owned).into();
    let mut exec =
        place.runtime.exec(&id, ExecSpec { argv, terminal: None, place: None }).await.unwrap();
    exec.stdin.write_all(b"word\n").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, exec.exit).await;
    assert_eq!(ended, Ok(Ok(6)));

    let argv = ["sh", "-c", "sleep 0.3; stty size"].map(ToOwned::to_owned).into();
    let mut exec = place
        .runtime
        .exec(&id, ExecSpec { argv, terminal: Some((91, 33)), place: None })
        .await
        .unwrap();
    let mut screen = String::new();
    exec.stdout.read_to_string(&mut screen).await.unwrap();
    assert_eq!(screen, "33 91\r\n");
    assert_eq!(exec.exit.await, Ok(0));

    // A piece of what a terminal shows may begin with any byte.
    let script =
        "printf '\\001\\000\\002 no frame'; sleep 0.3; printf '\\002\\n'; read a; echo $a; exit 5";
    let argv = ["sh", "-c", script].map(ToOwned::to_owned).into();
    let spec = ExecSpec { argv, terminal: Some((91, 33)), place: None };
    let mut exec = place.runtime.exec(&id, spec).await.unwrap();
    exec.stdin.write_all(b"typed\r").await.unwrap();
    let mut screen = String::new();
    exec.stdout.read_to_string(&mut screen).await.unwrap();
    assert!(
        screen.contains("\u{1}\u{0}\u{2} no frame") && screen.contains("\u{2}\r\n"),
        "{screen:?}"
    );
    assert!(screen.ends_with("typed\r\n"), "{screen:?}");
    assert_eq!(exec.exit.await, Ok(5));

    let Sandbox { exit, link, .. } = running.sandbox;
    drop(link);
    assert_eq!(exit.await, Exit::Code(0));
    let argv = vec!["true".to_owned()];
    let gone = place.runtime.exec(&id, ExecSpec { argv, terminal: None, place: None }).await.err();
    assert_eq!(gone, Some(RuntimeError::NotFound(id)));
}

/// A log that nobody reads holds nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_does_not_hold_the_link_back() {
    let place = Place::docker(needs!(docker));
    let script = "head -c 20000000 /dev/zero >&2; echo done";
    let mut running = place.start("family", script).await;
    assert_eq!(running.line().await, "done");
    let mut log = Vec::new();
    running.sandbox.log.read_to_end(&mut log).await.unwrap();
    assert!(log.len() < 2_000_000, "{} bytes were kept", log.len());
    assert_eq!(running.exit().await, Exit::Code(0));
}
