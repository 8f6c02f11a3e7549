//! Files of babybot that are pipes: refused by name, and never waited for.

use std::fs;

use rustix::fs::{CWD, FileType, Mode};

use crate::support::folder::{Folder, QUICK};

#[test]
fn a_file_of_ours_that_is_a_pipe_is_refused_by_name_and_not_waited_for() {
    for file in ["instance", "lock", "controller.json", "babybot.db", "babybot.db-wal"] {
        let folder = Folder::with(QUICK);
        folder.run(&["apply", "--yes"]);
        let path = folder.path("data").join(file);
        let _ = fs::remove_file(&path);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
        for verb in [
            &["apply", "--yes=privileged,destructive"][..],
            &["up", "--yes"],
            &["chat", "--yes", "home", "hi"],
        ] {
            let ran = folder.run(verb);
            assert!(matches!(ran.code, Some(1 | 4)), "{file} {verb:?}: {ran:?}");
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(said.contains(file), "{file} {verb:?}: {ran:?}");
        }
        for verb in ["status", "plan", "down", "history", "logs"] {
            // Whatever they say of it, they come to an end.
            assert!(folder.run(&[verb]).code.is_some(), "{file} {verb}");
        }
        fs::remove_file(&path).unwrap();
    }
}
