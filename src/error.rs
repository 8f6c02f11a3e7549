//! How a verb ends: its exit code, and the error a person reads.
//!
//! Each room has an error enum of its own; this one is what they become at the
//! front, where the kind decides the exit code and the hint says what to do.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::fmt;

/// How a verb ended. The numbers are a contract: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Ok,
    /// It failed.
    Failed,
    /// Changes are pending; only with `--detailed-exitcode`.
    ChangesPending,
    /// The manifest is invalid.
    ManifestInvalid,
    /// Some of the plan was carried out.
    PartlyApplied,
    /// The machine changed between plan and apply.
    PlanStale,
    /// Another babybot holds this instance.
    Locked,
    /// A human has to say yes, and none did.
    ApprovalMissing,
    /// A policy forbids it.
    Refused,
    /// The command line is wrong.
    Usage,
    /// Ctrl-C.
    Interrupted,
    /// As the command ended that was run on somebody's behalf.
    Command(u8),
}

impl Exit {
    /// The number the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::ChangesPending => 2,
            Self::ManifestInvalid => 3,
            Self::PartlyApplied => 4,
            Self::PlanStale => 5,
            Self::Locked => 6,
            Self::ApprovalMissing => 7,
            Self::Refused => 8,
            Self::Usage => 64,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error at the front door: what failed, how the process ends, what helps.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error with this exit and message.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// An error that ends with [`Exit::Failed`], worded "cannot {doing}: {cause}" with all causes.
    #[must_use]
    pub fn failed(doing: &str, cause: &dyn std::error::Error) -> Self {
        Self::new(Exit::Failed, format!("cannot {doing}: {}", chain(cause)))
    }

    /// The same error with what the reader can do about it.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// How the process ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// An error and its causes on one line. A cause that its parent already quotes is left out.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}
