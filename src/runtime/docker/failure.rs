//! Why a call to an engine brought nothing, whatever words it used.

use std::time::Duration;

use crate::resource::RuntimeKind;
use crate::runtime::RuntimeError;

/// How far an engine was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its socket may not be opened.
    Denied,
    /// Nobody answers there, or not any more.
    Silent,
    /// It said something.
    Answers,
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such container, image or command.
    NotFound(String),
    /// The image is not there.
    ImageMissing(String),
    /// A container has the name already.
    NameTaken(String),
    /// What was asked for is under way already.
    UnderWay(String),
    /// Somebody else took away what it needed, while it was at work.
    Changed(String),
    /// It said something that nobody understands.
    Nonsense(String),
    /// It refused for another reason.
    Refused(String),
    /// It could not be reached, or stopped answering midway.
    Unreachable {
        /// Why, in words.
        why: String,
        /// How far it was reached.
        reach: Reach,
    },
    /// It did not answer in time.
    Late {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
}

impl Failure {
    /// The failure as other rooms know it.
    pub(super) fn into_error(self) -> RuntimeError {
        match self {
            Self::Unreachable { why, .. } => {
                RuntimeError::Unavailable { runtime: RuntimeKind::Docker, why }
            }
            Self::Late { what, limit } => {
                RuntimeError::Timeout { what: what.to_owned(), seconds: limit.as_secs() }
            }
            Self::ImageMissing(why)
            | Self::NotFound(why)
            | Self::NameTaken(why)
            | Self::UnderWay(why)
            | Self::Changed(why)
            | Self::Nonsense(why)
            | Self::Refused(why) => RuntimeError::Failed(why),
        }
    }

    /// The failure in words.
    pub(super) fn words(&self) -> String {
        self.clone().into_error().to_string()
    }

    /// How far the engine was reached.
    pub(super) fn reach(&self) -> Reach {
        match self {
            Self::Unreachable { reach, .. } => *reach,
            Self::Late { .. } => Reach::Silent,
            _ => Reach::Answers,
        }
    }

    /// Whether nobody can say if the engine did what was asked.
    pub(super) fn is_uncertain(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. } | Self::Nonsense(_))
    }
}
