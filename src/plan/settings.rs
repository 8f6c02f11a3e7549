//! The settings file of a group.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeMap;

use crate::name::GroupName;
use crate::observed::{Known, Seen};
use crate::plan::verdict::{
    StepDraft, Verdict, adopt_unless, change, create, make_way, mend, unknown,
};
use crate::plan::{Action, Work};
use crate::resource::{Risk, Spec};

pub(super) fn verdict(
    group: &GroupName,
    env: &BTreeMap<String, String>,
    before: Option<&Spec>,
    look: Option<&Known<Seen>>,
) -> Verdict {
    let wanted = Spec::Settings { env: env.clone() };
    let work = Work::WriteSettings { group: group.clone(), env: env.clone() };
    let unchanged = before == Some(&wanted);
    match look {
        Some(Known::Is(Seen::Wrong { why })) => make_way(why, before, wanted, work),
        Some(Known::Absent) => match before {
            None => create(work),
            Some(_) if unchanged => mend("the file is missing", None, work),
            Some(before) => change("the manifest changed", Some(before.clone()), work),
        },
        Some(Known::Is(Seen::Settings { env: Some(found) })) if found == env => match before {
            Some(before) if !unchanged => {
                change("the manifest changed", Some(before.clone()), work)
            }
            _ => adopt_unless(before, "the file already says this", wanted),
        },
        Some(Known::Is(Seen::Settings { env: found })) => {
            let found = found.clone().map(|env| Spec::Settings { env });
            match before {
                Some(_) if unchanged => mend("the file was edited", found, work),
                Some(_) => change("the manifest changed", found, work),
                None if found.is_some() => change("an older file is there", found, work),
                None => Verdict::Do(StepDraft {
                    action: Action::Change,
                    reason: "replaces a file that babybot did not write".to_owned(),
                    from: None,
                    work,
                    risk: Risk::Destructive,
                }),
            }
        }
        look => unknown(look),
    }
}

/// Its variables are those of the agent's tools: they reach nothing by themselves.
pub(super) fn risk() -> Risk {
    Risk::Safe
}
