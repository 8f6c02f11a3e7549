//! How a controller begins and ends, and who goes on when it does.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::docker::{engine_here, needs_engine};
use crate::support::home::{ALWAYS, HOME, Home, LONG, YES, report};
use crate::support::installation::{PATIENCE, comes_true, wait_for_end, wait_until};

fn everywhere(groups: &str) -> Vec<Home> {
    let docker = engine_here().map(|engine| Home::docker(engine, "", groups, LONG));
    [Some(Home::none("", groups, LONG)), docker].into_iter().flatten().collect()
}

#[track_caller]
fn assert_nothing_is_left(home: &Home, on_docker: bool) {
    home.place.wait_until_nothing_runs(PATIENCE);
    if on_docker {
        let gone = comes_true(PATIENCE, || home.containers().is_empty());
        assert!(gone, "{:?}", home.containers());
    }
}

#[test]
fn a_second_controller_is_refused_and_told_who_holds_it() {
    let home = Home::none("", HOME, LONG);
    let up = home.up();
    for arguments in [&["up", YES][..], &["up", "--detach"]] {
        let second = home.place.run(arguments);
        assert_eq!(second.code, 6, "{second:?}");
        assert!(second.stderr.contains(&up.pid().to_string()), "{second:?}");
    }
    home.ask("quick 1");
    up.end();
}

#[test]
fn a_conversation_makes_way_for_a_controller_and_goes_on_through_it() {
    for home in everywhere(HOME) {
        home.apply();
        let said = home.say("home", "long 1");
        home.wait_until_begun(1);
        let up = home.start_up(&["--wait", "8s"]);
        up.wait_until_it_serves();
        home.let_go();
        home.assert_answered(said);
        home.assert_each_message_has_one_reply(1);
        let begun = home.place.lines("ran").iter().filter(|line| *line == "begun").count();
        assert_eq!(begun, 1, "the call ran again");
        home.ask("quick 2");
        home.assert_each_message_has_one_reply(2);
        up.end();
    }
}

/// What is under way is finished, nothing new is begun, and nothing is lost.
#[test]
fn an_end_lets_the_turn_under_way_finish() {
    for (number, home) in everywhere(HOME).into_iter().enumerate() {
        let up = home.up();
        let said = home.say("home", "long 1");
        home.wait_until_begun(1);
        let down = home.start(&mut home.place.command(["down"]));
        home.status_when("it drains", |status| status["controller"]["draining"] == true);
        home.let_go();
        home.assert_answers(said, "long 1");
        let (code, told) = down.wait(PATIENCE);
        assert_eq!(code, 0, "{told}");
        let (code, told) = up.wait(PATIENCE);
        assert_eq!(code, 0, "{told}");
        assert!(told.ends_with("\nStopped.\n"), "{told}");
        home.assert_each_message_has_one_reply(1);
        assert_nothing_is_left(&home, number == 1);
        // Where nothing runs, there is nothing to end.
        assert_eq!(home.place.run(&["down"]).code, 0);
    }
}

#[test]
fn an_end_ends_what_a_killed_controller_left() {
    let home = Home::docker(needs_engine!(), "", ALWAYS, LONG);
    let up = home.up();
    home.wait_for_agent();
    up.kill();
    let ended = home.place.run(&["down"]);
    let told = format!("Removed leftover containers: {}", home.container("home"));
    assert!(ended.code == 0 && ended.stderr.contains(&told), "{ended:?}");
    assert_eq!(home.containers().len(), 0);
    let again = home.place.run(&["down"]);
    assert_eq!((again.code, again.stderr.as_str()), (0, "No controller is running.\n"));
}

