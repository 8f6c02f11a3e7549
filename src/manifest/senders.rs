//! `[groups.<group>.senders]`: who may write to a group.

use std::collections::{BTreeMap, BTreeSet};

use super::channels::{self, Chats};
use super::codes::Code;
use super::decode::{Decoder, Section};
use super::diagnostic::{Diagnostic, quote};
use super::scope::Names;
use super::{Declared, Span};
use crate::resource::{AllowedSender, SenderMode, Senders};
use crate::visible;

/// What a webhook's senders begin with whom a program names.
const CLAIMED: &str = "claimed:";

/// Who may write to a group, where that is said.
pub(super) fn senders(
    decoder: &mut Decoder<'_>,
    parent: &Section<'_, '_>,
    declared: &Names,
) -> Option<Declared<Senders>> {
    let section = decoder.section(parent, "senders")?;
    decoder.check_keys(&section, None);
    decoder.require(
        &section,
        "allow",
        "write `allow = [\"*\"]` for everybody, or list senders such as \"api:claimed:Ann\"",
    );
    let mut allow = BTreeSet::new();
    for (text, at) in decoder.texts(&section, "allow") {
        allow.extend(allowed(decoder, &text, &declared.channels, at));
    }
    let mode = decoder.text(&section, "mode");
    let drop = mode.is_some_and(|mode| mode.value == SenderMode::Drop.word());
    let mode = if drop { SenderMode::Drop } else { SenderMode::Trigger };
    let fields = decoder.places(&section);
    Some(Declared { at: section.at, spec: Senders { allow, mode }, fields })
}

/// One entry of the list, where it is one.
fn allowed(
    decoder: &mut Decoder<'_>,
    text: &str,
    declared: &BTreeMap<String, Chats>,
    at: Span,
) -> Option<AllowedSender> {
    if text == "*" {
        return Some(AllowedSender::Anyone);
    }
    let Some((channel, sender)) = text.split_once(':') else {
        let help = match declared.contains_key(text) {
            true => format!(
                "write a sender behind the channel's name, as in \"{text}:…\", or \"*\" for everybody"
            ),
            false => "write \"*\" for everybody, or a channel, a colon and a sender".to_owned(),
        };
        note(decoder, format!("{} names no sender", quote(text)), "no sender", help, at);
        return None;
    };
    let Some(chats) = declared.get(channel) else {
        channels::note_unknown(decoder, channel, declared, at);
        return None;
    };
    let (reason, help) = match chats {
        Chats::None => (
            format!("only you write at the terminal {}", quote(channel)),
            "remove it: `babybot chat` always reaches the group".to_owned(),
        ),
        Chats::Bound if !is_of_webhook(channel, sender) => (
            format!("the webhook {} has no sender {}", quote(channel), quote(sender)),
            format!(
                "write \"{channel}:claimed:NAME\" for the sender that a program calls NAME, or \"{channel}:channel:{channel}\" for programs that name none"
            ),
        ),
        Chats::Bound | Chats::Unknown => match text.parse() {
            Ok(allowed) if !visible::has_hidden(sender) => return Some(allowed),
            _ => (
                format!("{} cannot name a sender", quote(text)),
                "write the sender's identifier as the channel knows it".to_owned(),
            ),
        },
    };
    note(decoder, reason, "cannot be a sender", help, at);
    None
}

/// Whether a webhook may come to know a sender by this identifier.
fn is_of_webhook(channel: &str, sender: &str) -> bool {
    match sender.strip_prefix(CLAIMED) {
        Some(name) => !name.trim().is_empty(),
        None => sender.strip_prefix("channel:") == Some(channel),
    }
}

fn note(decoder: &mut Decoder<'_>, reason: String, label: &str, help: String, at: Span) {
    decoder.note(Diagnostic::new(Code::BadSender, reason).at(at, label).helped(help));
}
