//! What everything below a folder takes up on disk.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::{Visit, walk};

/// Ends a measurement early once it is dropped, wherever that measurement runs.
#[derive(Debug, Default)]
pub struct Abandon(Arc<AtomicBool>);

impl Abandon {
    /// What the measurement looks at.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The bytes that everything below a folder takes up on disk, links not followed. A folder of
/// another user that may not be entered is passed over: whoever is measured cannot have made it.
///
/// # Errors
/// When it holds more entries than are counted, cannot be read, or nobody waits any more.
pub fn usage(folder: impl AsFd, abandoned: &AtomicBool) -> io::Result<u64> {
    let mut sum = Sum { bytes: 0, abandoned };
    walk(folder, &mut sum)?;
    Ok(sum.bytes)
}

struct Sum<'a> {
    bytes: u64,
    abandoned: &'a AtomicBool,
}

impl Visit for Sum<'_> {
    fn meet(&mut self, _: BorrowedFd<'_>, _: &CStr, about: &Stat) -> io::Result<()> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.bytes += u64::try_from(about.st_blocks).unwrap_or_default() * 512;
        Ok(())
    }

    fn refused(&mut self, about: &Stat) -> io::Result<()> {
        match about.st_uid == rustix::process::geteuid().as_raw() {
            true => Err(Errno::ACCESS.into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    fn measured(path: &std::path::Path) -> io::Result<u64> {
        usage(fs::File::open(path).unwrap(), &AtomicBool::new(false))
    }

    #[test]
    fn a_file_at_any_depth_is_counted() {
        const DEPTH: usize = 3_000;
        let root = tempfile::tempdir().unwrap();
        let mut deep: std::os::fd::OwnedFd = fs::File::open(root.path()).unwrap().into();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&deep, "d", Mode::from_raw_mode(0o700)).unwrap();
            deep = rustix::fs::openat(&deep, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let before = measured(root.path()).unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = rustix::fs::openat(&deep, "file", flags, Mode::from_raw_mode(0o600)).unwrap();
        rustix::io::write(&file, &[1; 100_000]).unwrap();
        rustix::fs::fsync(&file).unwrap();
        assert!(measured(root.path()).unwrap() >= before + 100_000);
        let removed = std::process::Command::new("rm").arg("-rf").arg(root.path()).status();
        assert!(removed.unwrap().success());
        assert!(rustix::fs::statat(CWD, root.path(), rustix::fs::AtFlags::empty()).is_err());
    }

    #[test]
    fn a_measurement_that_nobody_waits_for_ends() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let abandon = Abandon::default();
        let flag = abandon.flag();
        let folder = fs::File::open(root.path()).unwrap();
        assert!(usage(&folder, &flag).is_ok());
        drop(abandon);
        assert_eq!(usage(&folder, &flag).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
