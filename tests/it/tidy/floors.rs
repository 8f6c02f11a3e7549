//! The floors of the house, and what each room may name.

use super::source::{Named, Source};

/// The floors from top to bottom, each with its rooms in reading order.
pub(crate) const FLOORS: &[(&str, &[&str])] = &[
    ("front door", &["main"]),
    ("front", &["cli"]),
    ("controller", &["controller"]),
    ("machine", &["machine"]),
    ("loops", &["host", "delivery", "agent", "reconcile"]),
    ("hands", &["session", "observe", "execute"]),
    ("doors", &["source", "runtime", "link", "gateway", "channel", "control", "store", "project"]),
    ("paper", PAPER),
    (
        "foundations",
        &[
            "name", "unit", "resource", "secret", "error", "clock", "zone", "process", "file",
            "walk", "line", "visible", "wire", "logging",
        ],
    ),
];

/// The rooms that touch nothing but their arguments.
pub(crate) const PAPER: &[&str] =
    &["manifest", "desired", "observed", "plan", "route", "request", "protocol"];

/// Foundations that paper stands on, and that must be as pure as it is.
pub(crate) const PURE_FOUNDATIONS: &[&str] =
    &["name", "unit", "resource", "error", "zone", "visible"];

/// What paper may take from the foundations: of the clock the values, not the way to ask it.
const BENEATH_PAPER: &[&str] =
    &["name", "unit", "resource", "error", "visible", "clock::Timestamp"];

/// Rooms that may name less than everything on the floors beneath them, or, among paper and
/// foundations, some rooms of their own floor; in an order without circles.
const ALLOWED: &[(&str, &[&str])] = &[
    ("name", &[]),
    ("unit", &[]),
    ("error", &[]),
    ("zone", &[]),
    ("process", &[]),
    ("file", &[]),
    ("walk", &[]),
    ("line", &[]),
    ("wire", &[]),
    ("visible", &[]),
    ("logging", &["visible"]),
    ("resource", &["name", "unit"]),
    ("secret", &["name", "resource"]),
    ("clock", &["name", "unit"]),
    ("protocol", &[]),
    ("route", &[]),
    ("request", &["protocol"]),
    ("manifest", &[]),
    ("observed", &[]),
    ("desired", &["manifest", "observed"]),
    ("plan", &["manifest", "observed", "desired"]),
    // It runs on the other side of the wall: it has the link's end and nothing of the host.
    (
        "agent",
        &[
            "link::client",
            "link::LinkError",
            "protocol",
            "process",
            "file",
            "walk",
            "name",
            "unit",
            "error",
            "zone",
        ],
    ),
];

/// What paper is named by everywhere: a file of one of its rooms.
pub(crate) fn is_paper(path: &str) -> bool {
    PAPER.contains(&room(path))
}

/// The room a file belongs to.
pub(crate) fn room(path: &str) -> &str {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let first = inner.split('/').next().unwrap_or(inner);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The height of a room, from the top; `None`: it is on no floor.
pub(crate) fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, rooms)| rooms.contains(&room))
}

/// Every import and every inline path of a file that does not point down.
pub(crate) fn check(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let mut findings: Vec<String> = source
        .named()
        .iter()
        .filter_map(|named| {
            let why = objection(room(path), named)?;
            Some(format!("{path}:{}: {why}", named.line))
        })
        .collect();
    // Ways around the check above.
    for (at, token) in source.tokens.iter().enumerate() {
        let why = match source.words(at, 3).as_slice() {
            ["extern", "crate", ..] => "`extern crate` gives the crate another name",
            ["#", "[", "path"] => "`#[path]` puts a file where nobody looks for it",
            ["include", "!", ..] => "`include!` brings in code that nobody looks at",
            _ => continue,
        };
        findings.push(format!("{path}:{}: {why}", token.line));
    }
    findings
}

fn objection(from: &str, named: &Named) -> Option<String> {
    let Some(path) = &named.path else {
        return Some("a path leads out of the crate".to_owned());
    };
    let to = match path.first().map(String::as_str) {
        None | Some("*") => return Some("the whole crate is named: name a room".to_owned()),
        Some(to) => to,
    };
    if from == to {
        return None;
    }
    let Some(beneath) = floor(to) else {
        // The front door's own functions and types are nobody else's.
        return (from != "main").then(|| format!("`{to}` is on no floor"));
    };
    let Some(above) = floor(from) else {
        return Some(format!("`{from}` is on no floor"));
    };
    let path = path.join("::");
    let rules = ALLOWED.iter().find(|(room, _)| *room == from);
    let allowed = match rules {
        Some((_, rooms)) => {
            let paper: &[&str] = if PAPER.contains(&from) { BENEATH_PAPER } else { &[] };
            rooms.iter().chain(paper).any(|allowed| is_within(&path, allowed))
        }
        None => above < beneath,
    };
    (!allowed).then(|| format!("{from} must not name {path}"))
}

fn is_within(path: &str, allowed: &str) -> bool {
    path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn what_is_allowed_never_leads_up_or_around() {
    let rank = |room: &str| ALLOWED.iter().position(|(name, _)| *name == room);
    for (room, allowed) in ALLOWED {
        let above = floor(room).expect("every room of the list is on a floor");
        for path in *allowed {
            let to = path.split("::").next().unwrap();
            let beneath = floor(to).expect("every room of the list is on a floor");
            let earlier = rank(to).is_some_and(|to| Some(to) < rank(room));
            assert!(above < beneath || (above == beneath && earlier), "{room} -> {to}");
        }
    }
    for (_, rooms) in FLOORS.iter().filter(|(name, _)| matches!(*name, "paper" | "foundations")) {
        for room in *rooms {
            assert!(rank(room).is_some(), "what {room} may name is not said");
        }
    }
}
