//! `bb_edit_file`: one passage of a file becomes another.

use std::io::Read as _;
use std::sync::Arc;

use serde::Deserialize;

use super::super::disk::{Disk, Room};
use super::file_tool::FileTool;
use super::files::{named, open, replace_within, shown};
use super::workbench::Workbench;
use crate::protocol::ParameterKind::String as Text;
use crate::protocol::ToolSpec;

/// Largest file that is edited, in bytes.
const EDIT_MAX: u64 = 8 << 20;

/// The arguments of a call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    path: String,
    old_text: String,
    new_text: String,
}

/// The tool.
pub(super) fn tool(bench: Arc<Workbench>) -> FileTool<Arguments> {
    let about = "Replace one passage of a file. old_text must occur exactly once.";
    let spec = ToolSpec::new("bb_edit_file", about)
        .required("path", Text, "the file")
        .required("old_text", Text, "the passage as it is")
        .required("new_text", Text, "the passage as it shall be");
    FileTool::new(spec, bench, edit)
}

fn edit(
    bench: &Workbench,
    Arguments { path: written, old_text, new_text }: &Arguments,
    disk: (&Disk, Room),
) -> Result<String, String> {
    if old_text == new_text {
        return Err("old_text and new_text are the same: nothing to do".to_owned());
    }
    if old_text.is_empty() {
        return Err("old_text is empty; use bb_write_file to write a whole file".to_owned());
    }
    let path = bench.resolve(written)?;
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

/// The text with its one passage `old` as `new`: exactly, or else line by line without regard to
/// trailing blanks, or else without regard to indentation, whichever first finds anything.
fn substitute(text: &str, old: &str, new: &str) -> Result<String, String> {
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
    use super::super::tests::{Bench, call};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_file_is_written_read_and_edited() {
        let root = tempfile::tempdir().unwrap();
        let bench = Bench::new(root.path(), 1 << 20).tools();
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
        let bench = Bench::new(root.path(), 1 << 20).tools();
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
        let bench = Bench::new(root.path(), 1 << 20).tools();
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
