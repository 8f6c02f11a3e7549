//! What engines say, in the words of each: an engine that is played.
//!
//! Podman answers otherwise than Docker in places, and no machine has every
//! release. What is played here was read from theirs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use babybot::name::{GroupName, SandboxId};
use babybot::resource::{RuntimeKind, Wall};
use babybot::runtime::docker::Docker;
use babybot::runtime::docker::endpoint::Endpoint;
use babybot::runtime::docker::find::{self, Found};
use babybot::runtime::docker::places::Places;
use babybot::runtime::{Runtime as _, RuntimeError};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use super::place::Place;
use crate::support::folder::unbroken;
use crate::support::home::{HOME, YES};
use crate::support::installation::{Installation, User, comes_true, wait_for_end};

pub(super) type Answer = (StatusCode, String);

/// Longest that one verb may take.
const VERB_MAX: Duration = Duration::from_secs(60);

/// An engine that answers what a test says.
pub(super) struct Played {
    endpoint: Endpoint,
    asked: Arc<Mutex<Vec<String>>>,
    queries: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Played {
    pub(super) fn new(answer: impl Fn(&Method, &str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("played.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (answer, asked) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
        let queries = Arc::new(Mutex::new(Vec::new()));
        let logs = (Arc::clone(&asked), Arc::clone(&queries));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, (asked, queries)) = (Arc::clone(&answer), logs.clone());
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (method, uri): (_, Uri) = (request.method().clone(), request.uri().clone());
                    asked.lock().unwrap().push(format!("{method} {}", uri.path()));
                    queries.lock().unwrap().push(uri.query().unwrap_or_default().to_owned());
                    let (status, text) = answer(&method, uri.path());
                    let response = hyper::Response::builder()
                        .status(status)
                        .body(Full::new(Bytes::from(text)))
                        .unwrap();
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        let url = format!("unix://{}", socket.display());
        let endpoint = Endpoint { url, reason: "played".to_owned() };
        Self { endpoint, asked, queries, _folder: folder }
    }

    pub(super) fn docker(&self) -> Docker {
        Docker::new(self.endpoint.clone()).unwrap()
    }

    pub(super) fn asked(&self, method: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|line| line.starts_with(method)).cloned().collect()
    }

    /// The queries with this word in them.
    pub(super) fn queries(&self, word: &str) -> Vec<String> {
        let queries = self.queries.lock().unwrap();
        queries.iter().filter(|query| query.contains(word)).cloned().collect()
    }
}

pub(super) fn said(status: u16, message: &str) -> Answer {
    let text = serde_json::json!({ "message": message }).to_string();
    (StatusCode::from_u16(status).unwrap(), text)
}

pub(super) fn ok(value: serde_json::Value) -> Answer {
    (StatusCode::OK, value.to_string())
}

/// What a start comes to, by what the engine says to the making of the container.
async fn refusal(status: u16, message: &'static str) -> RuntimeError {
    let engine = Played::new(move |method, _| match method {
        &Method::GET => ok(serde_json::json!({ "Id": "sha256:1" })),
        _ => said(status, message),
    });
    let place = Place::none();
    let mut spec = place.spec("family", "true");
    spec.container.image = Some("localhost/agent:1".into());
    let error = engine.docker().launch(spec).await.unwrap_err();
    assert_eq!(engine.asked("DELETE"), [""; 0], "what was never made was removed");
    match error {
        RuntimeError::NameTaken { name } => {
            assert_eq!(name, format!("bb-{}-family", place.instance.short()));
            RuntimeError::NameTaken { name: "bb".into() }
        }
        other => other,
    }
}

#[tokio::test]
async fn a_refusal_is_told_by_its_text_where_its_status_differs() {
    let taken = RuntimeError::NameTaken { name: "bb".into() };
    let docker = "Conflict. The container name \"/bb-x\" is already in use by container \"4f\".";
    let podman = "creating container storage: the container name \"bb-x\" is already in use by 4f. \
                  You have to remove that container to be able to reuse that name: that name is \
                  already in use";
    assert_eq!(refusal(409, docker).await, taken);
    assert_eq!(refusal(500, podman).await, taken);
    let missing = RuntimeError::ImageMissing("localhost/agent:1".into());
    assert_eq!(refusal(404, "No such image: localhost/agent:1").await, missing);
    assert_eq!(refusal(404, "localhost/agent:1: image not known").await, missing);
    let mount = "invalid mount config for type \"bind\": bind source path does not exist: /x";
    assert_eq!(refusal(400, mount).await, RuntimeError::Launch(mount.into()));
}

/// A list that fails removes nothing, and a list that is not understood is asked for again.
#[tokio::test]
async fn a_list_that_fails_reaps_nothing() {
    let place = Place::none();
    let engine = Played::new(|_, _| said(500, "the database is locked"));
    let reaped = engine.docker().reap(place.instance.clone()).await;
    assert_eq!(reaped, Err(RuntimeError::Failed("the database is locked".into())));
    assert_eq!(engine.asked("DELETE"), [""; 0]);

    let unknown = serde_json::json!([{
        "Id": "4f", "Names": ["/x"], "State": "stopped",
        "Labels": {
            "io.babybot.instance": place.instance.as_str(),
            "io.babybot.group": "family",
        },
    }]);
    let engine = Played::new(move |_, _| ok(unknown.clone()));
    let listed = engine.docker().list(&place.instance).await;
    assert!(matches!(listed, Err(RuntimeError::Failed(_))), "{listed:?}");
    assert!(engine.asked("GET").len() >= 5, "it was not asked again");
}

/// A container that cannot be removed keeps nobody from starting but its own group.
#[tokio::test]
async fn one_that_cannot_be_removed_holds_up_no_other() {
    let place = Place::none();
    let instance = place.instance.clone();
    let engine = Played::new(move |method, path| match (method, path) {
        (&Method::DELETE, "/containers/4f") => said(
            500,
            "driver \"overlay2\" failed to remove root filesystem: device or resource busy",
        ),
        (&Method::DELETE, _) => (StatusCode::NO_CONTENT, String::new()),
        _ => {
            let container = |id: &str, group: &str| {
                serde_json::json!({
                    "Id": id, "Names": [format!("/{id}")], "State": "dead",
                    "Labels": {
                        "io.babybot.instance": instance.as_str(), "io.babybot.group": group,
                    },
                })
            };
            ok(serde_json::json!([container("4f", "family"), container("5e", "work")]))
        }
    });
    let docker = engine.docker();
    assert_eq!(docker.reap(place.instance.clone()).await, Ok(()));
    let mut asked = engine.asked("DELETE");
    asked.sort();
    assert_eq!(asked, ["DELETE /containers/4f", "DELETE /containers/5e"]);
    // What is left is seen, for whoever looks later.
    let seen = docker.list(&place.instance).await.unwrap();
    assert!(seen.contains_key(&GroupName::new("family").unwrap()), "{seen:?}");
}

/// A state that passes is waited for.
#[tokio::test]
async fn a_state_that_passes_is_asked_for_again() {
    let place = Place::none();
    let (instance, asked) = (place.instance.clone(), Mutex::new(0));
    let engine = Played::new(move |_, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let state = if *asked <= 4 { "stopped" } else { "exited" };
        ok(serde_json::json!([{
            "Id": "4f", "Names": ["/x"], "State": state,
            "Labels": {
                "io.babybot.instance": instance.as_str(),
                "io.babybot.group": "family",
            },
        }]))
    });
    let listed = engine.docker().list(&place.instance).await.unwrap();
    assert_eq!(listed.len(), 1);
}

