//! A model: nothing but the generation and its server know of it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::name::ModelName;
use crate::observed::{Availability, Known, Seen};
use crate::plan::NoteKind;
use crate::plan::draft::Draft;
use crate::plan::verdict::{self, Verdict, why_unknown};
use crate::resource::{ModelSpec, ResourceId, Risk, Spec};

pub(super) fn verdict(spec: &Spec, before: Option<&Spec>) -> Verdict {
    verdict::recorded(spec, before, "takes effect with the next turn")
}

impl Draft<'_> {
    /// What its server says of it.
    pub(super) fn remark_on_models(&mut self) {
        for (id, wanted) in &self.desired.resources {
            match &wanted.spec {
                Spec::Model(ModelSpec::Ollama { url, model, context, .. }) => {
                    self.remark_on_model(id, url, model, *context);
                }
                Spec::Model(ModelSpec::Rehearsal { .. }) => self.remark_on_rehearsal(id),
                _ => {}
            }
        }
    }

    fn remark_on_model(&mut self, id: &ResourceId, url: &str, model: &str, context: u32) {
        match self.observed.looks.get(id) {
            Some(Known::Is(Seen::Model(Availability::Present))) => {}
            Some(Known::Is(Seen::Model(Availability::Limited { tools, context_max }))) => {
                if !tools {
                    let text = "cannot use tools: its groups can talk, and do nothing else";
                    self.note(NoteKind::Limited, id, text.to_owned());
                }
                if let Some(max) = context_max {
                    let text = format!(
                        "has a context of {max} tokens at most: `context = {context}` gives no more"
                    );
                    self.note(NoteKind::Limited, id, text);
                }
            }
            Some(Known::Is(Seen::Model(Availability::Missing)) | Known::Absent) => {
                let text = format!("not on {url}: {}", pull(url, model));
                self.note(NoteKind::Missing, id, text);
            }
            Some(Known::Is(Seen::Model(Availability::Elsewhere))) => {
                let text = format!(
                    "{url} would send it to the cloud, which babybot refuses: choose a model that runs on your own server"
                );
                self.note(NoteKind::Missing, id, text);
            }
            look => {
                let why = why_unknown(look);
                self.note(NoteKind::Unknown, id, format!("could not be checked: {why}"));
            }
        }
    }

    /// Only its script can keep a rehearsal from answering.
    fn remark_on_rehearsal(&mut self, id: &ResourceId) {
        if let Some(Known::Unknown(why)) = self.observed.looks.get(id) {
            self.note(NoteKind::Unknown, id, format!("cannot answer: {why}"));
        }
    }
}

/// The command that gets a model, for the server that is to have it.
fn pull(url: &str, model: &str) -> String {
    if url == "http://127.0.0.1:11434" {
        format!("`ollama pull {model}`")
    } else {
        format!("`OLLAMA_HOST={url} ollama pull {model}`")
    }
}

pub(super) fn risk(path: &str, to: &ModelSpec) -> Risk {
    match (path, to) {
        // Everything said in a chat goes to this server.
        ("kind" | "url", ModelSpec::Ollama { .. }) => Risk::Privileged,
        ("kind" | "url" | "model" | "context" | "keep_alive" | "script", _) => Risk::Safe,
        _ => Risk::Privileged,
    }
}

pub(super) fn rehearsal(model: &ModelName, specs: &BTreeMap<ResourceId, Spec>) -> bool {
    match specs.get(&ResourceId::Model(model.clone())) {
        Some(Spec::Model(model)) => model.is_rehearsal(),
        _ => false,
    }
}