/// Half of an apply is nobody's wish, whoever it goes through.
#[test]
fn an_apply_is_finished_before_the_controller_that_carries_it_out_ends() {
    for through_up in [true, false] {
        let engine = needs_engine!();
        let image = format!("[runtime.image]\nbase = \"{}\"\n", engine.slow_base());
        let home = Home::docker_with(engine, "", &image, HOME, LONG);
        home.apply();
        let up = through_up.then(|| home.up());
        let said = home.say("home", "long 1");
        home.wait_until_begun(1);
        let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
        let more = manifest.replace(&image, &format!("{image}packages = [\"curl\"]\n"));
        // A group that comes with it is ended as well.
        home.place.write("babybot.toml", &format!("{more}\n[groups.garden]\n"));
        let apply = home.start(&mut home.place.command(["apply", "-v", YES]));
        wait_until("it is being built", || apply.said().contains("installing slowly"));
        home.let_go();
        let down = up.as_ref().map(|_| home.start(&mut home.place.command(["down"])));
        home.assert_answers(said, "long 1");
        let (code, told) = apply.wait(PATIENCE);
        assert_eq!(code, 0, "{told}");
        for ending in up.into_iter().chain(down) {
            let (code, told) = ending.wait(PATIENCE);
            assert_eq!(code, 0, "{told}");
        }
        let outcomes = home.place.column("SELECT outcome FROM generations ORDER BY number");
        assert_eq!(outcomes, ["applied", "applied"]);
        home.ask("quick 2");
    }
}

#[test]
fn an_apply_that_is_interrupted_says_which_generation_is_applied() {
    let engine = needs_engine!();
    let image = format!("[runtime.image]\nbase = \"{}\"\n", engine.slow_base());
    let home = Home::docker_with(engine, "", &image, HOME, LONG);
    home.apply();
    let manifest = std::fs::read_to_string(home.place.root().join("babybot.toml")).unwrap();
    let more = manifest.replace(&image, &format!("{image}packages = [\"curl\"]\n"));
    home.place.write("babybot.toml", &more);
    for verb in ["apply", "up"] {
        let apply = home.start(&mut home.place.command([verb, "-v", YES]));
        wait_until("it is being built", || apply.said().contains("installing slowly"));
        apply.signal(Signal::INT);
        let (code, told) = apply.wait(PATIENCE);
        assert_eq!(code, 130, "{told}");
        assert!(told.contains("babybot: stopped; generation 1 is still applied\n"), "{told}");
        assert!(told.contains(&format!("run `babybot {verb}")), "{told}");
    }
    assert_eq!(home.place.value::<i64>("SELECT count(*) FROM generations"), 1);
}

/// Whoever shows a reply says so afterwards. Until then the reply is as good as not shown, to all
/// but the one who did.
#[test]
fn a_reply_whose_controller_ends_while_it_is_shown_is_shown_once() {
    /// More than a pipe holds: the reply is under way until somebody reads.
    const TWICE: &str =
        "[[rule]]\nwhen = \"quick\"\nsteps = [{ reply = \"done {message} {message}\" }]\n";
    let message = format!("quick {}", "x".repeat(60_000));
    for kill in [false, true] {
        let home = Home::none("", HOME, TWICE);
        let up = home.up();
        let mut said = home.say("home", &message);
        let mut reply = [0; 5];
        said.stdout.as_mut().unwrap().read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"done ");
        if kill {
            up.kill();
        } else {
            up.end();
        }
        let mut rest = String::new();
        said.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
        let ended = wait_for_end(said, PATIENCE);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let shown = rest.matches("quick ").count();
        assert_eq!(shown, 2, "kill: {kill}\n{}\n{}", ended.stderr, home.log());
        home.assert_each_message_has_one_reply(1);
        home.place.wait_until_nothing_runs(PATIENCE);
    }
}

#[test]
fn a_signal_lets_the_turn_under_way_finish_and_a_second_one_does_not_wait() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::none("", HOME, LONG);
        let up = home.up();
        let said = home.say("home", "long 1");
        home.wait_until_begun(1);
        up.signal(signal);
        home.status_when("it drains", |status| status["controller"]["draining"] == true);
        let insisted = Instant::now();
        up.signal(signal);
        let (code, told) = up.wait(PATIENCE);
        report(&format!("a second {signal:?}: ended after {:?}", insisted.elapsed()));
        assert_eq!(code, 0, "{told}");
        // Whoever talks becomes the controller, and goes on with what was begun.
        home.let_go();
        home.assert_answered(said);
        home.assert_each_message_has_one_reply(1);
        home.place.wait_until_nothing_runs(PATIENCE);
    }
}

