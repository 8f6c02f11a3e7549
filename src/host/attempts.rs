//! What a turn has behind it in this controller. Another one begins to count anew.

use std::time::Instant;

use crate::name::TurnId;

/// The attempts at one turn.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    turn: Option<TurnId>,
    /// Attempts that failed and count.
    pub(super) retries: u32,
    /// Agents that were lost in the middle of it.
    pub(super) lost: u32,
    /// Attempts to start an agent that nothing but an attempt shows to be impossible.
    pub(super) blind: u32,
    /// Since when a server loads the model.
    pub(super) loading: Option<Instant>,
    /// What whoever listens was told last that it waits for.
    told: Option<String>,
}

impl Attempts {
    /// From now on these are the attempts at `turn`.
    pub(super) fn at(&mut self, turn: &TurnId) {
        if self.turn.as_ref() != Some(turn) {
            *self = Self { turn: Some(turn.clone()), ..Self::default() };
        }
    }

    /// Whether what it waits for is not what was told last; it is from now on.
    pub(super) fn is_news(&mut self, why: &str) -> bool {
        let news = self.told.as_deref() != Some(why);
        if news {
            self.told = Some(why.to_owned());
        }
        news
    }

    /// What it waited for is there.
    pub(super) fn is_back(&mut self) {
        self.told = None;
    }
}
