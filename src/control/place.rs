//! Where the control socket is, and how a verb finds it.
//!
//! The socket lies in a private folder outside the project, whose own path may be
//! too long for one; `controller.json` in the project's data folder names it.
//! Whoever opens a place holds the lock of the instance, so that whatever is
//! found there was left behind by a controller that is dead.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::{ControlError, Role};
use crate::clock::Timestamp;
use crate::name::InstanceId;

/// The file of the data folder that names the socket.
pub const FILE: &str = "controller.json";
/// Longest path of a socket, in bytes: the system has 108 for it, with a zero at the end.
pub const PATH_MAX: usize = 107;
/// What is read of [`FILE`], in bytes.
const FILE_MAX: u64 = 64 << 10;

const OPEN_FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// What a controller says of itself in [`FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Where it listens.
    pub socket: PathBuf,
    /// Its process.
    pub pid: u32,
    /// The version of babybot that runs.
    pub version: String,
    /// What it is there for.
    pub role: Role,
    /// Since when it runs.
    pub since: Timestamp,
}

/// The folders that a socket may be put into.
#[derive(Clone, Debug)]
pub struct Bases {
    /// The user's own, as `XDG_RUNTIME_DIR` names it.
    pub runtime: Option<PathBuf>,
    /// The one that is everybody's.
    pub temporary: PathBuf,
}

impl Bases {
    /// As the environment names them.
    #[must_use]
    pub fn of_environment() -> Self {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self { runtime, temporary: std::env::temp_dir() }
    }

    /// The folder for sockets of this user, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else could put something into it.
    fn folder(&self) -> Result<PathBuf, ControlError> {
        // Root by `sudo` is given the folder of another user: that is no place for its socket.
        let ours = |path: &&PathBuf| path.is_absolute() && check_private(path).is_ok();
        let path = match self.runtime.as_ref().filter(ours) {
            Some(runtime) => runtime.join("babybot"),
            None => self.temporary.join(format!("babybot-{}", geteuid().as_raw())),
        };
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(ControlError::Folder { path, problem: error.to_string() }),
        }
        match make_private(&path) {
            Ok(()) => Ok(path),
            Err(problem) => Err(ControlError::Folder { path, problem }),
        }
    }
}

/// A place that is taken: dropping it takes socket and notice away. To be dropped before the
/// instance's lock.
#[derive(Debug)]
pub struct ControlSocket {
    notice: Notice,
    /// Device and inode of the socket.
    socket: (u64, u64),
    data: OwnedFd,
    /// Whom the project's files are made for, where that is not who runs babybot.
    owner: Option<(u32, u32)>,
}

impl ControlSocket {
    /// What was written for those who look for it.
    #[must_use]
    pub fn notice(&self) -> &Notice {
        &self.notice
    }

    /// Makes the socket again where it was removed or replaced. Gives what listens there; `None`
    /// where the socket is as it was made.
    ///
    /// # Errors
    /// As [`open`].
    pub fn renew_socket(
        &mut self,
        instance: &InstanceId,
        bases: &Bases,
    ) -> Result<Option<UnixListener>, ControlError> {
        let stat = rustix::fs::lstat(&self.notice.socket);
        if stat.is_ok_and(|stat| identity(&stat) == self.socket) {
            return Ok(None);
        }
        let (listener, socket, identity) = listen(instance, bases)?;
        self.notice.socket = socket;
        self.socket = identity;
        Ok(Some(listener))
    }

    /// Writes the notice again where it says something else. Whoever calls this holds the lock of
    /// the instance: nobody else has anything to say there. Returns whether it was written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn renew_notice(&self) -> io::Result<bool> {
        if read_notice(&self.data).ok().flatten().as_ref() == Some(&self.notice) {
            return Ok(false);
        }
        write_notice(&self.data, &self.notice, self.owner).map(|()| true)
    }

    /// Whether this is still the folder that the notice lies in.
    #[must_use]
    pub fn is_in(&self, data: &Path) -> bool {
        match (rustix::fs::fstat(&self.data), rustix::fs::lstat(data)) {
            (Ok(held), Ok(there)) => identity(&held) == identity(&there),
            _ => false,
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Another that took over meanwhile has a place of its own.
        if read_notice(&self.data).ok().flatten().as_ref() == Some(&self.notice) {
            let _ = rustix::fs::unlinkat(&self.data, FILE, AtFlags::empty());
        }
        let stat = rustix::fs::lstat(&self.notice.socket);
        if stat.is_ok_and(|stat| identity(&stat) == self.socket) {
            let _ = rustix::fs::unlink(&self.notice.socket);
        }
    }
}

