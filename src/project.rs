//! The project's folders on disk: where everything is, and how to touch it safely.
//!
//! What lies in a folder that an agent can write is reached from a held
//! directory, one name at a time, following no link and opening nothing but
//! regular files. Knows nothing of what the files mean.

mod folder;
mod instance;
mod lock;
pub mod repair;
pub mod view;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::name::{GroupName, InstanceId};
use crate::resource::UserId;

pub use self::folder::Folder;
use self::folder::OPEN_FOLDER;
pub use instance::{Claim, Origin, Relocation};
pub use lock::InstanceLock;

/// What waits for a disk at once.
const DISK_MAX: usize = 4;

/// What is read of a small file of our own, in bytes.
const SMALL_FILE_MAX: u64 = 64 << 10;

/// What `.ollama/settings.json` of a group's home holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsFile {
    /// Environment of the group's tools.
    pub(crate) env: BTreeMap<String, String>,
}

/// Why a folder or file of the project is not what it should be.
#[derive(Debug, Error)]
pub enum ProjectError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of ours holds something else.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder is not where its instance was made.
    #[error("this project was moved or copied: its instance {} was made {origin}", instance.short())]
    Moved {
        /// The project folder.
        folder: PathBuf,
        /// The instance.
        instance: InstanceId,
        /// Where it was made.
        origin: Origin,
    },
    /// The folder is a copy, and what it was copied from is still there.
    #[error("this project is a copy: instance {} is still in {}", instance.short(), folder.display())]
    Original {
        /// Where the original is.
        folder: PathBuf,
        /// The instance.
        instance: InstanceId,
    },
    /// Another babybot holds this instance.
    #[error("this project is in use by {holder}")]
    Locked {
        /// Who it is.
        holder: String,
    },
}

/// A project folder.
#[derive(Clone, Debug)]
pub struct Project {
    root: PathBuf,
    /// Whom files are made for, where that is not who makes them.
    owner: Option<(u32, u32)>,
    /// The instance that a person says it is.
    claimed: Option<InstanceId>,
    /// Places for what waits for a disk.
    disk: Arc<Semaphore>,
}

