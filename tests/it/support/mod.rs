//! What tests share: builders, fakes that stand at the doors, and simulated worlds.

pub(crate) mod installation;
pub(crate) mod ollama;
pub(crate) mod plan;
