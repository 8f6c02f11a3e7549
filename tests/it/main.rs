//! Tests of everything, in one binary.

mod route;
mod store;

fn main() {}
