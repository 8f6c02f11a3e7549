//! docs/MANIFEST.md, printed from the list of fields and the list of codes.

use super::codes::Code;
use super::fields::{FIELDS, Field, GROUPS_MAX, Type};

const INTRODUCTION: &str = include_str!("reference_introduction.md");

/// The sections of the reference: a heading, the table whose keys it lists, and a remark.
const SECTIONS: &[(&str, &str, &str)] = &[
    ("The project", "", ""),
    ("`[assistant]`", "assistant", ""),
    ("`[runtime]`", "runtime", ""),
    (
        "`[runtime.image]`",
        "runtime.image",
        "The image of agents' containers. babybot builds one image for the same base, packages and program; the plan removes images that are no longer in use.",
    ),
    ("`[runtime.docker]`", "runtime.docker", ""),
    (
        "`[runtime.limits]`",
        "runtime.limits",
        "The limits of one group. Each limit has its own source: the group's own value, else `[defaults.group.limits]`, else the value here, else the built-in one.",
    ),
    (
        "`[secrets]`",
        "secrets.<secret>",
        "Where a secret is, never what it is. Channels use secrets. A file holds the secret and nothing else, belongs to the user that runs babybot, and is readable by nobody else (`chmod 600`); a line end after the secret is cut off. The value is read when a channel opens, and is never stored, printed or given to an agent.",
    ),
    ("`[models.<model>]`", "models.<model>", ""),
    ("`[channels.<channel>]`", "channels.<channel>", ""),
    ("`[defaults.group]`", "defaults.group", "Values for groups that do not set their own."),
    ("`[groups.<group>]`", "groups.<group>", ""),
    (
        "`[groups.<group>.senders]`",
        "groups.<group>.senders",
        "The senders that the group answers, other than you at `babybot chat`. Without this table, a webhook's group answers every program with the token.",
    ),
];

/// The whole reference.
#[must_use]
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## Keys\n");
    text.push_str(
        "\n\"A change is\" says the worst that `babybot plan` can make of a changed key; what a change of yours is, the plan itself says. Removing a group is destructive, whatever its keys.\n",
    );
    for (heading, table, remark) in SECTIONS {
        text.push_str(&format!("\n### {heading}\n\n"));
        if !remark.is_empty() {
            text.push_str(&format!("{remark}\n\n"));
        }
        text.push_str("| key | takes | default | means | a change is |\n|---|---|---|---|---|\n");
        for field in FIELDS.iter().filter(|field| belongs(field, table)) {
            text.push_str(&row(field, table));
        }
    }
    text.push_str(&format!(
        "\nA manifest has at most 4 MiB and {GROUPS_MAX} groups, a string at most 4 KiB.\n"
    ));
    text.push_str(
        "\n## Codes\n\n`babybot explain CODE` says more.\n\n| code | problem |\n|---|---|\n",
    );
    for code in Code::ALL {
        text.push_str(&format!("| {code} | {} |\n", code.explanation().title));
    }
    text
}

/// Whether a field is listed under a table: its own keys, and tables without a section.
fn belongs(field: &Field, table: &str) -> bool {
    if field.table() == table {
        return true;
    }
    let within = field.path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
    !table.is_empty()
        && within.is_some()
        && !SECTIONS.iter().any(|(_, section, _)| *section == field.table())
}

fn row(field: &Field, table: &str) -> String {
    let key = field.path.strip_prefix(table).unwrap_or(&field.path).trim_start_matches('.');
    let of = field.of_kind.map(|kind| format!(" Only of kind `{kind}`.")).unwrap_or_default();
    let risk = match field.risk {
        Some(risk) => format!("up to {risk}"),
        None => "safe".to_owned(),
    };
    let default =
        if field.default.starts_with(['"', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
            && !field.default.contains(" and ")
            || matches!(field.default, "true" | "false")
        {
            format!("`{}`", field.default)
        } else {
            field.default.to_owned()
        };
    format!("| `{key}` | {} | {default} | {}{of} | {risk} |\n", takes(field), field.doc)
}

fn takes(field: &Field) -> String {
    match field.takes {
        Type::Text => "text".to_owned(),
        Type::Texts => "list of strings".to_owned(),
        Type::Boolean => "`true` or `false`".to_owned(),
        Type::Integer { min, max } if min == max => format!("`{min}`"),
        Type::Integer { min, max } => format!("whole number, {min} to {max}"),
        Type::Cpus { min, max } => format!("number, {min} to {max}"),
        Type::Duration { min, max } => format!("time, `\"{min}\"` to `\"{max}\"`"),
        Type::Size { min, max } => format!("size, `\"{min}\"` to `\"{max}\"`"),
        Type::Choice(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
        }
    }
}
