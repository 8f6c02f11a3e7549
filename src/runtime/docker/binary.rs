//! Which babybot goes into an image.
//!
//! A container may stand on nothing at all, so only a static binary of the
//! engine's architecture runs in every one. This executable is such a one on
//! Linux; elsewhere one is named, or built from source. Reads an ELF header and
//! files, and knows nothing of engines.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::file;
use crate::resource::digest;
use crate::runtime::Binary;

/// The most that is read of a binary.
pub const BINARY_MAX: u64 = 512 << 20;

/// Program header: the file names another program that loads it.
const PT_INTERP: u32 = 3;

/// Why a binary cannot be put into an image. [`NotUsable::ways_out`] says what can be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotUsable {
    /// It is no Linux program.
    #[error("it is not a Linux program")]
    NotLinux,
    /// It is for another processor.
    #[error("it is for {found}, and the engine runs {wanted}")]
    OtherArchitecture {
        /// What it is for.
        found: String,
        /// What it must be for.
        wanted: String,
    },
    /// It needs libraries that an image may not have.
    #[error("it is not static: it needs a loader and libraries that an image may not have")]
    Dynamic,
}

impl NotUsable {
    /// What can be done, one a line.
    #[must_use]
    pub fn ways_out(&self, architecture: &str) -> String {
        format!(
            "build babybot with the flags of its .cargo/config.toml (RUSTFLAGS in the environment \
             replaces them), for {architecture}-unknown-linux-gnu\n\
             name a static Linux binary: runtime.image.binary = \"PATH\"\n\
             run babybot from a checkout of its source, which container/Dockerfile builds\n\
             use an image that contains babybot: runtime.image.ref = \"IMAGE\""
        )
    }
}

/// Checks that a binary runs in any image of an engine of this architecture, as Rust calls it.
///
/// # Errors
/// Why it does not.
pub fn check(bytes: &[u8], architecture: &str) -> Result<(), NotUsable> {
    let header = Header::read(bytes).ok_or(NotUsable::NotLinux)?;
    let found = match header.machine {
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        other => format!("another processor (number {other})"),
    };
    if found != architecture {
        return Err(NotUsable::OtherArchitecture { found, wanted: architecture.to_owned() });
    }
    if header.interpreted { Err(NotUsable::Dynamic) } else { Ok(()) }
}

/// What of an ELF file matters here.
struct Header {
    machine: u16,
    interpreted: bool,
}

