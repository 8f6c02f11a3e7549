//! `bb_read_file`, `bb_write_file` and `bb_edit_file`.
//!
//! Only regular files: a pipe or a device would hold the agent up for ever.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::super::disk::{Disk, Room};
use super::{EditArguments, ReadArguments, Workbench, WriteArguments};

/// Largest file that is edited, in bytes.
const EDIT_MAX: u64 = 8 << 20;
/// How far into a file lines are counted, in bytes.
const SCAN_MAX: usize = 256 << 20;
/// Longest line that is shown, in bytes.
const LINE_MAX: usize = 2_000;
/// Lines that are read where the model does not say.
const LINES_DEFAULT: u64 = 2_000;

type Answer = Result<String, String>;

impl Workbench {
    pub(super) fn read_file(&self, arguments: &ReadArguments) -> Answer {
        let file = open(&self.resolve(&arguments.path)?).map_err(|e| named(&arguments.path, &e))?;
        let first = arguments.offset.unwrap_or(1).max(1);
        let limit = arguments.limit.unwrap_or(LINES_DEFAULT).max(1);
        let mut reader = BufReader::new(file);
        let mut text = String::new();
        let mut line = Vec::new();
        let mut number = 0;
        let mut scanned = 0;
        loop {
            line.clear();
            if scanned > SCAN_MAX {
                return Err(format!(
                    "{}: only its first {SCAN_MAX} bytes are read",
                    arguments.path
                ));
            }
            // A line longer than this is a file without lines: what follows is not shown.
            let count = (&mut reader)
                .take(1 << 20)
                .read_until(b'\n', &mut line)
                .map_err(|e| named(&arguments.path, &e))?;
            if count == 0 {
                break;
            }
            scanned += count;
            number += 1;
            if number < first {
                continue;
            }
            if number >= first + limit || text.len() >= self.result_max {
                text.push_str(&format!("[more from line {number}: read with offset {number}]"));
                return Ok(text);
            }
            text.push_str(&shown(&line));
            text.push('\n');
        }
        match (number, text.is_empty()) {
            (0, _) => Ok("(empty file)".to_owned()),
            (lines, true) => Err(format!("{} has {lines} lines", arguments.path)),
            _ => Ok(text),
        }
    }

    pub(super) fn write_file(&self, arguments: &WriteArguments, disk: (&Disk, Room)) -> Answer {
        let path = self.resolve(&arguments.path)?;
        replace_within(&path, &arguments.path, arguments.content.as_bytes(), disk)?;
        Ok(format!("wrote {} bytes to {}", arguments.content.len(), arguments.path))
    }

    pub(super) fn edit_file(&self, arguments: &EditArguments, disk: (&Disk, Room)) -> Answer {
        let EditArguments { path: written, old_text, new_text } = arguments;
        if old_text == new_text {
            return Err("old_text and new_text are the same: nothing to do".to_owned());
        }
        if old_text.is_empty() {
            return Err("old_text is empty; use bb_write_file to write a whole file".to_owned());
        }
        let path = self.resolve(written)?;
        let mut text = String::new();
        let file = open(&path).map_err(|e| named(written, &e))?;
        file.take(EDIT_MAX + 1).read_to_string(&mut text).map_err(|e| named(written, &e))?;
        if text.len() as u64 > EDIT_MAX {
            return Err(format!("{written} is larger than {EDIT_MAX} bytes"));
        }
        let edited = substitute(&text, old_text, new_text)?;
        replace_within(&path, written, edited.as_bytes(), disk)?;
        Ok(format!("edited {written}"))
    }
}

fn named(path: &str, error: &io::Error) -> String {
    format!("{path}: {error}")
}

/// Opens a regular file; anything else is refused without waiting for it.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Puts `content` in the place of a file, where there is room for it.
fn replace_within(
    path: &Path,
    written: &str,
    content: &[u8],
    (disk, room): (&Disk, Room),
) -> Result<(), String> {
    let before = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let growth = (content.len() as u64).saturating_sub(before);
    if let Some(objection) = disk.objection(room, path, growth) {
        return Err(objection);
    }
    replace(path, content).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => disk.too_large(),
        _ => named(written, &error),
    })
}

/// Puts `content` in the place of a file, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // Through a link, to what it points at, as writing in place would.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mode = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.permissions().mode(),
        Ok(metadata) if metadata.is_dir() => return Err(io::Error::other("it is a directory")),
        Ok(metadata) if metadata.file_type().is_fifo() => {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(_) => return Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0o644,
        Err(error) => return Err(error),
    };
    let folder = path.parent().ok_or_else(|| io::Error::other("it has no folder"))?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode & 0o777))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    // The creation mask narrowed what was asked for; an existing file keeps its own.
    file.as_file().set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    file.persist(&path)?;
    Ok(())
}

fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() <= LINE_MAX {
        return String::from_utf8_lossy(line).into_owned();
    }
    format!("{}… [{} bytes]", String::from_utf8_lossy(&line[..LINE_MAX]), line.len())
}

