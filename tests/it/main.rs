//! Everything that is seen from outside, in one binary: one file per room.

mod examples;
mod gateway;
mod manifest;
mod plan;
mod route;
mod store;
mod support;
