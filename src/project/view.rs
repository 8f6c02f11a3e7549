//! What the main group may read of the project: a filtered copy, `data/view/project`.
//!
//! The project itself is never shown to an agent: it holds every group's folder
//! and the manifest that decides over agents. The copy has what somebody who
//! administers the others has to know, and only regular files with one name. No
//! link is followed, neither to what is copied nor to where: agents write some of
//! what is copied and, where they are plain processes, even the copy.
//!
//! Hidden files are no part of it. What is left out for another reason is said in
//! a file of the copy, [`LEFT_OUT`].

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Project;
use super::folder::{Folder, OPEN_FOLDER, give, single};
use crate::name::GroupName;
use crate::walk;

/// Files of the copy.
pub const VIEW_FILES_MAX: usize = 2_000;
/// What the files of the copy hold together, in bytes.
pub const VIEW_SIZE_MAX: u64 = 16 << 20;
/// What one group's memory may hold to be in it, in bytes: no agent takes the place of another's.
pub const VIEW_MEMORY_MAX: u64 = 256 << 10;
/// The file of the copy that says what is not in it.
pub const LEFT_OUT: &str = "LEFT-OUT.txt";

/// The folder whose folders agents write to.
const GROUPS: &str = "groups";
/// Folders that are copied with all that is in them.
const FOLDERS: [&str; 4] = ["docs", "skills", "container", "examples"];
/// Depth to which they are copied.
const FOLDERS_DEPTH_MAX: usize = 16;
/// Entries of the project that are looked at.
const ENTRIES_MAX: usize = 20_000;
/// Lines that say what was left out.
const LINES_MAX: usize = 200;
/// A file that is not whole yet, at the top of the copy.
const TEMPORARY: &str = ".babybot-new";
/// Endings of files that hold keys.
const SECRET_ENDINGS: [&str; 8] =
    [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".env"];
/// Beginnings of files that hold keys.
const SECRET_BEGINNINGS: [&str; 5] = ["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials"];

/// What of a project goes into the copy, as it was found. Two that are alike make the same copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewSource {
    files: BTreeMap<PathBuf, Stamp>,
    left_out: BTreeMap<PathBuf, String>,
    entries: usize,
    bytes: u64,
}

/// What tells a file from the same file after an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: i64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The copy as it should be: what is in a folder, by name.
#[derive(Debug, Default)]
struct Tree(BTreeMap<String, Node>);

#[derive(Debug)]
enum Node {
    File,
    Folder(Tree),
}

impl Project {
    /// Finds what goes into the main group's copy of the project. Reads no file.
    ///
    /// # Errors
    /// When the project itself cannot be entered.
    pub fn view_source(&self) -> io::Result<ViewSource> {
        let root = self.folder(self.root())?;
        let mut found = ViewSource::default();
        for (name, kind) in found.list(&root, Path::new("")) {
            let manifest = name.starts_with("babybot") && name.ends_with(".toml");
            if manifest || name == "README.md" {
                found.take(&root, Path::new(""), &name, kind);
            }
        }
        for name in FOLDERS {
            found.enter(&root, Path::new(""), name);
        }
        // Last: agents write these, and no agent takes the place of what is not its own.
        if let Ok(groups) = root.child(GROUPS) {
            for (name, kind) in found.list(&groups, Path::new(GROUPS)) {
                if kind != FileType::Directory || GroupName::new(&*name).is_err() {
                    continue;
                }
                let path = Path::new(GROUPS).join(&name);
                if let Ok(group) = groups.child(&name)
                    && let Ok(stat) = group.stat("MEMORY.md")
                {
                    found.take(&group, &path, "MEMORY.md", FileType::from_raw_mode(stat.st_mode));
                }
            }
        }
        Ok(found)
    }

    /// Makes the main group's copy of the project what was found. Its folder stays the same one,
    /// and a file that is as it should be is not touched.
    ///
    /// # Errors
    /// When the copy cannot be made so; it may be so in part.
    pub fn refresh_view(&self, source: &ViewSource) -> io::Result<()> {
        let view = self.open_view()?;
        let mut left_out = source.left_out.clone();
        clear(&view, &source.tree())?;
        let mut room = VIEW_SIZE_MAX;
        for path in source.files.keys() {
            let bytes = match self.read_whole(path, room.min(size_max(path))) {
                Ok(Some(bytes)) => bytes,
                // Gone since it was found.
                Ok(None) => continue,
                Err(error) => {
                    left_out.insert(path.clone(), error.to_string());
                    continue;
                }
            };
            room = room.saturating_sub(bytes.len() as u64);
            self.put(&view, path, &bytes)?;
        }
        let path = Path::new(LEFT_OUT);
        if left_out.is_empty() {
            return unlink(&view, LEFT_OUT);
        }
        if self.put(&view, path, words(&left_out).as_bytes())? {
            let (count, (first, why)) = (left_out.len(), first(&left_out));
            let first = first.display();
            tracing::warn!(count, %first, why, "the main group's copy of the project lacks files");
        }
        Ok(())
    }

