//! Everything that is seen from outside, in one binary: one file per room.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed test printed")]

mod agent;
mod channels;
mod cli;
mod control;
mod controller;
mod examples;
mod exec;
mod gateway;
mod link;
mod machines;
mod manifest;
mod plan;
mod printed;
mod process;
mod readme;
mod reconcile;
mod request;
mod route;
mod runtime;
mod session;
mod simulation;
mod store;
mod support;
mod survival;
mod tidy;
mod view;
mod visible;
mod walls;
mod webhook;
