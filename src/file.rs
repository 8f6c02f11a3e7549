//! Files that are opened as files: a pipe, a socket or a device in the place of one is refused, and
//! is not waited for.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file for reading.
///
/// # Errors
/// When it cannot be opened, or is no file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens a file as these options say.
///
/// # Errors
/// When it cannot be opened, or is no file.
pub fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Without NONBLOCK, opening a pipe would wait for its other end.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let options = options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    let file = match options.open(path) {
        // So answer a pipe that nobody reads, and a socket.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            return Err(refused("a pipe or a socket"));
        }
        opened => opened?,
    };
    match instead_of_a_file(file.metadata()?.file_type()) {
        None => Ok(file),
        Some(what) => Err(refused(what)),
    }
}

/// Reads a file, at most `bytes_max` of it.
///
/// # Errors
/// When it cannot be read, or is no file.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What stands in the place of a file, in words; `None` for a file, and for a link.
#[must_use]
pub fn instead_of_a_file(kind: FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() || kind.is_symlink() => None,
        kind if kind.is_dir() => Some("a folder"),
        kind if kind.is_fifo() => Some("a pipe"),
        kind if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a file"))
}

/// What this machine lacks. It says nothing of a server, nor of a file.
#[must_use]
pub fn fault_of_machine(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE | Errno::NFILE => Some("too many files are open on this machine"),
        Errno::NOMEM | Errno::NOBUFS => Some("this machine has no memory left"),
        Errno::IO => Some("a disk of this machine failed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (fifo, mode) = (rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(CWD, path("pipe"), fifo, mode, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        for (name, what) in [("pipe", "a pipe"), ("socket", "socket"), ("folder", "a folder")] {
            let error = open(&path(name)).unwrap_err();
            assert!(error.to_string().contains(what), "{name}: {error}");
        }
        let writing = open_with(&path("pipe"), File::options().write(true)).unwrap_err();
        assert_eq!(writing.kind(), io::ErrorKind::InvalidInput);
        std::fs::write(path("file"), "text").unwrap();
        assert_eq!(read(&path("file"), 3).unwrap(), b"tex");
    }

    #[test]
    fn a_fault_of_the_machine_is_told_from_one_of_a_file() {
        let of = |error: Errno| fault_of_machine(&error.into()).is_some();
        for error in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::NOMEM, Errno::NOBUFS] {
            assert!(of(error), "{error}");
        }
        for error in [Errno::NOENT, Errno::ACCESS, Errno::LOOP, Errno::CONNREFUSED] {
            assert!(!of(error), "{error}");
        }
        assert_eq!(fault_of_machine(&io::Error::other("no number")), None);
    }
}
