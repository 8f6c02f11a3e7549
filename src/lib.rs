//! babybot.
pub mod cli;
pub mod clock;
pub mod error;
pub mod manifest;
pub mod name;
pub mod protocol;
pub mod resource;
pub mod source;
pub mod unit;
