//! The controller's own things: its lock, its instance, its notice and its socket, and the folders
//! and files that it stands on.
//!
//! What others need to find the controller is made again where it was removed, replaced or damaged.
//! Where the project, `data/` or the store was taken away, nothing that the controller acknowledges
//! would last, so it has to end at once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::control::place::{Bases, ControlSocket, FILE};
use crate::error::chain;
use crate::name::InstanceId;
use crate::project::{InstanceLock, Project};

/// A look without any event.
const EVERY: Duration = Duration::from_secs(2);
/// The same where the system watches nothing for us.
const EVERY_UNWATCHED: Duration = Duration::from_millis(500);
/// How long it waits after an event for others that belong to it: a folder that is removed is
/// emptied first.
const QUIET: Duration = Duration::from_millis(100);
/// Files of the store that stay as long as it is open.
const STORE: [&str; 2] = ["", "-wal"];

/// What a controller has of its own.
#[derive(Debug)]
pub struct Belongings {
    /// The project.
    pub project: Project,
    /// Its instance.
    pub instance: InstanceId,
    /// The lock of the instance.
    pub lock: InstanceLock,
    /// The socket and the notice.
    pub place: ControlSocket,
    /// Where the socket may be.
    pub bases: Bases,
}

/// What a controller stands on and does not have any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// The project folder.
    #[error("the project folder {} was moved, removed or replaced", .0.display())]
    Project(PathBuf),
    /// `data/`, or the store in it.
    #[error("{} was removed or replaced", .0.display())]
    Data(PathBuf),
}

/// Looks after what the controller has, until `stop`, and gives it back. What cannot be made again is
/// told to `lost`. A socket that was made again is sent to `listeners`.
pub async fn look_after(
    mut own: Belongings,
    listeners: mpsc::Sender<UnixListener>,
    lost: watch::Sender<Option<Lost>>,
    stop: CancellationToken,
) -> Belongings {
    let mut watcher = Watcher::new();
    let mut store = Identities::default();
    let mut trouble = None;
    loop {
        if let Some(what) = own.lost(&mut store) {
            lost.send_replace(Some(what));
            stop.cancelled().await;
            return own;
        }
        // Told once, and again when it is another.
        let now = own.renew(&listeners).await.err();
        if let Some(why) = now.as_ref().filter(|why| trouble.as_ref() != Some(*why)) {
            tracing::error!(why, "the controller cannot be found by other commands");
        }
        trouble = now;
        watcher.watch(own.watched());
        let every = if watcher.is_blind() { EVERY_UNWATCHED } else { EVERY };
        tokio::select! {
            () = watcher.changed() => tokio::time::sleep(QUIET).await,
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return own,
        }
    }
}

impl Belongings {
    /// What was taken away and cannot be made again.
    fn lost(&self, store: &mut Identities) -> Option<Lost> {
        if !self.lock.is_of(&self.project) {
            return Some(Lost::Project(self.project.root().to_path_buf()));
        }
        let data = self.project.data();
        if !self.place.is_in(&data) {
            return Some(Lost::Data(data));
        }
        let files = STORE.map(|suffix| {
            let mut path = self.project.database().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        });
        files.into_iter().find(|path| !store.is_same(path)).map(Lost::Data)
    }

    /// Makes again what others need to find the controller.
    async fn renew(&mut self, listeners: &mpsc::Sender<UnixListener>) -> Result<(), String> {
        let renewed = self.place.renew_socket(&self.instance, &self.bases);
        if let Some(listener) = renewed.map_err(|error| chain(&error))? {
            let socket = self.place.notice().socket.display().to_string();
            tracing::warn!(socket, "the control socket was gone: made again");
            let _ = listeners.send(listener).await;
        }
        if self.place.renew_notice().map_err(|error| format!("{FILE}: {error}"))? {
            tracing::warn!("{FILE} was gone, damaged or out of date: written again");
        }
        if self.lock.renew(&self.project).map_err(|error| chain(&error))? {
            tracing::warn!("the lock file was gone or damaged: written again");
        }
        let instance = self.project.renew_instance(&self.instance, &self.lock);
        if instance.map_err(|error| chain(&error))? {
            tracing::warn!("the instance file was gone or damaged: written again");
        }
        Ok(())
    }

    /// What tells of a change. Folders whose files change with every message are not among it.
    fn watched(&self) -> Vec<PathBuf> {
        let data = self.project.data();
        let files = [FILE, "lock", "instance"].map(|name| data.join(name));
        let socket = self.place.notice().socket.parent().map(Path::to_path_buf);
        [self.project.root().to_path_buf()].into_iter().chain(files).chain(socket).collect()
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Files as they were when they were first seen.
#[derive(Debug, Default)]
struct Identities(BTreeMap<PathBuf, Identity>);

impl Identities {
    /// Whether a file is still the one that it was; one that was never there is.
    fn is_same(&mut self, path: &Path) -> bool {
        let now = identity(path);
        match (self.0.get(path), now) {
            (Some(before), now) => now.as_ref() == Some(before),
            (None, Some(now)) => {
                self.0.insert(path.to_path_buf(), now);
                true
            }
            (None, None) => true,
        }
    }
}

/// Watches a few folders and files; a change only says that something may have happened to them.
struct Watcher {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    changed: Arc<Notify>,
    wanted: usize,
}

impl Watcher {
    fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let told = Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                told.notify_one();
            }
        });
        Self { watcher: watcher.ok(), watched: BTreeMap::new(), changed, wanted: 0 }
    }

    /// Watches these from now on, those that were made anew among them.
    fn watch(&mut self, wanted: Vec<PathBuf>) {
        self.wanted = wanted.len();
        let Some(watcher) = &mut self.watcher else { return };
        let before = std::mem::take(&mut self.watched);
        for path in wanted {
            let Some(now) = identity(&path) else { continue };
            if before.get(&path) != Some(&now) {
                let _ = watcher.unwatch(&path);
                if watcher.watch(&path, RecursiveMode::NonRecursive).is_err() {
                    continue;
                }
            }
            self.watched.insert(path, now);
        }
        for path in before.keys().filter(|path| !self.watched.contains_key(*path)) {
            let _ = watcher.unwatch(path);
        }
    }

    /// Whether something is not watched.
    fn is_blind(&self) -> bool {
        self.watched.len() < self.wanted
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}
