//! What a turn goes through, as a conversation is told of it.

use crate::control::ChatEvent;
use crate::session::Progress;

/// What there is to tell; `None`: nothing that a person would want to know.
pub(super) fn event_of(progress: Progress) -> Option<ChatEvent> {
    match progress {
        Progress::Tool { name, arguments } => Some(ChatEvent::Tool { name, arguments }),
        Progress::Struck(limit) => Some(ChatEvent::Struck { limit: limit.to_owned() }),
        Progress::Note(text) => Some(ChatEvent::Note { text }),
        Progress::Waits(why) => Some(ChatEvent::Away { why }),
        Progress::Back => Some(ChatEvent::Back),
        Progress::Retry { why, wait } => Some(ChatEvent::Retry { why, wait }),
        Progress::Waking => Some(ChatEvent::Waking),
        // After a tool, the model is asked again.
        Progress::Thinking | Progress::ToolEnded => Some(ChatEvent::Thinking),
        Progress::Text { text, fresh } => Some(ChatEvent::Text { text, fresh }),
        Progress::Measured(_) => None,
    }
}
