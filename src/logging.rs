//! Where log lines go: to stderr, as many as were asked for, and to a file for a controller.
//!
//! The file is bounded, and a line in it is one line whatever was logged. That it
//! cannot be written ends nothing: what is lost is counted, and said later.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::visible;

/// The log's name in its folder.
pub const LOG: &str = "babybot.log";
/// What the log was called before it was full.
pub const LOG_BEFORE: &str = "babybot.log.1";
/// Size at which a log is put aside for the next one, in bytes.
pub const LOG_SIZE_MAX: u64 = 8 << 20;
/// Longest line of a log, in bytes; what is longer is cut.
pub const LOG_LINE_MAX: usize = 16 << 10;

/// The log of this process, once it has one.
static LOG_FILE: OnceLock<LogFile> = OnceLock::new();

/// Begins to log. `verbosity` is the number of `-v` less the number of `-q`; the environment
/// variable `BABYBOT_LOG` (as in `babybot=debug`) says it more finely.
pub fn init(verbosity: i32, color: bool) {
    let level = match verbosity {
        ..=-1 => "error",
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(|| Shown(io::stderr()))
        .with_ansi(color)
        .without_time()
        .with_target(verbosity > 1)
        .with_filter(filter(level));
    // What the file holds does not depend on how much somebody wants to read now.
    let file = ToFile.with_filter(filter("info"));
    // Once is enough; a second call, as from a test, changes nothing.
    let _ = tracing_subscriber::registry().with(stderr).with(file).try_init();
}

/// stderr, with nothing in a line that is not seen.
struct Shown(io::Stderr);

impl io::Write for Shown {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(visible::page(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_from_env("BABYBOT_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,babybot={level}")))
}

/// Logs to a file of this folder as well, from now on and until the process ends. `owner` is whom
/// the file is made for, where that is not who runs babybot.
///
/// # Errors
/// When the file cannot be opened, or something else stands in its place.
pub fn to_file(folder: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let file = LogFile::open(folder, owner)?;
    // A second one changes nothing.
    let _ = LOG_FILE.set(file);
    Ok(())
}

/// A log on disk: one file, and the one before it.
#[derive(Debug)]
pub struct LogFile {
    folder: OwnedFd,
    owner: Option<(u32, u32)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    size: u64,
    /// Lines that could not be written since the last that could, and why.
    lost: Option<(u64, String)>,
}

impl LogFile {
    /// Opens the log of a folder and goes on where it ends.
    ///
    /// # Errors
    /// When it cannot be opened, or something else stands in its place.
    pub fn open(folder: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
        let (file, size) = open(&folder, owner)?;
        let state = Mutex::new(State { file, size, lost: None });
        Ok(Self { folder, owner, state })
    }

    /// Writes a line; `line` ends with its only line feed.
    pub fn write(&self, line: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, why)) = state.lost.clone() {
            let said = format!(
                "{} {count} earlier lines were lost: {why}\n",
                stamp("WARN", module_path!())
            );
            if self.put(&mut state, &said).is_ok() {
                state.lost = None;
            }
        }
        let written = match &state.lost {
            Some((_, why)) => Err(io::Error::other(why.clone())),
            None => self.put(&mut state, line),
        };
        if let Err(error) = written {
            let (count, _) = state.lost.take().unwrap_or_default();
            state.lost = Some((count + 1, error.to_string()));
        }
    }

    fn put(&self, state: &mut State, line: &str) -> io::Result<()> {
        if state.size > 0 && state.size + line.len() as u64 > LOG_SIZE_MAX {
            match rustix::fs::renameat(&self.folder, LOG, &self.folder, LOG_BEFORE) {
                // Not there: it was put aside, and no other could be opened then.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            (state.file, state.size) = open(&self.folder, self.owner)?;
        }
        match state.file.write_all(line.as_bytes()) {
            Ok(()) => state.size += line.len() as u64,
            Err(error) => {
                // Half a line would spoil the next.
                let _ = state.file.set_len(state.size);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Opens the log's file to be written at its end. Gives its size as well.
fn open(folder: &OwnedFd, owner: Option<(u32, u32)>) -> io::Result<(File, u64)> {
    // Without NONBLOCK, opening a planted pipe would wait for ever.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let private = Mode::from_raw_mode(0o600);
    let file = rustix::fs::openat(folder, LOG, flags, private)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
        return Err(io::Error::other(format!("{LOG} is not a regular file of its own")));
    }
    rustix::fs::fchmod(&file, private)?;
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok((File::from(file), u64::try_from(stat.st_size).unwrap_or_default()))
}

/// A line of a log, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When it was written.
    pub at: &'a str,
    /// All behind the time.
    pub after_time: &'a str,
    /// How grave it is, such as `WARN`.
    pub level: &'a str,
    /// The room that wrote it.
    pub target: &'a str,
    fields: &'a str,
    /// What it says.
    pub message: &'a str,
}

impl<'a> LogLine<'a> {
    /// The line that this text is; `None` if it is none.
    #[must_use]
    pub fn read(text: &'a str) -> Option<Self> {
        let (at, after_time) = text.split_once(' ')?;
        let (level, rest) = after_time.trim_start().split_once(' ')?;
        let (target, rest) = rest.trim_start().split_once(' ')?;
        let fields = rest.strip_prefix('{').map_or("", within_braces);
        let message = match rest.strip_prefix('{') {
            Some(braced) => braced[fields.len()..].trim_start_matches('}').trim_start(),
            None => rest,
        };
        Some(Self { at, after_time, level, target, fields, message })
    }

    /// Every field: its name, and its value as it was before it was quoted.
    pub fn all(&self) -> impl Iterator<Item = (&'a str, String)> {
        fields(self.fields).filter_map(|field| {
            let (name, value) = field.split_once('=')?;
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let value = quoted.map_or_else(
                || value.to_owned(),
                |quoted| quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
            );
            Some((name, value))
        })
    }

    /// The value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a str> {
        let named =
            |field: &&str| field.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        fields(self.fields).find(named).map(|field| &field[name.len() + 1..])
    }
}

/// Up to the brace that closes, those within quotes left out.
fn within_braces(text: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return &text[..at],
            _ => {}
        }
    }
    text
}

