//! A connection to a chat service: only the generation knows of it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::name::ChannelName;
use crate::plan::verdict::{self, Verdict};
use crate::resource::{Binding, ChannelSpec, ResourceId, Risk, Spec, WebhookSpec, Writers};

pub(super) fn verdict(spec: &Spec, before: Option<&Spec>) -> Verdict {
    verdict::recorded(spec, before, "takes effect with the next turn")
}

pub(super) fn risk(path: &str, from: Option<&Spec>, to: &ChannelSpec) -> Risk {
    match (from, to) {
        (_, ChannelSpec::Terminal) => Risk::Safe,
        (Some(Spec::Channel(ChannelSpec::Webhook(from))), ChannelSpec::Webhook(to)) => {
            webhook(path, Some(from), to)
        }
        (_, ChannelSpec::Webhook(to)) => webhook(path, None, to),
    }
}

fn webhook(path: &str, from: Option<&WebhookSpec>, to: &WebhookSpec) -> Risk {
    let callback = from.and_then(|from| from.callback.as_ref());
    match path {
        "kind" => Risk::Safe,
        // Another machine reaches it from now on.
        "listen" if !to.listen.ip().is_loopback() => Risk::Privileged,
        // Whoever used the old address no longer reaches it.
        "listen" if from.is_some_and(|from| from.listen != to.listen) => Risk::Disruptive,
        "listen" => Risk::Safe,
        "token" if from.is_some_and(|from| from.token == to.token) => Risk::Safe,
        // Every reply goes there, signed with this secret.
        "callback.url" | "callback.secret" if to.callback.as_ref() == callback => Risk::Safe,
        // Whoever was told of replies no longer is.
        "callback.url" | "callback.secret" if to.callback.is_none() => Risk::Disruptive,
        _ => Risk::Privileged,
    }
}

/// Whether only the owner can write to all of these.
pub(super) fn terminals<'a>(
    mut bindings: impl Iterator<Item = &'a Binding>,
    specs: &BTreeMap<ResourceId, Spec>,
) -> bool {
    bindings.all(|binding| writers(&binding.channel, specs) == Writers::Owner)
}

/// Who writes through a channel. One that is not among the specs counts as the worst it could be.
pub(super) fn writers(channel: &ChannelName, specs: &BTreeMap<ResourceId, Spec>) -> Writers {
    match specs.get(&ResourceId::Channel(channel.clone())) {
        Some(Spec::Channel(channel)) => channel.writers(),
        None if *channel == ChannelName::terminal() => Writers::Owner,
        Some(_) | None => Writers::Strangers,
    }
}
