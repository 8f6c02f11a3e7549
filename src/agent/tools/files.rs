//! What the file tools share: how a file is opened, replaced and shown.
//!
//! Only regular files: a pipe or a device would hold the agent up for ever.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::super::disk::{Disk, Room};

/// Longest line that is shown, in bytes.
const LINE_MAX: usize = 2_000;

/// An error of a file by the name that the model gave it.
pub(super) fn named(path: &str, error: &io::Error) -> String {
    format!("{path}: {error}")
}

/// Opens a regular file; anything else is refused without waiting for it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Puts `content` in the place of a file, where there is room for it.
pub(super) fn replace_within(
    path: &Path,
    written: &str,
    content: &[u8],
    (disk, room): (&Disk, Room),
) -> Result<(), String> {
    let before = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let growth = (content.len() as u64).saturating_sub(before);
    if let Some(objection) = disk.objection(room, path, growth) {
        return Err(objection);
    }
    replace(path, content).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => disk.too_large(),
        _ => named(written, &error),
    })
}

/// Puts `content` in the place of a file, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // Through a link, to what it points at, as writing in place would.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mode = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.permissions().mode(),
        Ok(metadata) if metadata.is_dir() => return Err(io::Error::other("it is a directory")),
        Ok(_) => return Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0o644,
        Err(error) => return Err(error),
    };
    let folder = path.parent().ok_or_else(|| io::Error::other("it has no folder"))?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode & 0o777))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    // The creation mask narrowed what was asked for; an existing file keeps its own.
    file.as_file().set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    file.persist(&path)?;
    Ok(())
}

/// A line as a model is shown it.
pub(super) fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() <= LINE_MAX {
        return String::from_utf8_lossy(line).into_owned();
    }
    format!("{}… [{} bytes]", String::from_utf8_lossy(&line[..LINE_MAX]), line.len())
}