/// Podman's words for what is gone, and for what was ended already.
#[tokio::test]
async fn what_is_gone_is_stopped() {
    let id = SandboxId::new("4f").unwrap();
    for (status, message) in [
        (404, "No such container: 4f"),
        (500, "no container with name or ID \"4f\" found: no such container"),
    ] {
        let engine = Played::new(move |_, _| said(status, message));
        assert_eq!(engine.docker().stop(&id, Duration::from_secs(1)).await, Ok(()));
    }
    // What cannot be stopped is removed by force.
    let engine = Played::new(|method, _| match method {
        &Method::DELETE => (StatusCode::NO_CONTENT, String::new()),
        _ => said(500, "can only kill running containers: container state improper"),
    });
    assert_eq!(engine.docker().stop(&id, Duration::from_secs(1)).await, Ok(()));
    assert_eq!(engine.asked("DELETE"), ["DELETE /containers/4f"]);
}

/// An engine with this information, as `find` sees it.
async fn found(info: serde_json::Value) -> Found {
    let engine = Played::new(move |_, path| match path {
        "/_ping" => (StatusCode::OK, "OK".to_owned()),
        "/version" => ok(serde_json::json!({
            "Version": "28.1", "ApiVersion": "1.49", "Arch": "arm64",
            "Components": [{"Name": "Podman Engine", "Version": "28.1"}],
        })),
        _ => ok(info.clone()),
    });
    find::find_among(Places::Named(engine.endpoint.clone()), None).await
}

