//! `babybot completions`: what a shell completes after `babybot`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::{Cli, Context, VerbResult, print};
use crate::error::Exit;

/// Prints the completions for a shell.
///
/// For bash, put `source <(babybot completions bash)` into ~/.bashrc; for zsh, the same into
/// ~/.zshrc after `compinit`; for fish, write it to ~/.config/fish/completions/babybot.fish.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &CompletionsArgs, _context: &Context) -> VerbResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "babybot", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
