//! The door to the manifest's file: reads it, whole or not at all.
//!
//! What is wrong with the file itself is told in the same way as what is wrong
//! in it. Knows nothing of what a manifest means.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::manifest::codes::Code;
use crate::manifest::fields::MANIFEST_BYTES_MAX;
use crate::manifest::render::{self, Colors};
use crate::manifest::{self, Diagnostic, Manifest};

/// A manifest with the text it was read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file as it was named.
    pub name: String,
    /// The text, byte for byte.
    pub text: String,
    /// What it says.
    pub manifest: Manifest,
}

/// Why there is no manifest: every problem of the file or in it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file as it was named.
    pub name: String,
    /// Its text, as far as there is one.
    pub text: String,
    /// The problems, in the order of the text; never none.
    pub problems: Vec<Diagnostic>,
}

/// What tells a file from what it was before, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of the file at `path`; `None` where there is none.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Report {
    /// The problems for a person.
    #[must_use]
    pub fn human(&self, colors: Colors) -> String {
        render::human(&self.name, &self.text, &self.problems, colors)
    }

    /// The problems for a program.
    #[must_use]
    pub fn json(&self) -> String {
        render::json(&self.name, &self.problems)
    }
}

/// Reads the manifest at `path`.
///
/// # Errors
/// Every problem of the file, or in it.
pub fn read(path: &Path) -> Result<Source, Report> {
    let short = path.strip_prefix("./").ok().filter(|short| *short != Path::new(""));
    let name = short.unwrap_or(path).display().to_string();
    let text = match text(path, &name) {
        Ok(text) => text,
        Err(problem) => {
            return Err(Report { name, text: String::new(), problems: vec![*problem] });
        }
    };
    match manifest::parse(&text) {
        Ok(manifest) => Ok(Source { name, text, manifest }),
        Err(problems) => Err(Report { name, text, problems }),
    }
}

fn text(path: &Path, name: &str) -> Result<String, Box<Diagnostic>> {
    let bytes = bytes(path, name)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..at];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Box::new(
            Diagnostic::new(
                Code::NotUtf8,
                format!("{name} is not UTF-8: byte {at}, on line {line}, belongs to no character"),
            )
            .helped("save the file as UTF-8"),
        )
    })
}

fn bytes(path: &Path, name: &str) -> Result<Vec<u8>, Box<Diagnostic>> {
    // A pipe would be waited for at the opening already, were it not for NONBLOCK.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| unreadable(name, &error.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(name, &error.into()))?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        _ => Some("a device"),
    };
    if let Some(what) = what {
        return Err(Box::new(
            Diagnostic::new(Code::NotAFile, format!("{name} is {what}, not a file"))
                .helped("name a file with --manifest PATH, or move this away and write one with `babybot init`"),
        ));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
    std::fs::File::from(file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(name, &error))?;
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(Box::new(manifest::too_large()));
    }
    Ok(bytes)
}

fn unreadable(name: &str, error: &io::Error) -> Box<Diagnostic> {
    Box::new(if error.kind() == io::ErrorKind::NotFound {
        Diagnostic::new(Code::FileMissing, format!("there is no {name}"))
            .helped("`babybot init` writes one; --manifest PATH names another")
    } else if matches!(error.raw_os_error(), Some(code) if code == rustix::io::Errno::NXIO.raw_os_error())
    {
        Diagnostic::new(Code::NotAFile, format!("{name} is not a file")).helped(
            "name a file with --manifest PATH, or move this away and write one with `babybot init`",
        )
    } else {
        Diagnostic::new(Code::Unreadable, format!("cannot read {name}: {error}"))
            .helped("check that you may read it: ls -l")
    })
}
