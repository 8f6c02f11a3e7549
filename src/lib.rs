//! babybot.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "babybot runs on Linux today. On Windows, use it within WSL2: \
     https://learn.microsoft.com/windows/wsl"
);

pub mod agent;
pub mod cli;
pub mod clock;
pub mod desired;
pub mod error;
pub mod execute;
pub mod gateway;
pub mod host;
pub mod link;
pub mod logging;
pub mod manifest;
pub mod name;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod process;
pub mod project;
pub mod protocol;
pub mod reconcile;
pub mod resource;
pub mod route;
pub mod runtime;
pub mod session;
pub mod source;
pub mod store;
pub mod unit;
