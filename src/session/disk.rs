//! Whether a group's folders hold more than they may.
//!
//! An agent writes these folders as it likes, so one that cannot be measured counts as
//! too full: otherwise a limit could be hidden from. How a folder is walked, and how
//! far, is `project`'s business; what follows for a turn is the turn loop's.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::project::Folder;

/// How often folders are measured while a turn is under way.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// How often a folder is measured anew because something went from it meanwhile.
const ANEW_MAX: u32 = 3;

/// What folders may hold together.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    /// The folders.
    pub(super) folders: BTreeSet<PathBuf>,
    /// What they may hold, in bytes.
    pub(super) limit: u64,
    /// See [`MEASURE_EVERY`]; never zero.
    pub(super) every: Duration,
}

impl Quota {
    /// Whether the folders are over their limit, or one cannot be measured.
    pub(super) async fn is_exceeded(&self) -> bool {
        let folders = self.folders.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let each = folders.into_iter().map(|folder| {
                measure(&folder).map_err(|error| (folder.display().to_string(), error))
            });
            each.sum::<Result<u64, _>>()
        });
        let failed = |error| Err((String::new(), io::Error::other(error)));
        match measured.await.unwrap_or_else(failed) {
            Ok(bytes) => bytes > self.limit,
            Err((folder, error)) => {
                tracing::warn!(%folder, %error, "it cannot be measured and counts as too full");
                true
            }
        }
    }

    /// Measures the folders again and again until they are over their limit.
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
