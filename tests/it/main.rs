//! Everything that is seen from outside, in one binary.

mod examples;
mod manifest;
