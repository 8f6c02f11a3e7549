//! What must hold whoever is killed, whatever a tool tries: real processes, really killed.
//!
//! Every test runs the program itself in an installation of its own, and where
//! the tests are run by root, also as a user without any power and as root in
//! another user's project: each of the three hides mistakes that another shows.

#![allow(clippy::print_stdout, reason = "a failing test shows its seed, a helper program reports")]

mod at_once;
mod attacks;
mod interrupts;
pub(crate) mod kills;
mod neighbours;
mod owners;
mod upgrade;
