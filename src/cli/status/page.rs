//! What runs under a controller, as a person reads it.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::paused;
use super::table::{Row, table};
use crate::cli::Context;
use crate::cli::join::one_line;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::control::{
    AgentState, ChannelStatus, Condition, GroupStatus, Pending, Role, RuntimeStatus, Status,
};
use crate::name::{ChannelName, GroupName};
use crate::resource::InstanceSpec;
use crate::visible;

/// What is shown of a sandbox's identifier, in characters: enough for a container engine.
const SANDBOX_SHOWN: usize = 12;
/// The column of conditions.
const CONDITIONS: usize = 2;

/// The column of a channel's state.
const STATE: usize = 3;
/// The state of a channel that does not serve.
const NOT_SERVING: &str = "not serving";

/// What runs, as a person reads it.
pub(super) struct Page {
    color: bool,
    pub(super) now: Timestamp,
    zone: TimeZone,
    /// What the environment said instead of the manifest when it was applied.
    environment: Option<String>,
    manifest: String,
}

impl Page {
    pub(super) fn new(context: &Context, zone: TimeZone, instance: Option<&InstanceSpec>) -> Self {
        Self {
            color: context.color_stdout,
            now: SystemClock.now(),
            zone,
            environment: instance.and_then(InstanceSpec::environment),
            manifest: context.manifest_argument(),
        }
    }

    pub(super) fn text(&self, status: &Status) -> String {
        let mut text = self.heading(status);
        text.push('\n');
        let titles = ["GROUP", "STAGE", "CONDITIONS", "MODEL", "LIFECYCLE", "SANDBOX", "WAITING"];
        let rows: Vec<Row> =
            status.groups.iter().map(|(name, group)| self.row(name, group)).collect();
        if rows.is_empty() {
            let _ = writeln!(text, "no group is applied; run `babybot apply{}`", self.manifest);
        } else {
            text.push_str(&table(&titles, &rows, &|column, cell| self.cell(column, cell)));
        }
        if !status.channels.is_empty() {
            text.push('\n');
            let titles = ["CHANNEL", "KIND", "UNDELIVERED", "STATE"];
            let rows: Vec<Row> = status.channels.iter().map(channel).collect();
            text.push_str(&table(&titles, &rows, &|column, cell| match column {
                STATE if cell.starts_with(NOT_SERVING) => self.paint("31", cell),
                _ => cell.to_owned(),
            }));
        }
        if !status.drift.is_empty() {
            text.push_str("\nchanged outside babybot\n");
        }
        for drift in &status.drift {
            let how = if drift.mended { "repaired" } else { "not repaired" };
            let (ago, said) = (self.ago(drift.at), one_line(&drift.text));
            let _ = writeln!(text, "  {ago}  {}  {said} ({how})", drift.id);
        }
        if !status.warnings.is_empty() {
            text.push('\n');
        }
        for warning in &status.warnings {
            let _ = writeln!(text, "{} {}", self.paint("33", "warning:"), one_line(warning));
        }
        if let Some(Pending { valid: false, text: problem, .. }) = &status.pending {
            // The marks beneath a line point at what stands above them.
            let _ = writeln!(text, "\n{}", visible::lines(problem.trim_end()));
        }
        text
    }

    /// One line on the controller itself.
    fn heading(&self, status: &Status) -> String {
        let role = match status.role {
            Role::Up => "up",
            Role::Short => "temporary",
        };
        let since = status.since.local_named(&self.zone);
        let mut parts = vec![
            format!("babybot {}", status.instance.short()),
            role.to_owned(),
            format!("pid {}", status.pid),
            format!("since {since}"),
            match status.generation {
                Some(number) => format!("generation {number}"),
                None => "nothing applied".to_owned(),
            },
        ];
        parts.extend(status.runtimes.iter().map(|runtime| self.runtime(runtime)));
        let environment = self.environment.as_ref();
        parts.extend(environment.map(|set| format!("{} from the environment", one_line(set))));
        if status.draining {
            parts.push(self.paint("33", "draining"));
        }
        if status.version != env!("CARGO_PKG_VERSION") {
            parts.push(format!("version {}", one_line(&status.version)));
        }
        parts.extend(status.pending.as_ref().map(|pending| self.pending(pending)));
        format!("{}\n", parts.join(" · "))
    }

    fn runtime(&self, runtime: &RuntimeStatus) -> String {
        let (word, detail) = (runtime.runtime.kind.word(), one_line(&runtime.detail));
        match (runtime.answers, detail.is_empty()) {
            (true, true) => format!("runtime {word}"),
            (true, false) => format!("runtime {word} ({detail})"),
            (false, true) => self.paint("31", &format!("runtime {word} does not answer")),
            (false, false) => {
                self.paint("31", &format!("runtime {word} does not answer ({detail})"))
            }
        }
    }

