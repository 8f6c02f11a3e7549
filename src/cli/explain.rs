//! `babybot explain`: what a code means and how to fix what it reports.

use crate::cli::{Context, VerbResult, print};
use crate::error::{Error, Exit};
use crate::manifest::codes::Code;
use crate::visible;

/// Explains the code of a problem: what it means, how it comes about, how to fix it.
///
/// Without a code it lists all of them.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The code, such as BB0107 (bb0107 and 107 do as well)
    pub code: Option<String>,
}

/// Explains a code, or lists all.
///
/// # Errors
/// When the code does not exist, or stdout cannot be written.
pub fn run(args: &ExplainArgs, _context: &Context) -> VerbResult {
    let text = match &args.code {
        None => all(),
        Some(written) => one(Code::find(written).ok_or_else(|| unknown(written))?),
    };
    print(&text)?;
    Ok(Exit::Ok)
}

fn all() -> String {
    Code::ALL.iter().map(|code| format!("{code}  {}\n", code.explanation().title)).collect()
}

fn one(code: Code) -> String {
    let explanation = code.explanation();
    let mut text = format!("{code}: {}\n\n{}\n", explanation.title, explanation.meaning);
    if !explanation.wrong.is_empty() {
        text.push_str("\nfor example:\n\n");
        for line in explanation.wrong.lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.push_str(&format!("\nfix: {}\n", explanation.fix));
    text
}

/// Most codes suggested in place of one that does not exist.
const SUGGESTED_MAX: usize = 5;

fn unknown(written: &str) -> Error {
    let written = written.to_uppercase();
    let mut near: Vec<(usize, String)> = Code::ALL
        .iter()
        .map(|code| (strsim::damerau_levenshtein(&written, &code.to_string()), code.to_string()))
        .filter(|(edits, _)| *edits <= 2)
        .collect();
    near.sort();
    let near: Vec<String> = near.into_iter().take(SUGGESTED_MAX).map(|(_, code)| code).collect();
    let hint = if near.is_empty() {
        "`babybot explain` lists every code".to_owned()
    } else {
        format!("did you mean {}? `babybot explain` lists every code", near.join(", "))
    };
    let written = visible::line(&written);
    Error::new(Exit::Failed, format!("there is no code {written}")).hinted(hint)
}
