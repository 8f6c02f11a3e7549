//! Folders of the project that are watched, so that what goes from them comes back at once.
//!
//! An event only says that something may have changed. What agents write is not
//! watched: only the folders that hold theirs, and files that are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use crate::name::GroupName;

/// Files of ours among what agents write.
const OURS: [&str; 2] = ["settings.json", "MEMORY.md"];

/// Changes that are told of at once.
const CHANGES_AT_ONCE: u32 = 10;
/// How long it takes until one more is.
const CHANGE_EVERY: Duration = Duration::from_secs(1);

/// The watcher and what it told of.
pub(super) struct Folders {
    watcher: Option<RecommendedWatcher>,
    /// Each folder with what tells it from another that has its name later.
    watched: BTreeMap<PathBuf, Identity>,
    told: Arc<Told>,
    pace: Pace,
    /// When something that changed is told of.
    due: Option<Instant>,
}

/// How often changes are told of: at once, unless there were many. Agents can make some, and looks
/// at everything are not theirs to ask for.
#[derive(Debug, Default)]
struct Pace {
    /// When all of them would have been, one after the other.
    until: Option<Instant>,
}

impl Pace {
    /// When the next one may be, if it is asked for now.
    fn next(&mut self, now: Instant) -> Instant {
        let until = self.until.map_or(now, |until| until.max(now));
        self.until = Some(until + CHANGE_EVERY);
        now.max(until.checked_sub(CHANGE_EVERY * CHANGES_AT_ONCE).unwrap_or(now))
    }
}

#[derive(Default)]
struct Told {
    changed: Notify,
    edited: AtomicBool,
}

impl Folders {
    /// Watches a project; where that cannot be, looks without events find the same, later.
    pub(super) fn watch(shared: &Arc<Shared>) -> Self {
        let told = Arc::new(Told::default());
        let root = shared.parts().project.root().to_path_buf();
        let tell = Arc::clone(&told);
        let handler = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else {
                tell.changed.notify_one();
                return;
            };
            if event.need_rescan() {
                // Something was missed, and anything may have been it.
                tell.edited.store(true, Ordering::Relaxed);
                tell.changed.notify_one();
                return;
            }
            if event.kind.is_access() || !event.paths.iter().any(|path| matters(&root, path)) {
                return;
            }
            if event.paths.iter().any(|path| path.extension().is_some_and(|e| e == "toml")) {
                tell.edited.store(true, Ordering::Relaxed);
            }
            tell.changed.notify_one();
        };
        let watcher = match notify::recommended_watcher(handler) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "cannot watch folders; changes are found later");
                None
            }
        };
        Self { watcher, watched: BTreeMap::new(), told, pace: Pace::default(), due: None }
    }

    /// Watches the folders that are there by now, those that were made anew among them.
    pub(super) fn refresh(&mut self, shared: &Arc<Shared>) {
        let Some(watcher) = &mut self.watcher else { return };
        let project = shared.parts().project;
        let root = project.root();
        let mut wanted: BTreeSet<PathBuf> = ["", "groups", "groups/global"]
            .into_iter()
            .chain(["data/sessions", "data/ipc"])
            .map(|below| root.join(below))
            .collect();
        for handle in shared.groups() {
            wanted.insert(settings_folder(&project.session(&handle.group)));
        }
        let mut watched = BTreeMap::new();
        for folder in wanted {
            // A link is not followed, and one that was made anew is another.
            let Some(identity) = identity(&folder) else { continue };
            if self.watched.get(&folder) == Some(&identity)
                || watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                watched.insert(folder, identity);
            }
        }
        for gone in self.watched.keys().filter(|folder| !watched.contains_key(*folder)) {
            let _ = watcher.unwatch(gone);
        }
        self.watched = watched;
    }

    /// Becomes ready when something may have changed.
    pub(super) async fn changed(&mut self) {
        let due = match self.due {
            Some(due) => due,
            None => {
                self.told.changed.notified().await;
                *self.due.insert(self.pace.next(Instant::now()))
            }
        };
        tokio::time::sleep_until(due).await;
        self.due = None;
    }

    /// Whether a manifest may have been edited since this was asked last.
    pub(super) fn take_edit(&self) -> bool {
        self.told.edited.swap(false, Ordering::Relaxed)
    }
}

/// Device, inode and the time of its last change: a number is given out again, a time is not.
type Identity = (u64, u64, i64, i64);

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = std::fs::symlink_metadata(folder).ok().filter(std::fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

fn settings_folder(home: &Path) -> PathBuf {
    home.join(".ollama")
}

/// Whether an event's path can be about what is kept.
fn matters(root: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else { return false };
    let parts: Vec<&str> = below.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        [] | ["groups"] | ["data", "sessions" | "ipc"] => true,
        // Temporary files of editors are none.
        [file] => file.ends_with(".toml") && !file.starts_with('.'),
        ["groups", group] | ["data", "sessions" | "ipc", group] => {
            *group == "global" || GroupName::new(*group).is_ok()
        }
        ["groups", "global", file] | ["data", "sessions", _, ".ollama", file] => {
            OURS.contains(file)
        }
        ["data", "sessions", _, ".ollama"] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_of_at_once_until_there_are_many() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let mut told = || pace.next(now);
        for _ in 0..=CHANGES_AT_ONCE {
            assert_eq!(told(), now);
        }
        assert_eq!(told(), now + CHANGE_EVERY);
        assert_eq!(told(), now + 2 * CHANGE_EVERY);
        // After a while of nothing they are few again.
        let later = now + CHANGE_EVERY * 100;
        assert_eq!(pace.next(later), later);
        assert_eq!(pace.next(later), later);
    }
}
