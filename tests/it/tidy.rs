//! Rules about the code itself: imports point down, every room is on the map, and habits hold.

mod circles;
mod floors;
mod grid;
mod source;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use self::circles::circles;
use self::floors::{FLOORS, PAPER, PURE_FOUNDATIONS, check, is_paper, room};
use self::source::Source;

/// The line that has clippy refuse what paper may not do; child modules inherit it.
const PURE: &str =
    "#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]";

/// Files of the package whose text counts, with their paths from its folder.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open = vec![root.join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("the package's folders can be listed") {
            let path = entry.expect("an entry of a folder").path();
            let inner = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let name = inner.rsplit('/').next().unwrap();
            if path.is_dir() {
                // What is built, what git keeps, and what a used installation keeps.
                if !matches!(name, "target" | ".git" | "data" | "groups") {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push((inner, fs::read_to_string(&path).expect("a text file")));
            }
        }
    }
    found.sort();
    found
}

/// The code of the package. It is never empty: a check of nothing holds nothing.
fn code() -> Vec<(String, String)> {
    let code = files("src", &[".rs"]);
    assert!(code.len() > 50, "only {} source files were found", code.len());
    code
}

/// Fails with everything that was found.
#[track_caller]
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn imports_point_down() {
    let findings: Vec<String> = code().iter().flat_map(|(path, text)| check(path, text)).collect();
    none(&findings);
}

#[test]
fn an_upper_floor_named_in_any_paper_file_is_found() {
    let planted = "\nfn planted() { crate::cli::tell(\"x\"); }\n";
    let papers: Vec<_> = code().into_iter().filter(|(path, _)| is_paper(path)).collect();
    assert!(papers.len() >= PAPER.len());
    for (path, text) in papers {
        let findings = check(&path, &format!("{text}{planted}"));
        let line = text.lines().count() + 2;
        let expected = format!("{path}:{line}: {} must not name cli::tell", room(&path));
        assert_eq!(findings, [expected]);
    }
}

#[test]
fn the_checker_sees_what_it_should() {
    let objects = |path: &str, text: &str| {
        assert!(!check(path, text).is_empty(), "{path} was let pass: {text}");
    };
    let passes = |path: &str, text: &str| assert_eq!(check(path, text), [""; 0], "{text}");
    let plan = "src/plan/draft.rs";
    objects(plan, "use crate::cli::tell;");
    objects(plan, "use crate::{\n    name::GroupName,\n    cli::{tell, print},\n};");
    objects(plan, "use crate::{resource::Spec, store};");
    objects(plan, "use super::super::store::Store;");
    objects(plan, "mod deep { mod deeper { use super::super::super::super::host; } }");
    objects(plan, "fn f() { let _ = super::super::host::terminal_chat; }");
    objects(plan, "fn f() { told!(a, crate::cli::tell(\"x\")) }");
    objects(plan, "macro_rules! m { () => { $crate::cli::tell(\"x\") } }");
    objects(plan, "type T = <crate::store::Store as Clone>::X;");
    objects(plan, "fn f<'a>(c: char) { if c == '\"' { crate::cli::tell(\"x\") } }");
    objects(plan, "fn f() { r#\"\"quoted\"\"#; crate /* here */ :: cli::tell(\"x\") }");
    objects(plan, "use ::babybot::cli;");
    objects(plan, "use crate as house;");
    objects(plan, "use crate::*;");
    objects(plan, "use super::super::*;");
    objects(plan, "use crate::attic::Old;");
    objects(plan, "extern crate self as house;");
    objects(plan, "#[path = \"../cli.rs\"] mod front;");
    objects(plan, "include!(\"../cli.rs\");");
    // Time is an argument: not even the trait by which it is asked for.
    objects(plan, "use crate::clock::{Clock, Timestamp};");
    objects("src/manifest.rs", "use crate::desired::Desired;");
    objects("src/observed.rs", "use crate::plan::Plan;");
    objects("src/link/server.rs", "use crate::store::Store;");
    objects("src/session.rs", "use crate::execute::Change;");
    objects("src/host.rs", "use crate::reconcile;");
    objects("src/agent/turn.rs", "use crate::store::Store;");
    objects("src/agent/turn.rs", "use crate::link::server;");
    objects("src/resource.rs", "use crate::process;");
    objects("src/attic.rs", "use crate::name::GroupName;");

    passes(plan, "use crate::{name::GroupName, resource::{self, Spec}};\nuse super::Plan;");
    passes(plan, "// crate::cli::tell\n/* crate::cli /* nested */ crate::cli */ const A: u8 = 1;");
    passes(plan, "const A: &str = \"crate::cli\"; const B: &str = r#\"\" crate::cli \"#;");
    passes(plan, "const A: char = '\\''; const B: &[u8] = b\"\\\" crate::cli\";");
    passes(plan, "pub(crate) fn a() {} pub(super) fn b() {} pub(in crate::plan) fn c() {}");
    passes(plan, "mod tests { use super::*; use super::super::Plan; }");
    passes("src/route/prompt.rs", "use crate::clock::Timestamp;");
    passes("src/agent/turn.rs", "use crate::link::client::Link;");
    passes("src/session.rs", "use crate::store::{self, Store};");
    passes("src/main.rs", "use babybot::cli; fn run() {}");
}

