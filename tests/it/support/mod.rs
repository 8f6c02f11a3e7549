//! What tests share: builders, fakes and simulated worlds.

pub(crate) mod plan;