#[tokio::test]
async fn an_engine_says_what_its_walls_lack() {
    let info = serde_json::json!({
        "OSType": "linux", "Architecture": "", "PidsLimit": false, "MemoryLimit": true,
        "SecurityOptions": ["name=rootless"],
    });
    let Found::Is(docker, info) = found(info).await else { panic!("not found") };
    assert_eq!(docker.reference().kind, RuntimeKind::Docker);
    assert_eq!(info.version, "Podman 28.1");
    assert_eq!(info.architecture, "aarch64");
    assert_eq!(info.user, Some((0, 0)));
    assert_eq!(
        info.warnings,
        [
            "the engine does not filter system calls (no seccomp)",
            "limits.pids is not enforced: the engine does not support it",
        ]
    );
    assert!(info.capabilities.limits.missing().eq(["limits.pids"]));
    assert_eq!(info.capabilities.wall, Wall::Container);
    assert!(info.endpoint.ends_with("(played)"), "{}", info.endpoint);

    let warnings = async |options: &[&str]| {
        let Found::Is(_, info) = found(serde_json::json!({ "SecurityOptions": options })).await
        else {
            panic!("not found")
        };
        info.warnings
    };
    assert_eq!(warnings(&["name=seccomp,profile=builtin"]).await, [""; 0]);
    assert_eq!(
        warnings(&["name=seccomp,profile=unconfined", "name=selinux"]).await,
        [
            "the engine does not filter system calls (its seccomp profile is `unconfined`)",
            "SELinux is switched off for agents: it would deny them their folders",
        ]
    );

    let mapped =
        serde_json::json!({ "SecurityOptions": ["name=seccomp,profile=default", "name=userns"] });
    let Found::Unknown(why) = found(mapped).await else { panic!("mapped users are no obstacle") };
    assert!(why.contains("userns-remap"), "{why}");
}

