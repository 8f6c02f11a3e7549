//! The control socket: who gets through to a controller, what its bounds are, and the verbs that
//! need nothing else. The controller is a fake that plays scenarios at the place verbs look at.

mod fake;
mod verbs;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use babybot::clock::{Clock as _, SystemClock, Timestamp};
use babybot::control::client::{ANSWER_PATIENCE, Client};
use babybot::control::place::{self, Bases};
use babybot::control::server::{self, CONNECTIONS_MAX};
use babybot::control::{
    ApplyEvent, ApplyRequest, BODY_MAX, ChatEnd, ChatEvent, ChatRequest, ControlError, Lease,
    PROTOCOL, Person, PostOutcome, Role, Said,
};
use babybot::desired::{Choice, Desired};
use babybot::link;
use babybot::name::{GroupName, InstanceId, ThreadId};
use babybot::plan::Plan;
use babybot::resource::Risk;
use futures_util::StreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use self::fake::{Fake, House, Play};
use crate::support::workshop::{PATIENCE, within};

fn home() -> GroupName {
    GroupName::new("home").unwrap()
}

fn desired() -> Desired {
    Desired {
        name: "home".parse().unwrap(),
        runtime: Choice::default(),
        resources: [].into(),
        containers: [].into(),
        remarks: Vec::new(),
        overrides: Vec::new(),
    }
}

fn request() -> ApplyRequest {
    let (text, plan) = ("schema = 1".to_owned(), Plan::default());
    ApplyRequest { desired: desired(), text, plan, risks: vec![Risk::Safe] }
}

fn talk(name: &str) -> ChatRequest {
    ChatRequest {
        group: home(),
        thread: "one".parse().unwrap(),
        person: Person { id: "uid-1".parse().unwrap(), name: name.to_owned() },
        resumed: false,
    }
}

#[tokio::test]
async fn what_is_asked_arrives_and_what_is_answered_comes_back() {
    let house = House::open(Play::Well).await;
    let client = house.client().await;
    assert_eq!(client.hello().protocol, PROTOCOL);
    assert_eq!(client.hello().instance, house.instance);
    assert_eq!(client.status().await.unwrap(), *house.fake.status.borrow().clone());
    assert_eq!(client.observe(&desired()).await.unwrap(), fake::observed());

    let events: Vec<_> = client.apply(&request()).await.unwrap().collect().await;
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(events, fake::applied());
    let events: Vec<_> = client.chat(&talk("hi")).await.unwrap().collect().await;
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(events, fake::answered());

    client.acknowledge(7, &PostOutcome::Shown).await.unwrap();
    let one: ThreadId = "one".parse().unwrap();
    let said = Said { id: "one".parse().unwrap(), text: "hi".to_owned() };
    client.say(&one, &said).await.unwrap();
    client.cancel(&one).await.unwrap();
    assert!(client.hold(&home(), true).await.unwrap());
    let (lease, guard) = client.lease(&home()).await.unwrap();
    assert_eq!(lease, fake::lease());
    drop(guard);
    within(house.fake.dropped.notified()).await;
    assert_eq!(
        house.fake.heard(),
        [
            "observe",
            "apply safe",
            "chat one",
            "7 Shown",
            "say hi in one",
            "cancel one",
            "home held",
            "lease home"
        ]
    );
}

