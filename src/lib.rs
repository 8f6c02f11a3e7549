//! babybot.
pub mod cli;
pub mod clock;
pub mod desired;
pub mod error;
pub mod manifest;
pub mod name;
pub mod observed;
pub mod plan;
pub mod protocol;
pub mod resource;
pub mod unit;
