//! Output of any size in bounded memory: its start, its end, and a file with all of it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Spill files that are kept in a home; the oldest go first.
const SPILL_FILES_MAX: usize = 64;

/// What a tool wrote, as it arrives.
#[derive(Debug)]
pub(super) struct Capture {
    /// Bytes of the result that the model is given.
    shown_max: usize,
    /// Bytes that are kept in the spill file.
    kept_max: u64,
    spill_path: PathBuf,
    spill: Spill,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    kept: u64,
}

#[derive(Debug)]
enum Spill {
    /// All of it fits into the result so far.
    NotNeeded,
    Open(File),
    Failed(String),
}

impl Capture {
    pub(super) fn new(shown_max: usize, kept_max: u64, spill_path: PathBuf) -> Self {
        Self {
            shown_max,
            kept_max,
            spill_path,
            spill: Spill::NotNeeded,
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
            kept: 0,
        }
    }

    /// Takes more output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.shown_max.saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        if rest.is_empty() {
            return;
        }
        if matches!(self.spill, Spill::NotNeeded) {
            self.open_spill();
        }
        self.keep(rest);
        let tail_max = self.shown_max / 4;
        self.tail.extend(&rest[rest.len().saturating_sub(tail_max)..]);
        let surplus = self.tail.len().saturating_sub(tail_max);
        self.tail.drain(..surplus);
    }

    /// What the model is given.
    pub(super) fn finish(mut self) -> String {
        if self.total == 0 {
            return "(no output)".to_owned();
        }
        if matches!(self.spill, Spill::NotNeeded) {
            return readable(&self.head);
        }
        let head = &self.head[..self.shown_max - self.shown_max / 4];
        let left_out = self.total - head.len() as u64 - self.tail.len() as u64;
        let whereabouts = match &self.spill {
            Spill::Failed(error) => format!("they could not be kept: {error}"),
            _ if self.kept < self.total => format!(
                "the first {} of {} bytes are in {}",
                self.kept,
                self.total,
                self.spill_path.display()
            ),
            _ => format!("the whole output is in {}", self.spill_path.display()),
        };
        format!(
            "{}\n[… {left_out} bytes left out; {whereabouts}. Use a narrower command. …]\n{}",
            readable(head),
            readable(self.tail.make_contiguous())
        )
    }

    fn open_spill(&mut self) {
        let opened = self
            .spill_path
            .parent()
            .map_or(Ok(()), |folder| fs::create_dir_all(folder).map(|()| forget_oldest(folder)));
        self.spill = match opened.and_then(|()| File::create(&self.spill_path)) {
            Ok(file) => Spill::Open(file),
            Err(error) => Spill::Failed(error.to_string()),
        };
        let head = std::mem::take(&mut self.head);
        self.keep(&head);
        self.head = head;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.kept_max - self.kept).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        if let Spill::Open(file) = &mut self.spill {
            match file.write_all(bytes) {
                Ok(()) => self.kept += bytes.len() as u64,
                Err(error) => self.spill = Spill::Failed(error.to_string()),
            }
        }
    }
}

fn forget_oldest(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let surplus = (files.len() + 1).saturating_sub(SPILL_FILES_MAX);
    for (_, path) in files.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

/// Text without terminal controls; what is not UTF-8 is replaced.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => skip_escape(&mut characters),
            '\n' | '\t' => clean.push(character),
            _ if character.is_control() => {}
            _ => clean.push(character),
        }
    }
    let end = clean.trim_end().len();
    clean.truncate(end);
    clean
}

/// Passes over the rest of a terminal's escape sequence.
fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.next_if(|next| matches!(next, '[' | ']')) {
        Some('[') => while characters.next().is_some_and(|next| !('@'..='~').contains(&next)) {},
        Some(_) => while characters.next().is_some_and(|next| next != '\u{7}' && next != '\\') {},
        None => {
            characters.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(folder: &Path, shown: usize, kept: u64, pieces: &[&[u8]]) -> String {
        let mut capture = Capture::new(shown, kept, folder.join("out/1.txt"));
        for piece in pieces {
            capture.push(piece);
        }
        capture.finish()
    }

    #[test]
    fn short_output_is_shown_whole_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(capture(folder.path(), 100, 1000, &[b"a\n", b"b\n"]), "a\nb");
        assert_eq!(capture(folder.path(), 100, 1000, &[]), "(no output)");
        assert!(!folder.path().join("out").exists());
    }

    #[test]
    fn long_output_shows_both_ends_and_keeps_all_of_it_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let output: Vec<u8> = (0..1000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let pieces: Vec<&[u8]> = output.chunks(7).collect();
        let shown = capture(folder.path(), 100, 1 << 20, &pieces);
        assert!(shown.starts_with("0\n1\n2\n"), "{shown}");
        assert!(shown.ends_with("998\n999"), "{shown}");
        assert!(shown.contains("the whole output is in"), "{shown}");
        assert_eq!(fs::read(folder.path().join("out/1.txt")).unwrap(), output);
    }

    #[test]
    fn a_flood_is_kept_up_to_the_limit_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let flood = vec![b'x'; 5000];
        let shown = capture(folder.path(), 100, 300, &[&flood, &flood]);
        assert!(shown.contains("the first 300 of 10000 bytes are in"), "{shown}");
        assert_eq!(fs::read(folder.path().join("out/1.txt")).unwrap().len(), 300);
    }

    #[test]
    fn terminal_controls_do_not_reach_the_model() {
        assert_eq!(
            readable(b"\x1b[31mred\x1b[0m \x1b]0;title\x07plain\x08\r\n\xff"),
            "red plain\n\u{fffd}"
        );
    }

    #[test]
    fn spill_files_do_not_pile_up() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..SPILL_FILES_MAX + 9 {
            fs::write(folder.path().join(number.to_string()), "x").unwrap();
        }
        forget_oldest(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), SPILL_FILES_MAX - 1);
    }
}
