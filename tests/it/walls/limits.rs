//! Limits of a real agent: each holds, and whoever waits for the answer is told.

use super::house::{House, RUN, VERB_MAX};
use crate::support::docker::{Engine, needs_engine};
use crate::support::home::HOME;
use crate::support::installation::{User, wait_for_end, wait_until};

/// A house with one group that has these limits.
fn limited(engine: &Engine, limits: &str, script: &str) -> House {
    let house = House::new(engine, &format!("{HOME}limits = {{ {limits} }}\n"), script);
    house.apply();
    house
}

#[test]
fn a_tool_that_needs_too_much_memory_ends_and_everybody_is_told() {
    let engine = needs_engine!();
    let house = limited(&engine, "memory = \"48MiB\"", RUN);
    let up = house.up();
    house
        .installation
        .write("groups/home/run.sh", "dd if=/dev/zero of=/dev/null bs=200M count=1; echo is $?\n");
    let ended = house.chat("home", "run");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("limits.memory reached"), "{ended:?}");
    // Whether the command or the shell that runs it is the kernel's choice.
    assert!(!ended.stdout.contains("is 0"), "{ended:?}");
    assert!(ended.stdout.contains("[limits.memory: a process was killed"), "{ended:?}");
    up.wait_until_status_says("limits.memory reached");
    // The agent itself goes on.
    let agent = house.container();
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    assert_eq!(house.container(), agent);
    up.down();
}

#[test]
fn an_agent_that_has_no_memory_left_is_given_up_with_the_limit_named() {
    let engine = needs_engine!();
    let script = r#"
        [[rule]]
        when = "starve"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "head -c 900000 /dev/zero | tr '\\0' x | fold > big; dd if=/dev/zero of=/tmp/x bs=4k count=100000; for n in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/tmp/x$n bs=4k count=1000; done" } } },
          { call = { tool = "bb_edit_file", arguments = { path = "big", old_text = "y", new_text = "x" } } },
          { call = { tool = "bb_edit_file", arguments = { path = "big", old_text = "y", new_text = "x" } } },
          { reply = "done" },
        ]
        [[rule]]
        steps = [{ reply = "here" }]
    "#;
    let house = limited(&engine, "memory = \"48MiB\"", script);
    let up = house.up();
    let ended = house.chat("home", "starve");
    assert_eq!(ended.code, 1, "{ended:?}");
    let notice = "I could not answer: it needed more memory than 48MiB (limits.memory).";
    assert!(format!("{}{}", ended.stdout, ended.stderr).contains(notice), "{ended:?}");
    assert!(ended.stderr.contains("limits.memory reached"), "{ended:?}");
    let texts = house.installation.column("SELECT kind || ': ' || text FROM outbox");
    assert_eq!(texts, [format!("notice: {notice}")]);
    up.wait_until_status_says("limits.memory reached");
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    up.down();
}

#[test]
fn a_fork_bomb_is_capped_and_the_host_stays_responsive() {
    let engine = needs_engine!();
    let house = limited(&engine, "pids = 40", RUN);
    let up = house.up();
    house.installation.write(
        "groups/home/run.sh",
        // The wait needs no process: there is none to be had.
        "bomb() { bomb & bomb & sleep 60; }\nbomb &\necho > bombing\nuntil [ -e seen ]; do :; done\n",
    );
    let chat = house.begin_chat("home", "run");
    wait_until("the bomb is there", || house.installation.workplace("bombing").exists());
    let container = house.container();
    let first = house.first_process(&container);
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", first.pid)).unwrap();
    let mut most = 0;
    wait_until("there are many", || {
        most = most.max(members(&group));
        most >= 10
    });
    for _ in 0..20 {
        most = most.max(members(&group));
        // What anybody on the host asks for is still answered.
        assert!(std::process::Command::new("true").status().unwrap().success());
    }
    assert!(most <= 40, "{most} processes");
    house.installation.write("groups/home/seen", "");
    let ended = wait_for_end(chat, VERB_MAX);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("limits.pids reached"), "{ended:?}");
    assert!(ended.stdout.contains("[limits.pids: a process could not start"), "{ended:?}");
    up.wait_until_status_says("limits.pids reached");
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    up.down();
    assert_eq!(house.containers(), []);
}

/// How many processes of the machine are in this control group.
fn members(group: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    pids.filter(|entry| {
        std::fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|found| found == group)
    })
    .count()
}

#[test]
fn a_part_of_a_processor_is_all_there_is_however_many_want_it() {
    let engine = needs_engine!();
    let house = limited(&engine, "cpus = 0.25", RUN);
    let said = house.says(
        "used() { cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || \
             awk '/^usage_usec/ { printf \"%.0f\", $2 * 1000 }' /sys/fs/cgroup/cpu.stat; }\n\
         now() { awk '{ printf \"%.0f\", $1 * 100 }' /proc/uptime; }\n\
         before=$(used) at=$(now)\n\
         for n in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait\n\
         echo $(( ($(used) - before) / 10000000 )) $(( $(now) - at ))\n",
    );
    let mut hundredths = said.split_whitespace().map(|word| word.parse::<f64>().expect(&said));
    let (used, wall) = (hundredths.next().unwrap(), hundredths.next().unwrap());
    assert!(wall >= 150.0, "{said}");
    assert!(used / wall < 0.25 * 1.4, "{used} of {wall}");
}

