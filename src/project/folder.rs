//! A folder held open, so that what lies in it is reached without following a link.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::resource::UserId;
use crate::walk;

/// A directory that is held open, from which what is in it is reached without following links.
#[derive(Debug)]
pub struct Folder {
    pub(super) fd: OwnedFd,
}

pub(super) const OPEN_FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

impl Folder {
    /// Opens the folder at `path`; its last component must not be a link. For what lies within
    /// a project, see [`super::Project::folder`].
    ///
    /// # Errors
    /// When it is not there, not a folder, or a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: rustix::fs::openat(CWD, path, OPEN_FOLDER, Mode::empty())? })
    }

    /// Opens the folder at the path `below` this one, name by name.
    pub(super) fn walk(self, below: &Path) -> io::Result<Self> {
        below.iter().try_fold(self, |folder, name| {
            let name = name.to_str().ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
            folder.child(name)
        })
    }

    /// Opens the folder `name` in this one.
    ///
    /// # Errors
    /// When it is not there, not a folder, or a link.
    pub fn child(&self, name: &str) -> io::Result<Self> {
        Ok(Self { fd: rustix::fs::openat(&self.fd, single(name)?, OPEN_FOLDER, Mode::empty())? })
    }

    /// Opens the folder `name` in this one and makes it first if it is not there.
    ///
    /// # Errors
    /// When it can be neither opened nor made.
    pub fn child_or_make(&self, name: &str, owner: Option<(u32, u32)>) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.fd, single(name)?, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let child = self.child(name)?;
                give(&child.fd, owner)?;
                Ok(child)
            }
            Err(Errno::EXIST) => self.child(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the regular file `name` for its owner alone; with [`OFlags::CREATE`], makes it first.
    pub(super) fn file(&self, name: &str, access: OFlags) -> io::Result<File> {
        // Without NONBLOCK, opening a planted pipe would wait for ever.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, single(name)?, flags, Mode::from_raw_mode(0o600))?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
            let text = "not a regular file of its own";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(File::from(fd))
    }

    /// Reads the regular file `name`, at most `bytes_max` of it; `None` if there is none.
    ///
    /// # Errors
    /// When it is a link, a special file, has another name elsewhere, is larger, or cannot be read.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.file(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Puts `content` in the place of the file `name`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let name = single(name)?;
        let temporary = format!(".{name}.babybot-{}", std::process::id());
        // A leftover of an earlier attempt; whatever it is, it is not followed.
        let _ = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, &temporary, flags, Mode::from_raw_mode(mode))?;
        let written = give(&fd, owner).and_then(|()| {
            let mut file = File::from(fd);
            file.write_all(content)?;
            file.sync_all()
        });
        let renamed =
            written.and_then(|()| Ok(rustix::fs::renameat(&self.fd, &temporary, &self.fd, name)?));
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
        }
        renamed
    }

    /// Gives this folder and everything below it to a user, links themselves and not what they
    /// lead to.
    ///
    /// # Errors
    /// When the system refuses, or it holds too many files.
    pub fn give_all(&self, user: UserId) -> io::Result<()> {
        walk::walk(&self.fd, &mut Give(user))?;
        give(&self.fd, Some((user.uid, user.gid)))
    }

    /// Whom this folder belongs to.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn owner(&self) -> io::Result<UserId> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok(UserId { uid: stat.st_uid, gid: stat.st_gid })
    }

    /// The bytes that everything below this folder takes up on disk, links not followed.
    ///
    /// # Errors
    /// See [`walk::usage`].
    pub fn usage(&self, abandoned: &AtomicBool) -> io::Result<u64> {
        walk::usage(&self.fd, abandoned)
    }
}

/// Gives everything that is met to a user.
struct Give(UserId);

impl Give {
    fn give(&self, file: impl AsFd) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.0.uid), Gid::from_raw(self.0.gid));
        let empty = AtFlags::EMPTY_PATH;
        Ok(rustix::fs::chownat(file, c"", Some(uid), Some(gid), empty)?)
    }
}

impl walk::Visit for Give {
    fn meet(&mut self, folder: BorrowedFd<'_>, name: &CStr, about: &Stat) -> io::Result<()> {
        if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A name that also lies elsewhere would take a file from there. Asked of what is held, so
        // that nothing else is given in its place.
        match rustix::fs::fstat(&file)?.st_nlink {
            1 => self.give(&file),
            _ => Ok(()),
        }
    }

    fn leave(&mut self, folder: BorrowedFd<'_>) -> io::Result<()> {
        self.give(folder)
    }
}

/// A name with one component and no way up.
pub(super) fn single(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::other(format!("`{name}` is not a single name")));
    }
    Ok(name)
}

pub(super) fn give(fd: impl AsFd, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    Ok(rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}
