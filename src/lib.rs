//! babybot.
pub mod agent;
pub mod cli;
pub mod clock;
pub mod desired;
pub mod error;
pub mod gateway;
pub mod link;
pub mod manifest;
pub mod name;
pub mod observed;
pub mod plan;
pub mod process;
pub mod project;
pub mod protocol;
pub mod resource;
pub mod runtime;
pub mod unit;
