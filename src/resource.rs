//! What babybot manages: the kinds of resource, their names and their specs.
//!
//! A spec is everything about a resource that was asked for and nothing else;
//! it is what a generation records, what is compared, and what is carried out.
//! Knows nothing of how a manifest is written or how a machine is looked at.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod channel;
mod container;
mod group;
mod id;
mod image;
mod instance;
mod limits;
mod model;
mod order;
mod risk;
mod runtime;
mod senders;
mod spec;
mod user;

use std::fmt;

pub use self::runtime::{
    CONTAINER_LIMITS, Capabilities, EnforcedLimits, RuntimeKind, RuntimeRef, Wall,
};
pub use channel::{CallbackSpec, ChannelSpec, SecretRef, SecretSource, WebhookSpec};
pub use container::{ContainerSpec, containers, engine, instance, runtimes};
pub use group::{Binding, GroupSpec, Lifecycle};
pub use id::{ResourceId, ResourceKind};
pub use image::{IMAGE_REPOSITORY, ImageSpec};
pub use instance::{InstanceSpec, PARALLEL_DEFAULT};
pub use limits::{Limits, MilliCpus};
pub use model::{ModelSpec, is_cloud_model};
pub use order::{stands_on, uses};
pub use risk::Risk;
pub use senders::{AllowedSender, SenderMode, Senders, Writers};
pub use spec::Spec;
pub use user::{GROUP_USERS, UserId};

/// The fields of a spec as a plan shows them: the path in the manifest's words, and the value.
pub type Fields = Vec<(String, String)>;

fn field(path: &str, value: &dyn fmt::Display) -> (String, String) {
    (path.to_owned(), value.to_string())
}

/// The digest of some bytes, as `sha256:<64 hexadecimal digits>`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
