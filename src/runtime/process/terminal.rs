//! A terminal for a command of the operator.

use std::io;
use std::process::Command;

use rustix::fs::{Mode, OFlags, Uid};
use rustix::pty::{self, OpenptFlags};
use rustix::termios::Winsize;
use tokio::net::unix::pipe;

/// A terminal whose other end a command has.
pub(super) struct Screen {
    pub(super) keys: pipe::Sender,
    pub(super) shown: pipe::Receiver,
}

impl Screen {
    /// Makes a terminal of this size, as columns and rows, that is all a command reads and writes.
    pub(super) fn attach(
        command: &mut Command,
        (columns, rows): (u16, u16),
        user: Option<(u32, u32)>,
    ) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = pty::openpt(flags)?;
        pty::grantpt(&ours)?;
        pty::unlockpt(&ours)?;
        let name = pty::ptsname(&ours, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name, flags, Mode::empty())?;
        if let Some((uid, _)) = user {
            rustix::fs::fchown(&theirs, Some(Uid::from_raw(uid)), None)?;
        }
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&theirs, size)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        if let Some(kind) = std::env::var_os("TERM") {
            command.env("TERM", kind);
        }
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok(Self {
            keys: pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?,
            shown: pipe::Receiver::from_owned_fd_unchecked(ours)?,
        })
    }
}
