//! Whether a group's folder holds more than it may.
//!
//! An agent writes this folder as it likes, so one that cannot be measured counts as
//! too full: otherwise a limit could be hidden from. How a folder is walked, and how
//! far, is `project`'s business; what follows for a turn is the turn loop's.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::project::Folder;

/// How often a folder is measured while a turn is under way.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// How often a folder is measured anew because something went from it meanwhile.
const ANEW_MAX: u32 = 3;

/// What one folder may hold.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    /// The folder.
    pub(super) folder: PathBuf,
    /// What it may hold, in bytes.
    pub(super) limit: u64,
    /// See [`MEASURE_EVERY`]; never zero.
    pub(super) every: Duration,
}

impl Quota {
    /// Whether the folder is over its limit, or cannot be measured.
    pub(super) async fn is_exceeded(&self) -> bool {
        let folder = self.folder.clone();
        let measured = tokio::task::spawn_blocking(move || measure(&folder)).await;
        match measured.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(bytes) => bytes > self.limit,
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "it cannot be measured and counts as too full");
                true
            }
        }
    }

    /// Measures the folder again and again until it is over its limit.
    pub(super) async fn exceeded(&self) {
        let mut ticks = interval_at(Instant::now() + self.every, self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_exceeded().await {
                return;
            }
        }
    }
}

/// What a folder holds, in bytes; nothing if it is gone altogether.
fn measure(path: &Path) -> io::Result<u64> {
    let mut anew = 0;
    loop {
        let folder = match Folder::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        match folder.usage() {
            // A folder in it, or it itself, went between two looks: tools may do that.
            Err(error) if error.kind() == io::ErrorKind::NotFound && anew < ANEW_MAX => anew += 1,
            measured => return measured,
        }
    }
}
