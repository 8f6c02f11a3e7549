//! A person's approval: given on the command line, or asked for.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, Read as _};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::claim;
use crate::cli::preview::Preview;
use crate::cli::{Context, interactive, tell};
use crate::error::{Error, Exit};
use crate::plan::render;
use crate::resource::Risk;

/// The word that agrees to a destructive or privileged change.
const GRAVE_WORD: &str = "approve";
/// The message where nobody agreed to a plan.
const NOT_APPROVED: &str = "not approved; nothing was changed";
/// How often a person is asked, slips included.
const ASKED_MAX: usize = 3;
/// What is read of one answer, in bytes.
const ANSWER_MAX: u64 = 1 << 10;

/// The approval that a command line can hold.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ApprovalArgs {
    /// Approve without being asked: bare for safe and disruptive changes, or the risks by name
    /// (destructive, privileged), which include the milder two
    #[arg(
        long,
        value_name = "RISK,…",
        num_args = 0..=1,
        require_equals = true,
        value_delimiter = ',',
        default_missing_value = "disruptive",
        value_parser = risk,
    )]
    pub yes: Vec<Risk>,
}

/// Reads a risk by its word.
///
/// # Errors
/// When it is none, with the words there are.
pub fn risk(text: &str) -> Result<Risk, String> {
    Risk::ALL.into_iter().find(|risk| risk.word() == text).ok_or_else(|| {
        let words: Vec<&str> = Risk::ALL.iter().map(|risk| risk.word()).collect();
        format!("unknown risk; use {}", words.join(", "))
    })
}

impl ApprovalArgs {
    /// The risks that were approved.
    fn risks(&self) -> BTreeSet<Risk> {
        let mut risks: BTreeSet<Risk> = self.yes.iter().copied().collect();
        if !risks.is_empty() {
            risks.extend([Risk::Safe, Risk::Disruptive]);
        }
        risks
    }
}

/// Gets approval for the plan, which was shown. Returns the risks that it covers.
///
/// # Errors
/// [`Exit::ApprovalMissing`] when nobody can be asked, or the answer is no, and
/// [`Exit::Interrupted`] on Ctrl-C.
pub async fn approve(
    preview: &Preview,
    given: &ApprovalArgs,
    context: &Context,
) -> Result<Vec<Risk>, Error> {
    let given = given.risks();
    let needed = preview.risks();
    if needed.is_subset(&given) {
        return Ok(given.into_iter().collect());
    }
    if !interactive() {
        let missing: Vec<&str> = needed.difference(&given).map(|risk| risk.word()).collect();
        return Err(Error::new(
            Exit::ApprovalMissing,
            format!("the plan has {} changes that need your approval", missing.join(" and ")),
        )
        .hinted(command(preview, context)));
    }
    if ask(preview, context).await? {
        return Ok(needed.into_iter().collect());
    }
    Err(Error::new(Exit::ApprovalMissing, NOT_APPROVED))
}

/// The command that approves what this plan needs.
fn command(preview: &Preview, context: &Context) -> String {
    let risks: Vec<&str> = preview.risks_to_name().iter().map(|risk| risk.word()).collect();
    let yes = if risks.is_empty() { String::new() } else { format!("={}", risks.join(",")) };
    format!("check `babybot plan`, then add --yes{yes}{}", context.manifest_argument())
}

/// Asks the person at the terminal for one word, and again after a slip.
async fn ask(preview: &Preview, context: &Context) -> Result<bool, Error> {
    let count = preview.changes();
    let changes =
        if count == 1 { "this change".to_owned() } else { format!("these {count} changes") };
    // A change that takes something away or opens something is not agreed to by reflex.
    let grave = !preview.risks_to_name().is_empty();
    let word = if grave { GRAVE_WORD } else { "yes" };
    if grave {
        let above = preview.relocation.as_ref().map(claim::text).unwrap_or_default();
        let lines = render::grave(&preview.plan, &preview.heading, context.stderr_color());
        tell(&format!("\nThese lines need your approval:\n{above}{lines}\n"));
    }
    let mut question = format!("Type `{word}` to apply {changes}, or `no`: ");
    // Before anybody can answer the question with it.
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| Error::failed("listen for signals", &error))?;
    for _ in 0..ASKED_MAX {
        tell(&question);
        let read = tokio::select! {
            read = tokio::task::spawn_blocking(answer) => read,
            _ = interrupts.recv() => {
                tell("\n");
                return Err(Error::new(Exit::Interrupted, NOT_APPROVED));
            }
        };
        let read = read.map_err(io::Error::other).flatten();
        let answer = read.map_err(|error| Error::failed("read your answer", &error))?;
        if answer.is_empty() {
            tell("\n");
            return Ok(false);
        }
        match meaning(&answer, word) {
            Some(agreed) => return Ok(agreed),
            None => question = format!("Please type `{word}` or `no`: "),
        }
    }
    Ok(false)
}

/// The line that is typed; empty at the end of input.
fn answer() -> io::Result<String> {
    let mut answer = String::new();
    io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer)?;
    Ok(answer)
}

/// Whether an answer agrees; `None` where it is neither word.
fn meaning(answer: &str, word: &str) -> Option<bool> {
    let answer = answer.trim().to_ascii_lowercase();
    match answer.as_str() {
        "no" | "n" => Some(false),
        "y" if word == "yes" => Some(true),
        _ => (answer == word).then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::{GRAVE_WORD, meaning};

    #[test]
    fn one_word_agrees_one_refuses_and_all_else_is_a_slip() {
        assert_eq!(meaning(" Yes\n", "yes"), Some(true));
        assert_eq!(meaning("y\n", "yes"), Some(true));
        assert_eq!(meaning("NO\n", "yes"), Some(false));
        assert_eq!(meaning("approve\n", GRAVE_WORD), Some(true));
        for slip in ["", "\n", "y\n", "yes\n", "aprove\n", "approve it\n"] {
            assert_eq!(meaning(slip, GRAVE_WORD), None, "{slip:?}");
        }
    }
}
