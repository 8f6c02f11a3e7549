//! What `auto` chooses where an engine is there, hangs, refuses or went away: never less than before.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use super::house::{House, RUN, VERB_MAX};
use crate::support::docker::{Front, needs_engine, outside};
use crate::support::home::{HOME, YES};
use crate::support::installation::{User, wait_for_end};

/// The runtime of a manifest that leaves the choice, and this engine.
fn auto(url: &str) -> String {
    format!(
        "kind = \"auto\"\n[runtime.docker]\nhost = \"{url}\"\n[runtime.image]\nref = \"IMAGE\"\n"
    )
}

#[test]
fn once_in_containers_nothing_falls_back_to_plain_processes() {
    let engine = needs_engine!();
    let mut front = outside().block_on(async { Front::of(&engine) });
    let house = House::new(&engine, HOME, RUN);
    let docker =
        format!("kind = \"auto\"\n[runtime.docker]\nhost = \"{}\"\n", front.endpoint().url);
    house.edit("kind = \"docker\"\n", &docker);
    house.apply();
    assert_eq!(house.says("cat /proc/1/cmdline | tr '\\0' ' '\n").trim(), AGENT);

    // The engine goes away; then even its socket is gone; then nothing tells of it.
    front.cut();
    let gone = house.root().join("nowhere.sock").display().to_string();
    let manifest = house.read("babybot.toml");
    for change in ["", "another socket", "no socket named", "another limit"] {
        match change {
            "another socket" => house.edit(&front.endpoint().url, &format!("unix://{gone}")),
            "no socket named" => {
                house.installation.write("babybot.toml", &manifest);
                house.edit(&format!("[runtime.docker]\nhost = \"{}\"\n", front.endpoint().url), "");
            }
            "another limit" => house.edit("requires_trigger = false", "limits = { turn = \"1m\" }"),
            _ => {}
        }
        let run = |arguments: &[&str]| {
            let mut command = house.command(arguments);
            command.env("DOCKER_HOST", format!("unix://{gone}"));
            wait_for_end(command.spawn().unwrap(), VERB_MAX)
        };
        let plan = run(&["plan"]);
        let said = format!("{}{}", plan.stdout, plan.stderr);
        assert!(said.contains("docker"), "{change}: {plan:?}");
        assert!(!said.contains("runtime none"), "{change}: {plan:?}");
        let applied = run(&["apply", YES]);
        assert!(!applied.stderr.contains("runtime none"), "{change}: {applied:?}");
        let chat = run(&["chat", "home", "run"]);
        assert_ne!(chat.code, 0, "{change}: {chat:?}");
        assert_eq!(chat.stdout, "", "{change}: {chat:?}");
        assert!(chat.stderr.contains("docker"), "{change}: {chat:?}");
        assert_eq!(house.installation.agents(), [], "{change}");
    }
    // It comes back, and so does everything.
    house.installation.write("babybot.toml", &manifest);
    outside().block_on(async { front.open() });
    house.apply();
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    let turns =
        house.installation.column("SELECT id FROM turns WHERE state IN ('queued','running')");
    assert_eq!(turns, [""; 0]);
}

/// Nobody named an engine. The one that was found at first is stopped, and another one answers.
#[test]
fn an_engine_that_is_gone_is_not_exchanged_for_another_that_answers() {
    let engine = needs_engine!();
    let mut front = outside().block_on(async { Front::of(&engine) });
    let house = House::new(&engine, HOME, RUN);
    // Its socket is the first of those that are tried.
    let place = front.folder();
    let run_at = |host: Option<&str>, arguments: &[&str]| {
        let mut command = house.command(arguments);
        command.env_remove("DOCKER_HOST").envs(host.map(|host| ("DOCKER_HOST", host)));
        command.env("XDG_RUNTIME_DIR", &place);
        wait_for_end(command.spawn().unwrap(), VERB_MAX)
    };
    assert_eq!(run_at(None, &["apply", YES]).code, 0);
    assert_eq!(run_at(None, &["chat", "home", "hello"]).stdout, "here\n");

    outside().block_on(async { front.cut() });
    let chat = run_at(None, &["chat", "home", "hello"]);
    assert_ne!(chat.code, 0, "{chat:?}");
    assert_eq!((chat.stdout.as_str(), house.containers()), ("", vec![]), "{chat:?}");
    let plan = run_at(None, &["plan"]);
    let both = [front.endpoint().url, engine.endpoint.url.clone()];
    for words in both.iter().map(String::as_str).chain(["runtime.docker.host", "DOCKER_HOST"]) {
        assert!(chat.stderr.contains(words), "{words}: {chat:?}");
        assert!(plan.stdout.contains(words), "{words}: {plan:?}");
    }
    assert_eq!(run_at(None, &["apply", YES]).code, 1);

    // Somebody says so: it is a line of the plan, and from then on it is the engine.
    let there = Some(engine.endpoint.url.as_str());
    let plan = run_at(there, &["plan", "--fail-on", "disruptive"]);
    assert_eq!(plan.code, 8, "{plan:?}");
    let moves = format!("{} → {}", both[0], both[1]);
    let line = plan.stdout.lines().find(|line| line.contains(&moves));
    assert!(line.is_some_and(|line| line.contains("disruptive")), "{plan:?}");
    assert_eq!(run_at(there, &["apply", "--yes"]).code, 0);
    let chat = run_at(None, &["chat", "home", "hello"]);
    assert_eq!(chat.stdout, "here\n", "{chat:?}");
}

