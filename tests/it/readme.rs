//! What the documents say, tried: commands are run, snippets parsed, links followed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use babybot::manifest;

use crate::support::folder::{Folder, command_in};
use crate::support::installation::{Installation, User};

#[test]
fn the_first_command_answers_from_a_fresh_copy_and_says_which_file_it_wrote() {
    let checkout = fresh_copy();
    let ran = run(checkout.path(""), &first_command());
    assert_eq!(ran.0, Some(0), "{ran:?}");
    assert!(ran.1.contains("haiku.txt"), "{ran:?}");
    assert_eq!(checkout.read("groups/home/haiku.txt").lines().count(), 3);
    // Again, now that everything is there.
    let again = run(checkout.path(""), &first_command());
    assert_eq!(again.0, Some(0), "{again:?}");
}

#[test]
fn the_first_command_answers_at_a_terminal_too() {
    let checkout = fresh_copy();
    let command = first_command();
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let (code, screen) = checkout.at_terminal(&arguments).end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("haiku.txt"), "{screen}");
    assert!(checkout.path("groups/home/haiku.txt").exists());
}

#[test]
fn a_used_quick_start_leaves_the_checkout_clean() {
    let checkout = fresh_copy();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(checkout.path("")).args(arguments).stdin(Stdio::null());
        // Neither the user's settings nor an outer repository matter here.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("GIT_DIR");
        command.output()
    };
    if git(&["init", "-q"]).is_err() {
        crate::support::skipped("git is not installed");
        return;
    }
    git(&["add", "-A"]).unwrap();
    let before = git(&["status", "--porcelain"]).unwrap().stdout;
    run(checkout.path(""), &first_command());
    let after = git(&["status", "--porcelain"]).unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&before), String::from_utf8_lossy(&after));
}

#[test]
fn the_second_command_is_the_test_suite() {
    assert_eq!(shell_blocks(&read("README.md"))[1].trim(), "cargo test");
}

#[test]
fn every_command_that_the_readme_names_exists() {
    let readme = read("README.md");
    let folder = Folder::empty();
    let named = readme.split("`babybot ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next());
    let mut count = 0;
    for verb in named {
        assert_eq!(folder.run(&[verb, "--help"]).code, Some(0), "babybot {verb}");
        count += 1;
    }
    assert!(count >= 5);
}

#[test]
fn every_manifest_in_the_documents_is_valid() {
    for document in documents() {
        for snippet in blocks(&read(&document), "toml") {
            if let Err(problems) = manifest::parse(&snippet) {
                panic!("{document}: {problems:#?}\n{snippet}");
            }
        }
    }
}

#[test]
fn the_script_in_the_documents_plays() {
    let blocks = blocks(&read("docs/MANIFEST.md"), "text");
    let script = blocks.iter().find(|block| block.contains("[[rule]]")).unwrap();
    let installation = Installation::new(User::Oneself, script);
    installation.apply();
    for (said, reply) in [("make a backup", "done with make a backup\n"), ("tea", "what?\n")] {
        let ran = installation.run(&["chat", "home", said]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, reply), "{ran:?}");
    }
}

#[test]
fn every_link_within_the_documents_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        let folder = Path::new(&document).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(root().join(folder).join(target).exists(), "{document} links to {link}");
        }
    }
}

fn run(folder: PathBuf, arguments: &[String]) -> (Option<i32>, String, String) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ran = command_in(&folder, &arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
}

/// The README's first command, without `cargo run --`.
fn first_command() -> Vec<String> {
    let readme = read("README.md");
    let block = shell_blocks(&readme).remove(0);
    let command = block.trim().strip_prefix("cargo run -- ").expect("it is run with cargo");
    let mut words = Vec::new();
    for (index, part) in command.split('"').enumerate() {
        // What stands in quotes is one word.
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// A copy of what a user of the quick start has: the manifest, its groups, what git ignores.
fn fresh_copy() -> Folder {
    let copy = Folder::empty();
    for file in ["babybot.toml", ".gitignore", "groups/home/MEMORY.md", "groups/global/MEMORY.md"] {
        copy.write(file, &read(file));
    }
    copy
}

fn documents() -> Vec<String> {
    let mut documents = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).unwrap().flatten() {
        documents.push(format!("docs/{}", entry.file_name().to_str().unwrap()));
    }
    documents
}

fn shell_blocks(text: &str) -> Vec<String> {
    blocks(text, "sh")
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}