#[test]
fn no_files_import_each_other() {
    none(&circles(&code()));
}

#[test]
fn circles_are_seen_also_through_what_a_file_above_hands_on() {
    let house = |files: &[(&str, &str)]| {
        let files: Vec<_> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        circles(&files)
    };
    let store = ("src/store.rs", "pub use turns::Turn; pub use outbox::Post; struct Error;");
    let turns = ("src/store/turns.rs", "use super::Post; pub struct Turn;");
    let outbox = ("src/store/outbox.rs", "use crate::store::{Error, Turn}; pub struct Post;");
    let circle = "these import each other: store::outbox, store::turns";
    assert_eq!(house(&[store, turns, outbox]), [circle]);
    let turns = ("src/store/turns.rs", "use super::Error; pub struct Turn;");
    assert_eq!(house(&[store, turns, outbox]), [""; 0]);
    let three = [
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        ("src/b.rs", "use crate::c::C; pub struct B;"),
        ("src/c.rs", "fn f() { crate::a::A }"),
    ];
    assert_eq!(house(&three), ["these import each other: a, b, c"]);
}

#[test]
fn every_room_is_on_the_map() {
    let rooms: BTreeSet<&str> =
        FLOORS.iter().flat_map(|(_, rooms)| rooms.iter().copied()).collect();
    let code = code();
    let found: BTreeSet<&str> =
        code.iter().map(|(path, _)| room(path)).filter(|room| *room != "lib").collect();
    assert_eq!(found, rooms, "the files of src (left) and the floors (right)");

    // The library's own page lists them in the same order, with a line for each.
    let (_, library) = code.iter().find(|(path, _)| path == "src/lib.rs").unwrap();
    let listed: Vec<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("//! - [`")?.split_once("`]"))
        .filter(|(_, rest)| rest.contains(": "))
        .map(|(room, _)| room)
        .collect();
    let rooms = FLOORS.iter().flat_map(|(_, rooms)| rooms.iter().copied());
    assert_eq!(listed, rooms.filter(|room| *room != "main").collect::<Vec<_>>());
    let code = Source::new("src/lib.rs", library);
    let first = code.tokens.iter().position(|token| token.text == "pub").unwrap();
    let refusal = code.words(0, first);
    assert!(refusal.is_empty() || refusal.contains(&"compile_error"), "{refusal:?}");
    for at in (first..code.tokens.len()).step_by(4) {
        let words = code.words(at, 4);
        let listed = matches!(words.as_slice(), ["pub", "mod", _, ";"]);
        assert!(listed, "lib.rs is the map and nothing else: {words:?}");
    }
}

