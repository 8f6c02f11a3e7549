//! Which runtime is taken, and what the environment says instead of the manifest.

use babybot::desired::{Choice, choose};
use babybot::manifest::{self, Fallback, ImageSource, KindWish, RuntimeWish, Written};
use babybot::observed::Known;
use babybot::resource::RuntimeKind;
use insta::assert_snapshot;

use crate::support::plan::{group_name, manifest};

#[test]
fn a_runtime_is_never_weaker_than_what_was_applied() {
    let lines: Vec<String> = [KindWish::Auto, KindWish::Docker, KindWish::None]
        .into_iter()
        .flat_map(|kind| {
            let found = ["there", "absent", "silent"];
            let applied = [None, Some(RuntimeKind::None), Some(RuntimeKind::Docker)];
            let pairs =
                found.into_iter().flat_map(move |found| applied.map(|applied| (found, applied)));
            pairs.map(move |(found, applied)| line(kind, Fallback::None, found, applied))
        })
        .collect();
    assert_snapshot!(lines.join("\n"), @"
    Auto, there, after - → docker: auto: Docker 27.1 at /run/docker.sock
    Auto, there, after none → docker: auto: Docker 27.1 at /run/docker.sock
    Auto, there, after docker → docker: auto: Docker 27.1 at /run/docker.sock
    Auto, absent, after - → none: auto: no container engine was found; install Docker or Podman to isolate agents
    Auto, absent, after none → none: auto: no container engine was found; install Docker or Podman to isolate agents
    Auto, absent, after docker → docker: auto: docker is applied, but no container engine was found; install Docker or Podman to isolate agents
    Auto, silent, after - → none (doubtful): auto: docker does not answer: permission denied
    Auto, silent, after none → none: auto: docker does not answer: permission denied
    Auto, silent, after docker → docker: auto: docker is applied, but docker does not answer: permission denied
    Docker, there, after - → docker: named: Docker 27.1 at /run/docker.sock
    Docker, there, after none → docker: named: Docker 27.1 at /run/docker.sock
    Docker, there, after docker → docker: named: Docker 27.1 at /run/docker.sock
    Docker, absent, after - → docker: named, but no engine was found
    Docker, absent, after none → docker: named, but no engine was found
    Docker, absent, after docker → docker: named, but no engine was found
    Docker, silent, after - → docker: named, but it does not answer: permission denied
    Docker, silent, after none → docker: named, but it does not answer: permission denied
    Docker, silent, after docker → docker: named, but it does not answer: permission denied
    None, there, after - → none: named
    None, there, after none → none: named
    None, there, after docker → none: named
    None, absent, after - → none: named
    None, absent, after none → none: named
    None, absent, after docker → none: named
    None, silent, after - → none: named
    None, silent, after none → none: named
    None, silent, after docker → none: named
    ");
}

#[test]
fn where_nothing_less_will_do_there_is_an_error() {
    let lines = [
        ("there", None),
        ("absent", None),
        ("silent", None),
        ("silent", Some(RuntimeKind::Docker)),
    ]
    .map(|(found, applied)| line(KindWish::Auto, Fallback::Error, found, applied));
    assert_snapshot!(lines.join("\n"), @r#"
    Auto, there, after - → docker: auto: Docker 27.1 at /run/docker.sock
    Auto, absent, after - → error: `runtime.fallback = "error"` needs a container engine, and no container engine was found; install Docker or Podman to isolate agents
    Auto, silent, after - → error: `runtime.fallback = "error"` needs a container engine, and docker does not answer: permission denied
    Auto, silent, after docker → docker: auto: docker is applied, but docker does not answer: permission denied
    "#);
}

#[test]
fn the_environment_overrides_and_says_so() {
    let text = "model demo rehearsal\ngroup home limits.memory=2GiB\ngroup kids";
    let over = |variables: &[(&str, &str)]| {
        let get = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        manifest::overrides(&manifest(text), &get)
    };
    let (unchanged, none) = over(&[("CONTAINER_RUNTIME", ""), ("OTHER", "x")]).expect("is fine");
    assert_eq!((unchanged, none), (manifest(text), Vec::new()));

    let all = [
        ("CONTAINER_RUNTIME", "docker"),
        ("CONTAINER_IMAGE", "example.org/agent:1"),
        ("CONTAINER_TIMEOUT", "600000"),
    ];
    let (changed, overrides) = over(&all).expect("is fine");
    assert_eq!(changed.runtime.kind, Written { value: KindWish::Docker, at: None });
    let named = ImageSource::Named("example.org/agent:1".to_owned());
    assert_eq!(changed.runtime.image.source, named);
    let turns: Vec<_> =
        changed.groups.values().map(|group| group.limits.turn.to_string()).collect();
    assert_eq!(turns, ["10m", "10m"]);
    let lines: Vec<_> =
        overrides.iter().map(|o| format!("{} {} {}", o.variable, o.key(), o.value)).collect();
    assert_snapshot!(lines.join("\n"), @"
    CONTAINER_RUNTIME runtime.kind docker
    CONTAINER_IMAGE runtime.image.ref example.org/agent:1
    CONTAINER_TIMEOUT limits.turn 10m
    ");

    // What the manifest says anyway is no override, and neither is the image that is built.
    let same = [("CONTAINER_RUNTIME", "auto"), ("CONTAINER_IMAGE", "babybot-agent:latest")];
    assert_eq!(over(&same).expect("is fine"), (manifest(text), Vec::new()));
    assert!(changed.groups[&group_name("home")].fields.contains_key("limits.memory"));

    let wrong = [
        ("CONTAINER_RUNTIME", "apple-container"),
        ("CONTAINER_IMAGE", "agent; rm -rf /"),
        ("CONTAINER_TIMEOUT", "30m"),
    ];
    let problems = over(&wrong).expect_err("cannot be used");
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_snapshot!(lines.join("\n"), @"
    CONTAINER_RUNTIME in the environment cannot be `apple-container`: it is not available in this release; auto, docker and none are
    CONTAINER_IMAGE in the environment cannot be `agent; rm -rf /`: it takes what a container engine calls an image
    CONTAINER_TIMEOUT in the environment cannot be `30m`: it takes a number of milliseconds, 1s to 7d
    ");
    for value in ["0", "999", "-1", "99999999999999999999999", "700000000"] {
        assert!(over(&[("CONTAINER_TIMEOUT", value)]).is_err(), "{value}");
    }
    assert!(over(&[("CONTAINER_RUNTIME", "podman")]).is_err());
}

/// One choice as a line: what is asked for, what was found and applied, and what is taken.
fn line(kind: KindWish, fallback: Fallback, found: &str, applied: Option<RuntimeKind>) -> String {
    let wish =
        RuntimeWish { kind: Written { value: kind, at: None }, fallback, ..RuntimeWish::default() };
    let docker = match found {
        "there" => Known::Is("Docker 27.1 at /run/docker.sock".to_owned()),
        "absent" => Known::Absent,
        _ => Known::Unknown("permission denied".to_owned()),
    };
    let applied_word = applied.map_or("-", RuntimeKind::word);
    let taken = match choose(&wish, &docker, applied) {
        Ok(Choice { kind, reason, doubt }) => {
            let doubt = if doubt.is_some() { " (doubtful)" } else { "" };
            format!("{}{doubt}: {reason}", kind.word())
        }
        Err(error) => format!("error: {error}"),
    };
    format!("{kind:?}, {found}, after {applied_word} → {taken}")
}