    fn pending(&self, pending: &Pending) -> String {
        if !pending.valid {
            return self.paint("31", "the manifest is not valid");
        }
        let risk = match pending.risk {
            Some(risk) => format!(", {risk:?}").to_lowercase(),
            None => String::new(),
        };
        let changes = match pending.changes {
            1 => "1 change".to_owned(),
            count => format!("{count} changes"),
        };
        self.paint("33", &format!("{changes} pending{risk} (`babybot plan{}`)", self.manifest))
    }

    fn row(&self, name: &GroupName, group: &GroupStatus) -> Row {
        let held = if group.held { ", paused" } else { "" };
        let holding = group.conditions.iter().filter(|(_, status)| status.holds);
        let conditions: Vec<&str> = holding.clone().map(|(which, _)| word(*which)).collect();
        let conditions = if conditions.is_empty() { "-".to_owned() } else { conditions.join(", ") };
        let sandbox = match &group.sandbox {
            Some(sandbox) => sandbox.as_str().chars().take(SANDBOX_SHOWN).collect(),
            None => "-".to_owned(),
        };
        let cells = vec![
            name.to_string(),
            format!("{}{held}", stage(group.stage)),
            conditions,
            one_line(&group.model),
            group.lifecycle.word().to_owned(),
            sandbox,
            group.messages.to_string(),
        ];
        // Changes that are pending are those of the project: the heading counts them.
        let own = |which: &Condition| *which != Condition::PendingChanges;
        let reasons =
            holding.clone().filter(|(which, status)| own(which) && !status.reason.is_empty());
        let mut beneath: Vec<String> = reasons
            .map(|(which, status)| format!("{}: {}", word(*which), one_line(&status.reason)))
            .collect();
        beneath.extend(group.held.then(|| paused(name, &self.manifest)));
        // A condition or a pause that is shown gives this reason already.
        let said = |what: &&String| holding.clone().any(|(_, status)| status.reason == **what);
        let waits = group.waits_for.iter().filter(|what| !group.held && !said(what));
        beneath.extend(waits.map(|what| format!("waiting: {}", one_line(what))));
        beneath.extend(group.remarks.iter().map(|remark| one_line(remark)));
        beneath.extend(
            group.turn.iter().map(|(_, since)| format!("turn started {}", self.ago(*since))),
        );
        beneath.extend(
            group.limit_hits.iter().map(|strike| {
                format!("{} reached {}", one_line(&strike.limit), self.ago(strike.at))
            }),
        );
        (cells, beneath)
    }

    /// Colours what a cell says already.
    fn cell(&self, column: usize, cell: &str) -> String {
        let color = match (column, cell.trim_end()) {
            (CONDITIONS, said) if said.contains("Degraded") => "31",
            (CONDITIONS, said) if said.contains("Drifted") || said.contains("PendingChanges") => {
                "33"
            }
            (CONDITIONS, "Ready") => "32",
            _ => return cell.to_owned(),
        };
        self.paint(color, cell)
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{color}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// How long ago a moment was.
    fn ago(&self, at: Timestamp) -> String {
        let seconds = self.now.0.saturating_sub(at.0).max(0) / 1000;
        match seconds {
            0..60 => format!("{seconds} s ago"),
            60..3_600 => format!("{} min ago", seconds / 60),
            3_600..86_400 => format!("{} h ago", seconds / 3_600),
            _ => format!("{} d ago", seconds / 86_400),
        }
    }
}

fn channel((name, status): (&ChannelName, &ChannelStatus)) -> Row {
    let state = if status.serves { "serving" } else { NOT_SERVING };
    let cells = vec![
        name.to_string(),
        one_line(&status.kind),
        status.undelivered.to_string(),
        format!("{state} ({})", one_line(&status.detail)),
    ];
    (cells, Vec::new())
}

fn stage(stage: AgentState) -> &'static str {
    match stage {
        AgentState::Asleep => "asleep",
        AgentState::Starting => "starting",
        AgentState::Idle => "idle",
        AgentState::Working => "working",
        AgentState::Queued => "queued",
        AgentState::Draining => "draining",
    }
}

fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Ready => "Ready",
        Condition::Progressing => "Progressing",
        Condition::Degraded => "Degraded",
        Condition::Drifted => "Drifted",
        Condition::Draining => "Draining",
        Condition::PendingChanges => "PendingChanges",
    }
}