#[test]
fn paper_and_what_it_stands_on_is_held_to_purity() {
    let mut findings = Vec::new();
    for room in PAPER.iter().chain(PURE_FOUNDATIONS) {
        let path = format!("src/{room}.rs");
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
        let head = text.lines().skip_while(|line| line.starts_with("//!"));
        if head.take(1).ne([PURE]) {
            findings.push(format!("{path}: its doc is not followed by {PURE}"));
        }
    }
    for (path, text) in code() {
        if is_paper(&path)
            && (text.contains("allow(clippy::disallowed")
                || text.contains("expect(clippy::disallowed"))
        {
            findings.push(format!("{path}: paper makes no exceptions"));
        }
    }
    none(&findings);
}

#[test]
fn habits_hold() {
    let mut findings = Vec::new();
    for (path, text) in code() {
        if !text.starts_with("//! ") {
            findings.push(format!("{path}:1: it does not begin with what it is for"));
        }
        findings.extend(habits(&path, &text));
    }
    for (path, text) in files("tests", &[".rs"]) {
        findings.extend(ignored(&path, &text));
    }
    none(&findings);
}

#[test]
fn a_broken_habit_is_found() {
    let count = |path: &str, text: &str| habits(path, text).len();
    assert_eq!(count("src/plan.rs", "fn f() { x.unwrap(); todo!() }"), 2);
    assert_eq!(count("src/plan.rs", "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }"), 0);
    assert_eq!(count("src/plan.rs", "#[cfg(test)]\nmod tests {}\nfn f() { x.unwrap(); }"), 1);
    assert_eq!(count("src/plan.rs", "fn f() { std::process::exit(1) }"), 1);
    assert_eq!(count("src/plan.rs", "fn f() { println!(\"x\"); eprint!(\"x\"); }"), 2);
    assert_eq!(count("src/cli/plan.rs", "fn f() { println!(\"x\"); }"), 0);
    assert_eq!(count("src/plan.rs", "// x.unwrap() todo!()\nfn f() { x.unwrap_or(1); }"), 0);
    assert_eq!(ignored("tests/it/plan.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}").len(), 1);
    assert_eq!(ignored("tests/it/plan.rs", "#[cfg_attr(slow, ignore)]\nfn f() {}").len(), 1);
}

/// What the code of the program does not do.
fn habits(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let mut findings = ignored(path, text);
    for (at, token) in source.tokens.iter().enumerate() {
        let front = matches!(room(path), "main" | "cli");
        let why = match source.words(at, 3).as_slice() {
            [".", "unwrap", "("] if !source.is_test(token) => "`unwrap` does not say why it holds",
            ["todo" | "unimplemented", "!", ..] => "what is not there yet is left out",
            ["process", "::", "exit"] if room(path) != "main" => "only main ends the process",
            ["print" | "println" | "eprint" | "eprintln" | "dbg", "!", ..] if !front => {
                "only the front prints"
            }
            _ => continue,
        };
        findings.push(format!("{path}:{}: {why}", token.line));
    }
    findings
}

/// What a runtime can do is asked of its capabilities; which one is which matters where they are
/// found, and where a manifest names one.
#[test]
fn kinds_of_runtime_are_told_apart_in_few_places() {
    let mut findings = Vec::new();
    for (path, text) in code() {
        let told_apart = matches!(room(&path), "runtime" | "manifest")
            || path == "src/resource/runtime.rs"
            || path == "src/desired/choice.rs";
        findings.extend(told_apart_in(&path, &text).into_iter().filter(|_| !told_apart));
    }
    none(&findings);
    assert_eq!(told_apart_in("src/host.rs", "fn f() { kind == RuntimeKind::None }").len(), 1);
    assert_eq!(told_apart_in("src/host.rs", "fn f(kind: RuntimeKind) {}").len(), 0);
}

