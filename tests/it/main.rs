//! Tests of everything, in one binary.

mod plan;
mod support;
