//! What an image is built from: the builder's context, made in memory, so that no file of the
//! machine gets into it but the one binary.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;

use super::binary;
use crate::resource::{GROUP_USERS, UserId, digest};
use crate::runtime::RuntimeError;

/// All stages; see there.
const DOCKERFILE: &str = include_str!("../../../container/Dockerfile");
/// Folders of an image that others are mounted into.
const MOUNT_POINTS: &[(&str, u32)] = &[
    ("home", 0o755),
    ("home/agent", 0o755),
    // A tmpfs over it takes its mode, whatever the engine was told.
    ("tmp", 0o1777),
    ("workspace", 0o755),
    ("workspace/extra", 0o755),
    ("workspace/global", 0o755),
    ("workspace/group", 0o755),
    ("workspace/ipc", 0o755),
    ("workspace/memory", 0o755),
    ("workspace/project", 0o755),
    ("workspace/skills", 0o755),
];

/// What an image is built from.
pub(super) struct Recipe<'a> {
    pub(super) base: &'a str,
    pub(super) packages: &'a [String],
    pub(super) user: UserId,
}

impl Recipe<'_> {
    pub(super) fn arguments(&self) -> HashMap<&'static str, String> {
        HashMap::from([
            ("BASE", self.base.to_owned()),
            ("PACKAGES", self.packages.join(" ")),
            ("AGENT_UID", self.user.uid.to_string()),
            ("AGENT_GID", self.user.gid.to_string()),
            ("AGENT_USERS", self.users().to_string()),
        ])
    }

    /// How many users have a name in it, from its own on.
    fn users(&self) -> u32 {
        match self.user.uid == *GROUP_USERS.start() {
            true => GROUP_USERS.end() - GROUP_USERS.start() + 1,
            false => 1,
        }
    }

    /// Everything that the builder gets. The same for the same, byte by byte.
    pub(super) fn context(&self, binary: &[u8]) -> io::Result<Vec<u8>> {
        let empty = self.base == "scratch";
        let mut context = Context::default();
        context.reserve(binary.len() + OTHERS_ROOM);
        context.file(
            "Dockerfile",
            0o644,
            stage(if empty { "empty" } else { "agent" }).as_bytes(),
        )?;
        context.folder("root", 0o755)?;
        for (path, mode) in MOUNT_POINTS {
            context.folder(&format!("root/{path}"), *mode)?;
        }
        if empty {
            let UserId { uid, gid } = self.user;
            let root = if uid == 0 { "" } else { "root:x:0:0:root:/:/sbin/nologin\n" };
            let mut users = root.to_owned();
            let mut groups = if gid == 0 { "" } else { "root:x:0:\n" }.to_owned();
            for next in 0..self.users() {
                let (uid, gid) = (uid + next, gid + next);
                let _ = writeln!(users, "agent:x:{uid}:{gid}:agent:/home/agent:/bin/sh");
                let _ = writeln!(groups, "agent:x:{gid}:");
            }
            context.folder("root/etc", 0o755)?;
            context.file("root/etc/passwd", 0o644, users.as_bytes())?;
            context.file("root/etc/group", 0o644, groups.as_bytes())?;
        }
        context.file("babybot", 0o755, binary)?;
        context.finish()
    }
}

/// One stage of the Dockerfile, with the arguments that stand before the first.
pub(super) fn stage(name: &str) -> String {
    let (head, stages) = DOCKERFILE.split_once("\nFROM ").unwrap_or((DOCKERFILE, ""));
    let mut all = stages.split("\nFROM ");
    let ending = format!(" AS {name}");
    let one = all.find(|stage| stage.lines().next().is_some_and(|line| line.ends_with(&ending)));
    let arguments = head.lines().filter(|line| line.starts_with("ARG "));
    let arguments: String = arguments.map(|line| format!("{line}\n")).collect();
    format!("{arguments}FROM {}\n", one.unwrap_or_default())
}

/// What all else in a context takes beside the binary, in bytes.
const OTHERS_ROOM: usize = 128 << 10;

/// A tar archive whose entries have neither time nor owner.
#[derive(Default)]
pub(super) struct Context {
    archive: Option<tar::Builder<Vec<u8>>>,
}

impl Context {
    /// Has room for so many bytes from the start.
    fn reserve(&mut self, bytes: usize) {
        self.archive = Some(tar::Builder::new(binary::roomy(bytes)));
    }

    fn add(&mut self, path: &str, header: &mut tar::Header, bytes: &[u8]) -> io::Result<()> {
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        let archive = self.archive.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        archive.append_data(header, path, bytes)
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        self.add(path, &mut header, bytes)
    }

    fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        self.add(&format!("{path}/"), &mut header, b"")
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.archive.map_or_else(|| Ok(Vec::new()), tar::Builder::into_inner)
    }
}

/// Refuses what a shell or a package manager would read as something else than a package.
pub(super) fn check_packages(base: &str, packages: &[String]) -> Result<(), RuntimeError> {
    if base == "scratch" && !packages.is_empty() {
        let why = "runtime.image.packages needs a base: there is nothing in \"scratch\" that \
                   could install them";
        return Err(RuntimeError::Failed(why.to_owned()));
    }
    let plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:=~".contains(c))
    };
    match packages.iter().find(|name| !plain(name)) {
        Some(name) => Err(RuntimeError::Failed(format!("{name:?} is not the name of a package"))),
        None => Ok(()),
    }
}

/// The digest of everything that an image is made of but for its base and packages: the binary,
/// by its digest, and how it is put together.
#[must_use]
pub fn content(binary: &str) -> String {
    digest(format!("{binary}\n{DOCKERFILE}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_cut_out_with_its_arguments() {
        for (name, from) in [("empty", "scratch"), ("agent", "${BASE}"), ("source", "${RUST}")] {
            let text = stage(name);
            let froms: Vec<&str> = text.lines().filter(|line| line.starts_with("FROM")).collect();
            assert_eq!(froms, [format!("FROM {from} AS {name}")]);
            assert!(text.starts_with("ARG BASE="), "{text}");
        }
    }

    #[test]
    fn the_same_context_is_the_same_bytes() {
        let user = UserId { uid: 1000, gid: 1000 };
        let recipe = Recipe { base: "scratch", packages: &[], user };
        assert_eq!(recipe.context(b"x").unwrap(), recipe.context(b"x").unwrap());
    }

    #[test]
    fn a_package_is_not_an_option_nor_a_command() {
        let check = |name: &str| check_packages("debian", &[name.to_owned()]).is_ok();
        assert!(check("g++") && check("python3-dev") && check("git=1:2.39~1"));
        assert!(!check("-o") && !check("a b") && !check("$(id)") && !check("a;b") && !check(""));
        assert!(check_packages("scratch", &["git".to_owned()]).is_err());
    }
}
