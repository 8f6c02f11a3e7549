//! The memory that all groups read.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use crate::observed::{Known, Seen};
use crate::plan::Work;
use crate::plan::verdict::{Verdict, adopt_unless, create, make_way, mend, unknown};
use crate::resource::Spec;

pub(super) fn verdict(before: Option<&Spec>, look: Option<&Known<Seen>>) -> Verdict {
    let work = Work::WriteGlobalMemory;
    match look {
        Some(Known::Is(Seen::GlobalMemory)) => {
            adopt_unless(before, "the file is already there", Spec::GlobalMemory)
        }
        Some(Known::Absent) if before.is_some() => mend("the file is missing", None, work),
        Some(Known::Absent) => create(work),
        Some(Known::Is(Seen::Wrong { why })) => make_way(why, before, Spec::GlobalMemory, work),
        look => unknown(look),
    }
}
