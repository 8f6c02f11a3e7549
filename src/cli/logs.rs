//! `babybot logs`: what the controller wrote down.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use notify::{Event, RecursiveMode, Watcher as _};
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::json;
use tokio::sync::mpsc;

use crate::cli::apply::store_error;
use crate::cli::join::unknown_group;
use crate::cli::{self, Context, VerbResult, zone};
use crate::error::{Error, Exit};
use crate::logging::{LOG, LOG_BEFORE, LOG_SIZE_MAX, LogLine};
use crate::machine::project_error;
use crate::name::GroupName;
use crate::project::Project;
use crate::resource::ResourceId;
use crate::store::{AppliedGeneration, Store};
use crate::visible;

/// How often is looked where no event says that there is something to see.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What is read of a log at once, in bytes: twice what one should have.
const READ_MAX: u64 = 2 * LOG_SIZE_MAX;

/// Shows what the controller wrote down: what it did, what it found changed, what its agents say.
///
/// Times are in the time zone of the assistant. The log is data/logs/babybot.log; the controller's
/// variable BABYBOT_LOG sets how much it holds. With --format json, each line is an object with
/// `at` (in milliseconds since 1970), `level`, `target`, `fields` and `message`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Show only what is about this group
    pub group: Option<String>,
    /// How many of the last lines to show
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    pub lines: usize,
    /// Go on showing what is written from now on, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// How to print them: for a person, or one JSON object a line
    #[arg(long, value_enum, default_value_t = LogsFormat::Human)]
    pub format: LogsFormat,
}

/// How `logs` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogsFormat {
    /// For a person
    Human,
    /// For a program
    Json,
}

/// Prints lines of the log.
struct Printer {
    format: LogsFormat,
    zone: TimeZone,
}

impl Printer {
    fn show<'a>(&self, lines: impl Iterator<Item = &'a String>) -> io::Result<()> {
        let text: String = lines.map(|line| self.line(line)).collect();
        match self.format {
            _ if text.is_empty() => Ok(()),
            LogsFormat::Human => cli::write(&visible::page(&text)),
            LogsFormat::Json => cli::write(&visible::json(&text)),
        }
    }

    fn line(&self, line: &str) -> String {
        match (self.format, LogLine::read(line)) {
            (LogsFormat::Human, Some(read)) => {
                format!("{} {}\n", at_in(&self.zone, read.at), visible::line(read.after_time))
            }
            (LogsFormat::Human, None) => format!("{}\n", visible::line(line)),
            (LogsFormat::Json, Some(read)) => {
                let fields: BTreeMap<&str, String> = read.all().collect();
                let at = read.at.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
                let object = json!({
                    "at": at, "level": read.level, "target": read.target, "fields": fields,
                    "message": read.message,
                });
                format!("{object}\n")
            }
            (LogsFormat::Json, None) => format!("{}\n", json!({ "message": line })),
        }
    }
}

/// A time of the log in another zone, with that zone's abbreviation.
fn at_in(zone: &TimeZone, at: &str) -> String {
    at.parse::<Timestamp>().map_or_else(
        |_| at.to_owned(),
        |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f %Z").to_string(),
    )
}

