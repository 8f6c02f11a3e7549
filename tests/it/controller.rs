//! A controller in the real world: the real program runs `up`, and the world does its worst.
//!
//! On Docker where containers are what it is about, else on processes, which
//! start sooner. Times are read from the engine's own events; what they must
//! be is far more than what they are, for the sake of busy machines.

mod belongings;
mod changes;
mod drift;
mod ending;
mod engine;
mod faults;
mod kept;
mod lifecycle;
mod moved;
mod pipes;
mod places;
mod unrecorded;