#[tokio::test]
async fn a_refusal_is_told_in_its_own_words() {
    let house = House::open(Play::Refusing).await;
    let client = house.client().await;
    let refused = [
        client.observe(&desired()).await.map(drop),
        client.acknowledge(7, &PostOutcome::Shown).await,
        client.hold(&home(), true).await.map(drop),
        client.lease(&home()).await.map(drop),
        client.shut_down(PATIENCE).await,
    ];
    for refused in refused {
        assert!(
            matches!(&refused, Err(ControlError::Refused(why)) if why == "not now"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn without_a_controller_there_is_none_to_join() {
    let house = House::open(Play::Well).await;
    let (data, instance) = (house.data(), house.instance.clone());
    assert!(Client::connect(&data, &instance).await.unwrap().is_some());
    // One that has the project's folder, but not its instance, is another's.
    let other = SystemClock.instance_id();
    assert!(Client::connect(&data, &other).await.unwrap().is_none());
    let house = house.end().await;
    assert!(!data.join(place::FILE).exists(), "its notice was left behind");
    assert!(Client::connect(&data, &instance).await.unwrap().is_none());
    assert!(Client::connect(&data.join("none"), &instance).await.unwrap().is_none());
    drop(house);
}

#[tokio::test]
async fn what_a_dead_controller_left_is_no_controller_and_is_taken_over() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let (listener, dead) = folder.open(&instance).unwrap();
    let notice = dead.notice().clone();
    // As after `kill -9`.
    std::mem::forget(dead);
    drop(listener);
    assert!(notice.socket.exists() && folder.data().join(place::FILE).exists());
    assert!(Client::connect(&folder.data(), &instance).await.unwrap().is_none());
    let (_listener, place) = folder.open(&instance).unwrap();
    assert_eq!(place.notice().socket, notice.socket);
}

/// Whoever asks in the moment of an end learns of the end, and not that it was turned away.
#[tokio::test]
async fn a_controller_that_ends_while_it_is_asked_is_none_to_join() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let (listener, place) = folder.open(&instance).unwrap();
    let ending = async {
        let asked = listener.accept().await.unwrap();
        drop((asked, listener, place));
    };
    let data = folder.data();
    let (joined, ()) =
        within(futures_util::future::join(Client::connect(&data, &instance), ending)).await;
    assert!(joined.unwrap().is_none());

    let (listener, _place) = folder.open(&instance).unwrap();
    let succession = async {
        drop(listener.accept().await.unwrap());
        serve(listener, &instance);
    };
    let (joined, ()) =
        within(futures_util::future::join(Client::connect(&data, &instance), succession)).await;
    assert!(joined.unwrap().is_some());
}

#[tokio::test]
async fn who_lets_go_late_takes_nothing_from_who_came_after() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let (_listener, first) = folder.open_at(&instance, Timestamp(1)).unwrap();
    let (listener, second) = folder.open_at(&instance, Timestamp(2)).unwrap();
    drop(first);
    assert!(second.notice().socket.exists());
    assert_eq!(place::find(&folder.data()).unwrap().as_ref(), Some(second.notice()));
    drop((listener, second));
    assert!(place::find(&folder.data()).unwrap().is_none());
}

#[tokio::test]
async fn socket_and_notice_are_for_their_owner_alone() {
    let folder = fake::Rooms::new();
    let (_listener, place) = folder.open(&SystemClock.instance_id()).unwrap();
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.notice().socket), 0o600);
    assert_eq!(mode(place.notice().socket.parent().unwrap()), 0o700);
    assert_eq!(mode(&folder.data().join(place::FILE)), 0o600);
    assert_eq!(place.notice().pid, std::process::id());
}

#[tokio::test]
async fn a_users_own_folder_is_taken_where_it_is_one() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let runtime = folder.root().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let mut bases = folder.bases();
    bases.runtime = Some(runtime.clone());
    for (mode, taken) in [(0o700, true), (0o755, false)] {
        std::fs::set_permissions(&runtime, PermissionsExt::from_mode(mode)).unwrap();
        let (_listener, place) = folder.open_in(&instance, &bases).unwrap();
        assert_eq!(place.notice().socket.starts_with(runtime.join("babybot")), taken, "{mode:o}");
    }
}

