//! Where a message goes and whether it asks for an answer.
//!
//! Pure decisions about texts, bindings and senders. What is kept is the store's business; [`prompt`] makes what
//! the agent reads out of the messages of a turn.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

pub mod prompt;

use std::collections::BTreeMap;

use crate::name::{ChannelName, ChatId, GroupName, SenderId};
use crate::resource::{Binding, GroupSpec, ResourceId, SenderMode, Spec, Writers};

/// What decides where a message goes.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// The channel it came through.
    pub channel: &'a ChannelName,
    /// The chat it was written in.
    pub chat: &'a ChatId,
    /// The group that its sender chose, where the channel lets them choose.
    pub to: Option<&'a GroupName>,
    /// Who wrote it, as the channel knows them.
    pub sender: &'a SenderId,
    /// Whether it is meant for the agent by itself, and not for everybody in a chat.
    pub direct: bool,
    /// Who writes through this channel.
    pub writers: Writers,
    /// What was written.
    pub text: &'a str,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To nobody: no group listens there, or its sender may not write to it.
    Nobody,
    /// To a group, as context for later messages of the chat.
    Context(GroupName),
    /// To a group, which answers it.
    Answer(GroupName),
}

/// Whether a text starts with the trigger as a whole word: `@Baby, hello` and
/// ` @BABY` do for `@Baby`, `@Babylon` and `hello @Baby` do not.
///
/// Case does not matter in any script. Composed and decomposed accents count
/// as different characters. An empty trigger is never there.
#[must_use]
pub fn is_triggered(text: &str, trigger: &str) -> bool {
    let trigger = trigger.trim();
    let Some(last) = trigger.chars().next_back() else { return false };
    let Some(rest) = strip_start(text.trim(), trigger) else { return false };
    // Where the trigger does not end in a word, none can go on after it.
    !is_word(last) || !rest.starts_with(is_word)
}

/// What follows `start` in `text`, compared without regard to case.
fn strip_start<'text>(text: &'text str, start: &str) -> Option<&'text str> {
    let mut expected = start.chars().flat_map(folded).peekable();
    let mut rest = text.chars();
    // One letter may fold to several (ß to ss), so only a whole letter of the
    // text can be where the trigger ends.
    while expected.peek().is_some() {
        for letter in folded(rest.next()?) {
            if expected.next() != Some(letter) {
                return None;
            }
        }
    }
    Some(rest.as_str())
}

/// A letter without its case. By way of the upper case, so that letters that
/// share one (σ and ς) are the same.
fn folded(letter: char) -> impl Iterator<Item = char> {
    letter.to_uppercase().flat_map(char::to_lowercase)
}

/// Whether a character is part of a word: letters and digits of any script,
/// what accents them, the underscore, and the joiners within words.
fn is_word(character: char) -> bool {
    character.is_alphanumeric()
        || matches!(
            character,
            '_' | '\u{200c}' | '\u{200d}' | '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}'
                | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}'
        )
}

/// Which group listens where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    groups: BTreeMap<Binding, GroupName>,
}

impl Routes {
    /// The routes of an applied generation. A binding that two groups claim,
    /// which no valid manifest has, stays with the first by name.
    #[must_use]
    pub fn new(specs: &BTreeMap<ResourceId, Spec>) -> Self {
        let mut groups = BTreeMap::new();
        for (id, spec) in specs {
            if let (ResourceId::Group(group), Spec::Group(spec)) = (id, spec) {
                for binding in &spec.bind {
                    groups.entry(binding.clone()).or_insert_with(|| group.clone());
                }
            }
        }
        Self { groups }
    }

    /// The group that a chat belongs to: the one that bound this chat, or else
    /// the one that bound its whole channel.
    #[must_use]
    pub fn group(&self, channel: &ChannelName, chat: &ChatId) -> Option<&GroupName> {
        let chat = Binding { channel: channel.clone(), chat: Some(chat.clone()) };
        let whole = || Binding { channel: channel.clone(), chat: None };
        self.groups.get(&chat).or_else(|| self.groups.get(&whole()))
    }

    /// Where a message goes. It is answered if it is meant for the agent, or the group answers
    /// everything, or it starts with the trigger, and only if its sender may write to the group.
    #[must_use]
    pub fn route(&self, specs: &BTreeMap<ResourceId, Spec>, addressed: &Addressed<'_>) -> Route {
        let bound = || self.group(addressed.channel, addressed.chat);
        let Some(group) = addressed.to.or_else(bound) else { return Route::Nobody };
        let Some(Spec::Group(spec)) = specs.get(&ResourceId::Group(group.clone())) else {
            return Route::Nobody;
        };
        let wakes = || {
            addressed.direct
                || !spec.requires_trigger
                || is_triggered(addressed.text, &spec.trigger)
        };
        match standing(spec, addressed) {
            Standing::Dropped => Route::Nobody,
            Standing::Answered if wakes() => Route::Answer(group.clone()),
            Standing::Answered | Standing::Context => Route::Context(group.clone()),
        }
    }
}

/// What becomes of a message because of who wrote it.
enum Standing {
    Answered,
    Context,
    Dropped,
}

/// Where a group does not say who may write to it, nobody may on a channel with strangers.
fn standing(spec: &GroupSpec, addressed: &Addressed<'_>) -> Standing {
    let (channel, sender) = (addressed.channel, addressed.sender);
    match (&spec.senders, addressed.writers) {
        (_, Writers::Owner) | (None, Writers::Trusted) => Standing::Answered,
        (None, Writers::Strangers) => Standing::Dropped,
        (Some(senders), _) if senders.allows(channel, sender) => Standing::Answered,
        (Some(senders), _) => match senders.mode {
            SenderMode::Trigger => Standing::Context,
            SenderMode::Drop => Standing::Dropped,
        },
    }
}
