//! Tests of everything, in one binary.

mod plan;
mod route;
mod store;
mod support;