    /// Opens the copy's folder, and makes it first where something else stands in its place.
    fn open_view(&self) -> io::Result<Folder> {
        let mut folder = self.folder(&self.data())?;
        for name in ["view", "project"] {
            folder = self.child_of_copy(&folder, name)?;
        }
        Ok(folder)
    }

    fn child_of_copy(&self, folder: &Folder, name: &str) -> io::Result<Folder> {
        if !folder.stat(name).is_ok_and(|stat| is_folder(stat.st_mode)) {
            unlink(folder, name)?;
        }
        let child = folder.child_or_make(name, self.owner)?;
        set_mode(&child.fd, 0o755)?;
        Ok(child)
    }

    fn read_whole(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
        else {
            return Ok(None);
        };
        match self.folder(&self.root.join(parent)) {
            Ok(folder) => folder.read(name, bytes_max),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a file into the copy, whole or not at all; says whether it was not there like this.
    fn put(&self, view: &Folder, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        let mut parent = None;
        let mut names = path.iter().filter_map(|name| name.to_str()).peekable();
        while let Some(name) = names.next() {
            let folder = parent.as_ref().unwrap_or(view);
            if names.peek().is_some() {
                parent = Some(self.child_of_copy(folder, name)?);
            } else {
                return self.put_in(view, folder, name, bytes);
            }
        }
        Ok(false)
    }

    fn put_in(&self, view: &Folder, folder: &Folder, name: &str, bytes: &[u8]) -> io::Result<bool> {
        if let Ok(file) = folder.file(name, OFlags::RDONLY)
            && file.metadata()?.len() == bytes.len() as u64
            && folder.read(name, bytes.len() as u64)?.as_deref() == Some(bytes)
        {
            set_mode(&file, 0o644)?;
            return Ok(false);
        }
        // What stands there is replaced and never written to: it may have a name elsewhere.
        unlink(view, TEMPORARY)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::from_raw_mode(0o600);
        let file = File::from(rustix::fs::openat(&view.fd, TEMPORARY, flags, private)?);
        (&file).write_all(bytes)?;
        give(&file, self.owner)?;
        set_mode(&file, 0o644)?;
        rustix::fs::renameat(&view.fd, TEMPORARY, &folder.fd, name)?;
        Ok(true)
    }
}

impl Stamp {
    /// Systems count in types of their own.
    fn of(stat: &rustix::fs::Stat) -> Result<Self, std::num::TryFromIntError> {
        Ok(Self {
            size: stat.st_size,
            inode: stat.st_ino,
            modified: (stat.st_mtime, stat.st_mtime_nsec.try_into()?),
            changed: (stat.st_ctime, stat.st_ctime_nsec.try_into()?),
        })
    }
}

impl ViewSource {
    /// The plain names in a folder, in order; what has another name is left out.
    fn list(&mut self, folder: &Folder, path: &Path) -> Vec<(String, FileType)> {
        let mut names = Vec::new();
        let Ok(entries) = Dir::read_from(&folder.fd) else {
            self.leave_out(path, "it cannot be read");
            return names;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else {
                self.leave_out(path, "a name in it is not UTF-8");
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                self.leave_out(path, "the project has too many files to look at them all");
                break;
            }
            if name.chars().any(char::is_control) {
                self.leave_out(&path.join(name), "its name has control characters");
                continue;
            }
            if let Ok(stat) = folder.stat(name) {
                names.push((name.to_owned(), FileType::from_raw_mode(stat.st_mode)));
            }
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        names
    }

    /// Takes everything in a folder.
    fn enter(&mut self, parent: &Folder, path: &Path, name: &str) {
        let path = path.join(name);
        if path.iter().count() > FOLDERS_DEPTH_MAX {
            return self.leave_out(&path, "it is too deep");
        }
        let folder = match parent.child(name) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => return self.leave_out(&path, "it is not a folder that can be entered"),
        };
        for (name, kind) in self.list(&folder, &path) {
            match kind {
                FileType::Directory => self.enter(&folder, &path, &name),
                kind => self.take(&folder, &path, &name, kind),
            }
        }
    }

    /// Takes a file, if it is one and there is room.
    fn take(&mut self, folder: &Folder, path: &Path, name: &str, kind: FileType) {
        let path = path.join(name);
        let lower = name.to_lowercase();
        let Ok(stat) = folder.stat(name) else { return };
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let why = if kind == FileType::Symlink {
            "it is a link"
        } else if kind != FileType::RegularFile {
            "it is not a regular file"
        } else if stat.st_nlink != 1 {
            "it has another name elsewhere"
        } else if SECRET_ENDINGS.iter().any(|ending| lower.ends_with(ending))
            || SECRET_BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning))
        {
            "it looks like a secret"
        } else if self.files.len() >= VIEW_FILES_MAX {
            "there are too many files"
        } else if size > size_max(&path) {
            "it is too large"
        } else if self.bytes + size > VIEW_SIZE_MAX {
            "the files before it leave no room"
        } else {
            self.bytes += size;
            if let Ok(stamp) = Stamp::of(&stat) {
                self.files.insert(path, stamp);
            }
            return;
        };
        self.leave_out(&path, why);
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.left_out.insert(path.to_path_buf(), why.to_owned());
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        for path in self.files.keys() {
            tree.add(path);
        }
        tree.add(Path::new(LEFT_OUT));
        tree
    }
}

