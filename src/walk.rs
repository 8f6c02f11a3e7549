//! Walks everything below a folder, however deep, while others may change it.
//!
//! A walk follows no link and holds a few descriptors whatever the depth. The way
//! back up leads through `..`, which is compared with the folder that it came from:
//! whoever renames a folder in the middle of a walk leads it nowhere else. What went
//! away meanwhile is passed over. What is done with an entry is up to the visitor.

mod usage;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub use usage::{Abandon, usage};

/// Entries that one walk looks at.
pub const ENTRIES_MAX: u64 = 1_000_000;
/// What the names of folders that are still to be entered may take, in bytes.
const NAMES_MAX: usize = 16 << 20;
/// What a name takes besides its letters, in bytes.
const NAME_COST: usize = 32;

const OPEN_FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// What is done on a walk. Each error ends it.
pub trait Visit {
    /// Meets an entry of a folder, before what is below it.
    ///
    /// # Errors
    /// Why the walk has to end.
    fn meet(&mut self, folder: BorrowedFd<'_>, name: &CStr, about: &Stat) -> io::Result<()>;

    /// Meets a folder that may not be entered.
    ///
    /// # Errors
    /// Why the walk has to end.
    fn refused(&mut self, _about: &Stat) -> io::Result<()> {
        Err(Errno::ACCESS.into())
    }

    /// Leaves a folder below the first one, once everything in it was met.
    ///
    /// # Errors
    /// Why the walk has to end.
    fn leave(&mut self, _folder: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Is back in a folder from the one of this name, which it left.
    ///
    /// # Errors
    /// Why the walk has to end.
    fn back(&mut self, _parent: BorrowedFd<'_>, _name: &CStr) -> io::Result<()> {
        Ok(())
    }
}

/// Walks everything below this folder.
///
/// # Errors
/// When there are too many entries, a folder cannot be entered, or the visitor ends the walk.
pub fn walk(root: impl AsFd, visitor: &mut impl Visit) -> io::Result<()> {
    let root = root.as_fd();
    let mut way = Way { root, top: identity(root)?, above: Vec::new(), entries: 0, names: 0 };
    let mut here = open(root, c".")?;
    let mut left = way.list(here.as_fd(), visitor)?;
    loop {
        let Some(name) = left.pop() else {
            if way.above.is_empty() {
                return Ok(());
            }
            visitor.leave(here.as_fd())?;
            (here, left) = way.up(&here, visitor)?;
            continue;
        };
        way.names -= cost(&name);
        match open(here.as_fd(), &name) {
            Ok(child) => {
                let identity = identity(child.as_fd())?;
                let inner = way.list(child.as_fd(), visitor)?;
                let rest = std::mem::replace(&mut left, inner);
                way.above.push(Level { name, identity, rest });
                here = child;
            }
            // Gone, or something else, since it was met.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::ACCESS) => {
                let about = rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                visitor.refused(&about)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an error of a walk comes from the files themselves, which whoever writes them could have
/// arranged, rather than from the machine.
#[must_use]
pub fn is_in_the_files(error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        None => error.kind() == io::ErrorKind::Other,
        Some(error) => matches!(error, Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NOTDIR),
    }
}

/// A folder that a walk went into.
struct Level {
    name: CString,
    identity: (u64, u64),
    /// The folders beside it that are still to be entered.
    rest: Vec<CString>,
}

/// The way from the first folder down to where a walk is.
struct Way<'a> {
    root: BorrowedFd<'a>,
    top: (u64, u64),
    above: Vec<Level>,
    entries: u64,
    /// What the names take that are still to be entered, in bytes.
    names: usize,
}

impl Way<'_> {
    /// Meets every entry of a folder, and gives the names of the folders in it.
    fn list(
        &mut self,
        folder: BorrowedFd<'_>,
        visitor: &mut impl Visit,
    ) -> io::Result<Vec<CString>> {
        let mut folders = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX || self.names > NAMES_MAX {
                return Err(io::Error::other("it holds too many files"));
            }
            let about = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(about) => about,
                // Gone since it was listed.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            visitor.meet(folder, name, &about)?;
            if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
                self.names += cost(name);
                folders.push(name.to_owned());
            }
        }
        Ok(folders)
    }

