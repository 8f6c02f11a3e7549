//! What a group's folder may hold, and when it is looked at.

use std::collections::BTreeMap;

use babybot::clock::{Clock as _, SystemClock};
use babybot::name::{ModelName, TurnId};
use babybot::protocol::{Event, Failure, Order, Welcome};
use babybot::resource::ModelSpec;
use babybot::runtime::SandboxSpec;
use babybot::session::{Purpose, Session, TurnEnd};

use super::puppet::{Greeted, Logged, greet, pass, stage};
use super::*;
use crate::support::workshop::Puppets;

fn small() -> Limits {
    Limits { disk: ByteSize::bytes(64 << 10), ..Limits::default() }
}

#[tokio::test]
async fn a_turn_that_fills_its_folder_is_stopped_and_the_chat_is_told() {
    let (shop, fake) = with_fake(small()).await;
    fake.answer("/api/chat", shell("head -c 200000 /dev/zero > big"));
    fake.answer("/api/chat", shell("echo $$ > pids; exec sleep 1000"));
    shop.say("fill it").await;
    let mut worker = shop.worker();
    let worked = shop.work(&mut worker).await;
    let Worked::GivenUp(why) = worked else { panic!("{worked:?}") };
    assert_eq!(why, "the folders of family hold more than 64KiB (limits.disk)");
    worker.rest().await;
}

/// What is in the agent's home, or in its mailbox, is on the same disk.
#[tokio::test]
async fn a_home_or_a_mailbox_that_is_filled_counts_as_well() {
    let (runtime, mut puppets) = Puppets::new();
    let shop = Plan::scripted("").runtime(runtime).limits(small()).build().await;
    for folder in [shop.project.session(&shop.group), shop.project.mailbox(&shop.group)] {
        shop.say("fill it").await;
        let working = shop.working(shop.worker(), &CancellationToken::new());
        let mut agent = greet(puppets.recv().await.unwrap()).await;
        let turn = agent.turn().await;
        std::fs::write(folder.join("big"), [0; 200_000]).unwrap();
        call(&agent, &turn).await;
        obey(&mut agent, &turn).await;
        let (_, worked) = finished(working).await;
        assert!(matches!(worked, Worked::GivenUp(_)), "{}: {worked:?}", folder.display());
        std::fs::remove_file(folder.join("big")).unwrap();
    }
}

/// The agent reports a call from its beginning to its end.
async fn call(agent: &Greeted, turn: &TurnId) {
    let (tool, arguments) = ("bb_shell".to_owned(), json!({"command": "true"}));
    let events = [
        Event::Round { round: 0, message: json!({"role": "assistant"}) },
        Event::CallBegan { round: 0, index: 0, tool, arguments },
        Event::CallEnded { round: 0, index: 0, result: "done".to_owned() },
    ];
    agent.link.report(turn, &events).await.unwrap();
}