/// The command line of an agent of a container.
const AGENT: &str = "/usr/local/bin/babybot agent --loopback";

#[test]
fn an_engine_that_does_not_answer_is_named_before_anything_goes_without_it() {
    let engine = needs_engine!();
    // One that hangs, and one whose socket is dead.
    let place = tempfile::tempdir().unwrap();
    let hangs = UnixListener::bind(place.path().join("hangs.sock")).unwrap();
    drop(UnixListener::bind(place.path().join("dead.sock")).unwrap());
    set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    for name in ["hangs.sock", "dead.sock"] {
        let url = format!("unix://{}", place.path().join(name).display());
        let runtime = auto(&url).replace("[runtime.image]\nref = \"IMAGE\"\n", "");
        let house = House::written(&engine, User::Oneself, &runtime, HOME, RUN);
        let plan = house.run(&["plan"]);
        assert_eq!(plan.code, 0, "{plan:?}");
        assert!(plan.stdout.contains("runtime none"), "{plan:?}");
        assert!(plan.stdout.contains(name), "it is not named: {plan:?}");
        // Its model rehearses, and only its owner can reach it.
        assert!(!plan.stdout.contains("PRIVILEGED"), "{plan:?}");
        let applied = house.run(&["apply", "--yes"]);
        assert_eq!(applied.code, 0, "{applied:?}");
        assert_eq!(house.chat("home", "hello").stdout, "here\n");

        // Whoever wants no fall is not let fall.
        let strict =
            runtime.replace("kind = \"auto\"\n", "kind = \"auto\"\nfallback = \"error\"\n");
        let house = House::written(&engine, User::Oneself, &strict, HOME, RUN);
        for verb in [&["plan"][..], &["apply", YES], &["chat", "home", "hello"]] {
            let ended = house.run(verb);
            assert_ne!(ended.code, 0, "{verb:?}: {ended:?}");
            assert!(ended.stderr.contains("runtime.fallback"), "{verb:?}: {ended:?}");
        }
        assert!(!house.root().join("groups").exists(), "something was made");
    }
    drop(hangs);
}

#[test]
fn the_environment_has_its_say_and_the_plan_says_so() {
    let engine = needs_engine!();
    let house = House::new(&engine, HOME, RUN);
    let image = house.read("babybot.toml");
    let image = image.split("ref = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    house.edit(&format!("ref = \"{image}\""), "ref = \"localhost/no-such:1\"");
    house.edit("kind = \"docker\"", "kind = \"none\"");
    let run = |arguments: &[&str]| {
        let mut command = house.command(arguments);
        command.env("CONTAINER_RUNTIME", "docker").env("CONTAINER_IMAGE", &image);
        command.env("CONTAINER_TIMEOUT", "2000");
        wait_for_end(command.spawn().unwrap(), VERB_MAX)
    };
    let plan = run(&["plan"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert!(plan.stdout.contains("runtime docker"), "{plan:?}");
    for name in ["CONTAINER_RUNTIME", "CONTAINER_IMAGE", "CONTAINER_TIMEOUT"] {
        assert!(plan.stdout.contains(name), "{name}: {plan:?}");
    }
    let applied = run(&["apply", YES]);
    assert_eq!(applied.code, 0, "{applied:?}");
    house.installation.write("groups/home/run.sh", "tr '\\0' ' ' < /proc/1/cmdline; sleep 30\n");
    let ended = run(&["chat", "home", "run"]);
    assert!(ended.stderr.contains("limits.turn reached"), "{ended:?}");
    house.installation.write("groups/home/run.sh", "tr '\\0' ' ' < /proc/1/cmdline\n");
    let ended = run(&["chat", "home", "run"]);
    assert_eq!(ended.stdout.trim(), AGENT, "{ended:?}");
}
