//! Everything that is seen from outside, in one binary: one file per room.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod examples;
mod gateway;
mod manifest;
mod plan;
mod route;
mod store;
mod support;
mod survival;
