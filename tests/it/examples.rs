//! Every manifest that ships is valid, as it is and with what it offers switched on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test does")]

use std::path::{Path, PathBuf};

use babybot::manifest::starter::{Findings, Ollama, starter};
use babybot::manifest::{self, Manifest, reference, schema};
use babybot::source;

#[test]
fn every_example_is_valid() {
    let examples = root().join("examples");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&examples).unwrap() {
        let path = entry.unwrap().path().join("babybot.toml");
        let source = source::read(&path).unwrap_or_else(|report| panic!("{report:?}"));
        seen.push((source.name, source.manifest.groups.len()));
    }
    assert!(seen.len() >= 3, "examples are missing: {seen:?}");
}

#[test]
fn the_family_has_three_groups_and_one_main() {
    let family = source::read(&root().join("examples/family/babybot.toml")).unwrap().manifest;
    let names: Vec<_> = family.groups.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["homework", "kids", "parents"]);
    assert_eq!(family.groups.values().filter(|group| group.main).count(), 1);
}

#[test]
fn the_quick_start_works_before_anything_is_installed() {
    let text = read("babybot.toml");
    let manifest = valid(&text);
    assert_eq!(manifest.name.value.as_str(), "home");
    let group = manifest.groups.values().next().unwrap();
    assert_eq!(manifest.groups.len(), 1);
    assert!(!group.main && !group.requires_trigger);
    assert!(manifest.models[&group.model].spec.is_rehearsal());
}

#[test]
fn whatever_is_switched_off_can_be_switched_on() {
    assert_switches(&read("babybot.toml"));
}

#[test]
fn init_writes_a_valid_manifest_for_whatever_it_finds() {
    let url = || "http://127.0.0.1:11434".to_owned();
    let models = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let found = [
        Ollama::Absent,
        Ollama::Silent,
        Ollama::Empty { url: url() },
        Ollama::Ready { url: url(), models: models(&["qwen3:8b"]) },
        Ollama::Ready {
            url: "http://[::1]:80".to_owned(),
            models: models(&["a\"b", "c\nkind=1", "d"]),
        },
    ];
    for ollama in found {
        for runtimes in [vec![], vec!["docker"], vec!["docker", "podman", "container"]] {
            let ready = matches!(&ollama, Ollama::Ready { .. });
            let text = starter(&Findings { ollama: ollama.clone(), runtimes });
            let manifest = valid(&text);
            let group = manifest.groups.values().next().unwrap();
            assert_eq!(manifest.models[&group.model].spec.is_rehearsal(), !ready, "{text}");
            assert_switches(&text);
        }
    }
}

#[test]
fn a_starter_reads_well() {
    let ollama = Ollama::Ready {
        url: "http://127.0.0.1:11434".to_owned(),
        models: vec!["qwen3:8b".to_owned(), "llama3.2:3b".to_owned()],
    };
    insta::assert_snapshot!(starter(&Findings { ollama, runtimes: vec!["docker"] }));
}

#[test]
fn the_manifest_reference_is_what_the_program_reads_by() {
    bless("docs/MANIFEST.md", &reference::markdown());
}

#[test]
fn the_manifest_reference_shows_valid_manifests() {
    let text = read("docs/MANIFEST.md");
    let blocks: Vec<&str> = text.split("```toml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        valid(block.split("```").next().unwrap());
    }
}

#[test]
fn the_schema_is_snapshotted() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema::json_schema()).unwrap());
}

/// Compares a file with what the program prints, or writes it if `BABYBOT_BLESS` is set.
fn bless(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("BABYBOT_BLESS").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is out of date: BABYBOT_BLESS=1 cargo test manifest_reference writes it anew"
    );
}

/// Switches on each block that is switched off, and then all of them.
fn assert_switches(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let off = |line: &&str| line.starts_with("#! ");
    let on = |line: &str| line.strip_prefix("#! ").unwrap_or(line).to_owned();
    let all: Vec<String> = lines.iter().map(|line| on(line)).collect();
    assert!(all.iter().zip(&lines).any(|(on, line)| on != line), "nothing is switched off");
    valid(&all.join("\n"));
    let mut at = 0;
    while at < lines.len() {
        let length = lines[at..].iter().take_while(|line| off(line)).count();
        if length > 0 {
            let mut switched: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            for line in &mut switched[at..at + length] {
                *line = on(line);
            }
            valid(&switched.join("\n"));
        }
        at += length.max(1);
    }
}

#[track_caller]
fn valid(text: &str) -> Manifest {
    manifest::parse(text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
