//! Limits as they are written, for all groups or for one.

use super::codes::Code;
use super::decode::{Decoder, Section, join};
use super::diagnostic::Diagnostic;
use super::{KindWish, Written};
use crate::resource::MilliCpus;
use crate::unit::{ByteSize, Period};

/// The limits written in one place.
#[derive(Clone, Debug, Default)]
pub(super) struct LimitParts {
    pub(super) cpus: Option<Written<MilliCpus>>,
    pub(super) memory: Option<Written<ByteSize>>,
    pub(super) pids: Option<Written<u32>>,
    pub(super) turn: Option<Written<Period>>,
    pub(super) idle: Option<Written<Period>>,
    pub(super) output: Option<Written<ByteSize>>,
    pub(super) disk: Option<Written<ByteSize>>,
}

impl LimitParts {
    pub(super) fn read(
        decoder: &mut Decoder<'_>,
        parent: &Section<'_, '_>,
        runtime: Option<KindWish>,
    ) -> Self {
        let Some(section) = decoder.section(parent, "limits") else { return Self::default() };
        decoder.check_keys(&section, None);
        let limits = Self {
            cpus: decoder.cpus(&section, "cpus"),
            memory: decoder.size(&section, "memory"),
            pids: decoder.integer(&section, "pids"),
            turn: decoder.period(&section, "turn"),
            idle: decoder.period(&section, "idle"),
            output: decoder.size(&section, "output"),
            disk: decoder.size(&section, "disk"),
        };
        if runtime == Some(KindWish::None) {
            limits.check_enforced(decoder, &section);
        }
        limits
    }

    /// Notes the limits that a plain process cannot be held to.
    fn check_enforced(&self, decoder: &mut Decoder<'_>, section: &Section<'_, '_>) {
        let written = [
            ("cpus", self.cpus.as_ref().and_then(|limit| limit.at)),
            ("memory", self.memory.as_ref().and_then(|limit| limit.at)),
            ("pids", self.pids.as_ref().and_then(|limit| limit.at)),
        ];
        for (key, at) in written {
            let Some(at) = at else { continue };
            decoder.note(
                Diagnostic::new(
                    Code::LimitNotEnforced,
                    format!("runtime `none` cannot enforce `{}`", join(&section.path, key)),
                )
                .at(at, "not enforced")
                .helped("leave it out, or write `kind = \"docker\"` or \"auto\": a container can be held to it"),
            );
        }
    }
}