fn fields(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| match c {
        _ if escaped => {
            escaped = false;
            false
        }
        '\\' if quoted => {
            escaped = true;
            false
        }
        '"' => {
            quoted = !quoted;
            false
        }
        c => c == ' ' && !quoted,
    })
}

/// What a line begins with.
fn stamp(level: &str, target: &str) -> String {
    format!("{:.3} {level:5} {target}", jiff::Timestamp::now())
}

/// Writes events to the log of this process, while it has one.
struct ToFile;

/// The fields of a span, as they are written.
struct SpanFields(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ToFile {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut written = Written::default();
        attributes.record(&mut written);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(SpanFields(written.fields));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let mut written = Written::default();
        values.record(&mut written);
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            fields.push_str(&written.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(log) = LOG_FILE.get() else { return };
        let mut written = Written::default();
        event.record(&mut written);
        // An event's own fields come first: where a name is there twice, it is the nearest that counts.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                written.fields.push_str(fields);
            }
        }
        let metadata = event.metadata();
        log.write(&written.line(&stamp(metadata.level().as_str(), metadata.target())));
    }
}

/// What an event or a span says.
#[derive(Default)]
struct Written {
    message: String,
    /// Each with a blank behind it.
    fields: String,
}

impl Written {
    /// The whole line.
    fn line(&self, stamp: &str) -> String {
        let mut line = stamp.to_owned();
        // Braces of a message are not taken for those of fields.
        if !self.fields.is_empty() || self.message.starts_with('{') {
            let _ = write!(line, " {{{}}}", self.fields.trim_end());
        }
        let _ = write!(line, " {}", visible::line(&self.message));
        if line.len() >= LOG_LINE_MAX {
            line.truncate(line.floor_char_boundary(LOG_LINE_MAX - '…'.len_utf8() - 1));
            line.push('…');
        }
        line.push('\n');
        line
    }

    fn field(&mut self, name: &str, value: &str) {
        let plain = |c: char| c.is_alphanumeric() || "-_./:@".contains(c);
        let quoted = value.is_empty() || !value.chars().all(plain);
        let _ = if quoted {
            write!(self.fields, "{name}=\"{}\" ", Quoted(value))
        } else {
            write!(self.fields, "{name}={value} ")
        };
    }
}

