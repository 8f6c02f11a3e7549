//! `babybot status`: how each group is, and what it waits for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use futures_util::StreamExt as _;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::apply::store_error;
use crate::cli::join::{control_error, join, one_line};
use crate::cli::preview::project_error;
use crate::cli::{self, Context, VerbResult, print};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::control::client::Client;
use crate::control::{AgentState, Condition, ControlError, GroupStatus, Pending, Role, Status};
use crate::error::{Error, Exit};
use crate::name::GroupName;
use crate::resource::{GroupSpec, ResourceId, Spec};
use crate::store::{AppliedGeneration, Store};
use crate::visible;

/// Shows what runs: each group, its state, and what it waits for.
///
/// Without a controller it shows what was applied. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Show it again whenever something changes, until the controller stops
    #[arg(long)]
    pub watch: bool,
    /// How to show it: for a person, or as JSON, one line each time with --watch
    #[arg(long, value_enum, default_value_t = StatusFormat::Human)]
    pub format: StatusFormat,
}

/// How `status` shows what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StatusFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Shows what runs.
///
/// # Errors
/// When a controller runs that does not answer, or what was applied cannot be read.
pub async fn run(args: &StatusArgs, context: &Context) -> VerbResult {
    let (project, client) = join(context).await?;
    match client {
        Some(client) if args.watch => tokio::select! {
            watched = watch(&client, args, context) => watched,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        },
        Some(client) => {
            let status = client.status().await.map_err(unanswered)?;
            let text = match args.format {
                StatusFormat::Human => Page::new(context).text(&status),
                StatusFormat::Json => pretty(&document(&status)),
            };
            print(&seen(&text, args.format))?;
            Ok(Exit::Ok)
        }
        None => {
            let holder = project.lock_holder().map_err(project_error)?;
            let left = Left::read(&project.database())?;
            let text = match args.format {
                StatusFormat::Human => without(holder.as_deref(), left.as_ref(), context),
                StatusFormat::Json if args.watch => format!("{}\n", bare(left.as_ref())),
                StatusFormat::Json => pretty(&bare(left.as_ref())),
            };
            print(&seen(&text, args.format))?;
            Ok(Exit::Ok)
        }
    }
}

/// The page with nothing in it that is not seen.
fn seen(text: &str, format: StatusFormat) -> Cow<'_, str> {
    match format {
        StatusFormat::Human => visible::page(text),
        StatusFormat::Json => visible::json(text),
    }
}

fn unanswered(error: ControlError) -> Error {
    control_error("ask the controller", &error)
}

/// Shows what runs whenever it changes.
async fn watch(client: &Client, args: &StatusArgs, context: &Context) -> VerbResult {
    let mut changes = client.watch_status().await.map_err(unanswered)?;
    let mut first = true;
    while let Some(status) = changes.next().await {
        let status = match status {
            Ok(status) => status,
            Err(ControlError::Ended) => break,
            Err(error) => return Err(unanswered(error)),
        };
        let text = match args.format {
            StatusFormat::Json => format!("{}\n", document(&status)),
            StatusFormat::Human => {
                // At a terminal it takes the place of what was there; elsewhere it follows.
                let between = match (io::IsTerminal::is_terminal(&io::stdout()), first) {
                    (true, _) => "\u{1b}[H\u{1b}[2J",
                    (false, true) => "",
                    (false, false) => "\n",
                };
                format!("{between}{}", Page::new(context).text(&status))
            }
        };
        first = false;
        match cli::write(&seen(&text, args.format)) {
            Ok(()) => {}
            // Nobody watches any more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(error) => return Err(Error::failed("write to stdout", &error)),
        }
    }
    context.note("The controller stopped.\n");
    Ok(Exit::Ok)
}

/// What is known where no controller runs.
struct Left {
    /// What was applied last.
    applied: AppliedGeneration,
    /// The groups that the operator holds.
    holds: BTreeMap<GroupName, Timestamp>,
}

impl Left {
    fn read(database: &Path) -> Result<Option<Self>, Error> {
        let read = || {
            let Some(reader) = Store::read_only(database)? else { return Ok(None) };
            let Some(applied) = reader.applied()? else { return Ok(None) };
            Ok(Some(Self { applied, holds: reader.holds()? }))
        };
        read().map_err(|error| store_error("read what was applied", &error))
    }
}

fn groups(applied: &AppliedGeneration) -> impl Iterator<Item = (&GroupName, &GroupSpec)> {
    applied.specs.iter().filter_map(|(id, spec)| match (id, spec) {
        (ResourceId::Group(name), Spec::Group(spec)) => Some((name, &**spec)),
        _ => None,
    })
}

/// What there is to say where no controller runs.
fn without(holder: Option<&str>, left: Option<&Left>, context: &Context) -> String {
    let manifest = context.manifest_argument();
    let mut text = match holder {
        Some(holder) => {
            format!("no controller answers, but another babybot uses this project: {holder}\n")
        }
        None => format!("no controller is running; start one with `babybot up{manifest}`\n"),
    };
    let Some(Left { applied, holds }) = left else {
        text.push_str("nothing is applied yet\n");
        return text;
    };
    let at = applied.at.local(&TimeZone::system());
    let _ = writeln!(text, "generation {} was applied {at}", applied.number);
    let rows = groups(applied).map(|(name, spec)| {
        let lifecycle = spec.lifecycle.word().to_owned();
        let held = holds.contains_key(name);
        let held = held.then(|| format!("paused; run `babybot resume {name}{manifest}`"));
        (vec![name.to_string(), spec.model.to_string(), lifecycle], held.into_iter().collect())
    });
    let rows: Vec<Row> = rows.collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&["GROUP", "MODEL", "LIFECYCLE"], &rows, &|_, cell| cell.to_owned()));
    }
    text
}