/// The agent is told to stop, and does.
async fn obey(agent: &mut Greeted, turn: &TurnId) {
    assert_eq!(agent.order().await, Order::Cancel { turn: turn.clone() });
    let failed = Event::Failed { reason: Failure::Cancelled, message: "cancelled".to_owned() };
    agent.link.report(turn, &[failed]).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_too_deep_to_measure_is_too_full_and_the_log_says_why() {
    let (logged, _guard) = Logged::take();
    let (shop, mut puppets) = stage().await;
    shop.say("hide it").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    std::fs::create_dir_all(shop.file(&"d/".repeat(130))).unwrap();
    call(&agent, &turn).await;
    obey(&mut agent, &turn).await;
    let (_, worked) = finished(working).await;
    let why = "the folders of family hold more than 2GiB (limits.disk)";
    assert_eq!(worked, Worked::GivenUp(why.to_owned()));
    let text = logged.text();
    let warning = text.lines().find(|line| line.contains("cannot be measured")).expect(&text);
    assert!(warning.contains("groups/family") && warning.contains("too many files"), "{warning}");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_not_full() {
    let (shop, mut puppets) = stage().await;
    shop.say("tidy up").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    std::fs::remove_dir_all(shop.project.group(&shop.group)).unwrap();
    call(&agent, &turn).await;
    agent.answer(&turn, "All gone.", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
}

#[tokio::test]
async fn a_folder_that_became_something_else_is_too_full() {
    let (shop, mut puppets) = stage().await;
    shop.say("swap it").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let folder = shop.project.group(&shop.group);
    std::fs::remove_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/proc", &folder).unwrap();
    call(&agent, &turn).await;
    obey(&mut agent, &turn).await;
    assert!(matches!(finished(working).await.1, Worked::GivenUp(_)));
}

#[tokio::test]
async fn the_folder_is_looked_at_every_ten_seconds_whatever_the_agent_says() {
    let (runtime, mut puppets) = Puppets::new();
    let shop = Plan::scripted("").runtime(runtime).limits(small()).build().await;
    shop.say("fill it").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    std::fs::write(shop.file("big"), [0; 200_000]).unwrap();
    // No word of a call, or of anything else.
    pass(Duration::from_secs(5)).await;
    assert!(!working.is_finished());
    assert!(futures_util::FutureExt::now_or_never(agent.order()).is_none(), "it is too early");
    pass(Duration::from_secs(6)).await;
    obey(&mut agent, &turn).await;
    assert!(matches!(finished(working).await.1, Worked::GivenUp(_)));
}

#[tokio::test]
async fn a_long_call_that_fills_the_folder_is_stopped_in_mid_call() {
    let (shop, fake) = with_fake(small()).await;
    let command = "echo $$ > pids; head -c 200000 /dev/zero > big; exec sleep 1000";
    fake.answer("/api/chat", shell(command));
    let purpose = Purpose {
        sandbox: SandboxSpec {
            instance: shop.instance.clone(),
            group: shop.group.clone(),
            incarnation: SystemClock.incarnation(),
            generation: 1,
            container: shop.container(),
            mounts: Vec::new(),
            workdir: shop.project.group(&shop.group),
            home: shop.project.session(&shop.group),
            lock: shop.project.agent_lock(&shop.group),
            user: shop.project.owner(),
            env: BTreeMap::new(),
        },
        welcome: Welcome {
            group: shop.group.clone(),
            assistant: "Baby".to_owned(),
            model: "qwen3:8b".to_owned(),
            context: 8192,
            output: ByteSize::bytes(1 << 20),
            places: Vec::new(),
            env: BTreeMap::new(),
        },
        model: (
            ModelName::new("local").unwrap(),
            ModelSpec::Ollama {
                url: fake.url.clone(),
                model: "qwen3:8b".into(),
                context: 8192,
                keep_alive: Period::seconds(60),
            },
        ),
        limits: small(),
    };
    let session = Session::start(shop.host.parts(), purpose).await.unwrap();
    let mut session = session.measuring_every(Duration::from_millis(20));
    shop.say("fill it").await;
    let (id, now) = (SystemClock.turn_id(), SystemClock.now());
    let turn = shop.store.take_up(&shop.group, &id, now).await.unwrap().unwrap().turn.id;
    let cancel = CancellationToken::new();
    let end = session.run(turn.clone(), "fill it".into(), Vec::new(), &cancel, &shop.audience);
    let end = tokio::time::timeout(PATIENCE, end).await.unwrap();
    assert_eq!(end, TurnEnd::DiskFull);
    // Long before the call came to an end of its own, and with nothing of it left running.
    let pid = std::fs::read_to_string(shop.file("pids")).unwrap();
    let left = process::Process::find(pid.trim().parse().unwrap());
    assert!(left.is_none_or(|tool| !tool.is_alive()), "the tool runs on");
    assert!(session.is_ready(), "the agent obeyed, and goes on");
    session.end().await;
}