impl Header {
    /// Reads a 64-bit little-endian executable; `None`: it is something else.
    fn read(bytes: &[u8]) -> Option<Self> {
        const EXECUTABLE: u16 = 2;
        const RELOCATABLE_EXECUTABLE: u16 = 3;
        if bytes.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let kind = number16(bytes, 16)?;
        let entry = number64(bytes, 24)?;
        // A library is relocatable too, and begins nowhere.
        if !(kind == EXECUTABLE || kind == RELOCATABLE_EXECUTABLE && entry != 0) {
            return None;
        }
        let offset = usize::try_from(number64(bytes, 32)?).ok()?;
        let size = usize::from(number16(bytes, 54)?);
        let count = usize::from(number16(bytes, 56)?);
        let mut interpreted = false;
        for index in 0..count {
            let at = offset.checked_add(index.checked_mul(size)?)?;
            interpreted |= number32(bytes, at)? == PT_INTERP;
        }
        Some(Self { machine: number16(bytes, 18)?, interpreted })
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Room for this many bytes, which goes back to the machine once they are not needed any more: what
/// is smaller than 32 MiB, or grew to its size, the C library keeps for the next. What is not written
/// to costs nothing.
pub(super) fn roomy(bytes: usize) -> Vec<u8> {
    const KEPT_MAX: usize = 33 << 20;
    Vec::with_capacity(bytes.max(KEPT_MAX))
}

/// Reads a binary whole. `/proc/self/exe` is this executable, even where its file was replaced.
///
/// # Errors
/// When it cannot be read, or is larger than [`BINARY_MAX`].
pub fn read(path: &Path) -> io::Result<Binary> {
    let file = file::open(path)?;
    let size = file.metadata()?.len().min(BINARY_MAX) + 1;
    let mut bytes = roomy(usize::try_from(size).unwrap_or_default());
    file.take(BINARY_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BINARY_MAX {
        let text = format!("{} is larger than a program is", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(Binary { bytes: Arc::new(bytes) })
}

/// What is read of a digest that was remembered, in bytes.
const CACHE_MAX: u64 = 4 << 10;

/// What a file was when its digest was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    digest: String,
}

impl Remembered {
    fn new(metadata: &fs::Metadata, digest: String) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            digest,
        }
    }
}

/// The digest of a binary, as `sha256:…`. It is remembered in `cache_file` for as long as the file
/// is the same by device, inode, size and times, because hashing takes longer than planning.
/// A cache that cannot be read or written is done without.
///
/// # Errors
/// When the binary cannot be read.
pub fn digest_cached(path: &Path, cache_file: &Path) -> io::Result<String> {
    let metadata = file::open(path)?.metadata()?;
    let text = file::read(cache_file, CACHE_MAX).unwrap_or_default();
    if let Ok(remembered) = serde_json::from_slice::<Remembered>(&text)
        && remembered == Remembered::new(&metadata, remembered.digest.clone())
    {
        return Ok(remembered.digest);
    }
    let binary = read(path)?;
    let digest = digest(&binary.bytes);
    // What changed while it was read is not remembered as what it was before.
    let after = fs::metadata(path)?;
    let remembered = Remembered::new(&after, digest.clone());
    if remembered == Remembered::new(&metadata, digest.clone())
        && let Err(error) = remember(&remembered, cache_file)
    {
        tracing::debug!(%error, "the digest of the binary was not remembered");
    }
    Ok(digest)
}

fn remember(remembered: &Remembered, cache_file: &Path) -> io::Result<()> {
    let folder = cache_file.parent().ok_or(io::ErrorKind::NotFound)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&file, remembered)?;
    file.persist(cache_file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kind: u16, machine: u16, headers: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56 * headers.len()];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[24] = 1;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56..58].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        for (index, header) in headers.iter().enumerate() {
            bytes[64 + 56 * index..][..4].copy_from_slice(&header.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn only_a_static_linux_program_of_the_right_processor_is_usable() {
        let check = |bytes: &[u8]| check(bytes, "x86_64");
        assert_eq!(check(&elf(2, 62, &[1, 2])), Ok(()));
        assert_eq!(check(&elf(3, 62, &[1, 2])), Ok(()), "static-pie");
        assert_eq!(check(&elf(3, 62, &[6, 3, 1])), Err(NotUsable::Dynamic));
        let other =
            NotUsable::OtherArchitecture { found: "aarch64".into(), wanted: "x86_64".into() };
        assert_eq!(check(&elf(2, 183, &[])), Err(other));
        assert_eq!(check(&elf(1, 62, &[])), Err(NotUsable::NotLinux), "an object file");
        assert_eq!(check(b"\xcf\xfa\xed\xfe macOS"), Err(NotUsable::NotLinux));
        assert_eq!(check(b"#!/bin/sh\n"), Err(NotUsable::NotLinux));
        assert_eq!(check(&elf(2, 62, &[1])[..70]), Ok(()));
        assert_eq!(check(&elf(2, 62, &[1])[..60]), Err(NotUsable::NotLinux), "cut off");
        assert_eq!(check(b""), Err(NotUsable::NotLinux));
    }

    #[test]
    fn a_digest_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("binary"), folder.path().join("cache.json"));
        fs::write(&path, "one").unwrap();
        let first = digest_cached(&path, &cache).unwrap();
        assert_eq!(first, digest(b"one"));

        // What is remembered is believed: with another digest in it, that one is given.
        let text = fs::read_to_string(&cache).unwrap();
        let hex = first.strip_prefix("sha256:").unwrap();
        fs::write(&cache, text.replace(hex, &"0".repeat(64))).unwrap();
        assert_eq!(digest_cached(&path, &cache).unwrap(), format!("sha256:{}", "0".repeat(64)));

        fs::write(folder.path().join("other"), "two").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(digest_cached(&path, &cache).unwrap(), digest(b"two"));
        assert_eq!(
            digest_cached(&path, &folder.path().join("no/folder")).unwrap(),
            digest(b"two"),
            "a cache that cannot be written"
        );
    }
}
