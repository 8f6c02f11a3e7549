//! The lock of an instance: one babybot at a time works on a project.
//!
//! The kernel holds it on the project folder itself, so that it lasts when `data/` is removed,
//! replaced or moved along. `data/lock` is locked beside it and names the holder; on a file system
//! that locks no folders, such as NFS, it is the only lock.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Folder, Project, ProjectError, SMALL_FILE_MAX, io_at};
use crate::clock::Timestamp;

/// How long somebody who only looks whether the lock is held may be in the way.
const LOOKERS: Duration = Duration::from_millis(200);
/// The file that names the holder.
const FILE: &str = "lock";
/// Files of `data/` that name the holder, in the order in which they are asked: the lock, and what
/// a controller says of itself.
const NAMING: [&str; 2] = [FILE, "controller.json"];

/// The lock of an instance, held until it is dropped.
#[derive(Debug)]
pub struct InstanceLock {
    /// The project folder.
    root: File,
    /// `data/lock`.
    file: File,
    says: Holder,
}

/// What a file says about the holder of the lock.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verb: Option<String>,
    since: Timestamp,
}

impl Project {
    /// Who holds the lock of this instance, if anybody does. Changes nothing.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn lock_holder(&self) -> Result<Option<String>, ProjectError> {
        let root = self.open_root()?;
        if is_held(&root, &self.root)? {
            return Ok(Some(self.holder()));
        }
        let path = self.data().join(FILE);
        let opened = self.folder(&self.data()).and_then(|data| data.file(FILE, OFlags::RDONLY));
        match opened {
            Ok(file) if is_held(&file, &path)? => Ok(Some(self.holder())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_at(&path, source)),
        }
    }

    /// Takes the lock of this instance. The kernel lets go of it when the process ends.
    ///
    /// # Errors
    /// When another holds it, or the file cannot be opened.
    pub fn lock(&self, verb: &str, now: Timestamp) -> Result<InstanceLock, ProjectError> {
        let root = self.open_root()?;
        self.take(&root, &self.root)?;
        self.prepare()?;
        let says = Holder { pid: std::process::id(), verb: Some(verb.to_owned()), since: now };
        let file = self.take_file(&says)?;
        Ok(InstanceLock { root, file, says })
    }

    /// Locks `data/lock`, made if it is not there, and writes down who holds it.
    fn take_file(&self, says: &Holder) -> Result<File, ProjectError> {
        let path = self.data().join(FILE);
        let mut file = self
            .folder(&self.data())
            .and_then(|data| data.file(FILE, OFlags::RDWR | OFlags::CREATE))
            .map_err(|source| io_at(&path, source))?;
        self.take(&file, &path)?;
        self.give(&path)?;
        write(&mut file, says).map_err(|source| io_at(&path, source))?;
        Ok(file)
    }

    fn open_root(&self) -> Result<File, ProjectError> {
        let root = Folder::open(&self.root).map_err(|source| io_at(&self.root, source))?;
        Ok(File::from(root.fd))
    }

    fn take(&self, file: &File, path: &Path) -> Result<(), ProjectError> {
        let deadline = Instant::now() + LOOKERS;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOOKERS / 10);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(ProjectError::Locked { holder: self.holder() });
                }
                Err(TryLockError::Error(error)) if locks_no_folder(path, self, &error) => {
                    return Ok(());
                }
                Err(TryLockError::Error(source)) => return Err(io_at(path, source)),
            }
        }
    }

    /// Who holds the lock, by the first file that says it.
    fn holder(&self) -> String {
        let Ok(data) = self.folder(&self.data()) else {
            let root = self.root.display();
            return format!("a process that has locked {root} and does not name itself");
        };
        let said = NAMING.iter().find_map(|name| {
            let bytes = data.read(name, SMALL_FILE_MAX).ok().flatten()?;
            serde_json::from_slice::<Holder>(&bytes).ok()
        });
        match said {
            Some(Holder { pid, verb, since }) => {
                let verb = verb.map_or_else(String::new, |verb| format!(" {verb}"));
                let since = since.local_named(&TimeZone::system());
                format!("`babybot{verb}`, pid {pid}, since {since}")
            }
            None => "a process that does not name itself".to_owned(),
        }
    }
}

impl InstanceLock {
    /// Whether the folder that is locked is still the project's: not if it was moved or replaced.
    #[must_use]
    pub fn is_of(&self, project: &Project) -> bool {
        same_file(&self.root, &project.root)
    }

