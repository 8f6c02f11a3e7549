//! Tests of everything, in one binary.

mod gateway;
mod plan;
mod route;
mod store;
mod support;
//! All integration tests, in one binary: one file per room.

