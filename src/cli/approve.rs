//! A human's yes: given on the command line, or asked for.

use std::collections::BTreeSet;
use std::io;

use crate::cli::preview::Preview;
use crate::cli::{Context, interactive, tell};
use crate::error::{Error, Exit};
use crate::resource::Risk;

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
        format!("there is no such risk; there are {}", words.join(", "))
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

/// Gets a yes to the plan, which was shown. Returns the risks it covers.
///
/// # Errors
/// [`Exit::ApprovalMissing`] when nobody is there to say it, or the answer is no.
pub fn approve(
    preview: &Preview,
    given: &ApprovalArgs,
    context: &Context,
) -> Result<Vec<Risk>, Error> {
    let given = given.risks();
    let needed: BTreeSet<Risk> = preview.plan.steps.iter().map(|step| step.risk).collect();
    if needed.is_subset(&given) {
        return Ok(given.into_iter().collect());
    }
    if !interactive() {
        let missing: Vec<&str> = needed.difference(&given).map(|risk| risk.word()).collect();
        return Err(Error::new(
            Exit::ApprovalMissing,
            format!("the plan has {} changes that nobody approved", missing.join(" and ")),
        )
        .hinted(command(preview, context)));
    }
    if ask(preview)? {
        return Ok(needed.into_iter().collect());
    }
    Err(Error::new(Exit::ApprovalMissing, "not approved, nothing was changed"))
}

/// The command that approves what this plan needs.
fn command(preview: &Preview, context: &Context) -> String {
    let risks: Vec<&str> = preview.plan.risks_to_name().iter().map(|risk| risk.word()).collect();
    let yes = if risks.is_empty() { String::new() } else { format!("={}", risks.join(",")) };
    format!("look at `babybot plan`, then add --yes{yes}{}", context.manifest_argument())
}

/// Asks the person at the terminal.
fn ask(preview: &Preview) -> Result<bool, Error> {
    let count = preview.plan.steps.len();
    let changes =
        if count == 1 { "this change".to_owned() } else { format!("these {count} changes") };
    let name = preview.desired.name.as_str();
    // What takes something away or opens something is not agreed to by reflex.
    let grave = !preview.plan.risks_to_name().is_empty();
    tell(&if grave {
        format!("Apply {changes}? Some need care. Type the project's name, `{name}`, to go on: ")
    } else {
        format!("Apply {changes}? [y/N] ")
    });
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Error::failed("read your answer", &error))?;
    let answer = answer.trim();
    let agreed = answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes");
    Ok(if grave { answer == name } else { agreed })
}