    /// Names the holder again, where `data/lock` was removed, replaced or emptied. Returns whether
    /// it was.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn renew(&mut self, project: &Project) -> Result<bool, ProjectError> {
        let path = project.data().join(FILE);
        if !same_file(&self.file, &path) {
            // A link or a pipe in its place is nobody's lock.
            if std::fs::symlink_metadata(&path).is_ok_and(|there| !there.is_file()) {
                std::fs::remove_file(&path).map_err(|source| io_at(&path, source))?;
            }
            self.file = project.take_file(&self.says)?;
            return Ok(true);
        }
        let io = |source| io_at(&path, source);
        let mut text = String::new();
        self.file.rewind().map_err(io)?;
        let read = (&self.file).take(SMALL_FILE_MAX).read_to_string(&mut text);
        let said = read.ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
        if said.is_some_and(|said| said.pid == self.says.pid) {
            return Ok(false);
        }
        write(&mut self.file, &self.says).map_err(io)?;
        Ok(true)
    }
}

/// Whether somebody else holds a lock on this.
fn is_held(file: &File, path: &Path) -> Result<bool, ProjectError> {
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) if is_unsupported(&error) => Ok(false),
        Err(TryLockError::Error(source)) => Err(io_at(path, source)),
    }
}

/// Whether this is the project folder, on a file system where a folder cannot be locked.
fn locks_no_folder(path: &Path, project: &Project, error: &io::Error) -> bool {
    path == project.root && is_unsupported(error)
}

fn is_unsupported(error: &io::Error) -> bool {
    // NFS wants to write what it locks; others know no locks at all.
    let without = [Errno::BADF, Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOLCK, Errno::INVAL];
    without.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn same_file(held: &File, path: &Path) -> bool {
    match (held.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn write(file: &mut File, says: &Holder) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    serde_json::to_writer(file, says)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(place: &tempfile::TempDir) -> Project {
        Project::open(place.path()).unwrap()
    }

    #[test]
    fn the_lock_lasts_when_its_data_folder_is_removed_or_replaced() {
        let place = tempfile::tempdir().unwrap();
        let project = project(&place);
        let lock = project.lock("up", Timestamp(1)).unwrap();
        for remake in [false, true] {
            std::fs::remove_dir_all(project.data()).unwrap();
            if remake {
                std::fs::create_dir(project.data()).unwrap();
            }
            assert!(project.lock_holder().unwrap().is_some());
            let refused = project.lock("up", Timestamp(2)).unwrap_err();
            assert!(matches!(refused, ProjectError::Locked { .. }), "{refused}");
            project.prepare().unwrap();
        }
        assert!(lock.is_of(&project));
        drop(lock);
        assert_eq!(project.lock_holder().unwrap(), None);
        project.lock("up", Timestamp(3)).unwrap();
    }

    #[test]
    fn a_file_that_is_locked_keeps_others_out_where_a_folder_cannot_be() {
        let place = tempfile::tempdir().unwrap();
        let project = project(&place);
        project.prepare().unwrap();
        let file = File::create(project.data().join(FILE)).unwrap();
        file.lock().unwrap();
        assert!(project.lock_holder().unwrap().is_some());
        assert!(matches!(project.lock("up", Timestamp(1)), Err(ProjectError::Locked { .. })));
    }

    #[test]
    fn the_holder_is_named_again_where_its_file_was_removed_or_emptied() {
        let place = tempfile::tempdir().unwrap();
        let project = project(&place);
        let mut lock = project.lock("up", Timestamp(1)).unwrap();
        let path = project.data().join(FILE);
        assert!(!lock.renew(&project).unwrap());
        let harms: [&dyn Fn(); 3] = [
            &|| std::fs::remove_file(&path).unwrap(),
            &|| std::fs::write(&path, "").unwrap(),
            &|| std::fs::write(&path, "{\"pid\": 7").unwrap(),
        ];
        for harm in harms {
            harm();
            std::fs::write(
                project.data().join("controller.json"),
                format!("{{\"pid\": {}, \"since\": 1, \"role\": \"up\"}}", std::process::id()),
            )
            .unwrap();
            let mine = format!("pid {}", std::process::id());
            // What the controller says of itself is the second to ask.
            let holder = project.lock_holder().unwrap().unwrap();
            assert!(holder.contains(&mine), "{holder}");
            std::fs::remove_file(project.data().join("controller.json")).unwrap();
            assert!(lock.renew(&project).unwrap());
            let holder = project.lock_holder().unwrap().unwrap();
            assert!(holder.contains(&mine) && holder.contains("babybot up"), "{holder}");
        }
    }
}