/// An engine without that control group, and without a filter of system calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_written_limit_that_the_engine_forgets_is_an_error_and_a_default_is_a_note() {
    let engine = Played::new(|_, path| match path {
        "/_ping" => (StatusCode::OK, "OK".to_owned()),
        "/version" => ok(serde_json::json!({ "Version": "28.1" })),
        "/info" => ok(serde_json::json!({
            "OSType": "linux", "Architecture": std::env::consts::ARCH, "PidsLimit": false,
        })),
        path if path.starts_with("/images/") => said(404, "No such image"),
        _ => ok(serde_json::json!([])),
    });
    let place = Installation::new(User::Oneself, "[[rule]]\nsteps = [{ reply = \"here\" }]\n");
    let plan = |limits: &str| {
        let manifest = format!(
            "schema = 1\nname = \"home\"\n[runtime]\nkind = \"docker\"\n[runtime.image]\n\
             base = \"scratch\"\n[models.stand-in]\nkind = \"rehearsal\"\n{HOME}{limits}"
        );
        place.write("babybot.toml", &manifest);
        let mut command = place.command(["plan"]);
        command.env("DOCKER_HOST", &engine.endpoint.url);
        tokio::task::block_in_place(|| wait_for_end(command.spawn().unwrap(), VERB_MAX))
    };
    let by_default = plan("");
    assert_eq!(by_default.code, 0, "{by_default:?}");
    for words in ["limits.pids is not enforced", "does not filter system calls"] {
        assert!(unbroken(&by_default.stdout).contains(words), "{words}: {by_default:?}");
    }
    let kept = plan("limits = { memory = \"64MiB\" }\n");
    assert_eq!(kept.code, 0, "{kept:?}");
    let forgotten = plan("limits = { pids = 64 }\n");
    assert_eq!(forgotten.code, 3, "{forgotten:?}");
    assert!(forgotten.stderr.contains("cannot enforce limits.pids of home"), "{forgotten:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_says_what_the_walls_of_the_engine_lack() {
    let engine = Played::new(|_, path| match path {
        "/_ping" => (StatusCode::OK, "OK".to_owned()),
        "/version" => ok(serde_json::json!({ "Version": "28.1" })),
        "/info" => ok(serde_json::json!({ "OSType": "linux", "PidsLimit": false })),
        path if path.starts_with("/images/localhost/") => ok(serde_json::json!({ "Id": "4f" })),
        _ => ok(serde_json::json!([])),
    });
    let place = Installation::new(User::Oneself, "[[rule]]\nsteps = [{ reply = \"here\" }]\n");
    let manifest = format!(
        "schema = 1\nname = \"home\"\n[runtime]\nkind = \"docker\"\n[runtime.image]\n\
         ref = \"localhost/agent:1\"\n[models.stand-in]\nkind = \"rehearsal\"\n{HOME}"
    );
    place.write("babybot.toml", &manifest);
    let begin = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("DOCKER_HOST", &engine.endpoint.url).spawn().unwrap()
    };
    tokio::task::block_in_place(|| {
        let up = begin(&["up", YES]);
        let mut said = String::new();
        let says = comes_true(VERB_MAX, || {
            said = wait_for_end(begin(&["status"]), VERB_MAX).stdout;
            said.contains("warning: limits.pids is not enforced")
        });
        let down = wait_for_end(begin(&["down"]), VERB_MAX);
        let ended = wait_for_end(up, VERB_MAX);
        assert!(says, "{said}\n{down:?}\n{ended:?}");
        assert_eq!(ended.code, 0, "{ended:?}");
    });
}

/// Whom an agent is run as was settled with another engine in view.
#[tokio::test]
async fn nothing_is_started_at_an_engine_that_it_was_not_meant_for() {
    let place = Place::none();
    for (options, uid, refused) in [
        (&["name=seccomp"][..], 0, true),
        (&["name=seccomp", "name=rootless"], 0, false),
        (&["name=seccomp"], 1000, false),
        (&["name=seccomp", "name=rootless"], 1000, true),
    ] {
        let engine = Played::new(move |_, path| match path {
            "/_ping" => (StatusCode::OK, "OK".to_owned()),
            "/version" => ok(serde_json::json!({ "Version": "28.1" })),
            "/info" => ok(serde_json::json!({ "OSType": "linux", "SecurityOptions": options })),
            path if path.starts_with("/images/") => ok(serde_json::json!({ "Id": "sha256:1" })),
            _ => said(500, "it was asked for a container"),
        });
        let found = find::find_among(Places::Named(engine.endpoint.clone()), None).await;
        let Found::Is(docker, _) = found else { panic!("not found") };
        let mut spec = place.spec("family", "true");
        spec.container.image = Some("localhost/agent:1".into());
        spec.user = Some((uid, uid));
        spec.container.engine = Some(engine.endpoint.url.clone());
        let before = engine.asked("").len();
        let error = docker.launch(spec.clone()).await.unwrap_err();
        assert_eq!(matches!(error, RuntimeError::Unavailable { .. }), refused, "{error}");
        assert_eq!(engine.asked("").len() == before, refused, "{options:?} {uid}");

        spec.container.engine = Some("unix:///another.sock".into());
        let error = docker.launch(spec).await.unwrap_err().to_string();
        assert!(error.contains("/another.sock, and"), "{error}");
    }
}

