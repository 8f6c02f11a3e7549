//! The kinds of channels there are, and how each is opened. To add one, add a line here.

use std::fmt;
use std::sync::Arc;

use super::opening::{Opener, Opening};
use super::terminal::Terminal;
use super::{Channel, webhook};
use crate::resource::ChannelSpec;

/// Every kind of channel.
#[derive(Clone)]
pub struct Registry {
    openers: Vec<Opener>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("kinds", &self.openers.len()).finish()
    }
}

impl Registry {
    /// The kinds that babybot brings.
    #[must_use]
    pub fn of_house(terminal: &Arc<Terminal>) -> Self {
        let terminal = Arc::clone(terminal);
        let opened = move |opening: &Opening<'_>| match opening.spec {
            ChannelSpec::Terminal => Some(Ok(Arc::clone(&terminal) as Arc<dyn Channel>)),
            ChannelSpec::Webhook(_) => None,
        };
        Self { openers: Vec::new() }.with(opened).with(webhook::open)
    }

    /// The same registry with one more kind.
    #[must_use]
    pub fn with<F>(mut self, opener: F) -> Self
    where
        F: Fn(&Opening<'_>) -> Option<Result<Arc<dyn Channel>, String>> + Send + Sync + 'static,
    {
        self.openers.push(Arc::new(opener));
        self
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// Why it cannot be opened, with what helps.
    pub fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Channel>, String> {
        let opened = self.openers.iter().rev().find_map(|opener| opener(opening));
        opened.unwrap_or_else(|| Err(format!("this babybot has no channel like {}", opening.name)))
    }
}
