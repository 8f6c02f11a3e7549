//! The risk of a step, worked out from the specs on either side of it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use super::{Review, strangers};
use crate::name::ChannelName;
use crate::observed::{Known, Seen};
use crate::plan::{Step, Work};
use crate::resource::{
    self, AllowedSender, Binding, ChannelSpec, GroupSpec, ImageSpec, InstanceSpec, ModelSpec,
    ResourceId, Risk, SenderMode, Spec, WebhookSpec,
};

impl Review<'_> {
    /// The risk of a step, worked out from the specs on either side of it.
    pub(super) fn needed(&self, step: &Step) -> Risk {
        let fields = step.fields.iter().map(|field| field.risk).max().unwrap_or(Risk::Safe);
        let before = self.before.get(&step.id);
        let own = match (&step.id, &step.work.spec()) {
            (ResourceId::Container(_), _) => match step.work {
                Work::StartAgent { .. } => Risk::Safe,
                _ => Risk::Disruptive,
            },
            (_, Some(Spec::Instance(instance))) => self.instance_needs(instance),
            (_, Some(Spec::Image(image))) => self.image_needs(image),
            (ResourceId::Group(_), None) => Risk::Destructive,
            (
                ResourceId::GlobalMemory | ResourceId::Folder(_) | ResourceId::Settings(_),
                Some(_),
            ) if self.overwrites(step) => Risk::Destructive,
            (_, Some(Spec::Model(model))) => model_needs(before, model),
            (_, Some(Spec::Group(group))) => self.group_needs(&step.id, group),
            (_, Some(Spec::Channel(ChannelSpec::Webhook(webhook)))) => {
                webhook_needs(before, webhook)
            }
            _ => Risk::Safe,
        };
        own.max(fields)
    }

    /// Whoever names an engine may name any.
    fn instance_needs(&self, instance: &InstanceSpec) -> Risk {
        let before = resource::instance(self.before);
        let before = before.and_then(|before| before.runtime.endpoint.as_ref());
        let wanted = self.desired.resources.get(&ResourceId::Instance);
        let named = wanted.is_some_and(|wanted| wanted.fields.contains_key("runtime.docker.host"));
        match before == instance.runtime.endpoint.as_ref() {
            true => Risk::Safe,
            false if named => Risk::Privileged,
            false if before.is_some() => Risk::Disruptive,
            false => Risk::Safe,
        }
    }

    /// A base or an image that no generation knew brings in whatever is in it.
    fn image_needs(&self, image: &ImageSpec) -> Risk {
        let mut before = self.before.values();
        let known = match image {
            ImageSpec::Built { base, .. } if base == "scratch" => true,
            ImageSpec::Built { base, .. } => before.any(|spec| {
                matches!(spec, Spec::Image(ImageSpec::Built { base: old, .. }) if old == base)
            }),
            ImageSpec::Named { reference } => before.any(|spec| {
                matches!(spec, Spec::Image(ImageSpec::Named { reference: old }) if old == reference)
            }),
        };
        if known { Risk::Safe } else { Risk::Privileged }
    }

    /// Whether a step writes over, or moves aside, what no generation of ours has made.
    fn overwrites(&self, step: &Step) -> bool {
        let look = self.observed.looks.get(&step.id);
        !self.before.contains_key(&step.id)
            && matches!(look, Some(Known::Is(Seen::Settings { env: None } | Seen::Wrong { .. })))
    }

    fn group_needs(&self, id: &ResourceId, group: &GroupSpec) -> Risk {
        let then = self.strangers_before(id);
        let before = match self.before.get(id) {
            Some(Spec::Group(before)) => Some(&**before),
            _ => None,
        };
        let now = strangers(group, &self.desired_channels());
        let was = |fact: fn(&GroupSpec) -> bool| before.is_some_and(fact);
        let engine = before.and_then(|before| before.engine.as_ref());
        let moves = group.engine.as_ref() != engine;
        let root = |group: &GroupSpec| group.user.is_some_and(|user| user.uid == 0);
        let mapped = before.is_some_and(|before| root(before) && !root(group));
        let wall = |group: &GroupSpec| group.capabilities.wall;
        let weaker = before.is_some_and(|before| wall(group) < wall(before));
        let other = before.is_some_and(|before| group.runtime != before.runtime);
        let privileged = weaker
            || (mapped && group.capabilities.images)
            || (group.main && !was(|before| before.main))
            || !now.is_subset(&then)
            || before.is_some_and(|before| self.opens(before, group))
            || (!now.is_empty()
                && !group.requires_trigger
                && was(|before| before.requires_trigger));
        let disruptive = other
            || (moves && engine.is_some())
            || then.iter().any(|binding| !group.bind.contains(binding))
            || (!now.is_empty() && before.is_some_and(|before| before.trigger != group.trigger));
        match (privileged, disruptive) {
            (true, _) => Risk::Privileged,
            (false, true) => Risk::Disruptive,
            (false, false) => Risk::Safe,
        }
    }

    /// Whether somebody counts for more than before in a chat that was bound before: each who is
    /// named on either side is tried, and one whom nobody names.
    fn opens(&self, before: &GroupSpec, after: &GroupSpec) -> bool {
        let channels = self.desired_channels();
        let named = [before, after].into_iter().filter_map(|group| group.senders.as_ref());
        let named: Vec<Option<&AllowedSender>> =
            named.flat_map(|senders| &senders.allow).map(Some).chain([None]).collect();
        let kept = strangers(after, &channels).into_iter().filter(|at| before.bind.contains(at));
        kept.map(|binding| binding.channel).any(|channel| {
            named.iter().any(|who| {
                weight(before, &channel, *who, self.before)
                    < weight(after, &channel, *who, &channels)
            })
        })
    }

    pub(super) fn strangers_before(&self, id: &ResourceId) -> BTreeSet<Binding> {
        match self.before.get(id) {
            Some(Spec::Group(before)) => strangers(before, self.before),
            _ => BTreeSet::new(),
        }
    }

    fn desired_channels(&self) -> BTreeMap<ResourceId, Spec> {
        let channels = self
            .desired
            .resources
            .iter()
            .filter(|(id, _)| matches!(id, ResourceId::Channel(_)))
            .map(|(id, wanted)| (id.clone(), wanted.spec.clone()));
        channels.collect()
    }
}