#[tokio::test]
async fn beside_the_applied_engine_others_are_only_told_of() {
    let answers = |_: &Method, path: &str| match path {
        "/_ping" => (StatusCode::OK, "OK".to_owned()),
        _ => ok(serde_json::json!({ "Version": "1" })),
    };
    let (applied, other) = (Played::new(answers), Played::new(answers));
    let places = Places::Applied(applied.endpoint.clone(), vec![other.endpoint.clone()]);
    let Found::Is(docker, _) = find::find_among(places, None).await else { panic!("not found") };
    assert_eq!(docker.reference().endpoint, Some(applied.endpoint.url.clone()));
    assert_eq!(other.asked("GET"), [""; 0]);

    let gone = Endpoint { url: "unix:///nowhere.sock".into(), reason: "as it was applied".into() };
    let places = Places::Applied(gone, vec![other.endpoint.clone()]);
    let Found::Unknown(why) = find::find_among(places, None).await else { panic!("exchanged") };
    for words in ["unix:///nowhere.sock", &other.endpoint.url, "runtime.docker.host"] {
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[tokio::test]
async fn what_does_not_answer_is_not_absent() {
    let absent = find::find_among(Places::Usual(Vec::new()), None).await;
    assert!(matches!(absent, Found::Absent), "{absent:?}");
    let Found::Unknown(why) = find::find_among(Places::Usual(Vec::new()), Some("docker")).await
    else {
        panic!("a program stands for nothing")
    };
    assert!(why.contains("`docker` is installed") && why.contains("start it"), "{why}");

    // A socket nobody listens at; one that may not be opened shows in the same way.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let url = format!("unix://{}", socket.display());
    let dead = Endpoint { url: url.clone(), reason: "the socket of a test".into() };
    let Found::Unknown(why) = find::find_among(Places::Usual(vec![dead.clone()]), None).await
    else {
        panic!("a dead socket is nothing")
    };
    let words = ["nothing listens there", "start it"];
    assert!(why.starts_with(&url) && words.iter().all(|words| why.contains(words)), "{why}");

    // Where a start meets it, the place is named too.
    let place = Place::none();
    let docker = Docker::new(dead.clone()).unwrap();
    let mut spec = place.spec("family", "true");
    spec.container.image = Some("agent".to_owned());
    let Err(RuntimeError::Unavailable { why, .. }) = docker.launch(spec).await else {
        panic!("a dead socket started an agent")
    };
    assert!(why.starts_with(&url) && words.iter().all(|words| why.contains(words)), "{why}");

    // The first that answers is taken, and says why it was asked.
    let engine = Played::new(|_, path| match path {
        "/_ping" => (StatusCode::OK, "OK".to_owned()),
        _ => ok(serde_json::json!({ "Version": "1" })),
    });
    let places = Places::Usual(vec![dead, engine.endpoint.clone()]);
    let Found::Is(docker, _) = find::find_among(places, None).await else { panic!("not found") };
    assert_eq!(docker.reference().endpoint, Some(engine.endpoint.url.clone()));
}

#[tokio::test]
async fn a_place_that_a_person_named_in_error_is_said_with_the_setting() {
    let reason = "named by DOCKER_HOST".to_owned();
    let named = Places::Named(Endpoint { url: "unix:///nowhere.sock".to_owned(), reason });
    let Found::Unknown(why) = find::find_among(named, None).await else { panic!("it is there") };
    assert_eq!(
        why,
        "DOCKER_HOST names unix:///nowhere.sock: there is no such socket; correct or unset \
         DOCKER_HOST, or start the engine"
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_given_up_in_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let endpoint = Endpoint { url: format!("unix://{}", socket.display()), reason: "hung".into() };
    let begun = tokio::time::Instant::now();
    let Found::Unknown(why) = find::find_among(Places::Named(endpoint), None).await else {
        panic!("it answered")
    };
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(why.contains("did not finish within 2 s") && why.contains("start it"), "{why}");
}

/// A start whose acknowledgement was lost is looked for, and what never ran is removed.
#[tokio::test(start_paused = true)]
async fn a_container_nobody_acknowledged_is_removed() {
    let place = Place::none();
    let mut spec = place.spec("family", "true");
    spec.container.image = Some("localhost/agent:1".into());
    let instance = place.instance.clone();
    let engine = Played::new(move |method, path| match (method, path) {
        (&Method::POST, "/containers/create") => (StatusCode::CREATED, "{\"Id\":".to_owned()),
        (&Method::DELETE, _) => (StatusCode::NO_CONTENT, String::new()),
        _ => ok(serde_json::json!({
            "Id": "4f", "State": {"Status": "created"},
            "Config": {"Labels": {
                "io.babybot.instance": instance.as_str(), "io.babybot.group": "family",
            }},
        })),
    });
    let failed = engine.docker().launch(spec).await;
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(engine.asked("DELETE"), ["DELETE /containers/4f"]);
}
