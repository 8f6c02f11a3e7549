//! Fakes that stand at the doors.

pub(crate) mod ollama;
