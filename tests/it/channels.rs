//! Channels as the rest of the house sees them: a kind that was never heard of, what delivery makes
//! of its words, and many conversations at once.

mod apart;
mod crowd;
mod delivery;
mod memory;
mod planted;