fn pretty(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{text}\n")
}

/// What a program reads where no controller runs; times are milliseconds since 1970.
fn bare(left: Option<&Left>) -> Value {
    let groups: serde_json::Map<String, Value> = left
        .into_iter()
        .flat_map(|left| groups(&left.applied).map(move |(name, spec)| (left, name, spec)))
        .map(|(left, name, spec)| {
            let held = left.holds.contains_key(name);
            let about = json!({ "held": held, "lifecycle": spec.lifecycle, "model": spec.model });
            (name.to_string(), about)
        })
        .collect();
    json!({
        "controller": null,
        "generation": left.map(|left| left.applied.number),
        "pending": null,
        "groups": groups,
        "drift": [],
        "warnings": [],
    })
}

/// The same shape with a controller.
fn document(status: &Status) -> Value {
    json!({
        "controller": {
            "instance": status.instance,
            "version": status.version,
            "role": status.role,
            "pid": status.pid,
            "since": status.since,
            "draining": status.draining,
            "runtime": status.runtime,
        },
        "generation": status.generation,
        "pending": status.pending,
        "groups": status.groups,
        "drift": status.drift,
        "warnings": status.warnings,
    })
}

/// The cells of a row, and the lines beneath it.
type Row = (Vec<String>, Vec<String>);

/// What runs, as a person reads it.
struct Page {
    color: bool,
    now: Timestamp,
    zone: TimeZone,
    manifest: String,
}

impl Page {
    fn new(context: &Context) -> Self {
        Self {
            color: context.color_stdout,
            now: SystemClock.now(),
            zone: TimeZone::system(),
            manifest: context.manifest_argument(),
        }
    }

    fn text(&self, status: &Status) -> String {
        let mut text = self.heading(status);
        text.push('\n');
        let titles = ["GROUP", "STAGE", "CONDITIONS", "MODEL", "LIFECYCLE", "SANDBOX", "WAITING"];
        let rows: Vec<Row> =
            status.groups.iter().map(|(name, group)| self.row(name, group)).collect();
        if rows.is_empty() {
            text.push_str("no group is applied\n");
        } else {
            text.push_str(&table(&titles, &rows, &|column, cell| self.cell(column, cell)));
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
            text.push('\n');
            problem.lines().for_each(|line| {
                let _ = writeln!(text, "{}", one_line(line));
            });
        }
        text
    }

    /// One line on the controller itself.
    fn heading(&self, status: &Status) -> String {
        let role = match status.role {
            Role::Up => "up",
            Role::Short => "temporary",
        };
        let since = status.since.local(&self.zone);
        let mut parts = vec![
            format!("babybot {}", status.instance.short()),
            role.to_owned(),
            format!("pid {}", status.pid),
            format!("since {since}"),
            match status.generation {
                Some(number) => format!("generation {number}"),
                None => "nothing applied".to_owned(),
            },
            self.runtime(status),
        ];
        if status.draining {
            parts.push(self.paint("33", "draining"));
        }
        if status.version != env!("CARGO_PKG_VERSION") {
            parts.push(format!("version {}", one_line(&status.version)));
        }
        parts.extend(status.pending.as_ref().map(|pending| self.pending(pending)));
        format!("{}\n", parts.join(" · "))
    }

    fn runtime(&self, status: &Status) -> String {
        let runtime = &status.runtime;
        let (word, detail) = (runtime.kind.word(), one_line(&runtime.detail));
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
        let reasons = holding.filter(|(_, status)| !status.reason.is_empty());
        let mut beneath: Vec<String> = reasons
            .map(|(which, status)| format!("{}: {}", word(*which), one_line(&status.reason)))
            .collect();
        beneath.extend(group.waits_for.iter().map(|what| format!("waits for {}", one_line(what))));
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

/// What is shown of a sandbox's identifier, in characters: enough for a container engine.
const SANDBOX_SHOWN: usize = 12;
/// The column of conditions.
const CONDITIONS: usize = 2;

/// Rows beneath their titles, each column as wide as its widest cell. `paint` is given a column's
/// number and a cell that is as wide as it will be.
fn table(titles: &[&str], rows: &[Row], paint: &dyn Fn(usize, &str) -> String) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| cells[column].chars().count());
        cells.chain([titles[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let last = titles.len() - 1;
    let padded = |column: usize, cell: &str| match column {
        // Nothing follows it.
        _ if column == last => cell.to_owned(),
        _ => format!("{cell:width$}  ", width = widths[column]),
    };
    let mut text: String =
        titles.iter().enumerate().map(|(column, title)| padded(column, title)).collect();
    text.push('\n');
    for (cells, beneath) in rows {
        for (column, cell) in cells.iter().enumerate() {
            text.push_str(&paint(column, &padded(column, cell)));
        }
        text.push('\n');
        for line in beneath {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
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
