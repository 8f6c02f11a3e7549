//! Which sockets an agent's tools and the operator's commands can make, in a container and without.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::house::{House, RUN};
use crate::support::docker::needs_engine;
use crate::support::home::HOME;
use crate::support::installation::{Installation, User};

/// A program that tries every family and every way around a filter, linked with all that it needs.
const SOURCE: &str = include_str!("sockets.c");
/// UNIX, INET, INET6 and NETLINK.
const ALLOWED: [u32; 4] = [1, 2, 10, 16];
/// What a family says that is not allowed: EAFNOSUPPORT.
const REFUSED: &str = "error 97";
/// What a call says that is not there: ENOSYS.
const NO_CALL: &str = "error 38";
/// How a call of another architecture ends: SIGSYS.
const ENDED: &str = "signal 31";

/// What came of each try, by its way and its family.
type Tries = BTreeMap<(String, u32), String>;

fn compile(to: &Path) {
    let mut compiler = Command::new("cc")
        .args(["-static", "-O1", "-x", "c", "-o"])
        .args([to, Path::new("-")])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a C compiler is installed");
    compiler.stdin.take().unwrap().write_all(SOURCE.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
}

#[track_caller]
fn tries(said: &str) -> Tries {
    assert!(said.trim_end().ends_with("tried all"), "{said}");
    let lines = said.lines().filter(|line| *line != "tried all");
    let tries = lines.map(|line| {
        let mut words = line.splitn(3, ' ');
        let (way, family) = (words.next().unwrap(), words.next().unwrap());
        ((way.to_owned(), family.parse().unwrap()), words.next().unwrap().to_owned())
    });
    tries.collect()
}

/// The same program where nothing filters. What cannot be made there either proves nothing here.
fn control(program: &Path) -> Tries {
    let output = Command::new(program).output().unwrap();
    let tries = tries(&String::from_utf8_lossy(&output.stdout));
    let made = |way: &str, family: u32| tries[&(way.to_owned(), family)] == "made";
    for family in ALLOWED {
        assert!(made("socket", family), "{family}: {tries:?}");
    }
    let others = (0..64).filter(|family| !ALLOWED.contains(family) && made("socket", *family));
    assert_ne!(others.count(), 0, "no other family can be made on this machine: {tries:?}");
    tries
}

#[track_caller]
fn check(said: &str, control: &Tries) {
    let tries = tries(said);
    for ((way, family), came) in &tries {
        let place = format!("{way} {family}");
        let came = came.as_str();
        let allowed = ALLOWED.contains(family);
        match way.as_str() {
            "socket" | "wide" if allowed => assert_eq!(came, "made", "{place}: {said}"),
            // Not every one of them has pairs.
            "pair" if allowed => {
                assert_eq!(came, control[&(way.clone(), *family)], "{place}: {said}");
            }
            "socket" | "pair" | "wide" => assert_eq!(came, REFUSED, "{place}: {said}"),
            "ring" | "x32" => assert_eq!(came, NO_CALL, "{place}: {said}"),
            "call32" | "socketcall" => assert_eq!(came, ENDED, "{place}: {said}"),
            _ => panic!("{place}: {said}"),
        }
    }
    assert_eq!(tries.len(), control.len(), "{said}");
}

#[test]
fn a_real_agent_makes_sockets_of_four_families_and_finds_no_way_around() {
    let engine = needs_engine!();
    let house = House::new(&engine, HOME, RUN);
    house.apply();
    let program = house.root().join("groups/home/tries");
    compile(&program);
    let control = control(&program);
    check(&house.says("./tries"), &control);
    // Nor does a command of the operator, which an engine starts beside the agent.
    let command = house.run(&["exec", "-q", "home", "--", "./tries"]);
    assert_eq!(command.code, 0, "{command:?}");
    check(&command.stdout, &control);
}

#[test]
fn a_plain_process_makes_sockets_of_four_families_and_finds_no_way_around() {
    for user in User::all() {
        let installation = Installation::new(user, RUN);
        installation.apply();
        let program = installation.workplace("tries");
        compile(&program);
        let control = control(&program);
        installation.write("groups/home/run.sh", "./tries > said");
        let ended = installation.chat("run");
        assert_eq!(ended.code, 0, "{user:?}: {ended:?}");
        check(&installation.lines("said").join("\n"), &control);
        let command = installation.run(&["exec", "-q", "home", "--", "./tries"]);
        assert_eq!(command.code, 0, "{user:?}: {command:?}");
        check(&command.stdout, &control);
    }
}