#[tokio::test]
async fn a_folder_for_sockets_with_another_mode_is_repaired_and_keeps_what_is_in_it() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let own = folder.root().join(format!("babybot-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("neighbour"), "").unwrap();
    for mode in [0o770, 0o000, 0o755] {
        std::fs::set_permissions(&own, PermissionsExt::from_mode(mode)).unwrap();
        let (_listener, place) = folder.open(&instance).unwrap();
        assert!(place.notice().socket.starts_with(&own));
        let repaired = own.symlink_metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(repaired, 0o700, "{mode:o}");
    }
    assert!(own.join("neighbour").exists());
}

#[tokio::test]
async fn no_socket_is_put_where_somebody_else_could_be() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let own = folder.root().join(format!("babybot-{}", rustix::process::geteuid().as_raw()));
    let refused = |expected: &str| {
        let error = folder.open(&instance).map(drop).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        if matches!(error, ControlError::Folder { .. }) {
            let hint = error.hint().expect("what to do");
            // Other projects of this user have their sockets in it.
            assert!(hint.contains("XDG_RUNTIME_DIR") && !hint.contains("remove"), "{hint}");
        }
    };
    let victim = folder.root().join("victim");
    std::fs::create_dir(&victim).unwrap();
    symlink(&victim, &own).unwrap();
    refused("it is a symbolic link");
    std::fs::remove_file(&own).unwrap();
    std::fs::create_dir(&own).unwrap();
    let socket = own.join(format!("{}.sock", instance.short()));
    std::fs::write(&socket, "precious").unwrap();
    refused("another file is in its place");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "the link was followed");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&own, Some(65534), None).unwrap();
        refused("it belongs to user 65534");
    }
    let deep = folder.root().join("x".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let bases = Bases { runtime: None, temporary: deep };
    let error = folder.open_in(&instance, &bases).map(drop).unwrap_err();
    assert!(matches!(error, ControlError::TooLong { .. }), "{error}");
}

/// The lock decides who lives: a notice that is damaged is written again, or names nobody.
#[tokio::test(start_paused = true)]
async fn a_notice_that_is_damaged_is_waited_for_and_then_names_nobody() {
    let folder = fake::Rooms::new();
    let (data, instance) = (folder.data(), SystemClock.instance_id());
    let path = data.join(place::FILE);
    for text in ["", "{\"socket\": 7", "\0\0\0"] {
        std::fs::write(&path, text).unwrap();
        assert!(Client::connect(&data, &instance).await.unwrap().is_none(), "{text:?}");
    }
    let (listener, place) = folder.open(&instance).unwrap();
    serve(listener, &instance);
    std::fs::write(&path, "{").unwrap();
    let renewed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(place.renew_notice().unwrap());
    };
    let (joined, ()) = futures_util::future::join(Client::connect(&data, &instance), renewed).await;
    assert!(joined.unwrap().is_some());
    assert!(!place.renew_notice().unwrap(), "it was whole");
}

