//! Values of secrets: read where the manifest says, and shown to nobody.
//!
//! A [`Secret`] prints as `***` and cannot be serialised. Whoever needs its bytes asks for them by
//! name, which is easy to find. Knows nothing of who uses a secret, and keeps none.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::name::SecretName;
use crate::resource::{SecretRef, SecretSource};

/// The longest secret, in bytes.
pub const SECRET_LENGTH_MAX: usize = 4 << 10;

/// The value of a secret.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves: for a request or a signature, and for nothing that lasts.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether these bytes are the secret. How long it takes tells nothing about either.
    #[must_use]
    pub fn is(&self, other: &[u8]) -> bool {
        Sha256::digest(&*self.0).ct_eq(&Sha256::digest(other)).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a secret has no value. Says nothing of the value.
#[derive(Debug, Error)]
#[error("secret {name}: {fault}")]
pub struct SecretError {
    /// The secret.
    name: SecretName,
    fault: Fault,
}

#[derive(Debug, Error)]
enum Fault {
    #[error("the variable {0} is not set where babybot was started; set it, then restart babybot")]
    Unset(String),
    #[error("{0} does not exist")]
    Missing(String),
    #[error("{0} is {1}, not a file")]
    NotAFile(String, &'static str),
    #[error("{0} belongs to another user; it must belong to the user that runs babybot")]
    Foreign(String),
    #[error("other users may read or write {0}; run `chmod 600 {0}`")]
    Open(String),
    #[error("cannot read {0}: {1}")]
    Unreadable(String, #[source] io::Error),
    #[error("`~` cannot be used: HOME is not set")]
    Homeless,
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {SECRET_LENGTH_MAX} bytes")]
    TooLong,
}

/// Reads the value of a secret, as it is now.
///
/// # Errors
/// Why it has none.
pub fn resolve(secret: &SecretRef) -> Result<Secret, SecretError> {
    value(&secret.source).map_err(|fault| SecretError { name: secret.name.clone(), fault })
}

fn value(source: &SecretSource) -> Result<Secret, Fault> {
    let value = match source {
        SecretSource::Env(variable) => {
            let value = std::env::var_os(variable);
            Secret::new(value.ok_or_else(|| Fault::Unset(variable.clone()))?.into_vec())
        }
        SecretSource::File(path) => from_file(&at_home(path)?)?,
    };
    match value.0.len() {
        0 => Err(Fault::Empty),
        1..=SECRET_LENGTH_MAX => Ok(value),
        _ => Err(Fault::TooLong),
    }
}

fn at_home(path: &str) -> Result<PathBuf, Fault> {
    match path.strip_prefix("~/") {
        Some(below) => Ok(Path::new(&std::env::var_os("HOME").ok_or(Fault::Homeless)?).join(below)),
        None => Ok(PathBuf::from(path)),
    }
}

/// Reads a file that only its owner, who is this user, can read; no link is followed to it.
fn from_file(path: &Path) -> Result<Secret, Fault> {
    let shown = || path.display().to_string();
    let unreadable = |error: Errno| Fault::Unreadable(shown(), error.into());
    let not_a_file = |what| Fault::NotAFile(shown(), what);
    // Without NONBLOCK, opening a pipe would wait for its other end.
    let flags =
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => Fault::Missing(shown()),
        Errno::LOOP => not_a_file("a link"),
        Errno::NXIO => not_a_file("a socket"),
        error => unreadable(error),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(unreadable)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(not_a_file("a folder")),
        FileType::Fifo => return Err(not_a_file("a pipe")),
        _ => return Err(not_a_file("a device")),
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Fault::Foreign(shown()));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
        return Err(Fault::Open(shown()));
    }
    // Room for a line end, and for one byte more than may be there.
    let length_max = SECRET_LENGTH_MAX + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length_max));
    std::fs::File::from(file)
        .take(length_max as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| Fault::Unreadable(shown(), error))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const VALUE: &str = "hunter2-hunter2";

    fn of(source: SecretSource) -> Result<Secret, String> {
        let name = SecretName::new("api").unwrap();
        resolve(&SecretRef { name, source }).map_err(|error| error.to_string())
    }

    fn of_file(path: &Path) -> Result<Secret, String> {
        of(SecretSource::File(path.to_str().unwrap().to_owned()))
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new(VALUE.as_bytes().to_vec());
        assert_eq!(
            format!("{secret} {secret:?} {:#?}", Some(&secret)),
            "*** *** Some(\n    ***,\n)"
        );
    }

    #[test]
    fn a_secret_is_told_from_everything_else() {
        let secret = Secret::new(VALUE.as_bytes().to_vec());
        assert!(secret.is(VALUE.as_bytes()));
        for other in ["", "hunter2-hunter", "hunter2-hunter22", "Hunter2-hunter2"] {
            assert!(!secret.is(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_file_is_the_secret_but_for_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (written, value) in [
            ("hunter2", "hunter2"),
            ("hunter2\n", "hunter2"),
            ("hunter2\r\n", "hunter2"),
            ("hunter2\n\n", "hunter2\n"),
            (" hunter2 ", " hunter2 "),
        ] {
            for mode in [0o600, 0o400] {
                write(&path, written.as_bytes(), mode);
                assert_eq!(of_file(&path).unwrap().expose(), value.as_bytes(), "{written:?}");
                std::fs::remove_file(&path).unwrap();
            }
        }
        let longest = [vec![b'x'; SECRET_LENGTH_MAX], b"\r\n".to_vec()].concat();
        write(&path, &longest, 0o600);
        assert_eq!(of_file(&path).unwrap().expose().len(), SECRET_LENGTH_MAX);
    }

    #[test]
    fn a_variable_is_the_secret() {
        let home = of(SecretSource::Env("PATH".to_owned())).unwrap();
        assert_eq!(home.expose(), std::env::var_os("PATH").unwrap().into_vec());
        let error = of(SecretSource::Env("BABYBOT_NO_SUCH_VARIABLE".to_owned())).unwrap_err();
        assert!(error.contains("BABYBOT_NO_SUCH_VARIABLE is not set"), "{error}");
    }

    #[test]
    fn what_others_could_read_or_change_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("sound"), VALUE.as_bytes(), 0o600);
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
            write(&path("open"), VALUE.as_bytes(), mode);
            let error = of_file(&path("open")).unwrap_err();
            assert!(error.contains("run `chmod 600 "), "{mode:o}: {error}");
        }
        std::os::unix::fs::symlink(path("sound"), path("link")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let (fifo, mode) = (FileType::Fifo, Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), fifo, mode, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        write(&path("empty"), b"\n", 0o600);
        write(&path("long"), &[b'x'; SECRET_LENGTH_MAX + 1], 0o600);
        write(&path("huge"), &[b'x'; 1 << 20], 0o600);
        for (name, reason) in [
            ("link", "a link, not a file"),
            ("folder", "a folder, not a file"),
            ("pipe", "a pipe, not a file"),
            ("socket", "a socket, not a file"),
            ("none", "does not exist"),
            ("empty", "it is empty"),
            ("long", "longer than 4096 bytes"),
            ("huge", "longer than 4096 bytes"),
        ] {
            let error = of_file(&path(name)).unwrap_err();
            assert!(error.starts_with("secret api: ") && error.contains(reason), "{name}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path("sound"), Some(65_534), None).unwrap();
            let error = of_file(&path("sound")).unwrap_err();
            assert!(error.contains("belongs to another user"), "{error}");
        }
    }
}