    /// Goes back up, to the next folder above that is still where it was.
    fn up(
        &mut self,
        here: &OwnedFd,
        visitor: &mut impl Visit,
    ) -> io::Result<(OwnedFd, Vec<CString>)> {
        let Some(level) = self.above.pop() else {
            return Err(io::Error::other("there is nothing above"));
        };
        let parent = self.above.last().map_or(self.top, |parent| parent.identity);
        match open(here.as_fd(), c"..") {
            Ok(found) if identity(found.as_fd())? == parent => {
                visitor.back(found.as_fd(), &level.name)?;
                Ok((found, level.rest))
            }
            // It was moved. Nothing is done where it is now.
            Ok(_) | Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR) => self.find_back(level),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes down again from the first folder, as far as the way is what it was.
    fn find_back(&mut self, mut lost: Level) -> io::Result<(OwnedFd, Vec<CString>)> {
        let mut found = open(self.root, c".")?;
        for depth in 0..self.above.len() {
            let level = &self.above[depth];
            match open(found.as_fd(), &level.name) {
                Ok(child) if identity(child.as_fd())? == level.identity => found = child,
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {
                    self.forget(&lost.rest);
                    let mut gone = self.above.split_off(depth).into_iter();
                    if let Some(first) = gone.next() {
                        lost = first;
                    }
                    gone.for_each(|level| self.forget(&level.rest));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((found, lost.rest))
    }

    fn forget(&mut self, names: &[CString]) {
        self.names -= names.iter().map(|name| cost(name)).sum::<usize>();
    }
}

fn cost(name: &CStr) -> usize {
    name.to_bytes().len() + NAME_COST
}

fn open(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, OPEN_FOLDER, Mode::empty())
}

/// What tells a folder from every other.
fn identity(folder: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let about = rustix::fs::fstat(folder)?;
    Ok((about.st_dev, about.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Notes the names it meets, and does something when it meets the name of a file.
    struct Notes<F: FnMut()> {
        met: Vec<String>,
        at: &'static CStr,
        act: Option<F>,
    }

    impl<F: FnMut()> Visit for Notes<F> {
        fn meet(&mut self, _: BorrowedFd<'_>, name: &CStr, _: &Stat) -> io::Result<()> {
            self.met.push(name.to_string_lossy().into_owned());
            if name == self.at
                && let Some(mut act) = self.act.take()
            {
                act();
            }
            Ok(())
        }
    }

    /// What a walk meets, in order of names, where this happens at the file `here`.
    fn met(root: &Path, act: impl FnMut()) -> Vec<String> {
        let folder = fs::File::open(root).unwrap();
        let mut notes = Notes { met: Vec::new(), at: c"here", act: Some(act) };
        walk(&folder, &mut notes).unwrap();
        notes.met.sort();
        notes.met
    }

    fn make(root: &Path, files: &[&str]) {
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
    }

    #[test]
    fn everything_is_met_once_and_nothing_behind_a_link() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &["a/b/c/here", "a/d/e", "f"]);
        std::os::unix::fs::symlink("/", root.path().join("a/link")).unwrap();
        assert_eq!(met(root.path(), || ()), ["a", "b", "c", "d", "e", "f", "here", "link"]);
    }

    #[test]
    fn a_folder_that_is_moved_away_under_the_walk_leads_it_nowhere_else() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(root.path(), &["a/b/c/here", "f/g"]);
        make(outside.path(), &["secret", "x/secret"]);
        for way in ["a", "a/b", "a/b/c"] {
            let moved = outside.path().join("x/moved");
            let found = met(root.path(), || fs::rename(root.path().join(way), &moved).unwrap());
            assert!(!found.contains(&"secret".to_owned()), "{way}: {found:?}");
            assert!(found.contains(&"g".to_owned()), "{way}: the rest is not met: {found:?}");
            fs::rename(&moved, root.path().join(way)).unwrap();
        }
    }

    #[test]
    fn a_folder_that_is_removed_under_the_walk_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &["a/b/c/here", "f/g"]);
        let found = met(root.path(), || fs::remove_dir_all(root.path().join("a")).unwrap());
        assert!(found.contains(&"g".to_owned()), "{found:?}");
    }

    #[test]
    fn what_the_files_are_to_blame_for_is_told_from_what_the_machine_is() {
        let of = |error: Errno| is_in_the_files(&error.into());
        assert!(of(Errno::ACCESS) && of(Errno::NOTDIR) && of(Errno::LOOP));
        assert!(!of(Errno::MFILE) && !of(Errno::NFILE) && !of(Errno::IO) && !of(Errno::NOMEM));
        assert!(is_in_the_files(&io::Error::other("it holds too many files")));
    }
}
