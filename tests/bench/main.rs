//! What babybot costs, measured against floors of the same run: `cargo bench`.
//!
//! With `-- --quick` everything runs a few times only, to see that it does; a
//! word such as `-- up` picks parts. No time is ever asserted: a slow machine is
//! not a broken one.
#![allow(clippy::print_stdout, reason = "the tables are the result")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot go on fails")]

mod control;
mod harness;
mod instant;
mod rest;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../it/support/plan.rs"]
mod support;
mod turn;
mod up;

use harness::{Effort, Table};

/// Something that is measured.
type Part = fn(Effort, &mut Table);

/// All of it, with the words that pick it.
const PARTS: &[(&str, Part)] = &[
    ("functions", control::functions),
    ("processes", control::processes),
    ("turns", turn::turns),
    ("messages", turn::messages),
    ("up none", up::on_none),
    ("up docker warm", up::warm),
    ("up docker cold", up::cold),
    ("up docker killed", up::killed),
    ("rest", rest::controllers),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` builds this and starts it without the word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("benches run with `cargo bench`");
        return;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let effort = if quick { Effort::Quick } else { Effort::Full };
    let words = arguments.iter().filter(|argument| !argument.starts_with("--"));
    let words: Vec<&String> = words.collect();
    for (name, part) in PARTS {
        if !words.is_empty() && words.iter().all(|word| !name.contains(word.as_str())) {
            continue;
        }
        let mut table = Table::default();
        part(effort, &mut table);
        println!("{}", table.text());
    }
}