/// Opens the socket of an instance and writes down where it is. The instance's lock must be held.
/// `owner` is whom the project's files are made for, where that is not who runs babybot.
///
/// # Errors
/// When there is no safe place for it, or something else stands there.
pub fn open(
    data: &Path,
    instance: &InstanceId,
    role: Role,
    since: Timestamp,
    owner: Option<(u32, u32)>,
    bases: &Bases,
) -> Result<(UnixListener, ControlSocket), ControlError> {
    let folder = open_data(data)?;
    let (listener, socket, identity) = listen(instance, bases)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let notice = Notice { socket, pid: std::process::id(), version, role, since };
    let place = ControlSocket { notice, socket: identity, data: folder, owner };
    // Where this fails, the place is dropped and the socket goes with it.
    write_notice(&place.data, &place.notice, owner)
        .map_err(|source| ControlError::Io { path: data.join(FILE), source })?;
    Ok((listener, place))
}

/// Listens at the socket of an instance; gives its path, and device and inode.
fn listen(
    instance: &InstanceId,
    bases: &Bases,
) -> Result<(UnixListener, PathBuf, (u64, u64)), ControlError> {
    let socket = bases.folder()?.join(format!("{}.sock", instance.short()));
    if socket.as_os_str().len() > PATH_MAX {
        return Err(ControlError::TooLong { path: socket, limit: PATH_MAX });
    }
    let refused = |source: io::Error| ControlError::Io { path: socket.clone(), source };
    remove_stale(&socket).map_err(refused)?;
    let listener = UnixListener::bind(&socket).map_err(refused)?;
    // Until here, the folder alone keeps others away.
    std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).map_err(refused)?;
    let stat = rustix::fs::lstat(&socket).map_err(|error| refused(error.into()))?;
    Ok((listener, socket, identity(&stat)))
}

/// What the controller of a project, running or not, says of itself; `None` where none does.
///
/// # Errors
/// When that cannot be read. A file that is empty or torn is [`ControlError::Content`]; a controller
/// that runs writes it again.
pub fn find(data: &Path) -> Result<Option<Notice>, ControlError> {
    let path = data.join(FILE);
    let folder = match open_data(data) {
        Ok(folder) => folder,
        Err(ControlError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    read_notice(&folder).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => ControlError::Content { path, problem: source.to_string() },
        _ => ControlError::Io { path, source },
    })
}

fn open_data(data: &Path) -> Result<OwnedFd, ControlError> {
    rustix::fs::openat(CWD, data, OPEN_FOLDER, Mode::empty())
        .map_err(|error| ControlError::Io { path: data.to_path_buf(), source: error.into() })
}

/// Checks that a folder is this user's alone.
fn check_private(path: &Path) -> Result<(), String> {
    let (_, stat) = own_folder(path)?;
    match stat.st_mode & 0o777 {
        0o700 => Ok(()),
        mode => Err(format!("its mode is {mode:o}")),
    }
}

/// Makes a folder of this user's its alone.
fn make_private(path: &Path) -> Result<(), String> {
    let (folder, stat) = own_folder(path)?;
    if stat.st_mode & 0o777 == 0o700 {
        return Ok(());
    }
    // What is held is changed, and not whatever has its name by now.
    let itself = format!("/proc/self/fd/{}", folder.as_raw_fd());
    rustix::fs::chmod(itself, Mode::from_raw_mode(0o700))
        .map_err(|error| format!("its mode cannot be set to 700: {error}"))
}

/// Holds a folder of this user's, which it may not even be able to enter.
fn own_folder(path: &Path) -> Result<(OwnedFd, Stat), String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err("it is a symbolic link or not a folder".to_owned());
        }
        Err(error) => return Err(error.to_string()),
    };
    let stat = rustix::fs::fstat(&folder).map_err(|error| error.to_string())?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(format!("it belongs to user {}", stat.st_uid));
    }
    Ok((folder, stat))
}

/// Removes what a dead controller listened at.
fn remove_stale(socket: &Path) -> io::Result<()> {
    match rustix::fs::lstat(socket) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            Ok(rustix::fs::unlink(socket)?)
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "another file is in its place")),
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn read_notice(data: &OwnedFd) -> io::Result<Option<Notice>> {
    // Without NONBLOCK, opening a planted pipe would wait for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(data, FILE, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Puts the notice in its place, whole or not at all.
fn write_notice(data: &OwnedFd, notice: &Notice, owner: Option<(u32, u32)>) -> io::Result<()> {
    let temporary = format!(".{FILE}.babybot-{}", std::process::id());
    // A leftover of an earlier attempt; whatever it is, it is not followed.
    let _ = rustix::fs::unlinkat(data, &temporary, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(data, &temporary, flags, Mode::from_raw_mode(0o600))?;
    let written = || -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let text = serde_json::to_vec_pretty(notice)?;
        let mut file = File::from(file);
        file.write_all(&text)?;
        // A name that outlives a power cut is no use without what was written.
        file.sync_all()?;
        Ok(rustix::fs::renameat(data, &temporary, data, FILE)?)
    };
    let written = written();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(data, &temporary, AtFlags::empty());
    }
    written
}
