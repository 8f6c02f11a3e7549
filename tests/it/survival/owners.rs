//! Root with a project of somebody else: agents run as its owner, to whom everything belongs.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::support::installation::{Installation, PATIENCE, User, wait_for_end, wait_until};

const SCRIPT: &str = r#"
[[rule]]
when = "who"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "seq 1 100000; touch made" } } },
  { call = { tool = "bb_shell", arguments = { command = "id -u; id -g; id -G" } } },
  { reply = "{result}" },
]
[[rule]]
when = "wait"
steps = [
  { call = { tool = "bb_shell", arguments = { command = "sleep MARK" } } },
  { reply = "waited" },
]
"#;

#[test]
fn agents_run_as_the_owner_of_the_project() {
    for user in User::all() {
        let installation = Installation::new(user, SCRIPT);
        // The first `chat` applies, and makes everything there is.
        let ended = installation.run(&["chat", "--yes", "home", "who"]);
        let uid = user.agent_uid();
        assert_eq!(ended.code, 0, "{ended:?}");
        let ids: Vec<&str> = ended.stdout.split_whitespace().collect();
        assert_eq!(ids.first(), Some(&uid.to_string().as_str()), "{user:?}: {ended:?}");
        if user != User::Oneself {
            // Neither root's group nor any other that root is in.
            let uid = uid.to_string();
            assert!(ids.iter().all(|id| *id == uid), "{user:?}: {ended:?}");
        }
        assert_owned(&installation.root(), uid);

        // Nor does a crash or what mends it leave anything that the owner cannot use.
        let mut controller = installation.begin_chat("wait");
        wait_until("the tool sleeps", || installation.sleepers().len() == 1);
        let agent = installation.agent();
        controller.kill().unwrap();
        controller.wait().unwrap();
        let _ = agent.signal(Signal::KILL);
        assert_eq!(wait_for_end(installation.begin_chat("who"), PATIENCE).code, 0);
        assert_owned(&installation.root(), uid);
    }
}

/// Checks that everything in a folder belongs to this user.
#[track_caller]
fn assert_owned(path: &Path, uid: u32) {
    let about = path.symlink_metadata().unwrap();
    assert_eq!(about.uid(), uid, "the owner of {}", path.display());
    if about.is_dir() {
        for entry in path.read_dir().unwrap() {
            assert_owned(&entry.unwrap().path(), uid);
        }
    }
}