#[test]
fn a_controller_in_the_background_is_seen_heard_and_ended() {
    let home = Home::none("", ALWAYS, LONG);
    let up = home.place.run(&["up", "--detach", YES]);
    assert_eq!(up.code, 0, "{up:?}");
    let status = home.status();
    let pid = status["controller"]["pid"].as_u64().unwrap();
    assert!(up.stderr.contains(&pid.to_string()), "{up:?}");
    // What nobody reads grows nowhere.
    let errors = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
    assert_eq!(errors, std::path::Path::new("/dev/null"));
    home.wait_for_agent();
    home.ask("quick 1");
    let human = home.place.run(&["status"]);
    assert!(human.stdout.contains("home") && human.stdout.contains("always"), "{human:?}");
    let logs = home.place.run(&["logs"]);
    assert!(logs.stdout.contains("the controller is ready"), "{logs:?}");
    let down = home.place.run(&["down"]);
    assert_eq!(down.code, 0, "{down:?}");
    home.place.wait_until_nothing_runs(PATIENCE);
    assert!(home.status()["controller"].is_null());
    let logs = home.place.run(&["logs"]);
    assert!(logs.stdout.contains("the controller has stopped"), "{logs:?}");
}

/// As systemd is told with `Type=notify` and `WatchdogSec=`.
#[test]
fn a_service_manager_is_told_of_readiness_life_and_end() {
    let home = Home::none("", HOME, LONG);
    let path = home.place.beside("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).expect("it is told in time");
        String::from_utf8_lossy(&buffer[..count]).trim().to_owned()
    };
    let mut command = home.place.command(["up", YES]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let up = home.start(&mut command);
    assert_eq!(next(), "READY=1", "{}", up.said());
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    home.ask("quick 1");
    up.signal(Signal::TERM);
    let last = comes_true(PATIENCE, || next() == "STOPPING=1");
    assert!(last, "{}", up.said());
    assert_eq!(up.wait(PATIENCE).0, 0);
}

#[test]
fn what_a_killed_controller_leaves_is_ended_and_its_turn_goes_on() {
    for (number, home) in everywhere(HOME).into_iter().enumerate() {
        let up = home.up();
        let said = home.say("home", "long 1");
        home.wait_until_begun(1);
        up.kill();
        home.let_go();
        let up = home.up_with(&[]);
        // It may have ended with its controller, or have followed the next one.
        let _ = wait_for_end(said, PATIENCE);
        let replied = "SELECT count(*) FROM outbox WHERE kind = 'reply'";
        wait_until("it is answered", || home.place.value::<i64>(replied) == 1);
        home.assert_each_message_has_one_reply(1);
        let begun = home.place.lines("ran").iter().filter(|line| *line == "begun").count();
        assert_eq!(begun, 1, "the call ran again");
        home.ask("quick 2");
        home.assert_each_message_has_one_reply(2);
        if number == 1 {
            assert!(home.containers().len() <= 1, "{:?}", home.containers());
        }
        up.end();
        assert_nothing_is_left(&home, number == 1);
    }
}

/// Between any two kills a message; in the end each has one reply, and nothing runs.
#[test]
fn controllers_that_are_killed_again_and_again_lose_nothing() {
    for (number, home) in everywhere(ALWAYS).into_iter().enumerate() {
        home.apply();
        home.let_go();
        let mut said = Vec::new();
        for round in 0..4_u64 {
            let up = home.up_with(&[]);
            said.push(home.say("home", &format!("long {round}")));
            std::thread::sleep(Duration::from_millis(120 * round));
            up.kill();
        }
        let up = home.up_with(&[]);
        for child in said {
            let _ = wait_for_end(child, PATIENCE);
        }
        home.ask("quick last");
        // What was said to nobody, because its controller was gone by then, was never stored.
        let stored = home.place.column("SELECT text FROM messages");
        home.assert_each_message_has_one_reply(stored.len());
        home.wait_for_agent();
        if number == 1 {
            assert_eq!(home.containers().len(), 1, "{:?}", home.containers());
        }
        up.end();
        assert_nothing_is_left(&home, number == 1);
    }
}
