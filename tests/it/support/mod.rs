<<<<<<< HEAD
//! What tests share: builders, fakes and simulated worlds.

pub(crate) mod plan;
=======
//! Fakes that stand at the doors.

pub(crate) mod ollama;
>>>>>>> gateway
