//! Tells the program which commit it is built from, where that is known.
//!
//! Of a source archive it is not, unless whoever builds says so in `BABYBOT_COMMIT` and
//! `BABYBOT_DATE`. Changes that were not committed are not told.

#![allow(clippy::print_stdout, reason = "it is how a build script talks to cargo")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=BABYBOT_COMMIT");
    println!("cargo::rerun-if-env-changed=BABYBOT_DATE");
    println!("cargo::rerun-if-changed=src/main/build.rs");
    let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let version = env!("CARGO_PKG_VERSION");
    let built = match (given("BABYBOT_COMMIT"), given("BABYBOT_DATE")) {
        (Some(commit), Some(date)) => Some(format!("{commit} {date}")),
        _ => checked_out(),
    };
    let shown = built.map_or_else(|| version.to_owned(), |built| format!("{version} ({built})"));
    println!("cargo::rustc-env=BABYBOT_VERSION={shown}");
}

/// Commit and date of the checkout that this is built in.
fn checked_out() -> Option<String> {
    // An archive may be unpacked within somebody else's checkout.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    if Path::new(&top).canonicalize().ok()? != here {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["log", "-1", "--abbrev=12", "--format=%h %cs"])
}

/// What git says, if there is a git that says something.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let said = said.trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}