/// What somebody's messages are to a group: 2, they are answered; 1, they are read; 0, nothing.
fn weight(
    group: &GroupSpec,
    channel: &ChannelName,
    who: Option<&AllowedSender>,
    specs: &BTreeMap<ResourceId, Spec>,
) -> u8 {
    let id = ResourceId::Channel(channel.clone());
    let trusted = matches!(specs.get(&id), Some(Spec::Channel(ChannelSpec::Webhook(_))));
    let Some(senders) = &group.senders else { return if trusted { 2 } else { 0 } };
    let here = match who {
        Some(AllowedSender::One { channel: of, .. }) => of == channel,
        Some(AllowedSender::Anyone) | None => false,
    };
    let named = here && who.is_some_and(|who| senders.allow.contains(who));
    match senders.mode {
        _ if named || senders.allow.contains(&AllowedSender::Anyone) => 2,
        SenderMode::Trigger => 1,
        SenderMode::Drop => 0,
    }
}

fn model_needs(before: Option<&Spec>, after: &ModelSpec) -> Risk {
    match (before, after) {
        (_, ModelSpec::Rehearsal { .. }) => Risk::Safe,
        (
            Some(Spec::Model(ModelSpec::Ollama { url: before, .. })),
            ModelSpec::Ollama { url, .. },
        ) if before == url => Risk::Safe,
        (_, ModelSpec::Ollama { .. }) => Risk::Privileged,
    }
}

/// The first use of a secret, a destination of replies and an address that others reach need approval.
fn webhook_needs(before: Option<&Spec>, after: &WebhookSpec) -> Risk {
    let Some(Spec::Channel(ChannelSpec::Webhook(before))) = before else {
        return Risk::Privileged;
    };
    let moves = before.listen != after.listen;
    let told = after.callback.is_some() && after.callback != before.callback;
    if before.token != after.token || told || (moves && !after.listen.ip().is_loopback()) {
        Risk::Privileged
    } else if moves || after.callback != before.callback {
        Risk::Disruptive
    } else {
        Risk::Safe
    }
}
