//! The memory that all groups read: there without being written.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::Wanted;
use crate::resource::{ResourceId, Spec};

pub(super) fn wanted() -> (ResourceId, Wanted) {
    (ResourceId::GlobalMemory, Wanted::unwritten(Spec::GlobalMemory))
}
