//! What a manifest declares that other parts of it refer to.

use std::collections::{BTreeMap, BTreeSet};

use super::channels::Chats;

/// The names that can be referred to, whether or not what they name is valid.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) models: BTreeSet<String>,
    pub(super) channels: BTreeMap<String, Chats>,
}
