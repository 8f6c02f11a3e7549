//! All integration tests, in one binary: one file per room.

mod gateway;
mod support;