fn told_apart_in(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let named = source.tokens.iter().enumerate().filter(|(at, token)| {
        matches!(source.words(*at, 2).as_slice(), ["RuntimeKind", "::"]) && !source.is_test(token)
    });
    named.map(|(_, token)| format!("{path}:{}: ask what the runtime can do", token.line)).collect()
}

/// Tests that are not run: what needs something that may not be there says so when it runs.
fn ignored(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let mut findings = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        let words = source.words(at, 3);
        let conditional = matches!(words.as_slice(), [",", "ignore", ")" | "="]);
        if words == ["#", "[", "ignore"] || conditional {
            findings.push(format!("{path}:{}: a test is ignored", token.line));
        }
    }
    findings
}

#[test]
fn no_file_is_forgotten() {
    let mut findings = Vec::new();
    let files =
        [files("src", &[".rs"]), files("tests/it", &[".rs"]), files("tests/bench", &[".rs"])];
    for (path, _) in files.iter().flatten() {
        let (folder, name) = path.rsplit_once('/').unwrap();
        let stem = name.strip_suffix(".rs").unwrap();
        let (folder, name) = match stem {
            "main" | "lib" => continue,
            // Cargo.toml names it.
            "build" if folder == "src/main" => continue,
            "mod" => folder.rsplit_once('/').unwrap(),
            _ => (folder, stem),
        };
        let parents = ["lib.rs", "main.rs", "mod.rs"].map(|root| format!("{folder}/{root}"));
        let parents: Vec<String> = parents.into_iter().chain([format!("{folder}.rs")]).collect();
        let parents = files.iter().flatten().filter(|(path, _)| parents.contains(path));
        let declaration = format!("mod {name};");
        let declared = parents.flat_map(|(_, text)| text.lines()).any(|line| {
            line == declaration
                || line.starts_with("pub") && line.ends_with(&format!(" {declaration}"))
        });
        if !declared {
            findings.push(format!("{path}: no `mod {name};` brings it in"));
        }
    }
    none(&findings);
}

#[test]
fn no_file_tells_where_it_was_written() {
    let endings = [".rs", ".md", ".toml", ".sql", ".json", ".jsonl", ".snap", "run", "purity"];
    let findings: Vec<String> = files("", &endings)
        .iter()
        .flat_map(|(path, text)| {
            let lines = text.lines().enumerate();
            lines
                .filter(|(_, line)| tells(line))
                .map(move |(at, line)| format!("{path}:{}: {}", at + 1, line.trim()))
        })
        .collect();
    none(&findings);
    assert!(tells(concat!("as said in ", "#", "12")) && tells(concat!("see issue", " 7")));
    assert!(tells(concat!("cd /wo", "rk/main")) && tells(concat!("in /tmp", "/wt/x")));
    assert!(!tells("&#39; r#\"1\"# #1e1e2e /workspace/group a1#2"));
    assert!(!tells(concat!("groups/wo", "rk/kept.txt")));
}

/// Whether a line names the number of an issue, or the folder somebody worked in.
fn tells(line: &str) -> bool {
    let folder = [concat!("/wo", "rk/"), concat!("/tmp", "/wt")].iter().any(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            // `groups/…` may have such a folder within it; an absolute path begins here.
            !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.>}".contains(c))
        })
    });
    let numbered = |before: &str| {
        line.to_ascii_lowercase().match_indices(before).any(|(at, _)| {
            let rest = &line[at + before.len()..];
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let own = line[..at]
                .chars()
                .next_back()
                .is_none_or(|c| c.is_whitespace() || "([,".contains(c));
            digits > 0
                && own
                && !rest[digits..].starts_with(|c: char| c.is_alphanumeric() || c == ';')
        })
    };
    folder || numbered("#") || numbered("issue ")
}

#[test]
fn the_change_log_has_room_for_what_comes_next() {
    let log =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md")).unwrap();
    let sections: Vec<&str> = log.lines().filter(|line| line.starts_with("## ")).collect();
    assert!(sections.first().is_some_and(|first| first.contains("Unreleased")), "{sections:?}");
}