impl Tree {
    fn add(&mut self, path: &Path) {
        let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
        let Some((file, folders)) = names.split_last() else { return };
        let mut tree = self;
        for folder in folders {
            let node = tree.0.entry((*folder).to_owned());
            match node.or_insert_with(|| Node::Folder(Self::default())) {
                Node::Folder(inner) => tree = inner,
                Node::File => return,
            }
        }
        tree.0.insert((*file).to_owned(), Node::File);
    }
}

impl Folder {
    fn stat(&self, name: &str) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::statat(&self.fd, single(name)?, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Removes from a folder of the copy whatever is not to be there. The folders that are to be there
/// are not deep.
fn clear(folder: &Folder, wanted: &Tree) -> io::Result<()> {
    let entries: Vec<_> = Dir::read_from(&folder.fd)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let node = name.to_str().ok().and_then(|name| wanted.0.get(name));
        if !is_folder(stat.st_mode) {
            // What a file takes the place of goes when that is put there.
            if !matches!(node, Some(Node::File)) {
                rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty())?;
            }
            continue;
        }
        let child =
            Folder { fd: rustix::fs::openat(&folder.fd, name, OPEN_FOLDER, Mode::empty())? };
        match node {
            Some(Node::Folder(inner)) => clear(&child, inner)?,
            _ => {
                walk::walk(&child.fd, &mut Remove)?;
                rustix::fs::unlinkat(&folder.fd, name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

/// Removes everything that is met.
struct Remove;

impl walk::Visit for Remove {
    fn meet(&mut self, folder: BorrowedFd<'_>, name: &CStr, about: &Stat) -> io::Result<()> {
        match is_folder(about.st_mode) {
            true => Ok(()),
            false => Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?),
        }
    }

    fn back(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
    }
}

/// Removes what is no folder; nothing there is no error.
fn unlink(folder: &Folder, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What one file may hold, in bytes.
fn size_max(path: &Path) -> u64 {
    if path.starts_with(GROUPS) { VIEW_MEMORY_MAX } else { VIEW_SIZE_MAX }
}

fn is_folder(mode: rustix::fs::RawMode) -> bool {
    FileType::from_raw_mode(mode) == FileType::Directory
}

/// Sets a mode, whatever the process takes from those of new files.
fn set_mode(fd: impl std::os::fd::AsFd, mode: u32) -> io::Result<()> {
    let present = rustix::fs::fstat(&fd)?.st_mode & 0o7777;
    if present != mode {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn first(left_out: &BTreeMap<PathBuf, String>) -> (&Path, &str) {
    let first = left_out.first_key_value();
    first.map_or((Path::new(""), ""), |(path, why)| (path, why))
}

/// What the copy says of what is not in it.
fn words(left_out: &BTreeMap<PathBuf, String>) -> String {
    let mut text = "This copy of the project lacks:\n\n".to_owned();
    for (path, why) in left_out.iter().take(LINES_MAX) {
        let path = path.to_string_lossy();
        text.push_str(&format!("{}: {why}\n", path.escape_debug()));
    }
    if let Some(more @ 1..) = left_out.len().checked_sub(LINES_MAX) {
        text.push_str(&format!("and {more} more\n"));
    }
    text
}
