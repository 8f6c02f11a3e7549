//! What a folder must be before it is shown to a sandbox.
//!
//! The plan looked at every folder already. This is the last look before the
//! engine is told, for what was swapped meanwhile: a link, a file, a file system
//! mounted within it, which an engine would leave writable in a read-only folder.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::runtime::{Access, Mount};

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 20_000;
/// Characters that mean something to one runtime or another.
const FORBIDDEN: &[char] = &[':', ',', '=', '\n'];

/// Checks every folder against the machine. Says what is wrong with the first that is.
///
/// # Errors
/// A sentence that names the folder.
pub(super) fn check(mounts: &[Mount]) -> Result<(), String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("cannot read the mounts of this machine: {error}"))?;
    mounts.iter().try_for_each(|mount| check_one(mount, &table))
}

/// Why a folder cannot be mounted whatever is in it: its path says so. In words that follow "have".
#[must_use]
pub fn unmountable(folder: &Path) -> Option<String> {
    let fits = folder.to_str().is_some_and(|text| !text.contains(FORBIDDEN));
    let why = || {
        format!(
            "the folder {:?}: `:`, `,`, `=` or a line break is in its path",
            folder.display().to_string()
        )
    };
    (!fits).then(why)
}

fn check_one(mount: &Mount, table: &str) -> Result<(), String> {
    let source = &mount.source;
    if let Some(why) = unmountable(source) {
        return Err(why);
    }
    let text = source.display();
    if mount.target.contains(FORBIDDEN) || !mount.target.starts_with('/') {
        return Err(format!("{text} cannot be mounted at {:?}", mount.target));
    }
    if !source.is_absolute() {
        return Err(format!("the folder {text} is not an absolute path"));
    }
    let real = source.canonicalize().map_err(|error| format!("the folder {text}: {error}"))?;
    if real.as_os_str() != source.as_os_str() {
        return Err(format!("the path {text} contains a link and leads to {}", real.display()));
    }
    if !source.is_dir() {
        return Err(format!("{text} is not a folder"));
    }
    if mount.access == Access::Write {
        return Ok(());
    }
    if let Some(inner) = within(source, table) {
        return Err(format!(
            "{} is mounted within {text}, and would stay writable in a read-only mount",
            inner.display()
        ));
    }
    match pipe_in(source) {
        Some(pipe) => Err(format!(
            "{} is a pipe, and an agent that may only read {text} could write to it: remove it",
            pipe.display()
        )),
        None => Ok(()),
    }
}

/// A pipe somewhere in a folder. What cannot be entered here is nothing that an agent reads.
fn pipe_in(folder: &Path) -> Option<PathBuf> {
    let (mut open, mut entries) = (vec![folder.to_path_buf()], 0);
    while let Some(folder) = open.pop() {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                tracing::warn!(?folder, "this folder has too many files to check for pipes");
                return None;
            }
            // The kind of the entry itself: no link is followed.
            match entry.file_type() {
                Ok(kind) if kind.is_fifo() => return Some(entry.path()),
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => {}
            }
        }
    }
    None
}

/// A file system that is mounted somewhere within a folder, by a table such as
/// `/proc/self/mountinfo`.
fn within(folder: &Path, table: &str) -> Option<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescaped(field)))
        .find(|point| point.starts_with(folder) && point != folder)
}

/// A path as it is, where the table has `\040` for a blank.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 0:21 / / rw - ext4 /dev/root rw\n\
        90 22 0:45 / /mnt/my\\040photos/a\\134b rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_mount_point_within_a_folder_is_found_and_the_folder_itself_is_none() {
        let found = |folder: &str| within(Path::new(folder), TABLE);
        assert_eq!(found("/mnt/my photos"), Some("/mnt/my photos/a\\b".into()));
        assert_eq!(found("/mnt/my photos/a\\b"), None);
        assert_eq!(found("/mnt/my"), None);
    }

    #[test]
    fn only_a_real_folder_is_shown() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::create_dir(root.join("a:b")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let refusal = |name: &str| {
            let mount =
                Mount { source: root.join(name), target: "/x".into(), access: Access::Read };
            check_one(&mount, TABLE).err()
        };
        assert_eq!(refusal("real"), None);
        assert!(refusal("link").unwrap().contains("contains a link"));
        assert!(refusal("real/../real").unwrap().contains("contains a link"));
        assert!(refusal("file").unwrap().contains("is not a folder"));
        assert!(refusal("none").unwrap().contains("No such file"));
        assert!(refusal("a:b").unwrap().contains("`:`"));
        let deep = root.join("real/deep");
        std::fs::create_dir(&deep).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            deep.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(refusal("real").unwrap().contains("real/deep/pipe is a pipe"));
    }
}