#[test]
fn a_turn_that_takes_too_long_is_ended_with_all_that_it_started() {
    let engine = needs_engine!();
    let script = r#"
        [[rule]]
        when = "long"
        steps = [{ call = { tool = "bb_shell", arguments = { command = "setsid sleep MARK & (env -i setsid sleep MARK &); trap '' TERM; sleep MARK" } } }]
        [[rule]]
        steps = [{ reply = "here" }]
    "#;
    let house = limited(&engine, "turn = \"2s\"", script);
    let up = house.up();
    let ended = house.chat("home", "long");
    assert_eq!(ended.code, 1, "{ended:?}");
    let notice = "I could not answer: it took longer than 2s (limits.turn).";
    assert!(format!("{}{}", ended.stdout, ended.stderr).contains(notice), "{ended:?}");
    assert!(ended.stderr.contains("limits.turn reached"), "{ended:?}");
    up.wait_until_status_says("limits.turn reached");
    wait_until("nothing of it runs", || house.installation.sleepers().is_empty());
    let ended = house.chat("home", "hello");
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
    up.down();
}

#[test]
fn an_agent_with_nothing_to_do_rests_and_wakes_again() {
    let engine = needs_engine!();
    let house = limited(&engine, "idle = \"1s\"", RUN);
    let up = house.up();
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    let first = house.container();
    wait_until("it rests", || house.containers().is_empty());
    up.wait_until_status_says("asleep");
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    assert!(!house.containers().contains(&first));
    assert!(!up.log().contains("drift"), "{}", up.log());
    up.down();
}

#[test]
fn what_is_too_much_for_an_answer_is_in_a_file_up_to_its_limit() {
    let engine = needs_engine!();
    let house = limited(&engine, "output = \"1MiB\"", RUN);
    house.installation.write("groups/home/run.sh", "yes xxxxxxx | head -c 50000000\n");
    let ended = house.chat("home", "run");
    assert_eq!(ended.code, 0, "{ended:?}");
    let result: String = house.installation.value("SELECT result FROM turn_calls");
    assert!(result.contains("the first 1048576 of 50000000 bytes are in"), "{result}");
    let folder = house.root().join("data/sessions/home/.bb/out");
    let sizes: Vec<u64> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes, [1 << 20]);
}

#[test]
fn what_is_full_is_said_and_can_be_emptied_from_within() {
    let engine = needs_engine!();
    let script = r#"
        [[rule]]
        when = "fill"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=large$n bs=1M count=1; done; sleep MARK" } } },
          { reply = "filled" },
        ]
        [[rule]]
        when = "write"
        steps = [
          { call = { tool = "bb_write_file", arguments = { path = "more", content = "more" } } },
          { reply = "{result}" },
        ]
        [[rule]]
        when = "overshoot"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "dd if=/dev/zero of=huge bs=1M count=8; echo is $?" } } },
          { reply = "{result}" },
        ]
        [[rule]]
        when = "empty"
        steps = [
          { call = { tool = "bb_shell", arguments = { command = "rm -f large* huge; ls" } } },
          { reply = "emptied" },
        ]
        [[rule]]
        steps = [{ reply = "here" }]
    "#;
    let house = limited(&engine, "disk = \"4MiB\"", script);
    let up = house.up();
    let ended = house.chat("home", "fill");
    assert_eq!(ended.code, 0, "{ended:?}");
    let notice = "filled\n\n[limits.disk: the folders of home hold more than 4MiB.";
    assert!(ended.stdout.starts_with(notice), "{ended:?}");
    assert!(ended.stderr.contains("limits.disk reached"), "{ended:?}");
    up.wait_until_status_says("limits.disk reached");
    wait_until("nothing of it runs", || house.installation.sleepers().is_empty());
    let ended = house.chat("home", "write");
    assert!(ended.stdout.contains("limits.disk: nothing was written"), "{ended:?}");
    assert!(!house.installation.workplace("more").exists());
    assert_eq!(house.chat("home", "empty").stdout, "emptied\n");
    let ended = house.chat("home", "overshoot");
    assert!(ended.stdout.contains("is 1"), "{ended:?}");
    let huge = std::fs::metadata(house.installation.workplace("huge")).unwrap().len();
    assert!(huge <= 4 << 20, "{huge}");
    assert_eq!(house.chat("home", "empty").stdout, "emptied\n");
    assert_eq!(house.chat("home", "hello").stdout, "here\n");
    up.down();
}

#[test]
fn what_plain_processes_cannot_be_held_to_is_an_error_where_written_and_said_where_not() {
    let engine = needs_engine!();
    // By name, and where `auto` finds no engine.
    let nowhere = "kind = \"auto\"\n[runtime.docker]\nhost = \"unix:///nowhere/docker.sock\"\n";
    for runtime in ["kind = \"none\"\n", nowhere] {
        for limit in ["cpus = 1", "memory = \"1GiB\"", "pids = 20"] {
            let groups = format!("{HOME}limits = {{ {limit} }}\n");
            let house = House::written(&engine, User::Oneself, runtime, &groups, RUN);
            let name = limit.split(' ').next().unwrap();
            for verb in [&["plan"][..], &["apply", "--yes=privileged"]] {
                let ended = house.run(verb);
                assert_eq!(ended.code, 3, "{verb:?} with {limit} on {runtime}: {ended:?}");
                assert!(ended.stderr.contains(name), "{verb:?} with {limit}: {ended:?}");
            }
            assert!(!house.root().join("data/babybot.db").exists(), "{limit} was applied");
        }
        let house = House::written(&engine, User::Oneself, runtime, HOME, RUN);
        let ended = house.run(&["plan"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains("does not enforce limits"), "{ended:?}");
        house.apply();
    }
}
