//! The verbs that only need the socket: the real binary against the fake.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use babybot::clock::{Clock as _, SystemClock};
use babybot::control::place::{self, Bases};
use babybot::control::{Role, server};
use babybot::logging::{LOG, LOG_BEFORE, LogFile};
use babybot::project::Project;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fake::{Fake, Play};
use crate::support::folder::{Folder, QUICK, Ran};
use crate::support::installation::wait_until;
use crate::support::workshop::within;

/// An applied project with a controller that holds its lock.
struct Site {
    folder: Arc<Folder>,
    fake: Arc<Fake>,
    serving: JoinHandle<()>,
}

impl Site {
    async fn open(play: Play) -> Self {
        let folder = Arc::new(Folder::with(QUICK));
        let applied = run(&folder, &["apply", "--yes=privileged"]).await;
        assert_eq!(applied.code, Some(0), "{applied:?}");
        let project = Project::open(&folder.path("")).unwrap();
        let instance = project.known_instance().unwrap().unwrap();
        let lock = project.lock("up", SystemClock.now()).unwrap();
        let bases = Bases { runtime: None, temporary: folder.path("") };
        let now = SystemClock.now();
        let (listener, place) =
            place::open(&project.data(), &instance, Role::Up, now, None, &bases).unwrap();
        let fake = Arc::new(Fake::new(instance, play));
        let serving =
            server::serve(listener, super::fake::never_renewed(), fake.clone(), fake.stop.clone());
        let serving = tokio::spawn(async move {
            serving.await;
            drop(place);
            // A controller has more to end than its socket.
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(lock);
        });
        Self { folder, fake, serving }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        run(&self.folder, arguments).await
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command: Command = self.folder.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

async fn run(folder: &Arc<Folder>, arguments: &[&str]) -> Ran {
    let (folder, arguments) = (folder.clone(), arguments.iter().map(ToString::to_string));
    let arguments: Vec<String> = arguments.collect();
    let running = tokio::task::spawn_blocking(move || {
        folder.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
    within(running).await.unwrap()
}

/// What changes from run to run is left out.
fn check(name: &str, text: &str) {
    let filters = vec![
        (r"\d+ (s|min|h|d) ago", "[ago]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d", "[time]"),
        (r"babybot [0-9a-f]{8} ", "babybot [instance] "),
    ];
    insta::with_settings!({ filters => filters, snapshot_path => "../snapshots" }, {
        insta::assert_snapshot!(name, text);
    });
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_reads_like_this() {
    let site = Site::open(Play::Well).await;
    let ran = site.run(&["status"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    check("status", &ran.stdout);
    // Colour says nothing that the words do not, and moves nothing.
    let colored = site.run(&["status", "--color", "always"]).await.stdout;
    assert!(colored.contains("\u{1b}[31mDegraded, PendingChanges  \u{1b}[0m"), "{colored:?}");
    let mut bare = String::new();
    for part in colored.split('\u{1b}') {
        bare.push_str(part.strip_prefix('[').map_or(part, |part| part.split_once('m').unwrap().1));
    }
    check("status", &bare);
    site.fake.change(|status| {
        status.runtimes[0].answers = false;
        status.draining = true;
        for channel in status.channels.values_mut() {
            (channel.serves, channel.detail) = (false, "another program listens there".to_owned());
        }
        status.groups.clear();
        status.drift.clear();
        status.warnings.clear();
        let pending = status.pending.as_mut().unwrap();
        (pending.valid, pending.text) = (
            false,
            "error[BB0107]: unknown key\n   ╭────\n 3 │     nmae = 1\n   ·     ▲▲▲▲\n".to_owned(),
        );
    });
    check("status-in-trouble", &site.run(&["status"]).await.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_has_one_shape_for_a_program_with_a_controller_or_without() {
    let site = Site::open(Play::Well).await;
    let ran = site.run(&["status", "--format", "json"]).await;
    let with: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(with["controller"]["pid"], 4242);
    assert_eq!(with["groups"]["family"]["messages"], 12);
    assert_eq!(with["groups"]["home"]["conditions"]["Ready"]["holds"], true);
    site.fake.stop.cancel();
    within(site.serving).await.unwrap();
    let ran = run(&site.folder, &["status", "--format", "json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let without: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(without["controller"], Value::Null);
    assert_eq!(without["generation"], 1);
    let group = json!({ "held": false, "lifecycle": "on-demand", "model": "rehearsal" });
    assert_eq!(without["groups"], json!({ "home": group }));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&with), keys(&without));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_status_shows_what_was_applied() {
    let folder = Arc::new(Folder::with(QUICK));
    let ran = run(&folder, &["status"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    check("status-of-nothing", &ran.stdout);
    assert!(!folder.path("data").exists(), "a look left something behind");
    run(&folder, &["apply", "--yes=privileged"]).await;
    let ran = run(&folder, &["status", "--watch"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    check("status-without-controller", &ran.stdout);
    let project = Project::open(&folder.path("")).unwrap();
    let _lock = project.lock("apply", SystemClock.now()).unwrap();
    let ran = run(&folder, &["status"]).await;
    assert!(ran.stdout.contains("this project is in use by `babybot apply`, pid "), "{ran:?}");
    for verb in [&["down"][..], &["pause", "home"], &["exec", "home", "--", "true"]] {
        let ran = run(&folder, verb).await;
        assert_eq!(ran.code, Some(6), "{verb:?} {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_cannot_begin_names_who_uses_the_project_and_shows_no_plan() {
    let folder = Arc::new(Folder::with(QUICK));
    let project = Project::open(&folder.path("")).unwrap();
    let now = SystemClock.now();
    let since = now.local_named(&jiff::tz::TimeZone::system());
    let holder =
        |verb: &str| format!("`babybot {verb}`, pid {}, since {since}", std::process::id());
    let running = format!("babybot: a controller is already running: {}", holder("up"));
    let in_use = |verb: &str| format!("babybot: this project is in use by {}", holder(verb));
    for (holds, asked, said) in [
        ("up", &["up", "--yes"][..], running),
        ("apply", &["up", "--yes"], in_use("apply")),
        ("chat", &["up", "--yes", "--wait", "100ms"], in_use("chat")),
        ("up", &["apply", "--yes"], in_use("up")),
    ] {
        let _lock = project.lock(holds, now).unwrap();
        let ran = run(&folder, asked).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(6), ""), "{ran:?}");
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert!(lines.len() == 2 && lines[0] == said, "{said}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_status_says_how_the_manifest_differs() {
    let folder = Arc::new(Folder::empty());
    let says = async |words: &str| {
        let ran = run(&folder, &["status"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
        ran.stdout
    };
    says("there is no babybot.toml yet; next: `babybot init`").await;
    folder.write("babybot.toml", QUICK);
    run(&folder, &["apply", "--yes=privileged"]).await;
    assert!(!says("generation 1 was applied").await.contains("babybot plan"));
    folder.write("babybot.toml", &format!("{QUICK}\n[groups.later]\n"));
    says("babybot.toml has changed since (`babybot plan`)").await;
    says("the group later is not applied yet").await;
    folder.write("babybot.toml", "schema = ");
    says("babybot.toml is not valid (`babybot validate`)").await;
    std::fs::remove_file(folder.path("babybot.toml")).unwrap();
    says("babybot.toml is missing; what was applied stays").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_status_is_told_with_every_change_until_the_controller_ends() {
    let site = Site::open(Play::Well).await;
    let mut child = site.start(&["status", "--watch", "--format", "json"]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let fake = site.fake.clone();
    let seen = tokio::task::spawn_blocking(move || {
        let mut pids = Vec::new();
        for line in lines {
            let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
            pids.push(value["controller"]["pid"].as_u64().unwrap());
            match pids.len() {
                3 => fake.stop.cancel(),
                count => fake.change(|status| status.pid = u32::try_from(count).unwrap()),
            }
        }
        (pids, child.wait_with_output().unwrap())
    });
    let (pids, ended) = within(seen).await.unwrap();
    assert_eq!(pids, [4242, 1, 2]);
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "The controller stopped.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_watch_and_so_does_a_reader_that_goes() {
    let site = Site::open(Play::Well).await;
    let mut child = site.start(&["status", "--watch"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("babybot "));
    interrupt(&child);
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert_eq!(within(ended).await.unwrap().code(), Some(130));

    let mut child = site.start(&["status", "--watch"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    drop(lines);
    let fake = site.fake.clone();
    let ended = tokio::task::spawn_blocking(move || {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            fake.change(|status| status.pid += 1);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(within(ended).await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn down_returns_when_the_controller_is_gone() {
    let site = Site::open(Play::Well).await;
    let ran = site.run(&["down", "--wait", "8s"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("", "Stopping the controller (pid 4242), up to 8s…\nStopped.\n")
    );
    assert_eq!(site.fake.heard(), ["shut down within 6s"]);
    let project = Project::open(&site.folder.path("")).unwrap();
    assert_eq!(project.lock_holder().unwrap(), None);
    let again = site.run(&["down"]).await;
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), "No controller is running.\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_does_not_end_in_time_is_named_with_what_helps() {
    let site = Site::open(Play::Silent).await;
    let ran = site.run(&["down", "--wait", "300ms"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("(pid 4242) is still running after 300ms"), "{ran:?}");
    assert!(ran.stderr.contains("kill -9 4242"), "{ran:?}");
    assert_eq!(site.run(&["down", "--wait", "soon"]).await.code, Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_held_and_let_go() {
    let site = Site::open(Play::Well).await;
    for (verb, expected) in [
        (
            ["pause", "home"],
            "home is paused. Its messages wait until you run `babybot resume home`.\n",
        ),
        (["pause", "home"], "home is already paused.\n"),
        (["resume", "home"], "home resumed. No messages waiting.\n"),
        (["resume", "home"], "home is not paused.\n"),
        (
            ["pause", "family"],
            "family is paused. It finishes its turn; then its messages wait until you run `babybot resume family`.\n",
        ),
        (["resume", "family"], "family resumed. 12 messages waiting.\n"),
    ] {
        let ran = site.run(&verb).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), expected), "{verb:?} {ran:?}");
    }
    assert_eq!(
        site.fake.heard(),
        ["home held", "home held", "home let go", "home let go", "family held", "family let go"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_not_there_is_answered_with_what_was_meant() {
    let site = Site::open(Play::Well).await;
    for verb in [&["pause", "hone"][..], &["resume", "hone"], &["exec", "hone", "--", "true"]] {
        let ran = site.run(verb).await;
        assert_eq!(ran.code, Some(64), "{verb:?} {ran:?}");
        assert!(ran.stderr.contains("did you mean `home`?"), "{ran:?}");
    }
    assert_eq!(site.fake.heard(), [""; 0]);
    let ran = site.run(&["logs", "hone"]).await;
    assert_eq!((ran.code, ran.stderr.contains("`home`?")), (Some(64), true), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_controller_says_how_to_start_one() {
    let folder = Arc::new(Folder::with(QUICK));
    for verb in [&["pause", "home"][..], &["resume", "home"]] {
        let ran = run(&folder, verb).await;
        assert_eq!(ran.code, Some(1), "{verb:?} {ran:?}");
        assert!(
            ran.stderr.contains("no controller is running") && ran.stderr.contains("babybot up")
        );
    }
    let ran = run(&folder, &["exec", "home", "--", "true"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("nothing is applied yet") && ran.stderr.contains("babybot apply"));
    for wrong in [&["exec", "home"][..], &["exec", "home", "true"]] {
        assert_eq!(run(&folder, wrong).await.code, Some(64), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_run_gives_its_lease_back() {
    let site = Site::open(Play::Well).await;
    let ran = site.run(&["exec", "home", "--", "true"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot run the command: "), "{ran:?}");
    assert_eq!(site.fake.heard(), ["lease home"]);
    within(site.fake.dropped.notified()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_verbs_own_failure() {
    let site = Site::open(Play::Refusing).await;
    for verb in [&["pause", "home"][..], &["down"], &["exec", "home", "--", "true"]] {
        let ran = site.run(verb).await;
        assert_eq!((ran.code, ran.stderr.contains(": not now\n")), (Some(1), true), "{ran:?}");
    }
}

fn line(group: &str, message: &str) -> String {
    format!("2026-11-22T09:30:00.123Z INFO  babybot::agent {{group={group}}} {message}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_shown_from_the_older_to_the_newer_by_group_and_by_count() {
    let folder = Arc::new(Folder::with(QUICK));
    let none = run(&folder, &["logs"]).await;
    assert_eq!((none.code, none.stderr.as_str()), (Some(0), "Nothing has been logged yet.\n"));
    run(&folder, &["apply", "--yes=privileged"]).await;
    let before = line("home", "one") + &line("work", "two group=home");
    folder.write(&format!("data/logs/{LOG_BEFORE}"), &before);
    // The last is not written to its end yet.
    let now = line("home", "three") + &line("work", "four") + "2026-11-22T09:30";
    folder.write(&format!("data/logs/{LOG}"), &now);
    let shown = |ran: Ran| {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let words = ran.stdout.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned());
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(run(&folder, &["logs"]).await), "one group=home three four");
    assert_eq!(shown(run(&folder, &["logs", "-n", "2"]).await), "three four");
    assert_eq!(shown(run(&folder, &["logs", "home"]).await), "one three");
    assert_eq!(shown(run(&folder, &["logs", "work", "-n", "1"]).await), "four");
    assert_eq!(run(&folder, &["logs", "none"]).await.code, Some(64));
}

/// Whether a program has begun and waits for something.
fn is_asleep(child: &Child) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", child.id())) else {
        return false;
    };
    stat.contains("(babybot) S ")
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_across_their_beginning_and_a_rotation() {
    let folder = Arc::new(Folder::with(QUICK));
    run(&folder, &["apply", "--yes=privileged"]).await;
    let mut command = folder.command(&["logs", "home", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let logs = folder.path("data/logs");
    let following = tokio::task::spawn_blocking(move || {
        let mut lines = lines.map(Result::unwrap);
        let mut next = move || lines.next().unwrap().rsplit(' ').next().unwrap().to_owned();
        wait_until("it waits for a log", || is_asleep(&child));
        std::fs::create_dir_all(&logs).unwrap();
        let log = LogFile::open(&logs, None).unwrap();
        log.write(&line("home", "first"));
        assert_eq!(next(), "first");
        // More than one log holds, most of it about another group.
        let long = "x".repeat(8 << 10);
        for number in 0..1_500 {
            log.write(&line("work", &long));
            if number % 100 == 0 {
                log.write(&line("home", &number.to_string()));
                assert_eq!(next(), number.to_string());
            }
        }
        assert!(logs.join(LOG_BEFORE).exists());
        log.write(&line("home", "last"));
        assert_eq!(next(), "last");
        interrupt(&child);
        child.wait().unwrap()
    });
    assert_eq!(within(following).await.unwrap().code(), Some(130));
}