/// The text with its one passage `old` as `new`: exactly, or else line by line without regard to
/// trailing blanks, or else without regard to indentation, whichever first finds anything.
fn substitute(text: &str, old: &str, new: &str) -> Answer {
    match text.matches(old).count() {
        1 => return Ok(text.replacen(old, new, 1)),
        0 => {}
        count => return Err(ambiguous(count)),
    }
    let trims: [fn(&str) -> &str; 2] = [str::trim_end, str::trim];
    for trim in trims {
        let found = line_matches(text, old, trim);
        match found.as_slice() {
            [] => {}
            [(start, end)] => {
                let line_end =
                    if text[..*end].ends_with('\n') && !new.ends_with('\n') { "\n" } else { "" };
                return Ok(format!("{}{new}{line_end}{}", &text[..*start], &text[*end..]));
            }
            several => return Err(ambiguous(several.len())),
        }
    }
    Err(format!("old_text does not occur. The closest passage is:\n{}", closest(text, old)))
}

fn ambiguous(count: usize) -> String {
    format!("old_text occurs {count} times: add lines around it until it is unique")
}

/// Byte ranges of whole lines that equal the lines of `old` once each is trimmed.
fn line_matches(text: &str, old: &str, trim: fn(&str) -> &str) -> Vec<(usize, usize)> {
    let wanted: Vec<&str> = old.lines().map(trim).collect();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut found = Vec::new();
    let mut offset = 0;
    for (index, line) in lines.iter().enumerate() {
        if let Some(window) = lines.get(index..index + wanted.len())
            && window.iter().map(|line| trim(line)).eq(wanted.iter().copied())
        {
            let length: usize = window.iter().map(|line| line.len()).sum();
            found.push((offset, offset + length));
        }
        offset += line.len();
    }
    found
}

/// The five lines around the one that is most like the first line of `old`, as far as a few
/// thousand lines and the beginnings of them tell.
fn closest(text: &str, old: &str) -> String {
    const LINES_MAX: usize = 5_000;
    const BEGINNING: usize = 200;
    let beginning = |line: &str| line.trim().chars().take(BEGINNING).collect::<String>();
    let wanted = old.lines().map(beginning).find(|line| !line.is_empty()).unwrap_or_default();
    let likeness = |line: &str| strsim::normalized_levenshtein(&beginning(line), &wanted);
    let lines: Vec<&str> = text.lines().take(LINES_MAX).collect();
    let likenesses: Vec<f64> = lines.iter().map(|line| likeness(line)).collect();
    let best = (0..lines.len()).max_by(|a, b| likenesses[*a].total_cmp(&likenesses[*b]));
    let start = best.unwrap_or_default().saturating_sub(2);
    let shown: Vec<String> =
        lines.iter().skip(start).take(5).map(|line| shown(line.as_bytes())).collect();
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bench, call};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_file_is_written_read_and_edited() {
        let root = tempfile::tempdir().unwrap();
        let bench = bench(root.path(), 1 << 20);
        let path = "/workspace/group/notes/a.txt";
        let wrote =
            call(&bench, "bb_write_file", json!({"path": path, "content": "one\ntwo\nthree\n"}))
                .await;
        assert_eq!(wrote, "wrote 14 bytes to /workspace/group/notes/a.txt");
        let edit = json!({"path": "notes/a.txt", "old_text": "two", "new_text": "2"});
        assert_eq!(call(&bench, "bb_edit_file", edit).await, "edited notes/a.txt");
        let read =
            call(&bench, "bb_read_file", json!({"path": "notes/a.txt", "offset": 2, "limit": 1}))
                .await;
        assert_eq!(read, "2\n[more from line 3: read with offset 3]");
    }

    #[tokio::test]
    async fn what_is_not_a_regular_file_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let bench = bench(root.path(), 1 << 20);
        let fifo = root.path().join("group/pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600))
            .unwrap();
        for (tool, arguments) in [
            ("bb_read_file", json!({"path": "pipe"})),
            ("bb_write_file", json!({"path": "pipe", "content": "x"})),
            ("bb_edit_file", json!({"path": "pipe", "old_text": "x", "new_text": "y"})),
        ] {
            assert_eq!(
                call(&bench, tool, arguments).await,
                "error: pipe: not a regular file",
                "{tool}"
            );
        }
        let folder = call(&bench, "bb_write_file", json!({"path": ".", "content": "x"})).await;
        assert_eq!(folder, "error: .: it is a directory");
    }

    #[test]
    fn an_edit_forgives_blanks_but_never_guesses_between_two() {
        let text = "fn a() {\n    one();  \n}\nfn b() {\n    two();\n}\n";
        let edit = |old, new| substitute(text, old, new);
        assert_eq!(edit("fn a() {\n    one();\n}", "A").unwrap(), "A\nfn b() {\n    two();\n}\n");
        assert_eq!(edit("fn b() {\ntwo();\n}", "B").unwrap(), "fn a() {\n    one();  \n}\nB\n");
        assert!(edit("}\n", "x").unwrap_err().contains("occurs 2 times"));
        assert!(edit("fn bb() {", "x").unwrap_err().contains("fn b() {"));
    }

    #[tokio::test]
    async fn a_replaced_file_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let bench = bench(root.path(), 1 << 20);
        let script = root.path().join("group/run.sh");
        fs::write(&script, "echo old\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        call(
            &bench,
            "bb_edit_file",
            json!({"path": "run.sh", "old_text": "old", "new_text": "new"}),
        )
        .await;
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_to_string(&script).unwrap(), "echo new\n");
    }
}
