//! Messages that arrive while a turn is under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Messages that arrive while a turn is under way.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Steering(Arc<Mutex<VecDeque<String>>>);

impl Steering {
    pub(in super::super) fn push(&self, prompt: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(prompt);
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
