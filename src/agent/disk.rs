//! How full the group's folders are, as the agent sees it, and the end of a call that fills them.
//!
//! What is full can be emptied: over `limits.disk` a call runs on as long as it does not make
//! the folders fuller. What a tool holds open and has removed counts as well, as far as the
//! agent can see into its tools. The host measures for itself and does not rely on this.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::Instant;

use crate::process::{self, Process};
use crate::protocol;
use crate::unit::ByteSize;
use crate::walk::{self, Abandon};

/// The shortest time between two looks during a call.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// How much longer than a look the time between two is, so that looking takes little.
const PAUSE_FACTOR: u32 = 10;
/// What a call over the limit may write before it is stopped, in bytes: reading leaves an index, a
/// lock or a journal behind, and removing needs one.
const LEEWAY: u64 = 64 << 10;
/// Open files of tools that one look asks about.
const OPEN_FILES_MAX: usize = 65_536;

/// What the agent's folders may hold, and how to measure them.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    limit: ByteSize,
    folders: Arc<[PathBuf]>,
}

/// How much a call may write, as it was known when the call began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What the folders held, in bytes, where that is known.
    before: Option<u64>,
}

impl Disk {
    pub(super) fn new(told: &protocol::Disk) -> Self {
        Self { limit: told.limit, folders: told.folders.iter().map(PathBuf::from).collect() }
    }

    /// Measures before a call.
    pub(super) async fn room(&self) -> Room {
        Room { before: self.used(false).await }
    }

    /// Waits until a call fills the folders further although they are over their limit.
    pub(super) async fn filled_by_call(&self, room: Room) {
        let Some(before) = room.before else { return std::future::pending().await };
        let mut pause = PAUSE_MIN;
        loop {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            let used = self.used(true).await;
            if used.is_some_and(|used| self.is_over(used) && used > before.saturating_add(LEEWAY)) {
                return;
            }
            pause = PAUSE_MIN.max(begun.elapsed() * PAUSE_FACTOR);
        }
    }

    /// Measures after a call; gives what the model is told, and whether the call is to blame.
    pub(super) async fn verdict(&self, room: Room) -> Option<(String, bool)> {
        let used = self.used(false).await.filter(|used| self.is_over(*used))?;
        let grew = room.before.is_some_and(|before| used > before);
        Some((self.words(used), grew))
    }

    /// Why a file may not grow by this many bytes.
    pub(super) fn objection(&self, room: Room, path: &Path, growth: u64) -> Option<String> {
        let ours = self.folders.iter().any(|folder| path.starts_with(folder));
        let after = room.before?.saturating_add(growth);
        (growth > 0 && ours && self.is_over(after)).then(|| {
            let limit = self.limit;
            format!("limits.disk: nothing was written: the folders may hold {limit} together")
        })
    }

    /// What a tool is told whose file may not be as large.
    pub(super) fn too_large(&self) -> String {
        format!("limits.disk: one file may not be larger than {}", self.limit)
    }

    fn is_over(&self, used: u64) -> bool {
        used > self.limit.as_bytes()
    }

    fn words(&self, used: u64) -> String {
        let limit = self.limit;
        match used {
            u64::MAX => "limits.disk: the folders cannot be measured and count as full: remove \
                         folders that you made unreadable, or files if there are very many"
                .to_owned(),
            used => format!(
                "limits.disk: the folders hold {used} bytes, more than {limit}: remove or move \
                 files; a call that writes more is stopped"
            ),
        }
    }

    /// The bytes that the folders take up; as many as there can be where their files are to blame
    /// that it cannot be told; `None` where something else is.
    async fn used(&self, with_removed: bool) -> Option<u64> {
        let (disk, abandon) = (self.clone(), Abandon::default());
        let abandoned = abandon.flag();
        let look = tokio::task::spawn_blocking(move || {
            let mut bytes = disk.measure(&abandoned)?;
            if with_removed {
                bytes = bytes.saturating_add(removed(&disk.folders));
            }
            Ok::<_, io::Error>(bytes)
        });
        match look.await {
            Ok(Ok(bytes)) => Some(bytes),
            Ok(Err(error)) if walk::is_in_the_files(&error) => Some(u64::MAX),
            Ok(Err(error)) => {
                tracing::warn!(%error, "disk use is unknown");
                None
            }
            Err(_) => None,
        }
    }

    fn measure(&self, abandoned: &AtomicBool) -> io::Result<u64> {
        let mut sum: u64 = 0;
        for folder in &*self.folders {
            match File::open(folder) {
                Ok(folder) => sum = sum.saturating_add(walk::usage(&folder, abandoned)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }
}

/// The bytes of files that tools removed from these folders and hold open.
fn removed(folders: &[PathBuf]) -> u64 {
    let tools = process::descendants_of(Process::current().pid);
    let open = tools.iter().flat_map(|tool| open_files(tool.pid)).take(OPEN_FILES_MAX);
    let mut seen = BTreeSet::new();
    let counted = open.filter_map(|file| {
        // Its name, with a mark behind it, once it has none.
        let name = fs::read_link(&file).ok()?;
        if !folders.iter().any(|folder| name.starts_with(folder)) {
            return None;
        }
        let about = fs::metadata(&file).ok()?;
        let gone = about.is_file() && about.nlink() == 0;
        (gone && seen.insert((about.dev(), about.ino()))).then(|| about.blocks() * 512)
    });
    counted.sum()
}

fn open_files(pid: i32) -> impl Iterator<Item = PathBuf> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    listed.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn disk(root: &Path, limit: u64) -> Disk {
        let folders = vec![root.to_str().unwrap().to_owned()];
        Disk::new(&protocol::Disk { limit: ByteSize::bytes(limit), folders })
    }

    #[tokio::test]
    async fn a_file_that_a_tool_removed_and_holds_open_counts() {
        let root = tempfile::tempdir().unwrap();
        let script = "exec 3>file; head -c 500000 /dev/zero >&3; rm file; echo; exec sleep 1000";
        let mut tool = Command::new("sh");
        tool.args(["-c", script]).current_dir(root.path()).stdout(Stdio::piped());
        let mut tool = tool.spawn().unwrap();
        let mut line = [0];
        io::Read::read_exact(tool.stdout.as_mut().unwrap(), &mut line).unwrap();
        let disk = disk(&root.path().canonicalize().unwrap(), 1);
        let (with, without) = (disk.used(true).await.unwrap(), disk.used(false).await.unwrap());
        tool.kill().unwrap();
        tool.wait().unwrap();
        assert!(with >= without + 500_000, "{with} {without}");
    }

    #[tokio::test]
    async fn a_call_is_to_blame_only_for_what_it_made_fuller() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk(root.path(), 64 << 10);
        let room = disk.room().await;
        fs::write(root.path().join("large"), [1; 500_000]).unwrap();
        tokio::time::timeout(Duration::from_secs(60), disk.filled_by_call(room)).await.unwrap();
        assert!(disk.verdict(room).await.unwrap().1);
        let room = disk.room().await;
        fs::write(root.path().join("large"), [1; 300_000]).unwrap();
        assert!(!disk.verdict(room).await.unwrap().1, "it made room");
        let path = root.path().join("new");
        assert!(disk.objection(room, &path, 1).unwrap().contains("nothing was written"));
        assert!(disk.objection(room, Path::new("/elsewhere"), 1).is_none());
        fs::remove_file(root.path().join("large")).unwrap();
        assert_eq!(disk.verdict(room).await, None);
    }
}
