//! What a manifest means on this machine, and what was found of it.
//!
//! The front asks it before it plans, the controller whenever something may have
//! changed: which runtimes there are and how they are, where the binary of an
//! image comes from, what the environment says instead of the manifest.

mod binary;
mod context;
mod edit;
mod health;
mod problem;
mod records;
mod resolve;

pub use self::context::HostContext;
pub use self::edit::{Unread, read};
pub use self::health::{Health, Trust};
pub use self::problem::project_error;
pub use self::records::records;
pub use self::resolve::Environment;
