//! Processes of this machine: who is found, and who is ended.

use std::io::Read as _;
use std::process::{Command, Stdio};

use babybot::clock::{Clock as _, SystemClock};
use babybot::process::{self, Process, children};
use rustix::process::{WaitId, WaitIdOptions};

const MARK: &str = "BABYBOT_TEST_MARK";
const SWEEP: &str = "BABYBOT_TEST_SWEEP";

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

/// Sweeping is about a whole process and its children, so it has one of its own.
#[test]
fn what_this_process_started_is_no_stray_whoever_started_it() {
    let this = std::env::current_exe().unwrap();
    let arguments = ["--exact", "process::a_sweep_of_its_own", "--nocapture"];
    let swept = Command::new(this).args(arguments).env(SWEEP, "1").output().unwrap();
    let said = String::from_utf8_lossy(&swept.stdout).into_owned();
    let complained = String::from_utf8_lossy(&swept.stderr).into_owned();
    assert!(swept.status.success() && said.contains("swept"), "{said}{complained}");
}

/// Does something only when the test above runs it, in a process of its own.
#[tokio::test]
async fn a_sweep_of_its_own() {
    if std::env::var_os(SWEEP).is_none() {
        return;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut helper = children::start(sleep).await.unwrap();
    let mut fails = Command::new("sh");
    fails.args(["-c", "exit 7"]);
    let mut ended = children::start(fails).await.unwrap();
    let pid = rustix::process::Pid::from_raw(children::pid_of(&ended).unwrap()).unwrap();
    let over = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(pid), over).unwrap();
    let orphan = "sleep 600 >/dev/null 2>&1 & echo $!";
    let orphan = Command::new("sh").args(["-c", orphan]).output().unwrap();
    let orphan = String::from_utf8(orphan.stdout).unwrap().trim().parse().unwrap();
    let orphan = Process::find(orphan).unwrap();

    assert_eq!(children::kill_adopted(), 0);
    assert!(!orphan.is_alive(), "the adopted one runs on");
    assert_eq!(helper.try_wait().unwrap(), None, "a child of ours was killed");
    assert_eq!(ended.wait().await.unwrap().code(), Some(7), "its end was taken away");
    helper.kill().await.unwrap();
    println!("swept");
}
