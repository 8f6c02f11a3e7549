//! The verbs as a person or a script uses them: the real binary in a project folder.

mod failures;

use std::io::Read as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::folder::{Folder, QUICK, Terminal, unbroken};
use crate::support::ollama::{FakeOllama, Reply, Trace};

mod chat;

#[test]
fn after_an_apply_nothing_is_left_to_do() {
    let folder = Folder::with(QUICK);
    let pending = folder.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(pending.code, Some(2), "{pending:?}");
    let applied = folder.run(&["apply", "--yes"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(applied.stderr.contains("Applied generation 1."), "{applied:?}");
    let done = folder.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout, "No changes. The machine matches babybot.toml (generation 1).\n");
    // And again: nothing to do is done at once, without a generation.
    assert_eq!(folder.run(&["apply"]).code, Some(0));
    assert!(folder.run(&["plan"]).stdout.contains("(generation 1)"));
}

#[test]
fn a_plan_changes_nothing() {
    let folder = Folder::with(QUICK);
    folder.run(&["plan"]);
    let left: Vec<_> = std::fs::read_dir(folder.path("")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn an_edited_model_shows_with_the_line_it_is_written_on() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    folder.edit("[groups.home]", "[models.other]\nkind = \"rehearsal\"\n\n[groups.home]");
    folder.edit("requires_trigger", "model = \"other\"\nrequires_trigger");
    let plan = folder.run(&["plan"]).stdout;
    let (_, change) = plan.split_once(" ~   group/home").unwrap_or_else(|| panic!("{plan}"));
    let change: Vec<&str> = change.lines().take(2).collect();
    assert!(change[0].contains("takes effect when the agent next starts"), "{plan}");
    assert!(
        change[1].contains("rehearsal → other") && change[1].contains("babybot.toml:15"),
        "{plan}"
    );
}

#[test]
fn a_typo_is_shown_in_its_place_and_nothing_else_happens() {
    let folder = Folder::with(&QUICK.replace("requires_trigger", "requires_triger"));
    for verb in [&["validate"][..], &["plan"], &["apply", "--yes"], &["chat", "home", "hi"]] {
        let ran = folder.run(verb);
        assert_eq!(ran.code, Some(3), "{verb:?} {ran:?}");
        assert!(ran.stderr.contains("error[BB0107]: unknown key `requires_triger`"), "{ran:?}");
        assert!(ran.stderr.contains("babybot.toml:12:1"), "{ran:?}");
        assert!(ran.stderr.contains("did you mean `requires_trigger`?"), "{ran:?}");
    }
    assert!(!folder.path("data").exists());
}

#[test]
fn a_program_that_asks_for_a_plan_is_given_the_problems() {
    let folder = Folder::with(&QUICK.replace("requires_trigger", "requires_triger"));
    let plan = folder.run(&["plan", "--format", "json"]);
    assert_eq!(plan.code, Some(3), "{plan:?}");
    assert_eq!(plan.stdout, folder.run(&["validate", "--format", "json"]).stdout);
    assert!(plan.stdout.contains("BB0107") && plan.stderr.is_empty(), "{plan:?}");
}

#[test]
fn an_invalid_manifest_is_counted_once() {
    let folder = Folder::with(&QUICK.replace("requires_trigger", "requires_triger"));
    let ran = folder.run(&["validate"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.matches("1 error").count()), ("", 1), "{ran:?}");
}

#[test]
fn a_path_is_quoted_where_it_is_to_be_typed() {
    let folder = Folder::empty();
    folder.write("my house.toml", QUICK);
    let ran = folder.run(&["--manifest", "my house.toml", "plan"]);
    assert!(ran.stdout.contains("babybot apply --manifest 'my house.toml'"), "{ran:?}");
    let ran = folder.run(&["--manifest", "my house.toml", "apply"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert!(ran.stderr.contains(" --manifest 'my house.toml'"), "{ran:?}");
}

#[test]
fn a_rehearsal_without_its_script_is_noted() {
    let folder =
        Folder::with(&QUICK.replace("\"rehearsal\"\n", "\"rehearsal\"\nscript = \"gone.toml\"\n"));
    let plan = folder.run(&["plan"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(
        plan.stdout.contains(" ?   model/rehearsal") && plan.stdout.contains("gone.toml"),
        "{plan:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_answered_elsewhere_is_noted() {
    let fake = FakeOllama::start().await;
    let shown = serde_json::json!({
        "remote_host": "https://ollama.com:443", "remote_model": "big", "details": {},
        "license": "", "modelfile": "", "parameters": "", "template": "", "model_info": {},
        "capabilities": [],
    });
    fake.answer("/api/tags", Trace::one("0.33", "tags").reply);
    fake.answer("/api/show", Reply::json(200, &shown));
    let spec = format!("\"ollama\"\nurl = \"{}\"\nmodel = \"automaton\"\n", fake.url);
    let folder = Folder::with(&QUICK.replace("\"rehearsal\"\n", &spec));
    let plan = tokio::task::spawn_blocking(move || folder.run(&["plan"])).await.unwrap();
    assert!(unbroken(&plan.stdout).contains("to the cloud, which babybot refuses"), "{plan:?}");
}

#[test]
fn nothing_happens_that_nobody_approved() {
    let folder = Folder::with(QUICK);
    let ran = folder.run(&["apply"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert!(ran.stderr.contains("--yes"), "{ran:?}");
    let chat = folder.run(&["chat", "home", "hello"]);
    assert_eq!(chat.code, Some(7), "{chat:?}");
    assert!(!folder.path("data").exists() && !folder.path("groups").exists());
}

#[test]
fn a_privileged_change_is_approved_by_name_and_by_nothing_less() {
    let folder = Folder::with(&QUICK.replace("bind =", "main = true\nbind ="));
    let bare = folder.run(&["apply", "--yes"]);
    assert_eq!(bare.code, Some(7), "{bare:?}");
    assert!(bare.stdout.contains("privileged"), "{bare:?}");
    assert!(bare.stderr.contains("--yes=privileged"), "{bare:?}");
    assert_eq!(folder.run(&["apply", "--yes=destructive"]).code, Some(7));
    assert_eq!(folder.run(&["apply", "--yes=privileged"]).code, Some(0));
}

#[test]
fn a_plan_that_risks_too_much_is_refused_on_request() {
    let folder = Folder::with(&QUICK.replace("bind =", "main = true\nbind ="));
    assert_eq!(folder.run(&["plan", "--fail-on", "privileged"]).code, Some(8));
    let folder = Folder::with(QUICK);
    assert_eq!(folder.run(&["plan", "--fail-on", "privileged"]).code, Some(0));
    assert_eq!(folder.run(&["plan", "--fail-on", "safe"]).code, Some(8));
    assert_eq!(folder.run(&["plan", "--fail-on", "scary"]).code, Some(64));
}

#[test]
fn a_wrong_command_line_is_told_apart_from_every_other_failure() {
    let folder = Folder::with(QUICK);
    for wrong in [&[][..], &["plan", "--frmat"], &["explode"], &["apply", "--yes=all"]] {
        let ran = folder.run(wrong);
        assert_eq!(ran.code, Some(64), "{wrong:?} {ran:?}");
        assert!(ran.stdout.is_empty(), "{ran:?}");
    }
    for right in [&["--help"][..], &["--version"], &["plan", "--help"]] {
        let ran = folder.run(right);
        assert_eq!(ran.code, Some(0), "{right:?} {ran:?}");
        assert!(!ran.stdout.is_empty());
    }
}

#[test]
fn an_agent_is_not_started_by_hand() {
    let ran = Folder::empty().run(&["agent"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("a controller starts `babybot agent`"), "{ran:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::with(QUICK);
    let mut command = folder.command(&["plan"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Closed before anything was written.
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert!(stderr.is_empty(), "{stderr}");
}

#[test]
fn the_reply_alone_is_on_stdout() {
    let folder = Folder::with(QUICK);
    let ran = folder.run(&["chat", "--yes", "home", "write milk to list.txt"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    assert!(ran.stdout.contains("list.txt"), "{ran:?}");
    assert!(ran.stderr.contains("bb_write_file"), "{ran:?}");
    assert_eq!(folder.read("groups/home/list.txt"), "milk\n");
}

#[test]
fn a_message_may_come_from_stdin_and_the_group_go_without_saying() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    let ran = folder.feed(&["chat"], "write tea to list.txt\n");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(folder.read("groups/home/list.txt"), "tea\n");
    let empty = folder.feed(&["chat", "home"], " \n");
    assert_eq!((empty.code, empty.stderr.contains("empty")), (Some(64), true), "{empty:?}");
}

#[test]
fn a_group_that_is_not_there_is_answered_with_those_that_are() {
    let two = QUICK.replace("[groups.home]", "[groups.office]\n[groups.home]");
    let folder = Folder::with(&two);
    let ran = folder.run(&["chat", "--yes", "hone", "hi"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("did you mean `home`?"), "{ran:?}");
    assert!(!folder.path("data").exists(), "a mistyped group applied the manifest");
    let none = folder.run(&["chat", "--yes"]);
    assert_eq!(none.code, Some(64), "{none:?}");
    for words in ["babybot chat home", "babybot chat office"] {
        assert!(none.stderr.contains(words), "{words}: {none:?}");
    }
    let folder = Folder::with(QUICK);
    let swapped = folder.run(&["chat", "--yes", "what is on today?"]);
    assert!(swapped.stderr.contains("babybot chat home \"what is on today?\""), "{swapped:?}");
}

#[test]
fn a_digest_that_only_a_real_tool_can_know_is_in_the_reply_and_the_transcript() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    let bytes: Vec<u8> =
        (0..50_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let salt = std::process::id().to_le_bytes();
    std::fs::write(folder.path("groups/home/a.bin"), [&bytes[..], &salt].concat()).unwrap();
    let expected = babybot::resource::digest(&[&bytes[..], &salt].concat());
    let expected = expected.strip_prefix("sha256:").unwrap();
    let ran = folder.run(&["chat", "home", "run sha256sum on a.bin"]);
    assert!(ran.stdout.contains(expected), "{ran:?}");
    let transcript = folder.read("data/sessions/home/.ollama/transcript.jsonl");
    assert!(transcript.contains(r#""command":"sha256sum a.bin""#), "{transcript}");
    assert!(transcript.contains(expected), "{transcript}");
}

#[test]
fn what_was_applied_runs_and_an_edit_is_one_line() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    folder.edit("requires_trigger = false", "requires_trigger = false\ntrigger = \"@Bob\"");
    let ran = folder.run(&["chat", "home", "hello"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.starts_with("note: 1 change is not applied"), "{ran:?}");
    folder.edit("trigger = \"@Bob\"", "triger = \"@Bob\"");
    let invalid = folder.run(&["chat", "home", "hello"]);
    assert_eq!(invalid.code, Some(0), "{invalid:?}");
    assert!(
        invalid.stderr.contains("BB0107") && invalid.stderr.contains("generation 1"),
        "{invalid:?}"
    );
}

#[test]
fn drift_is_found_and_mended() {
    let folder = Folder::with(&format!("{QUICK}env = {{ GREETING = \"hello\" }}\n"));
    folder.run(&["apply", "--yes"]);
    let settings = "data/sessions/home/.ollama/settings.json";
    let whole = folder.read(settings);
    assert!(whole.contains("\"GREETING\": \"hello\""), "{whole}");
    folder.write(settings, "{}");
    let plan = folder.run(&["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, Some(2), "{plan:?}");
    assert!(plan.stdout.contains(" ~   settings/home"), "{plan:?}");
    assert_eq!(folder.run(&["apply", "--yes"]).code, Some(0));
    assert_eq!(folder.read(settings), whole);
    let told = folder.run(&["chat", "home", "run `echo $GREETING`"]);
    assert!(told.stdout.contains("hello"), "{told:?}");
}

#[test]
fn a_planted_link_is_neither_followed_nor_replaced_through() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    let victim = folder.path("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::remove_dir_all(folder.path("data/sessions/home/.ollama")).unwrap();
    std::os::unix::fs::symlink(&victim, folder.path("data/sessions/home/.ollama")).unwrap();
    let plan = folder.run(&["plan"]);
    assert!(plan.stdout.contains(".ollama: a link is in its place"), "{plan:?}");
    folder.run(&["apply", "--yes"]);
    assert_eq!(
        std::fs::read_dir(&victim).unwrap().count(),
        0,
        "something was written through a link"
    );
}

#[test]
fn a_removed_group_keeps_what_it_wrote() {
    let folder = Folder::with(&QUICK.replace("[groups.home]", "[groups.office]\n[groups.home]"));
    folder.run(&["apply", "--yes"]);
    folder.write("groups/office/kept.txt", "kept");
    folder.edit("[groups.office]\n", "");
    let bare = folder.run(&["apply", "--yes"]);
    assert_eq!(bare.code, Some(7), "{bare:?}");
    assert!(
        bare.stdout.contains(" -   group/office") && bare.stdout.contains("kept: groups/office"),
        "{bare:?}"
    );
    assert_eq!(folder.run(&["apply", "--yes=destructive"]).code, Some(0));
    assert_eq!(folder.read("groups/office/kept.txt"), "kept");
    assert_eq!(folder.run(&["plan", "--detailed-exitcode"]).code, Some(0));
}

#[test]
fn an_unreadable_store_is_unknown_and_nothing_is_planned_over_it() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    for file in ["babybot.db-wal", "babybot.db-shm"] {
        let _ = std::fs::remove_file(folder.path("data").join(file));
    }
    folder.write(
        "data/babybot.db",
        "this is not a database, and it is long enough to be read as one",
    );
    let plan = folder.run(&["plan"]);
    assert!(plan.stdout.contains("could not be checked"), "{plan:?}");
    assert!(!plan.stdout.contains(" +   "), "{plan:?}");
    assert_eq!(folder.run(&["plan", "--detailed-exitcode"]).code, Some(1));
    let apply = folder.run(&["apply", "--yes=privileged,destructive"]);
    assert_eq!(apply.code, Some(1), "{apply:?}");
    assert!(
        folder.read("data/babybot.db").starts_with("this is not"),
        "the damaged store was replaced"
    );
}

#[test]
fn a_script_with_a_mistake_is_no_reason_to_try_again() {
    let folder = Folder::with(
        &QUICK.replace("kind = \"rehearsal\"", "kind = \"rehearsal\"\nscript = \"play.toml\""),
    );
    folder.write("play.toml", "[[rule]]\nwhen = \"\"\nsteps = [{ repy = \"x\" }]\n");
    folder.run(&["apply", "--yes"]);
    let ran = folder.run(&["chat", "home", "hello"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("play.toml:3") && !ran.stderr.contains("again"), "{ran:?}");
    assert_eq!(ran.stderr.matches("play.toml:3").count(), 1, "said twice: {ran:?}");
}

#[test]
fn links_that_are_planted_among_our_own_files_are_refused() {
    for file in ["lock", "instance", "babybot.db"] {
        let folder = Folder::with(QUICK);
        folder.run(&["apply", "--yes"]);
        let victim = folder.path("victim");
        std::fs::write(&victim, "precious").unwrap();
        let planted = folder.path("data").join(file);
        std::fs::remove_file(&planted).unwrap();
        std::os::unix::fs::symlink(&victim, &planted).unwrap();
        for verb in
            [&["apply", "--yes=privileged,destructive"][..], &["chat", "--yes", "home", "hi"]]
        {
            let ran = folder.run(verb);
            assert_ne!(ran.code, Some(0), "{file}: {ran:?}");
        }
        assert_eq!(folder.read("victim"), "precious", "{file} was followed");
    }
}

#[test]
fn what_waits_for_something_unknown_is_no_success() {
    let silent = "kind = \"docker\"\n[runtime.docker]\nhost = \"unix:///nowhere/docker.sock\"";
    let folder = Folder::with(&QUICK.replace("kind = \"none\"", silent));
    let ran = folder.run(&["apply", "--yes=privileged"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stderr.contains("could not be checked"), "{ran:?}");
    assert!(ran.stderr.contains("babybot: generation 1 is partly applied\n"), "{ran:?}");
    assert!(!ran.stderr.contains("Applied generation"), "{ran:?}");
    let status = folder.run(&["status"]).stdout;
    for words in ["in part; run `babybot apply` for the rest", "group home is not applied yet"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let chat = folder.run(&["chat", "hello"]);
    for words in ["no group is applied", "run `babybot apply` for the rest"] {
        assert!(chat.stderr.contains(words), "{words}: {chat:?}");
    }
}

#[test]
fn a_folder_that_is_gone_is_named_with_what_makes_it_again() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    std::fs::remove_dir_all(folder.path("groups/home")).unwrap();
    let ran = folder.run(&["chat", "--wait", "100ms", "home", "hello"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("groups/home is not there; `babybot apply` makes it"), "{ran:?}");
    assert!(ran.stderr.contains("your message is kept"), "{ran:?}");
    assert_eq!(folder.run(&["apply", "--yes"]).code, Some(0));
    assert_eq!(folder.run(&["chat", "home", "hello"]).code, Some(0));
}

#[test]
fn a_reply_that_nobody_read_is_given_the_next_time() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    let mut command = folder.command(&["chat", "home", "write milk to list.txt"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    let next = folder.run(&["chat", "home", "hello"]);
    assert_eq!(next.code, Some(0), "{next:?}");
    assert!(next.stderr.contains("to “write milk to list.txt”: (rehearsal)"), "{next:?}");
}

#[test]
fn what_was_stopped_is_not_done_by_the_next_who_comes() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    let slow = "run `echo begun >> begun; sleep 300`";
    let mut terminal = folder.at_terminal(&["chat", "home", slow]);
    terminal.wait_for("bb_shell");
    interrupt(&terminal);
    terminal.wait_for("stopping");
    interrupt(&terminal);
    assert_eq!(terminal.end().0, Some(130));
    let next = folder.run(&["chat", "home", "hello"]);
    assert_eq!(next.code, Some(0), "{next:?}");
    assert!(!next.stderr.contains("an earlier answer"), "{next:?}");
    let begun = std::fs::read_to_string(folder.path("groups/home/begun")).unwrap_or_default();
    assert!(begun.lines().count() <= 1, "{begun}");
}

#[test]
fn what_was_left_unfinished_is_answered_first_and_apart() {
    let folder = Folder::with(QUICK);
    folder.run(&["apply", "--yes"]);
    let mut old = folder.command(&["chat", "home", "run `echo old >> log; sleep 300`"]);
    let mut old = old.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = old.stderr.take().unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("bb_shell") {
        let mut byte = [0];
        stderr.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    old.kill().unwrap();
    old.wait().unwrap();
    let next = folder.run(&["chat", "home", "write new to note.txt"]);
    assert_eq!(next.code, Some(0), "{next:?}");
    // Each has its own reply, the older one on stderr.
    assert!(next.stderr.contains("to “run `echo old"), "{next:?}");
    assert!(next.stdout.contains("note.txt") && !next.stdout.contains("interrupted"), "{next:?}");
}

#[test]
fn ctrl_c_ends_a_chat_that_waits_for_its_message() {
    let folder = Folder::with(QUICK);
    let mut command = folder.command(&["chat", "home"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let stdin = child.stdin.take();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    drop(stdin);
    assert!(!folder.path("data").exists(), "it became a controller before it had anything to say");
}

#[test]
fn a_message_that_is_too_long_is_refused_before_anything_happens() {
    let folder = Folder::with(QUICK);
    let ran = folder.feed(&["chat", "--yes", "home"], &"x".repeat(80_000));
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("longer than 65536 bytes"), "{ran:?}");
    assert!(!folder.path("data").exists());
}

#[test]
fn where_no_group_is_main_a_command_for_each_is_shown() {
    let folder = Folder::with(&format!("{QUICK}\n[groups.kids]\n"));
    let ran = folder.run(&["chat"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    assert!(ran.stderr.contains("no group is named, and none of them is main"), "{ran:?}");
    assert!(ran.stderr.contains("run `babybot chat home` or `babybot chat kids`"), "{ran:?}");
    folder.write("babybot.toml", &format!("{QUICK}\n[groups.a]\n[groups.b]\n[groups.c]\n"));
    let ran = folder.run(&["chat"]);
    assert!(ran.stderr.contains("the groups are: a, b, c, home"), "{ran:?}");
}

#[test]
fn quiet_leaves_the_reply_alone() {
    let folder = Folder::with(QUICK);
    let ran = folder.run(&["-q", "chat", "--yes", "home", "write milk to list.txt"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.is_empty(), "{ran:?}");
    assert!(ran.stdout.contains("list.txt"), "{ran:?}");
}

#[test]
fn at_a_terminal_a_person_is_asked_and_may_say_no() {
    let folder = Folder::with(QUICK);
    let mut terminal = folder.at_terminal(&["apply"]);
    terminal.wait_for("Type `yes` to apply");
    terminal.type_in("no\n");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(7), "{screen}");
    assert!(!folder.path("data").exists());
    let mut terminal = folder.at_terminal(&["apply"]);
    terminal.wait_for("Type `yes` to apply");
    terminal.type_in("yes\n");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
}

#[test]
fn a_grave_change_names_its_lines_and_is_asked_for_again_after_a_slip() {
    let folder = Folder::with(&QUICK.replace("bind =", "main = true\nbind ="));
    let mut terminal = folder.at_terminal(&["apply"]);
    terminal.wait_for("These lines need your approval:");
    terminal.wait_for("group/home");
    terminal.wait_for("PRIVILEGED");
    terminal.wait_for("main   true");
    terminal.wait_for("PRIVILEGED");
    terminal.wait_for("Type `approve` to apply");
    terminal.type_in("y\n");
    terminal.wait_for("Please type `approve` or `no`");
    assert!(!folder.path("data").exists(), "a slip approved it");
    terminal.type_in("approve\n");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn slips_the_end_of_input_and_an_interrupt_mean_no() {
    let folder = Folder::with(QUICK);
    type Ending = fn(&mut Terminal);
    let ends: [(&str, Ending); 3] = [
        ("slips", |terminal| {
            for _ in 0..2 {
                terminal.type_in("\n");
                terminal.wait_for("Please type `yes` or `no`");
            }
            terminal.type_in("why?\n");
        }),
        ("the end of input", |terminal| terminal.type_in("\u{4}")),
        ("an interrupt", |terminal| interrupt(terminal)),
    ];
    for (how, end) in ends {
        let mut terminal = folder.at_terminal(&["apply"]);
        terminal.wait_for("Type `yes` to apply");
        end(&mut terminal);
        let (code, screen) = terminal.end();
        let expected = if how == "an interrupt" { 130 } else { 7 };
        assert_eq!(code, Some(expected), "{how}: {screen}");
        assert!(screen.contains("not approved; nothing was changed"), "{how}: {screen}");
        assert!(!folder.path("data").exists(), "{how}: {screen}");
    }
}

#[test]
fn the_plan_of_the_quick_start_fits_on_a_screen() {
    let checkout = Folder::empty();
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["babybot.toml", "groups/global/MEMORY.md", "groups/home/MEMORY.md"] {
        checkout.write(file, &std::fs::read_to_string(here.join(file)).unwrap());
    }
    let fits = |what: &str| {
        let plan = checkout.run(&["plan"]);
        assert_eq!(plan.code, Some(0), "{what}: {plan:?}");
        let wide = plan.stdout.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{what}");
        assert!(plan.stdout.lines().count() <= 24, "{what}:\n{}", plan.stdout);
        let whole = checkout.run(&["plan", "-v"]).stdout;
        assert!(whole.contains("limits.turn"), "{what}:\n{whole}");
        assert!(!plan.stdout.contains("limits.turn"), "{what}:\n{}", plan.stdout);
    };
    // Whatever this machine has.
    fits("auto");
    checkout.edit("kind = \"auto\"", "kind = \"none\"");
    fits("none");
}

#[test]
fn what_changed_while_a_person_was_thinking_is_not_applied() {
    let folder = Folder::with(QUICK);
    let mut terminal = folder.at_terminal(&["apply"]);
    terminal.wait_for("Type `yes` to apply");
    folder.write("groups/global/MEMORY.md", "somebody else was here\n");
    terminal.type_in("yes\n");
    terminal.wait_for("The plan is now");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(5), "{screen}");
    assert!(!folder.path("groups/home").exists());
}

#[test]
fn a_conversation_goes_line_by_line_and_on_after_a_restart() {
    let folder = Folder::with(QUICK);
    let mut terminal = folder.at_terminal(&["chat", "--yes", "home"]);
    terminal.wait_for("ends.");
    terminal.type_in("write milk to list.txt\n");
    terminal.wait_for("(rehearsal)");
    terminal.type_in("read list.txt\n");
    terminal.wait_for("(rehearsal)");
    terminal.wait_for("milk");
    // Ctrl-D, as the terminal sends it.
    terminal.type_in("\u{4}");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    folder.run(&["chat", "home", "hello"]);
    let transcript = folder.read("data/sessions/home/.ollama/transcript.jsonl");
    assert_eq!(transcript.matches("\"how\":\"done\"").count(), 3, "{transcript}");
}

#[test]
fn ctrl_c_stops_the_answer_and_then_the_conversation() {
    let folder = Folder::with(QUICK);
    let mut terminal = folder.at_terminal(&["chat", "--yes", "home"]);
    terminal.wait_for("ends.");
    terminal.type_in("run `echo begun > begun; sleep 300`\n");
    terminal.wait_for("bb_shell");
    interrupt(&terminal);
    terminal.wait_for("stopping");
    terminal.wait_for("stopped");
    terminal.wait_for("> ");
    terminal.type_in("write still here to note.txt\n");
    terminal.wait_for("(rehearsal)");
    interrupt(&terminal);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(130), "{screen}");
    assert_eq!(folder.read("groups/home/note.txt"), "still here\n");
}

fn interrupt(terminal: &Terminal) {
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[test]
fn help_reads_like_this() {
    let folder = Folder::empty();
    insta::assert_snapshot!("help", folder.run(&["-h"]).stdout);
    for verb in [
        "init", "validate", "plan", "apply", "up", "down", "status", "chat", "exec", "pause",
        "resume", "logs", "history", "outbox", "explain", "schema",
    ] {
        insta::assert_snapshot!(format!("help-{verb}"), folder.run(&[verb, "--help"]).stdout);
    }
}

#[test]
fn history_shows_what_was_applied_newest_first() {
    let folder = Folder::with(QUICK);
    let never = folder.run(&["history"]);
    assert_eq!((never.code, never.stdout.as_str()), (Some(0), ""), "{never:?}");
    folder.run(&["apply", "--yes"]);
    folder.edit("requires_trigger = false", "requires_trigger = false\ntrigger = \"@Robot\"");
    folder.run(&["apply", "--yes"]);
    let lines = folder.run(&["history"]).stdout;
    let generations: Vec<&str> =
        lines.lines().map(|line| &line[22..line.find(';').unwrap()]).collect();
    assert_eq!(generations, ["generation 2  applied", "generation 1  applied"], "{lines}");
    let first = folder.run(&["history", "-n", "1", "--format", "json"]).stdout;
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&first["generation"], &first["parent"]), (&2.into(), &1.into()));
}

/// What a program reads of an apply.
fn events(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_program_reads_how_an_apply_goes_event_by_event() {
    let folder = Folder::with(QUICK);
    let applied = folder.run(&["apply", "--yes", "--format", "json"]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let said = events(&applied.stdout);
    assert_eq!(said[0]["event"], "plan", "{said:#?}");
    let steps = said[0]["plan"]["steps"].as_array().unwrap();
    let planned: Vec<&Value> = steps.iter().map(|step| &step["id"]).collect();
    let (last, done) = said[1..].split_last().unwrap();
    assert!(done.iter().all(|event| event["event"] == "done"), "{said:#?}");
    assert_eq!(done.iter().map(|event| &event["id"]).collect::<Vec<_>>(), planned);
    let whole = json!({ "event": "applied", "generation": 1, "complete": true, "left": [] });
    assert_eq!(last, &whole);

    // With nothing to do there is a plan alone; without approval nothing is done.
    let again = events(&folder.run(&["apply", "--format", "json"]).stdout);
    assert_eq!(again.len(), 1, "{again:#?}");
    let manifest = QUICK.replace("kind = \"rehearsal\"", "kind = \"rehearsal\"\ncontext = 9999");
    folder.write("babybot.toml", &manifest);
    let refused = folder.run(&["apply", "--format", "json"]);
    assert_eq!((refused.code, events(&refused.stdout).len()), (Some(7), 1), "{refused:?}");

    folder.write("babybot.toml", "schema = 1\nname = 3\n");
    let invalid = folder.run(&["apply", "--yes", "--format", "json"]);
    assert_eq!(invalid.code, Some(3), "{invalid:?}");
    assert!(serde_json::from_str::<Value>(&invalid.stdout).unwrap().is_object(), "{invalid:?}");
}