#[tokio::test]
async fn what_is_no_file_in_the_place_of_a_notice_is_refused_and_not_waited_for() {
    let folder = fake::Rooms::new();
    let path = folder.data().join(place::FILE);
    let instance = SystemClock.instance_id();
    symlink("elsewhere", &path).unwrap();
    let error = Client::connect(&folder.data(), &instance).await.unwrap_err();
    assert!(matches!(error, ControlError::Io { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = within(Client::connect(&folder.data(), &instance)).await.unwrap_err();
    assert!(matches!(error, ControlError::Io { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_says_nothing_is_waited_for_only_so_long() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let (_listener, _place) = folder.open(&instance).unwrap();
    let began = tokio::time::Instant::now();
    let error = Client::connect(&folder.data(), &instance).await.unwrap_err();
    assert!(matches!(error, ControlError::Silent { seconds: 5, .. }), "{error}");
    assert!(began.elapsed() < ANSWER_PATIENCE * 2);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_never_ends_is_given_up() {
    let house = House::open(Play::Silent).await;
    let client = house.client().await;
    let error = client.observe(&desired()).await.unwrap_err();
    assert!(matches!(error, ControlError::Silent { .. }), "{error}");
    within(house.fake.dropped.notified()).await;
}

#[tokio::test]
async fn an_answer_that_stops_half_way_is_no_answer() {
    let house = House::open(Play::Half).await;
    let client = house.client().await;
    let events: Vec<_> = within(client.apply(&request()).await.unwrap().collect()).await;
    assert!(matches!(&events[..], [Ok(_), Err(ControlError::Ended)]), "{events:?}");
    let events: Vec<_> = within(client.chat(&talk("hi")).await.unwrap().collect()).await;
    assert!(matches!(&events[..], [Ok(ChatEvent::Joined), Err(ControlError::Ended)]), "{events:?}");
    assert!(matches!(client.lease(&home()).await, Err(ControlError::Ended)));
}

#[tokio::test]
async fn a_controller_that_is_killed_ends_whatever_was_asked() {
    let house = House::open(Play::Silent).await;
    let client = house.client().await;
    let mut changes = client.watch_status().await.unwrap();
    changes.next().await.unwrap().unwrap();
    let mut chat = client.chat(&talk("hi")).await.unwrap();
    assert_eq!(chat.next().await.unwrap().unwrap(), ChatEvent::Joined);
    house.kill();
    let cut = within(chat.next()).await.unwrap().unwrap_err();
    assert!(matches!(cut, ControlError::Ended), "{cut:?}");
    assert!(chat.next().await.is_none());
    let cut = within(changes.next()).await.unwrap().unwrap_err();
    assert!(matches!(cut, ControlError::Ended), "{cut:?}");
    within(client.wait_gone()).await;
    let cut = client.status().await.unwrap_err();
    assert!(matches!(cut, ControlError::Ended), "{cut:?}");
    within(house.fake.dropped.notified()).await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_what_it_asked_for_with_it() {
    let house = House::open(Play::Silent).await;
    // A stream that is dropped, the connection kept.
    let client = house.client().await;
    let mut chat = client.chat(&talk("hi")).await.unwrap();
    assert_eq!(chat.next().await.unwrap().unwrap(), ChatEvent::Joined);
    drop(chat);
    within(house.fake.dropped.notified()).await;
    client.status().await.unwrap();
    // A client that is gone in the middle of its question.
    let asking = tokio::spawn(async move { client.observe(&desired()).await.map(drop) });
    within(house.fake.heard_of("observe")).await;
    asking.abort();
    within(house.fake.dropped.notified()).await;
    // A lease, and a plan that is carried out.
    let client = house.client().await;
    let apply = client.apply(&request()).await.unwrap();
    within(house.fake.heard_of("apply safe")).await;
    drop((client, apply));
    within(house.fake.dropped.notified()).await;
}

#[tokio::test]
async fn two_clients_are_served_at_once_and_each_sees_every_change() {
    let house = House::open(Play::Silent).await;
    let (one, two) = (house.client().await, house.client().await);
    let _stuck = one.chat(&talk("hi")).await.unwrap();
    let mut watched = [one.watch_status().await.unwrap(), two.watch_status().await.unwrap()];
    for pid in [11, 12, 13] {
        house.fake.change(|status| status.pid = pid);
        for changes in &mut watched {
            while within(changes.next()).await.unwrap().unwrap().pid != pid {}
        }
    }
    let house = house.end().await;
    for changes in &mut watched {
        assert!(within(changes.next()).await.is_none(), "an end in good order is no error");
    }
    drop(house);
}

#[tokio::test]
async fn a_client_that_reads_slowly_sees_the_newest_and_holds_up_nobody() {
    let house = House::open(Play::Well).await;
    let (slow, quick) = (house.client().await, house.client().await);
    let mut changes = slow.watch_status().await.unwrap();
    for pid in 0..200 {
        house.fake.change(|status| {
            status.pid = pid;
            status.warnings = vec!["x".repeat(64 << 10)];
        });
        assert_eq!(quick.status().await.unwrap().pid, pid);
    }
    let mut seen = 0;
    while within(changes.next()).await.unwrap().unwrap().pid != 199 {
        seen += 1;
    }
    assert!(seen < 150, "{seen} of 200 states were kept for a client that did not read");
}

#[tokio::test]
async fn a_flood_of_clients_is_bounded_and_passes() {
    let house = House::open(Play::Well).await;
    let first = house.client().await;
    let mut flood = Vec::new();
    for _ in 0..CONNECTIONS_MAX * 2 {
        flood.push(UnixStream::connect(house.socket()).await.unwrap());
    }
    let error = Client::connect(&house.data(), &house.instance).await.unwrap_err();
    assert!(matches!(error, ControlError::Closed { .. }), "{error}");
    first.status().await.unwrap();
    drop(flood);
    let again = async {
        while Client::connect(&house.data(), &house.instance).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(again).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_nothing_is_sent_away() {
    let house = House::open(Play::Well).await;
    let mut mute = UnixStream::connect(house.socket()).await.unwrap();
    let mut heard = Vec::new();
    within(mute.read_to_end(&mut heard)).await.unwrap();
}

#[tokio::test]
async fn a_controller_that_speaks_another_language_is_told_so() {
    let folder = fake::Rooms::new();
    let instance = SystemClock.instance_id();
    let (listener, _place) = folder.open(&instance).unwrap();
    let hello = json!({ "protocol": PROTOCOL + 1, "version": "9.0.0", "mood": "new" });
    let router = Router::new().route("/hello", get(move || async move { Json(hello) }));
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        link::server::serve(client, router).await
    });
    let error = Client::connect(&folder.data(), &instance).await.unwrap_err();
    assert!(matches!(&error, ControlError::Version { version, .. } if version == "9.0.0"));
    assert!(error.to_string().contains("is babybot 9.0.0, and this is"), "{error}");
    assert!(error.hint().unwrap().starts_with("run `kill "), "{error}");
}

#[tokio::test]
async fn a_plan_is_not_given_to_another_version_but_its_status_is_read() {
    let house = House::open(Play::Well).await;
    house.fake.change(|status| status.version = "0.0.9".to_owned());
    let client = house.client().await;
    client.status().await.unwrap();
    let error = client.apply(&request()).await.err().unwrap();
    assert!(matches!(error, ControlError::Version { .. }), "{error}");
    assert!(matches!(client.observe(&desired()).await, Err(ControlError::Version { .. })));
    assert_eq!(house.fake.heard(), [""; 0]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_at_either_end() {
    let house = House::open(Play::Well).await;
    let client = house.client().await;
    let large = ApplyRequest { text: "x".repeat(BODY_MAX), ..request() };
    assert!(matches!(client.apply(&large).await.err(), Some(ControlError::TooLarge)));
    // What a generation may hold goes through, there and back.
    let large = ApplyRequest { text: "x".repeat(BODY_MAX / 2), ..request() };
    let events: Vec<_> = within(client.apply(&large).await.unwrap().collect()).await;
    assert!(events.last().unwrap().is_ok(), "{events:?}");

    let stream = UnixStream::connect(house.socket()).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut unruly, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let chat = serde_json::to_vec(&talk(&"x".repeat(2 << 20))).unwrap();
    for (path, body, expected) in [
        ("/chat", chat, StatusCode::PAYLOAD_TOO_LARGE),
        ("/apply", b"{}".to_vec(), StatusCode::UNPROCESSABLE_ENTITY),
        ("/groups/GLOBAL/lease", Vec::new(), StatusCode::BAD_REQUEST),
        ("/nowhere", Vec::new(), StatusCode::NOT_FOUND),
    ] {
        let request = Request::post(format!("http://babybot{path}"))
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let answer = within(unruly.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), expected, "{path}");
    }
    assert_eq!(house.fake.heard(), ["apply safe"]);
}

#[tokio::test]
async fn a_line_that_holds_a_large_plan_is_read_whole() {
    let house = House::open(Play::Wordy).await;
    let client = house.client().await;
    let events: Vec<_> = within(client.apply(&request()).await.unwrap().collect()).await;
    let sizes: Vec<usize> = events
        .iter()
        .map(|event| match event {
            Ok(ApplyEvent::Line { text }) => text.len(),
            Ok(ApplyEvent::Error { why }) => why.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    // The second is larger than what is sent, and comes as a word about it.
    assert_eq!(sizes, [20 << 20, "the answer is too large to send".len()]);
}

#[tokio::test]
async fn who_hangs_up_is_told_apart_from_who_ends() {
    let house = House::open(Play::Well).await;
    let client = house.client().await;
    client.shut_down(Duration::from_secs(60)).await.unwrap();
    within(client.wait_gone()).await;
    assert_eq!(house.fake.heard(), ["shut down within 60s"]);
}

#[tokio::test]
async fn the_words_on_the_wire_stay_as_they_are() {
    let end = ChatEvent::End { end: ChatEnd::Failed { why: "x".into() } };
    insta::assert_snapshot!(serde_json::to_string(&end).unwrap(), @r#"{"event":"end","end":{"end":"failed","why":"x"}}"#);
    let lease: Result<Lease, ()> = Ok(fake::lease());
    insta::assert_snapshot!(serde_json::to_string(&lease).unwrap(), @r#"{"Ok":{"runtime":{"kind":"none"},"sandbox":"process-1-1","place":{"marker":"","workdir":"","home":"","user":null,"env":{}}}}"#);
    insta::assert_snapshot!(serde_json::to_string(&PostOutcome::NotShown { why: "x".into() }).unwrap(), @r#"{"outcome":"not-shown","why":"x"}"#);
}

/// As [`Fake::open`], for a listener of the test's own.
fn serve(listener: tokio::net::UnixListener, instance: &InstanceId) -> Arc<Fake> {
    let fake = Arc::new(Fake::new(instance.clone(), Play::Well));
    tokio::spawn(server::serve(listener, fake::never_renewed(), fake.clone(), fake.stop.clone()));
    fake
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_sent_away() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        crate::support::skipped("only root can be another user");
        return;
    }
    let folder = crate::support::folder::Folder::with(crate::support::folder::QUICK);
    let (root, data) = (folder.path(""), folder.path("data"));
    std::fs::create_dir(&data).unwrap();
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    give(&root);
    let project = babybot::project::Project::open(&root).unwrap();
    let instance = project.instance(&SystemClock).unwrap();
    // A socket that lets everybody through, so that only what is asked of the kernel is left.
    let socket = folder.path("open.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).unwrap();
    let notice = place::Notice {
        socket,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: Role::Up,
        since: Timestamp(0),
    };
    let notice_file = data.join(place::FILE);
    std::fs::write(&notice_file, serde_json::to_vec(&notice).unwrap()).unwrap();
    for path in [&data, &data.join("instance"), &notice_file] {
        give(path);
    }
    let fake = serve(listener, &instance);
    let program = folder.path("babybot");
    // By another process: a program that this one has open for writing, or a child that another
    // test starts meanwhile, cannot be run.
    let mut copy = std::process::Command::new("cp");
    let copied = copy.arg(env!("CARGO_BIN_EXE_babybot")).arg(&program).status().unwrap();
    assert!(copied.success());
    let status = |uid: u32| {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(&program);
        command.arg("status").current_dir(&root).uid(uid).gid(uid);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let ran = status(NOBODY).await.unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("closed the connection at once"), "{stderr}");
    assert!(ran.stdout.is_empty());
    // The positive control: root is let in.
    let ran = status(0).await.unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    drop(fake);
}
