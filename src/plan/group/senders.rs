//! Whether more people reach a group than did.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{ChannelName, SenderId};
use crate::plan::channel::writers;
use crate::plan::draft::Sides;
use crate::resource::{AllowedSender, GroupSpec, ResourceId, Risk, SenderMode, Spec, Writers};

/// Some people of a channel; `None`: all of them.
type People<'a> = Option<BTreeSet<&'a SenderId>>;

/// The risk of `senders.allow`, which is about those who are answered, and of `senders.mode`, which
/// is about those whose messages the agent reads.
pub(super) fn risk(path: &str, from: Option<&GroupSpec>, to: &GroupSpec, sides: Sides<'_>) -> Risk {
    let reach = match path {
        "senders.allow" => answered,
        _ => heard,
    };
    let opens = to.bind.iter().any(|binding| {
        let before = match from.filter(|from| from.bind.contains(binding)) {
            Some(from) => reach(from, &binding.channel, sides.before),
            None => Some(BTreeSet::new()),
        };
        match (before, reach(to, &binding.channel, sides.after)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => !after.is_subset(&before),
        }
    });
    if opens { Risk::Privileged } else { Risk::Safe }
}

/// Who of a channel is answered, its owner aside.
fn answered<'a>(
    group: &'a GroupSpec,
    channel: &ChannelName,
    specs: &BTreeMap<ResourceId, Spec>,
) -> People<'a> {
    match (&group.senders, writers(channel, specs)) {
        (_, Writers::Owner) | (None, Writers::Strangers) => Some(BTreeSet::new()),
        (None, Writers::Trusted) => None,
        (Some(senders), _) if senders.allow.contains(&AllowedSender::Anyone) => None,
        (Some(senders), _) => {
            let allowed = senders.allow.iter().filter_map(|allowed| match allowed {
                AllowedSender::One { channel: of, sender } if of == channel => Some(sender),
                _ => None,
            });
            Some(allowed.collect())
        }
    }
}

/// Whose messages of a channel the agent comes to read, its owner's aside.
fn heard<'a>(
    group: &'a GroupSpec,
    channel: &ChannelName,
    specs: &BTreeMap<ResourceId, Spec>,
) -> People<'a> {
    let all = group.senders.as_ref().is_some_and(|senders| senders.mode == SenderMode::Trigger)
        && writers(channel, specs) != Writers::Owner;
    if all { None } else { answered(group, channel, specs) }
}
