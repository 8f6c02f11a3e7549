//! Who agents of containers are, and whom belongs what they and their controllers write.

use std::fs::{Permissions, hard_link, metadata, set_permissions, symlink_metadata, write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::house::{House, RUN};
use crate::support::docker::{Front, needs_engine, outside};
use crate::support::home::HOME;
use crate::support::installation::{User, wait_until};

/// What says who it is and leaves a file.
const WHO: &str = "echo x > made; mkdir -p deep/er; echo x > deep/er/made; id -u; id -g\n";

#[test]
fn the_agents_of_root_are_nobody_who_owns_the_folders_it_is_given() {
    let engine = needs_engine!();
    if !rustix::process::geteuid().is_root() {
        crate::support::skipped("only root gives folders away");
        return;
    }
    let house = House::new(&engine, &format!("{HOME}main = true\n"), RUN);
    // A folder that was there before, with what could lead out of it.
    let outside = house.installation.beside("outside");
    write(&outside, "of somebody else").unwrap();
    let group = house.root().join("groups/home");
    std::fs::create_dir_all(group.join("old/er")).unwrap();
    write(group.join("old/er/file"), "of before").unwrap();
    symlink(&outside, group.join("link")).unwrap();
    symlink(house.installation.beside(""), group.join("folder-link")).unwrap();
    hard_link(&outside, group.join("second-name")).unwrap();

    let plan = house.run(&["plan"]);
    let line = plan.stdout.lines().skip_while(|line| !line.contains("folder/home"));
    let lines: Vec<&str> = line.take(2).collect();
    assert!(lines[0].contains("adopt") && lines[1].contains("10001"), "{}", plan.stdout);
    house.apply();
    assert_eq!(house.says(WHO), "10001\n10001\n");

    let owner = |path: &str| symlink_metadata(group.join(path)).unwrap().uid();
    for given in
        [".", "old", "old/er", "old/er/file", "link", "folder-link", "made", "deep/er/made"]
    {
        assert_eq!(owner(given), 10_001, "{given}");
    }
    assert_eq!(metadata(&outside).unwrap().uid(), 0, "what a link leads to was given away");
    assert_eq!(metadata(house.installation.beside("")).unwrap().uid(), 0);
    // What no agent writes is nobody else's.
    for kept in ["data", "data/babybot.db", "data/sessions", "groups", "babybot.toml"] {
        assert_eq!(metadata(house.root().join(kept)).unwrap().uid(), 0, "{kept}");
    }
    // Given once, there is nothing to do, until somebody takes it away.
    assert_eq!(house.run(&["plan", "--detailed-exitcode"]).code, 0);
    std::os::unix::fs::chown(&group, Some(0), Some(0)).unwrap();
    let plan = house.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, 2, "{plan:?}");
    assert!(plan.stdout.contains("folder/home"), "{plan:?}");
    house.apply();
    assert_eq!(owner("."), 10_001);
    // The same of what the main group keeps for all: while nobody looks, and under a controller.
    let global = house.root().join("groups/global");
    let of_agent = |path: &Path| symlink_metadata(path).is_ok_and(|found| found.uid() == 10_001);
    std::fs::remove_dir_all(&global).unwrap();
    let up = house.up();
    for gone in [global.clone(), global.join("MEMORY.md")] {
        wait_until("it is the agent's", || {
            of_agent(&global) && of_agent(&global.join("MEMORY.md"))
        });
        let _ = std::fs::remove_file(&gone).or_else(|_| std::fs::remove_dir_all(&gone));
    }
    wait_until("it is the agent's again", || of_agent(&global.join("MEMORY.md")));
    up.down();
}

#[test]
fn what_the_kernel_counts_for_a_user_it_counts_for_each_group() {
    let engine = needs_engine!();
    if !rustix::process::geteuid().is_root() {
        crate::support::skipped("only root has users to give to groups");
        return;
    }
    let house = House::new(&engine, &format!("{HOME}[groups.work]\n"), RUN);
    // What another group left behind keeps its user.
    let left = house.root().join("groups/left");
    std::fs::create_dir_all(&left).unwrap();
    std::os::unix::fs::chown(&left, Some(10_002), Some(10_002)).unwrap();
    house.apply();
    let script = |group: &str, text: &str| {
        write(house.root().join("groups").join(group).join("run.sh"), text).unwrap();
    };
    let crowd = "for i in $(seq 100); do sleep 600 & done; echo x > many\n\
                 while [ ! -e go ]; do sleep 0.1; done\n";
    script("home", crowd);
    let mut busy = house.begin_chat("home", "run");
    wait_until("there is a crowd", || house.root().join("groups/home/many").exists());
    // As many as a user may have, and the other group has more than that.
    let few = "(id -u; ulimit -u 50; ls / > /dev/null && echo fine) > said 2>&1\n";
    script("work", few);
    let ended = house.chat("work", "run");
    assert_eq!(house.read("groups/work/said"), "10003\nfine\n", "{ended:?}");
    write(house.root().join("groups/home/go"), "").unwrap();
    assert!(busy.wait().unwrap().success());
    assert_eq!(metadata(house.root().join("groups/home")).unwrap().uid(), 10_001);
    assert_eq!(metadata(house.root().join("groups/global")).unwrap().uid(), 0);
    assert_eq!(house.run(&["plan", "--detailed-exitcode"]).code, 0);
}

#[test]
fn the_agents_of_another_users_project_are_that_user() {
    let engine = needs_engine!();
    for user in User::all() {
        if user == User::Oneself {
            continue;
        }
        // Somebody without power reaches the engine by a socket that lets everybody in.
        let front = outside().block_on(async { Front::of(&engine) });
        let url = front.endpoint().url;
        let socket = std::path::Path::new(url.strip_prefix("unix://").unwrap());
        set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
        set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let docker = format!("[runtime.docker]\nhost = \"{url}\"\n");
        let house = House::of(&engine, user, &docker, HOME, RUN);
        let applied = house.apply();
        assert_eq!(house.says(WHO), "65534\n65534\n", "{user:?}, {applied:?}");
        for path in
            ["groups/home/made", "groups/home/deep/er/made", "groups/home", "data/babybot.db"]
        {
            let owner = metadata(house.root().join(path)).unwrap().uid();
            assert_eq!(owner, 65_534, "{user:?}: {path}");
        }
        let plan = house.run(&["plan", "--detailed-exitcode"]);
        assert_eq!(plan.code, 0, "{user:?}: {plan:?}");
    }
}
