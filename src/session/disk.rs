//! How full a group's folders are, as the host sees it.
//!
//! An agent writes these folders as it likes, so one that cannot be measured because of
//! what is in it counts as too full: otherwise a limit could be hidden from. A fault of the
//! machine is not held against a group: then it is not known how full they are. How a folder
//! is walked is `walk`'s business; what follows for a turn is the turn loop's.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::file;
use crate::project::Folder;
use crate::unit::ByteSize;
use crate::walk::{self, Abandon};

/// How often folders are measured while a turn is under way.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// How long folders may take to be measured.
const MEASURE_MAX: Duration = Duration::from_secs(30);

/// What folders may hold together. Clones share their limit and measure one at a time.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    folders: Arc<BTreeSet<PathBuf>>,
    limit: Arc<AtomicU64>,
    /// Why it was not known at the last look how full they are, if it was not.
    unknown: Arc<Mutex<Option<String>>>,
    /// Held while they are measured: a disk that does not answer holds up one thread.
    turn: Arc<Semaphore>,
}

/// How full folders are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// Within their limit.
    Within,
    /// Over it, with this many bytes.
    Over(u64),
    /// Taken for too full, because they cannot be measured for this reason.
    Hidden(String),
    /// Not known, for this reason.
    Unknown(String),
}

impl Quota {
    pub(super) fn new(folders: BTreeSet<PathBuf>, limit: ByteSize) -> Self {
        Self {
            folders: Arc::new(folders),
            limit: Arc::new(AtomicU64::new(limit.as_bytes())),
            unknown: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// What the folders may hold, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// From now on they may hold this.
    pub(super) fn allow(&self, limit: ByteSize) {
        self.limit.store(limit.as_bytes(), Ordering::Relaxed);
    }

    /// Measures the folders. Dropped, it ends without a result.
    pub(super) async fn look(&self) -> Fill {
        let late = || {
            Fill::Unknown(format!(
                "the folders took longer than {} s to measure",
                MEASURE_MAX.as_secs()
            ))
        };
        let fill = tokio::time::timeout(MEASURE_MAX, self.measured()).await;
        let fill = fill.unwrap_or_else(|_| late());
        match &fill {
            Fill::Hidden(why) => tracing::warn!(%why, "too full: its size cannot be measured"),
            Fill::Unknown(why) => tracing::warn!(%why, "disk use is unknown"),
            Fill::Within | Fill::Over(_) => {}
        }
        *self.last_unknown() = fill.unknown().map(str::to_owned);
        fill
    }

    /// Why the last look did not tell how full they are, if it did not.
    pub(super) fn unknown(&self) -> Option<String> {
        self.last_unknown().clone()
    }

    fn last_unknown(&self) -> MutexGuard<'_, Option<String>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn measured(&self) -> Fill {
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return Fill::Unknown("nothing measures them any more".to_owned());
        };
        let (folders, abandon) = (Arc::clone(&self.folders), Abandon::default());
        let abandoned = abandon.flag();
        let measuring = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            folders.iter().try_fold(0, |sum: u64, folder| {
                let bytes = measure(folder, &abandoned).map_err(|error| (folder.clone(), error))?;
                Ok(sum.saturating_add(bytes))
            })
        });
        match measuring.await {
            Ok(Ok(bytes)) if bytes > self.limit() => Fill::Over(bytes),
            Ok(Ok(_)) => Fill::Within,
            Ok(Err((folder, error))) => {
                let why = format!("{}: {error}", folder.display());
                match file::fault_of_machine(&error) {
                    Some(why) => Fill::Unknown(why.to_owned()),
                    None if walk::is_in_the_files(&error) => Fill::Hidden(why),
                    None => Fill::Unknown(why),
                }
            }
            Err(error) => Fill::Unknown(error.to_string()),
        }
    }

    /// Measures the folders again and again, and tells when it did. Ends once they went on to grow
    /// over their limit, or could not be measured, from one look to the next: until then it is up to
    /// the agent to keep to it. `every` must not be zero.
    pub(super) async fn outgrown(&self, every: Duration, tell: impl Fn()) {
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = Fill::Within;
        loop {
            ticks.tick().await;
            let fill = self.look().await;
            tell();
            match (&before, &fill) {
                (Fill::Over(before), Fill::Over(now)) if now > before => return,
                (Fill::Over(_) | Fill::Hidden(_), Fill::Hidden(_)) => return,
                // What is not known says nothing of what was found before.
                (_, Fill::Unknown(_)) => {}
                _ => before = fill,
            }
        }
    }
}

impl Fill {
    /// Whether they are over their limit, or taken for it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over(_) | Self::Hidden(_))
    }

    /// Why it is not known.
    fn unknown(&self) -> Option<&str> {
        match self {
            Self::Unknown(why) => Some(why),
            _ => None,
        }
    }
}

/// What a folder holds, in bytes; nothing if it is gone altogether.
fn measure(path: &Path, abandoned: &AtomicBool) -> io::Result<u64> {
    match Folder::open(path) {
        Ok(folder) => folder.usage(abandoned),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
