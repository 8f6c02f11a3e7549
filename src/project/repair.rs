//! What is in the place of a folder or file of ours, and making room for what belongs there.
//!
//! An agent writes some of these folders and may put anything in their place. That is known
//! to be wrong and is repaired: a folder that its owner may not enter is opened, and anything
//! else is moved aside under another name, so that nothing a person wrote is lost. A fault of
//! the machine is neither: then it is not known what is there.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::folder::{Folder, single};
use super::{Project, ProjectError, io_at};

/// What is moved aside in one folder under one name.
const ASIDE_MAX: u32 = 16;
/// What the owner of a folder needs to use it.
const ENTER: u32 = 0o500;
/// What the owner of a file needs to read it.
const READ: u32 = 0o400;

/// What is in the place of something.
#[derive(Debug)]
pub enum InPlace<T> {
    /// What belongs there.
    Right(T),
    /// Nothing.
    Empty,
    /// Something else, in words.
    Wrong(String),
}

impl<T> InPlace<T> {
    /// The same, with what belongs there as something else.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> InPlace<U> {
        match self {
            Self::Right(there) => InPlace::Right(to(there)),
            Self::Empty => InPlace::Empty,
            Self::Wrong(why) => InPlace::Wrong(why),
        }
    }
}

impl Project {
    /// What is in the place of a folder of the project. No link on the way is followed.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn place_of(&self, path: &Path) -> io::Result<InPlace<Folder>> {
        let mut place = InPlace::Right(Folder::open(self.root())?);
        let below = path.strip_prefix(self.root()).map_err(io::Error::other)?;
        for name in below {
            let InPlace::Right(folder) = place else { break };
            let name = name.to_str().ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
            place = folder.place_of_folder(name)?;
        }
        Ok(place)
    }

    /// Makes a folder that others may look into, and those above it. Whatever else is in their
    /// place is moved aside.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn repair_folder(&self, path: &Path) -> Result<(), ProjectError> {
        self.repair(path, 0o755)
    }

    /// The same for a folder that only its owner may enter.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn repair_private(&self, path: &Path) -> Result<(), ProjectError> {
        self.repair(path, 0o700)
    }

    fn repair(&self, path: &Path, mode: u32) -> Result<(), ProjectError> {
        let parent = path.parent().filter(|parent| parent.starts_with(self.root()));
        let parent = parent.unwrap_or_else(|| self.root());
        if parent != self.root() {
            self.repair(parent, mode)?;
        }
        let repaired = || -> io::Result<()> {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| io::Error::other("it has no name"))?;
            let within = self.folder(parent)?;
            // Everything is in there, the lock among it.
            if path != self.data() {
                within.make_way_for_folder(name)?;
            }
            Ok(())
        };
        repaired().map_err(|source| io_at(path, source))?;
        self.make(path, mode)
    }
}

impl Folder {
    /// What is in the place of the folder `name`.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn place_of_folder(&self, name: &str) -> io::Result<InPlace<Self>> {
        let Some(about) = self.about(name)? else { return Ok(InPlace::Empty) };
        if kind(&about) != FileType::Directory {
            return Ok(InPlace::Wrong(in_its_place(&about)));
        }
        if about.st_mode & ENTER != ENTER && is_ours(&about) {
            return Ok(InPlace::Wrong("its mode keeps its owner out".to_owned()));
        }
        match self.child(name) {
            Ok(folder) => Ok(InPlace::Right(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(InPlace::Empty),
            Err(error) => Err(error),
        }
    }

    /// What is in the place of the file `name`, which has no other name.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn place_of_file(&self, name: &str) -> io::Result<InPlace<()>> {
        let Some(about) = self.about(name)? else { return Ok(InPlace::Empty) };
        Ok(if kind(&about) != FileType::RegularFile {
            InPlace::Wrong(in_its_place(&about))
        } else if about.st_nlink > 1 {
            InPlace::Wrong("it has another name elsewhere (a hard link)".to_owned())
        } else if about.st_mode & READ == 0 && is_ours(&about) {
            InPlace::Wrong("its mode keeps its owner from reading it".to_owned())
        } else {
            InPlace::Right(())
        })
    }

    /// Makes way for the folder `name`: opens it to its owner, or moves aside whatever else has the
    /// name.
    ///
    /// # Errors
    /// When it is still in the way.
    pub fn make_way_for_folder(&self, name: &str) -> io::Result<()> {
        match self.about(name)? {
            None => Ok(()),
            Some(about) if kind(&about) == FileType::Directory => {
                if about.st_mode & ENTER == ENTER { Ok(()) } else { self.allow(name, 0o700) }
            }
            Some(_) => self.move_aside(name),
        }
    }

    /// Makes way for the file `name`: opens it to its owner, or moves aside whatever else has the
    /// name. A file that has other names keeps those.
    ///
    /// # Errors
    /// When it is still in the way.
    pub fn make_way_for_file(&self, name: &str) -> io::Result<()> {
        match self.about(name)? {
            None => Ok(()),
            Some(about) if kind(&about) == FileType::RegularFile && about.st_nlink == 1 => {
                if about.st_mode & READ == READ { Ok(()) } else { self.allow(name, 0o600) }
            }
            Some(_) => self.move_aside(name),
        }
    }

