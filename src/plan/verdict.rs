//! What is to become of one desired resource, as its kind has it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use crate::observed::{Known, Seen};
use crate::plan::{Action, FieldChange, Step, Work};
use crate::resource::{ResourceId, Risk, Spec};

/// What is to become of one desired resource.
#[allow(clippy::large_enum_variant, reason = "one is made, and taken apart at once")]
pub(super) enum Verdict {
    Nothing,
    Do(StepDraft),
    Unknown(String),
    /// Somebody else has to get it, and this says how.
    Missing(String),
}

/// A step before it knows its place, its fields' risks and its id.
pub(super) struct StepDraft {
    pub(super) action: Action,
    pub(super) reason: String,
    /// What the fields are compared with; not always what was applied.
    pub(super) from: Option<Spec>,
    pub(super) work: Work,
    /// What the action risks by itself, whatever the fields are.
    pub(super) risk: Risk,
}

/// Of what only the generation knows: nothing but the generation changes.
pub(super) fn recorded(spec: &Spec, before: Option<&Spec>, effect: &str) -> Verdict {
    let work = Work::Record { spec: spec.clone() };
    match before {
        None => create(work),
        Some(before) if before == spec => Verdict::Nothing,
        Some(before) => change(effect, Some(before.clone()), work),
    }
}

pub(super) fn create(work: Work) -> Verdict {
    let (action, reason) = (Action::Create, String::new());
    Verdict::Do(StepDraft { action, reason, from: None, work, risk: Risk::Safe })
}

pub(super) fn change(reason: &str, from: Option<Spec>, work: Work) -> Verdict {
    let reason = reason.to_owned();
    Verdict::Do(StepDraft { action: Action::Change, reason, from, work, risk: Risk::Safe })
}

pub(super) fn mend(reason: &str, from: Option<Spec>, work: Work) -> Verdict {
    let reason = reason.to_owned();
    Verdict::Do(StepDraft { action: Action::Mend, reason, from, work, risk: Risk::Safe })
}

/// Moves aside whatever is in the way. Of what was never applied, a person may have put it there.
pub(super) fn make_way(why: &str, before: Option<&Spec>, wanted: Spec, work: Work) -> Verdict {
    match before {
        Some(before) if *before == wanted => mend(why, None, work),
        Some(before) => change(why, Some(before.clone()), work),
        None => Verdict::Do(StepDraft {
            action: Action::Change,
            reason: format!("{why}; it is moved aside"),
            from: None,
            work,
            risk: Risk::Destructive,
        }),
    }
}

pub(super) fn adopt_unless(before: Option<&Spec>, reason: &str, spec: Spec) -> Verdict {
    if before.is_some() {
        return Verdict::Nothing;
    }
    let (from, work) = (Some(spec.clone()), Work::Record { spec });
    let reason = reason.to_owned();
    Verdict::Do(StepDraft { action: Action::Adopt, reason, from, work, risk: Risk::Safe })
}

pub(super) fn unknown(look: Option<&Known<Seen>>) -> Verdict {
    Verdict::Unknown(why_unknown(look))
}

pub(super) fn why_unknown(look: Option<&Known<Seen>>) -> String {
    match look {
        None => "not checked".to_owned(),
        Some(Known::Unknown(why)) => why.clone(),
        Some(Known::Is(_) | Known::Absent) => "not checked".to_owned(),
    }
}

pub(super) fn removal(id: &ResourceId, risk: Risk) -> Step {
    Step {
        id: id.clone(),
        action: Action::Remove,
        reason: "no longer in the manifest".to_owned(),
        fields: Vec::new(),
        risk,
        at: None,
        needs: Vec::new(),
        work: Work::Forget,
    }
}

pub(super) fn worst(risk: Risk, fields: &[FieldChange]) -> Risk {
    fields.iter().map(|field| field.risk).fold(risk, Risk::max)
}
