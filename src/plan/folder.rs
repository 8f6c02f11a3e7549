//! The folders of a group: made, given to whom they belong, and never removed.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::BTreeSet;

use crate::name::GroupName;
use crate::observed::{Known, Seen};
use crate::plan::verdict::{
    StepDraft, Verdict, adopt_unless, change, create, make_way, mend, unknown,
};
use crate::plan::{Action, Work};
use crate::resource::{Risk, Spec};

pub(super) fn verdict(
    group: &GroupName,
    spec: &Spec,
    before: Option<&Spec>,
    look: Option<&Known<Seen>>,
) -> Verdict {
    let (owner, global) = (spec.owner(), matches!(spec, Spec::MainFolder(_)));
    let spec = spec.clone();
    let work = Work::MakeFolders { group: group.clone(), owner, global };
    let listed = |paths: &BTreeSet<String>| {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        paths.join(", ")
    };
    let (missing, foreign) = match look {
        Some(Known::Is(Seen::Folder { missing, foreign })) => (missing, foreign),
        Some(Known::Is(Seen::Wrong { why })) => return make_way(why, before, spec, work),
        Some(Known::Absent) if before.is_some() => {
            return mend("its folders are missing", None, work);
        }
        Some(Known::Absent) => return create(work),
        look => return unknown(look),
    };
    let given = owner.is_some() && !foreign.is_empty();
    match before {
        Some(before) if *before != spec => change("another owner", Some(before.clone()), work),
        None | Some(_) if missing.is_empty() && !given => {
            adopt_unless(before, "the folders are already there", spec)
        }
        // The folder that people know is there; what babybot keeps beside it is made.
        None if !missing.contains(&format!("groups/{group}")) => {
            let reason = "the folder is already there".to_owned();
            let from = Some(if given { Spec::Folder } else { spec });
            Verdict::Do(StepDraft { action: Action::Adopt, reason, from, work, risk: Risk::Safe })
        }
        _ if !missing.is_empty() => {
            let verb = if missing.len() == 1 { "is" } else { "are" };
            mend(&format!("{} {verb} missing", listed(missing)), Some(spec), work)
        }
        _ => mend(&format!("wrong owner: {}", listed(foreign)), Some(Spec::Folder), work),
    }
}

/// Whom they are given to is the agent's own user.
pub(super) fn risk(path: &str) -> Risk {
    if matches!(path, "owner" | "groups/global") { Risk::Safe } else { Risk::Privileged }
}
