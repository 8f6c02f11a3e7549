//! `babybot history`: what was applied, and what was repaired in between.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::join::one_line;
use crate::cli::{Context, VerbResult, apply, print, print_json, zone};
use crate::clock::Timestamp;
use crate::error::Exit;
use crate::machine::project_error;
use crate::project::Project;
use crate::resource::Risk;
use crate::store::{Drift, GenerationSummary, HISTORY_LENGTH_MAX, Store};

/// Shows what was applied and when, and what was found changed from outside in between.
///
/// Newest first, in the time zone of the assistant. With --format json, each line is an object: an
/// apply has `at`, `generation`, `parent`, `outcome`, `approved` and `tool`; a repair has `at`,
/// `drift`, `text` and `mended`. `at` is in milliseconds since 1970.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// How many entries to show
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub lines: u32,
    /// How to print them: for a person, or one JSON object a line
    #[arg(long, value_enum, default_value_t = HistoryFormat::Human)]
    pub format: HistoryFormat,
}

/// How `history` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HistoryFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Something that happened.
enum Entry {
    Applied(GenerationSummary),
    Drifted(Drift),
}

/// Shows what happened.
///
/// # Errors
/// When the store cannot be read, or stdout not be written.
pub async fn run(args: &HistoryArgs, context: &Context) -> VerbResult {
    let project = Project::open(context.project()).map_err(project_error)?;
    let read = |error| apply::store_error("read the history", &error);
    let Some(reader) = Store::read_only(&project.database()).map_err(read)? else {
        context.note("Nothing has been applied yet.\n");
        return Ok(Exit::Ok);
    };
    let generations = reader.history(args.lines.min(HISTORY_LENGTH_MAX)).map_err(read)?;
    let drift = reader.drift(args.lines).map_err(read)?;
    let mut entries: Vec<Entry> = generations.into_iter().map(Entry::Applied).collect();
    entries.extend(drift.into_iter().map(Entry::Drifted));
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.at()));
    entries.truncate(args.lines as usize);
    match args.format {
        HistoryFormat::Human => {
            let zone = zone::of(reader.applied().map_err(read)?.as_ref());
            let lines = entries.iter().map(|entry| entry.line(&zone) + "\n");
            print(&lines.collect::<String>())?;
        }
        HistoryFormat::Json => {
            let lines = entries.iter().map(|entry| format!("{}\n", entry.json()));
            print_json(&lines.collect::<String>())?;
        }
    }
    Ok(Exit::Ok)
}

impl Entry {
    fn at(&self) -> Timestamp {
        match self {
            Self::Applied(generation) => generation.at,
            Self::Drifted(drift) => drift.at,
        }
    }

    fn line(&self, zone: &TimeZone) -> String {
        let at = self.at().local_named(zone);
        match self {
            Self::Applied(generation) => {
                let risks = words(&generation.approved);
                let how = generation.outcome.word();
                format!("{at}  generation {}  {how}; approved: {risks}", generation.number)
            }
            Self::Drifted(drift) => {
                let how = if drift.mended { "repaired" } else { "not repaired" };
                format!("{at}  {}  {how}; {}", drift.id, one_line(&drift.text))
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Applied(generation) => json!({
                "at": generation.at, "generation": generation.number,
                "parent": generation.parent, "outcome": generation.outcome.word(),
                "approved": generation.approved, "tool": generation.tool,
            }),
            Self::Drifted(drift) => json!({
                "at": drift.at, "drift": drift.id, "text": drift.text, "mended": drift.mended,
            }),
        }
    }
}

fn words(risks: &[Risk]) -> String {
    let words: Vec<&str> = risks.iter().map(|risk| risk.word()).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}
