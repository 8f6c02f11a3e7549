//! What must hold of real agents in real containers: walls, limits, users, and whoever is killed.
//!
//! Everything here runs the program itself, in an installation of its own, at the
//! engine of this machine. A script plays the model, so that a tool can do the
//! worst there is.

#![allow(clippy::print_stdout, reason = "a failing test shows its seed")]

mod choice;
mod clock;
mod crowd;
mod files;
mod house;
mod images;
mod isolation;
mod kills;
mod limits;
mod loopback;
mod neighbours;
mod sockets;
mod users;