    /// Gives what has this name another that nothing has; what holds nothing is removed.
    fn move_aside(&self, name: &str) -> io::Result<()> {
        let Some(about) = self.about(name)? else { return Ok(()) };
        let removed = match kind(&about) {
            FileType::RegularFile | FileType::Symlink => false,
            FileType::Directory => rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).is_ok(),
            _ => rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).is_ok(),
        };
        if removed {
            return Ok(());
        }
        for number in 1..=ASIDE_MAX {
            let aside = format!("{name}.moved-aside-{number}");
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.fd, name, &self.fd, &aside, flags) {
                Ok(()) => {
                    tracing::warn!(name, aside, "moved aside: babybot did not make it");
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let words = format!("{name}.moved-aside-1 to -{ASIDE_MAX} are in use: remove them");
        Err(io::Error::other(words))
    }

    /// Lets the owner of a file or folder use it, without following a link to it.
    fn allow(&self, name: &str, mode: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let about = rustix::fs::fstat(&held)?;
        if !matches!(kind(&about), FileType::Directory | FileType::RegularFile) {
            return Err(Errno::LOOP.into());
        }
        let mode = Mode::from_raw_mode((about.st_mode & 0o777) | mode);
        // What is held is changed, whatever has its name by now.
        let itself = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        Ok(rustix::fs::chmodat(CWD, itself, mode, AtFlags::empty())?)
    }

    fn about(&self, name: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, single(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => Ok(Some(about)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn kind(about: &Stat) -> FileType {
    FileType::from_raw_mode(about.st_mode)
}

/// Whether this user may change its mode.
fn is_ours(about: &Stat) -> bool {
    let user = rustix::process::geteuid();
    user.is_root() || about.st_uid == user.as_raw()
}

fn in_its_place(about: &Stat) -> String {
    let what = match kind(about) {
        FileType::Symlink => "a link",
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    format!("{what} is in its place")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn place(project: &Project, below: &str) -> String {
        match project.place_of(&project.root().join(below)).unwrap() {
            InPlace::Right(_) => "right".to_owned(),
            InPlace::Empty => "empty".to_owned(),
            InPlace::Wrong(why) => why,
        }
    }

    #[test]
    fn whatever_is_in_the_place_of_a_folder_is_known_and_moved_aside_whole() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let project = Project::open(root.path()).unwrap();
        let folder = project.root().join("groups/home");
        assert_eq!(place(&project, "groups/home"), "empty");
        project.repair_folder(&folder).unwrap();
        assert_eq!(place(&project, "groups/home"), "right");
        fs::remove_dir(&folder).unwrap();
        symlink(outside.path(), &folder).unwrap();
        assert_eq!(place(&project, "groups/home"), "a link is in its place");
        project.repair_folder(&folder).unwrap();
        assert_eq!(place(&project, "groups/home"), "right");
        let aside = project.root().join("groups/home.moved-aside-1");
        assert_eq!(fs::read_link(aside).unwrap(), outside.path());
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, "by hand").unwrap();
        assert_eq!(place(&project, "groups/home"), "a file is in its place");
        project.repair_folder(&folder).unwrap();
        let aside = project.root().join("groups/home.moved-aside-2");
        assert_eq!(fs::read_to_string(aside).unwrap(), "by hand");
        // The folders above as well.
        fs::rename(project.root().join("groups"), outside.path().join("groups")).unwrap();
        symlink(outside.path().join("groups"), project.root().join("groups")).unwrap();
        assert_eq!(place(&project, "groups/home"), "a link is in its place");
        project.repair_folder(&folder).unwrap();
        assert_eq!(place(&project, "groups/home"), "right");
        assert!(outside.path().join("groups/home").is_dir());
    }

    #[test]
    fn a_folder_that_keeps_its_owner_out_is_opened_and_keeps_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let project = Project::open(root.path()).unwrap();
        let folder = project.root().join("groups/home");
        project.repair_folder(&folder).unwrap();
        fs::write(folder.join("kept"), "").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(place(&project, "groups/home"), "its mode keeps its owner out");
        project.repair_folder(&folder).unwrap();
        assert_eq!(place(&project, "groups/home"), "right");
        assert!(folder.join("kept").exists());
    }

    #[test]
    fn what_is_moved_aside_does_not_pile_up() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        for _ in 0..ASIDE_MAX {
            symlink("nowhere", root.path().join("file")).unwrap();
            folder.make_way_for_file("file").unwrap();
        }
        fs::create_dir(root.path().join("file")).unwrap();
        folder.make_way_for_file("file").unwrap();
        symlink("nowhere", root.path().join("file")).unwrap();
        let error = folder.make_way_for_file("file").unwrap_err().to_string();
        assert!(error.contains("remove them"), "{error}");
    }
}
