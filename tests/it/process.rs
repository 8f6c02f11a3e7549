//! Processes of this machine: who is found, and who is ended.

use std::io::Read as _;
use std::process::{Command, Stdio};

use babybot::clock::{Clock as _, SystemClock};
use babybot::process::{self, Process};

const MARK: &str = "BABYBOT_TEST_MARK";

/// For a moment of its exec a process has no environment that could be read.
#[test]
fn what_is_in_the_middle_of_an_exec_is_found_by_its_mark_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("again");
    std::fs::write(&script, "echo\nexec sh \"$0\"\n").unwrap();
    for round in 0..200 {
        let mark = SystemClock.instance_id().to_string();
        let mut command = Command::new("sh");
        command.arg(&script).env_clear().env("PATH", "/usr/bin:/bin").env(MARK, &mark);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let running = Process::find(child.id().try_into().unwrap()).unwrap();
        let left = process::kill_marked(MARK, &mark);
        let (alive, _) = (running.is_alive(), child.kill());
        child.wait().unwrap();
        assert_eq!((left, alive), (0, false), "in round {round}");
    }
}
