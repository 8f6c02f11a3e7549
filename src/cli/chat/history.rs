//! What was typed in earlier conversations: `data/chat-history`, one JSON string per line.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};

/// Entries that are kept.
pub(super) const ENTRIES_MAX: usize = 1_000;
/// The longest entry that is kept, in bytes.
const ENTRY_MAX: usize = 4 << 10;
/// The size from which the file is written anew with the newest entries, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The entries that such a file is written anew with.
const ENTRIES_LEFT: usize = 200;

/// The file, open for additions.
#[derive(Debug)]
pub(super) struct History(File);

impl History {
    /// Opens the file, or makes it, and gives what it holds, oldest first.
    ///
    /// # Errors
    /// When it is no regular file of ours, or cannot be read or written.
    pub(super) fn open(data: &Path, owner: Option<(u32, u32)>) -> io::Result<(Self, Vec<String>)> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            // A pipe in its place is refused, not waited for.
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::open(data.join("chat-history"), flags, mode)?);
        let found = file.metadata()?;
        if !found.is_file() || found.nlink() != 1 {
            return Err(io::Error::other("chat-history is not a regular file"));
        }
        file.set_permissions(Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let mut bytes = Vec::new();
        (&mut file).take(2 * FILE_MAX).read_to_end(&mut bytes)?;
        let mut entries = entries(&bytes);
        if found.len() > FILE_MAX {
            entries.drain(..entries.len().saturating_sub(ENTRIES_LEFT));
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(
                entries.iter().filter_map(|entry| line(entry)).collect::<String>().as_bytes(),
            )?;
        }
        Ok((Self(file), entries))
    }

    /// Adds what was typed.
    pub(super) fn add(&mut self, entry: &str) {
        let Some(line) = line(entry) else { return };
        // Only a convenience: a full disk shows elsewhere.
        if let Err(error) = self.0.write_all(line.as_bytes()) {
            tracing::debug!(%error, "the history of chat is not kept");
        }
    }
}

/// An entry as a line of the file; `None` where it is too long to be kept.
fn line(entry: &str) -> Option<String> {
    let line = serde_json::to_string(entry).ok()?;
    (line.len() <= ENTRY_MAX).then(|| format!("{line}\n"))
}

/// The newest entries. A line that is none, such as one that was cut off, is skipped.
fn entries(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut entries: Vec<String> =
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    entries.drain(..entries.len().saturating_sub(ENTRIES_MAX));
    entries
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{ENTRIES_LEFT, FILE_MAX, History};

    #[test]
    fn what_was_typed_is_there_in_the_next_conversation_and_is_private() {
        let data = tempfile::tempdir().unwrap();
        let (mut history, none) = History::open(data.path(), None).unwrap();
        assert!(none.is_empty());
        history.add("one");
        history.add("two\nlines");
        history.add(&"long".repeat(10_000));
        let (_, entries) = History::open(data.path(), None).unwrap();
        assert_eq!(entries, ["one", "two\nlines"]);
        let mode = data.path().join("chat-history").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_file_stays_small() {
        let data = tempfile::tempdir().unwrap();
        let (mut history, _) = History::open(data.path(), None).unwrap();
        let path = data.path().join("chat-history");
        let entry = "x".repeat(4_000);
        while path.metadata().unwrap().len() <= FILE_MAX {
            history.add(&entry);
        }
        let (_, entries) = History::open(data.path(), None).unwrap();
        assert_eq!(entries.len(), ENTRIES_LEFT);
        assert!(path.metadata().unwrap().len() < FILE_MAX);
    }

    #[test]
    fn neither_a_link_nor_a_pipe_is_taken_for_the_file() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("chat-history");
        std::fs::write(data.path().join("other"), "kept").unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert!(History::open(data.path(), None).is_err());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(History::open(data.path(), None).is_err());
        assert_eq!(std::fs::read_to_string(data.path().join("other")).unwrap(), "kept");
    }
}
