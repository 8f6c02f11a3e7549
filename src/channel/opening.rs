//! What a channel is opened with.

use std::fmt;
use std::sync::Arc;

use super::Channel;
use crate::name::ChannelName;
use crate::resource::{ChannelSpec, SecretRef};
use crate::secret::{Secret, SecretError};

/// Gives the value of a secret, as it is when a channel opens.
pub type Resolve = dyn Fn(&SecretRef) -> Result<Secret, SecretError> + Send + Sync;

/// What a channel is opened with.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// What the manifest calls it.
    pub name: &'a ChannelName,
    /// What it is to be.
    pub spec: &'a ChannelSpec,
    /// Where the values of its secrets come from.
    pub secrets: &'a Resolve,
}

impl fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("name", self.name).field("spec", self.spec).finish()
    }
}

/// Opens channels of one kind; `None` for what is of another kind.
pub type Opener =
    Arc<dyn Fn(&Opening<'_>) -> Option<Result<Arc<dyn Channel>, String>> + Send + Sync>;
