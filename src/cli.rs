//! The front: verbs, what they print, and how they end.
//!
//! One file per verb holds its arguments, its help and its function. Nothing
//! below this room prints. stdout carries the result, stderr everything else.

pub mod apply;
pub mod approve;
pub mod chat;
pub mod claim;
pub mod completions;
pub mod down;
pub mod exec;
pub mod explain;
pub mod history;
pub mod init;
pub mod join;
pub mod load;
pub mod logs;
pub mod outbox;
pub mod pause;
pub mod plan;
pub mod preview;
pub mod progress;
pub mod resume;
pub mod schema;
pub mod serve;
pub mod status;
pub mod terminal;
pub mod up;
pub mod validate;
pub mod zone;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::plan::render::{self, Color};
use crate::visible;

/// You write babybot.toml; babybot makes the machine match it: one agent per chat group,
/// answering with your own models.
#[derive(Debug, clap::Parser)]
#[command(name = "babybot", version = env!("BABYBOT_VERSION"), max_term_width = 100)]
pub struct Cli {
    /// The manifest; the folder it stands in is the project
    #[arg(long, global = true, value_name = "PATH", default_value = "babybot.toml")]
    pub manifest: PathBuf,
    /// When to use colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    pub color: When,
    /// Say less; may be given twice
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub quiet: u8,
    /// Say more; may be given up to three times
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// At a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The verbs. The help of each is the documentation of its arguments.
#[derive(Debug, clap::Subcommand)]
#[allow(missing_docs, reason = "a comment here would take the place of the verb's own help")]
pub enum Command {
    Init(init::InitArgs),
    Validate(validate::ValidateArgs),
    Plan(plan::PlanArgs),
    Apply(apply::ApplyArgs),
    Up(up::UpArgs),
    Down(down::DownArgs),
    Status(status::StatusArgs),
    Chat(chat::ChatArgs),
    Exec(exec::ExecArgs),
    Pause(pause::PauseArgs),
    Resume(resume::ResumeArgs),
    Logs(logs::LogsArgs),
    History(history::HistoryArgs),
    Outbox(outbox::OutboxArgs),
    Explain(explain::ExplainArgs),
    Schema(schema::SchemaArgs),
    Completions(completions::CompletionsArgs),
    /// Runs an agent; a controller starts it.
    #[command(hide = true)]
    Agent {
        /// The controller's pid
        #[arg(long)]
        parent: Option<i32>,
        /// The file whose lock the agent holds for life
        #[arg(long)]
        lock: Option<PathBuf>,
        /// Serve the model on 127.0.0.1:11434, for a sandbox with a network of its own
        #[arg(long)]
        loopback: bool,
        /// Become this command instead, behind the walls of the agent's tools
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

/// What every verb is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// `--manifest`, as typed.
    pub manifest: PathBuf,
    /// Whether stdout takes colour.
    pub color_stdout: bool,
    /// Whether stderr takes colour.
    pub color_stderr: bool,
    /// How often `--quiet` was given: once for no progress, twice for no notes either.
    pub quiet: u8,
    /// How often `--verbose` was given.
    pub verbose: u8,
}

impl Context {
    /// What the command line says to every verb.
    #[must_use]
    pub fn new(cli: &Cli) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let color = |terminal: bool| match cli.color {
            When::Auto => terminal && !plain,
            When::Always => true,
            When::Never => false,
        };
        Self {
            manifest: cli.manifest.clone(),
            color_stdout: color(io::stdout().is_terminal()),
            color_stderr: color(io::stderr().is_terminal()),
            quiet: cli.quiet,
            verbose: cli.verbose,
        }
    }

    /// Tells of progress, unless it is not wanted.
    pub fn progress(&self, text: &str) {
        if self.quiet == 0 {
            tell(text);
        }
    }

    /// Tells something worth knowing, unless not even that is wanted.
    pub fn note(&self, text: &str) {
        if self.quiet < 2 {
            tell(text);
        }
    }

    /// Whether plans on stdout are coloured.
    #[must_use]
    pub fn stdout_color(&self) -> Color {
        if self.color_stdout { Color::Always } else { Color::Never }
    }

    /// Whether plans on stderr are coloured.
    #[must_use]
    pub fn stderr_color(&self) -> Color {
        if self.color_stderr { Color::Always } else { Color::Never }
    }

    /// ` --manifest PATH` where a command to be typed needs it.
    #[must_use]
    pub fn manifest_argument(&self) -> String {
        render::manifest_argument(&self.manifest.display().to_string())
    }

    /// The project root: the folder the manifest stands in.
    #[must_use]
    pub fn project(&self) -> &Path {
        match self.manifest.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }
}

/// Prints the result of a verb for a person. A reader that went away is not an error.
///
/// # Errors
/// When stdout cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), Error> {
    printed(&visible::page(text))
}

/// Prints the result of a verb for a program: JSON, equal to this.
///
/// # Errors
/// As [`print()`].
pub fn print_json(text: &str) -> Result<(), Error> {
    printed(&visible::json(text))
}

fn printed(text: &str) -> Result<(), Error> {
    match write(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed("write to stdout", &error))
        }
        _ => Ok(()),
    }
}

/// Writes to stdout what has to arrive there.
///
/// # Errors
/// When it does not, a reader that went away included.
pub fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes progress or a diagnostic to stderr. A failure to write is ignored.
pub fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(visible::page(text).as_bytes());
}

/// Reports an error that ends a verb.
pub fn report(error: &Error) {
    let mut text = format!("babybot: {error}\n");
    if let Some(hint) = error.hint() {
        text.push_str(&format!("  help: {hint}\n"));
    }
    tell(&visible::lines(&text));
}

/// Whether a person sits at both ends.
#[must_use]
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// How a verb ends when nothing went wrong.
pub type VerbResult = Result<Exit, Error>;

/// Runs the verb that the command line names.
///
/// # Errors
/// Whatever keeps it from being done.
pub async fn run(cli: &Cli) -> VerbResult {
    let context = Context::new(cli);
    match &cli.command {
        Command::Init(args) => init::run(args, &context).await,
        Command::Validate(args) => validate::run(args, &context),
        Command::Plan(args) => plan::run(args, &context).await,
        Command::Apply(args) => apply::run(args, &context).await,
        Command::Up(args) => up::run(args, &context).await,
        Command::Down(args) => down::run(args, &context).await,
        Command::Status(args) => status::run(args, &context).await,
        Command::Chat(args) => chat::run(args, &context).await,
        Command::Exec(args) => exec::run(args, &context).await,
        Command::Pause(args) => pause::run(args, &context).await,
        Command::Resume(args) => resume::run(args, &context).await,
        Command::History(args) => history::run(args, &context).await,
        Command::Outbox(args) => outbox::run(args, &context).await,
        Command::Logs(args) => logs::run(args, &context).await,
        Command::Explain(args) => explain::run(args, &context),
        Command::Schema(args) => schema::run(args, &context),
        Command::Completions(args) => completions::run(args, &context),
        // `main` runs it before there is a second thread.
        Command::Agent { .. } => Err(Error::new(Exit::Usage, "an agent is not a host's verb")),
    }
}
