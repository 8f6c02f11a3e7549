//! A model, as its server tells of it.

use super::HostLook;
use crate::gateway::{ModelFacts, ModelState};
use crate::observed::{Availability, Known, Seen};
use crate::resource::ModelSpec;

impl HostLook {
    /// Asks a model's server whether it has it.
    pub(super) async fn see_model(&self, spec: &ModelSpec) -> Known<Seen> {
        match self.gateway.look(spec).await {
            ModelState::Is(facts) if facts.remote => {
                Known::Is(Seen::Model(Availability::Elsewhere))
            }
            ModelState::Is(facts) => Known::Is(Seen::Model(availability(&facts, spec.context()))),
            ModelState::Absent => Known::Is(Seen::Model(Availability::Missing)),
            ModelState::Unknown(why) => Known::Unknown(why),
        }
    }
}

/// What a model is good for, where this much context is asked for.
fn availability(facts: &ModelFacts, context: u32) -> Availability {
    let context_max = facts.context_max.filter(|max| *max < u64::from(context));
    match (facts.tools, context_max) {
        (true, None) => Availability::Present,
        (tools, context_max) => Availability::Limited { tools, context_max },
    }
}