impl Visit for Written {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => self.field(name, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// A text within quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        visible::characters(self.0).try_for_each(|(_, c, hidden)| {
            match hidden || matches!(c, '"' | '\\') {
                true => write!(f, "{}", c.escape_default()),
                false => f.write_char(c),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fields: &[(&str, &str)], message: &str) -> String {
        let mut written = Written { message: message.to_owned(), fields: String::new() };
        fields.iter().for_each(|(name, value)| written.field(name, value));
        written.line("2026-11-22T09:30:00.123Z INFO  babybot::agent")
    }

    fn group(line: &str) -> Option<String> {
        LogLine::read(line).unwrap().field("group").map(str::to_owned)
    }

    #[test]
    fn a_line_is_one_line_and_says_whose_it_is() {
        let written = line(&[("group", "home"), ("left", "3")], "a\nb \u{1b}[31m");
        let expected = "2026-11-22T09:30:00.123Z INFO  babybot::agent {group=home left=3} \
                        a\\nb \\u{1b}[31m\n";
        assert_eq!(written, expected);
        assert_eq!(group(&written).as_deref(), Some("home"));
    }

    #[test]
    fn events_are_written_once_there_is_a_file_with_what_their_spans_say() {
        let folder = tempfile::tempdir().unwrap();
        let subscriber = tracing_subscriber::registry().with(ToFile.with_filter(filter("info")));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("too early");
            to_file(folder.path(), None).unwrap();
            let span = tracing::info_span!("turn", group = "home", left = tracing::field::Empty);
            let _inside = span.enter();
            tracing::warn!(path = "a b", "mended\nit");
            span.record("left", 3);
            tracing::info!(group = "work", "gone on with");
            tracing::debug!("nobody asked");
        });
        let text = std::fs::read_to_string(folder.path().join(LOG)).unwrap();
        let without_time: Vec<&str> = text.lines().map(|line| &line[25..]).collect();
        let target = module_path!();
        assert_eq!(
            without_time,
            [
                format!("WARN  {target} {{path=\"a b\" group=home}} mended\\nit"),
                format!("INFO  {target} {{group=work group=home left=3}} gone on with"),
            ]
        );
        assert_eq!(group(text.lines().last().unwrap()).as_deref(), Some("work"));
    }

    #[test]
    fn no_text_passes_for_a_field() {
        assert_eq!(group(&line(&[], "{group=home} x")), None);
        let planted = [("why", "} {group=work} \" group=work"), ("group", "home")];
        assert_eq!(group(&line(&planted, "group=work")).as_deref(), Some("home"));
        assert_eq!(group(&line(&[("subgroup", "x")], "group=home")), None);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let written = line(&[], &"☕".repeat(LOG_LINE_MAX));
        assert!(written.len() <= LOG_LINE_MAX && written.ends_with("☕…\n"), "{}", written.len());
    }

    #[test]
    fn a_full_log_is_put_aside_and_one_before_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::open(folder.path(), None).unwrap();
        let line = format!("{}\n", "x".repeat((1 << 20) - 1));
        (0..20).for_each(|_| log.write(&line));
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert_eq!((size(LOG), size(LOG_BEFORE)), (4 << 20, 8 << 20));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        // Opened again, it goes on where it was.
        drop(log);
        LogFile::open(folder.path(), None).unwrap().write(&line);
        assert_eq!(size(LOG), 5 << 20);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said_later() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::open(folder.path(), None).unwrap();
        // As full as a disk can be.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let whole = std::mem::replace(&mut log.state.lock().unwrap().file, full);
        (0..3).for_each(|_| log.write("lost\n"));
        log.state.lock().unwrap().file = whole;
        log.write("kept\n");
        let text = std::fs::read_to_string(folder.path().join(LOG)).unwrap();
        assert!(text.contains("3 earlier lines were lost: No space left"), "{text}");
        assert!(text.ends_with("\nkept\n") && !text.contains("lost\n"), "{text}");
    }

    #[test]
    fn what_is_planted_in_the_place_of_a_log_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(LOG)).unwrap();
        LogFile::open(folder.path(), None).unwrap_err();
        std::fs::remove_file(folder.path().join(LOG)).unwrap();
        std::fs::hard_link(&victim, folder.path().join(LOG)).unwrap();
        LogFile::open(folder.path(), None).unwrap_err();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        LogFile::open(&link, None).unwrap_err();
    }
}