/// Shows the log.
///
/// # Errors
/// When it cannot be read, or there is no such group.
pub async fn run(args: &LogsArgs, context: &Context) -> VerbResult {
    let project = Project::open(context.project()).map_err(project_error)?;
    project.known_instance().map_err(project_error)?;
    let folder = project.data().join("logs");
    let failed = |error| Error::failed("read the log", &error);
    let (mut log, past) = Log::open(&folder, args.group.clone()).map_err(failed)?;
    if let (Some(group), true) = (&args.group, past.is_empty()) {
        check_group(group, &project)?;
    }
    if past.is_empty() && log.file.is_none() {
        context.note("Nothing has been logged yet.\n");
    }
    let skipped = past.len().saturating_sub(args.lines);
    let printer = Printer { format: args.format, zone: zone::of(applied(&project)?.as_ref()) };
    printer.show(past.iter().skip(skipped)).map_err(failed)?;
    if !args.follow {
        return Ok(Exit::Ok);
    }
    tokio::select! {
        followed = log.follow(&printer) => match followed {
            // Nobody reads any more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
            Err(error) => Err(failed(error)),
            Ok(()) => Ok(Exit::Ok),
        },
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

/// What was applied last.
fn applied(project: &Project) -> Result<Option<AppliedGeneration>, Error> {
    let read =
        || Store::read_only(&project.database())?.map_or(Ok(None), |reader| reader.applied());
    read().map_err(|error| store_error("read what was applied", &error))
}

/// A group that is in no line: it may still be one that was applied.
fn check_group(group: &str, project: &Project) -> Result<(), Error> {
    let specs = applied(project)?.map(|applied| applied.specs).unwrap_or_default();
    let groups: Vec<&GroupName> = specs
        .keys()
        .filter_map(|id| match id {
            ResourceId::Group(name) => Some(name),
            _ => None,
        })
        .collect();
    if groups.iter().any(|name| name.as_str() == group) {
        return Ok(());
    }
    Err(unknown_group(group, groups.into_iter()))
}

/// The log from where it was read last.
struct Log {
    folder: PathBuf,
    group: Option<String>,
    file: Option<File>,
    /// How much of the file was read.
    read: u64,
    /// The beginning of a line whose end was not written yet.
    begun: Vec<u8>,
}

impl Log {
    /// Opens the log of a folder, and gives the lines that are there.
    fn open(folder: &Path, group: Option<String>) -> io::Result<(Self, VecDeque<String>)> {
        let folder = folder.to_path_buf();
        let mut log = Self { folder, group, file: None, read: 0, begun: Vec::new() };
        // First the older one: what is put aside meanwhile is shown twice rather than not at all.
        log.file = open(&log.folder.join(LOG_BEFORE))?;
        let mut lines = VecDeque::from(log.next()?);
        log.switch(open(&log.folder.join(LOG))?);
        lines.extend(log.next()?);
        Ok((log, lines))
    }

    /// Shows what is written from now on.
    async fn follow(&mut self, printer: &Printer) -> io::Result<()> {
        let (events, mut inbox) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // That somebody reads it, such as this, is no news.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // One that waits already says it all.
                let _ = events.try_send(());
            }
        })
        .map_err(io::Error::other)?;
        let mut watched = false;
        loop {
            if !watched {
                // The folder comes with the first controller.
                watched = watcher.watch(&self.folder, RecursiveMode::NonRecursive).is_ok();
            }
            printer.show(self.next()?.iter())?;
            while let Some(newer) = self.newer()? {
                // What was written to the old one until it was put aside.
                printer.show(self.next()?.iter())?;
                self.switch(Some(newer));
                printer.show(self.next()?.iter())?;
            }
            let _ = tokio::time::timeout(LOOK_EVERY, inbox.recv()).await;
        }
    }

    /// The log that took the place of the one that is read.
    fn newer(&self) -> io::Result<Option<File>> {
        let Some(there) = open(&self.folder.join(LOG))? else { return Ok(None) };
        let Some(ours) = &self.file else { return Ok(Some(there)) };
        let (there_is, ours_is) = (there.metadata()?, ours.metadata()?);
        let same = (there_is.dev(), there_is.ino()) == (ours_is.dev(), ours_is.ino());
        Ok((!same).then_some(there))
    }

    fn switch(&mut self, file: Option<File>) {
        self.file = file;
        self.read = 0;
        self.begun.clear();
    }

    /// The whole lines that came since, as far as they are wanted.
    fn next(&mut self) -> io::Result<Vec<String>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        if file.metadata()?.len() < self.read {
            // Half a line was taken back.
            self.read = io::Seek::seek(file, io::SeekFrom::End(0))?;
            self.begun.clear();
        }
        self.read += file.take(READ_MAX).read_to_end(&mut self.begun)? as u64;
        let Some(end) = self.begun.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.begun.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().filter(|line| self.is_wanted(line)).map(str::to_owned).collect())
    }

    fn is_wanted(&self, line: &str) -> bool {
        let Some(group) = &self.group else { return true };
        LogLine::read(line).and_then(|line| line.field("group")) == Some(group)
    }
}

/// Opens a log; `None` where there is none.
fn open(path: &Path) -> io::Result<Option<File>> {
    // Without NONBLOCK, opening a planted pipe would wait for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
