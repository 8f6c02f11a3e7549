//! What babybot costs, measured against floors of the same run: `cargo bench`.
//!
//! With `-- --quick` everything runs a few times only, to see that it does. No
//! time is ever asserted: a slow machine is not a broken one.
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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` builds this and starts it without the word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("benches run with `cargo bench`");
        return;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let effort = if quick { Effort::Quick } else { Effort::Full };
    let mut table = Table::default();
    control::functions(effort, &mut table);
    control::processes(effort, &mut table);
    turn::turns(effort, &mut table);
    turn::messages(effort, &mut table);
    up::containers(effort, &mut table);
    rest::controllers(effort, &mut table);
    println!("{}", table.text());
}