impl Project {
    /// The project in this folder.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn open(root: &Path) -> Result<Self, ProjectError> {
        let root = fs::canonicalize(root).map_err(|source| io_at(root, source))?;
        let metadata = fs::metadata(&root).map_err(|source| io_at(&root, source))?;
        let root_runs = rustix::process::geteuid().is_root();
        let owner = (root_runs && metadata.uid() != 0).then(|| (metadata.uid(), metadata.gid()));
        let disk = Arc::new(Semaphore::new(DISK_MAX));
        Ok(Self { root, owner, claimed: None, disk })
    }

    /// The folder itself, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whom agents run as and files belong to, where that is not who runs babybot.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// `groups/<group>`, which its agent writes.
    #[must_use]
    pub fn group(&self, group: &GroupName) -> PathBuf {
        self.root.join("groups").join(group.as_str())
    }

    /// `groups/global`.
    #[must_use]
    pub fn global(&self) -> PathBuf {
        self.root.join("groups/global")
    }

    /// `data/sessions/<group>`: the agent's home.
    #[must_use]
    pub fn session(&self, group: &GroupName) -> PathBuf {
        self.root.join("data/sessions").join(group.as_str())
    }

    /// `data/ipc/<group>`: its mailbox.
    #[must_use]
    pub fn mailbox(&self, group: &GroupName) -> PathBuf {
        self.root.join("data/ipc").join(group.as_str())
    }

    /// `data/view/project`: what the main group's agent may read of the project.
    #[must_use]
    pub fn view(&self) -> PathBuf {
        self.root.join("data/view/project")
    }

    /// `data`, which is for nobody else's eyes.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// `data/babybot.db`.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data().join("babybot.db")
    }

    /// The file whose lock the group's agent holds for life.
    #[must_use]
    pub fn agent_lock(&self, group: &GroupName) -> PathBuf {
        self.data().join("locks").join(format!("{group}.lock"))
    }

    /// Whom each folder in `groups/` belongs to; none of those that cannot be looked at.
    #[must_use]
    pub fn group_owners(&self) -> BTreeMap<String, UserId> {
        let entries = fs::read_dir(self.root.join("groups")).into_iter().flatten().flatten();
        let owners = entries.filter_map(|entry| {
            let about = fs::symlink_metadata(entry.path()).ok()?;
            let owner = UserId { uid: about.uid(), gid: about.gid() };
            Some((entry.file_name().into_string().ok()?, owner))
        });
        owners.collect()
    }

    /// The folders of a group, in the order in which they are made.
    #[must_use]
    pub fn folders(&self, group: &GroupName) -> [PathBuf; 3] {
        [self.group(group), self.session(group), self.mailbox(group)]
    }

    /// Opens a folder of the project without following a link on the way to it.
    ///
    /// # Errors
    /// When it is not there, or not a folder, or behind a link, or outside the project.
    pub fn folder(&self, path: &Path) -> io::Result<Folder> {
        let outside = |_| io::Error::other("it is outside the project");
        let below = path.strip_prefix(&self.root).map_err(outside)?;
        if !below.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::other("its path has a symbolic link or `..` in it"));
        }
        let root = Folder::open(&self.root)?;
        if below.as_os_str().is_empty() {
            return Ok(root);
        }
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&root.fd, below, OPEN_FOLDER, Mode::empty(), within) {
            Ok(fd) => Ok(Folder { fd }),
            // A kernel that cannot do it in one step, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => root.walk(below),
            // As when a link is met at the end of a path.
            Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what may wait for a disk beside the async threads, so that whoever awaits it can give
    /// up. What never returns keeps its place, so that there is a bound to what waits.
    ///
    /// # Errors
    /// When it did not end by itself.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::clone(&self.disk).acquire_owned().await.map_err(io::Error::other)?;
        let project = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&project)
        });
        done.await.map_err(io::Error::other)
    }

    /// Makes `data/` and what every controller needs in it.
    ///
    /// # Errors
    /// When a folder cannot be made, or something else stands in its place.
    pub fn prepare(&self) -> Result<(), ProjectError> {
        for folder in ["", "locks", "logs", "sessions", "ipc"] {
            self.make_private(&self.data().join(folder))?;
        }
        Ok(())
    }

    /// Makes a folder that only its owner may enter; one that exists stays as it is.
    ///
    /// # Errors
    /// When it cannot be made, or something else stands in its place.
    pub fn make_private(&self, path: &Path) -> Result<(), ProjectError> {
        self.make(path, 0o700)
    }

    /// Makes a folder and those above it, with the usual mode; one that exists stays as it is.
    ///
    /// # Errors
    /// When it cannot be made, or something else stands in its place.
    pub fn make_folder(&self, path: &Path) -> Result<(), ProjectError> {
        self.make(path, 0o755)
    }

    fn make(&self, path: &Path, mode: u32) -> Result<(), ProjectError> {
        if let Some(parent) = path.parent()
            && parent != self.root
            && parent.starts_with(&self.root)
        {
            self.make(parent, mode)?;
        }
        match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => self.give(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.folder(path).map(drop).map_err(|source| io_at(path, source))
            }
            Err(source) => Err(io_at(path, source)),
        }
    }

    /// Gives what was just made to whom the project belongs.
    fn give(&self, path: &Path) -> Result<(), ProjectError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|source| io_at(path, source))
    }

    /// Gives the store's files, which SQLite makes, to whom the project belongs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn give_database(&self) -> Result<(), ProjectError> {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.database().into_os_string();
            path.push(suffix);
            let path = PathBuf::from(path);
            if path.exists() {
                self.give(&path)?;
            }
        }
        Ok(())
    }
}

fn io_at(path: &Path, source: io::Error) -> ProjectError {
    ProjectError::Io { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_on_the_way_to_a_folder_is_followed_in_one_step_or_many() {
        let place = tempfile::tempdir().unwrap();
        let project = Project::open(place.path()).unwrap();
        fs::create_dir_all(project.root().join("real/inner")).unwrap();
        std::os::unix::fs::symlink("real", project.root().join("link")).unwrap();
        std::os::unix::fs::symlink("inner", project.root().join("real/last")).unwrap();
        let open = |below: &str| project.folder(&project.root().join(below));
        let walk = |below: &str| Folder::open(project.root()).unwrap().walk(Path::new(below));
        for way in [&open as &dyn Fn(&str) -> io::Result<Folder>, &walk] {
            assert!(way("real/inner").is_ok());
            for refused in ["link/inner", "real/last", "real/../real/inner"] {
                let kind = way(refused).map(drop).unwrap_err().kind();
                assert_ne!(kind, io::ErrorKind::NotFound, "{refused}");
            }
            assert_eq!(way("real/none").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert!(project.folder(Path::new("/etc")).is_err());
    }
}
