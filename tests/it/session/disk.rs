//! What a group's folder may hold, and when it is looked at.

use babybot::name::TurnId;
use babybot::protocol::{Event, Failure, Order};
use babybot::session::Progress;

use super::puppet::{Greeted, Logged, greet, pass, stage};
use super::*;
use crate::support::workshop::Puppets;

fn small() -> Limits {
    Limits { disk: ByteSize::bytes(64 << 10), ..Limits::default() }
}

/// What the last turn answered, and what its calls gave.
async fn answered(shop: &Workshop) -> (String, Vec<String>) {
    let due = shop.due();
    let turn = due[0].turn.clone().unwrap();
    let journal = shop.store.journal_of(&turn).await.unwrap();
    let calls = journal.into_iter().flat_map(|round| round.calls);
    let results = calls.map(|call| call.result.unwrap()).collect();
    let posts = shop.posts().await;
    let [(PostKind::Reply, reply)] = &posts[..] else { panic!("{posts:?}") };
    (reply.clone(), results)
}

#[tokio::test]
async fn a_call_that_fills_the_folder_is_stopped_and_the_turn_goes_on() {
    let (shop, fake) = with_fake(small()).await;
    let command = "echo $$ > pids; for n in 1 2 3 4; do head -c 50000 /dev/zero > $n; done; \
                   exec sleep 1000";
    fake.answer("/api/chat", shell(command));
    fake.answer("/api/chat", shell("cat pids; rm 1 2 3 4"));
    fake.answer("/api/chat", says("It was too much."));
    shop.say("fill it").await;
    let mut worker = shop.worker();
    assert_eq!(shop.work(&mut worker).await, Worked::Answered);
    // The model was told, the person was shown the answer, and nothing of the call is left.
    let (reply, results) = answered(&shop).await;
    assert!(results[0].contains("[stopped: the folders are full]"), "{results:?}");
    assert!(results[0].contains("[limits.disk: the folders hold"), "{results:?}");
    assert!(!results[1].contains("limits.disk"), "{results:?}");
    assert_eq!(reply, "It was too much.");
    let pid = std::fs::read_to_string(shop.file("pids")).unwrap();
    let left = process::Process::find(pid.trim().parse().unwrap());
    assert!(left.is_none_or(|tool| !tool.is_alive()), "the tool runs on");
    worker.rest().await;
}

#[tokio::test]
async fn no_file_is_larger_than_the_limit_and_the_turn_goes_on() {
    let (shop, fake) = with_fake(small()).await;
    fake.answer("/api/chat", shell("head -c 200000 /dev/zero > big || echo it stopped"));
    let content = "x".repeat(100_000);
    let write = json!({"path": "written", "content": content});
    fake.answer("/api/chat", calls(&[("bb_write_file", write)]));
    fake.answer("/api/chat", says("done"));
    shop.say("fill it").await;
    let mut worker = shop.worker();
    assert_eq!(shop.work(&mut worker).await, Worked::Answered);
    assert_eq!(std::fs::metadata(shop.file("big")).unwrap().len(), 64 << 10);
    let (_, results) = answered(&shop).await;
    assert!(results[0].contains("it stopped"), "{results:?}");
    assert!(results[1].contains("limits.disk: nothing was written"), "{results:?}");
    assert!(!shop.file("written").exists());
    worker.rest().await;
}

/// What is in the agent's home, or in its mailbox, is on the same disk.
#[tokio::test]
async fn an_answer_over_the_limit_says_so_wherever_it_was_filled() {
    let (runtime, mut puppets) = Puppets::new();
    let mut shop = Plan::scripted("").runtime(runtime).limits(small()).build().await;
    let folders = [
        shop.project.group(&shop.group),
        shop.project.session(&shop.group),
        shop.project.mailbox(&shop.group),
    ];
    for folder in folders {
        shop.say("fill it").await;
        let working = shop.working(shop.worker(), &CancellationToken::new());
        let mut agent = greet(puppets.recv().await.unwrap()).await;
        let turn = agent.turn().await;
        std::fs::write(folder.join("big"), [0; 200_000]).unwrap();
        agent.answer(&turn, "All done.", 0).await;
        assert_eq!(finished(working).await.1, Worked::Answered, "{}", folder.display());
        let (reply, _) = answered(&shop).await;
        let notice = "All done.\n\n[limits.disk: the folders of family hold more than 64KiB.";
        assert!(reply.starts_with(notice), "{}: {reply}", folder.display());
        let told = std::iter::from_fn(|| shop.progress.try_recv().ok());
        let struck = told.filter(|told| *told == Progress::Struck("limits.disk")).count();
        assert_eq!(struck, 1, "{}", folder.display());
        std::fs::remove_file(folder.join("big")).unwrap();
    }
}

/// The agent is told to stop, and does.
async fn obey(agent: &mut Greeted, turn: &TurnId) {
    assert_eq!(agent.order().await, Order::Cancel { turn: turn.clone() });
    let failed = Event::Failed { reason: Failure::Cancelled, message: "cancelled".to_owned() };
    agent.link.report(turn, &[failed]).await.unwrap();
}

#[tokio::test]
async fn a_file_is_found_at_any_depth() {
    let (runtime, mut puppets) = Puppets::new();
    let shop = Plan::scripted("").runtime(runtime).limits(small()).build().await;
    shop.say("hide it").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let deep = shop.file(&"d/".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("big"), [0; 200_000]).unwrap();
    agent.answer(&turn, "Nothing there.", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    let (reply, _) = answered(&shop).await;
    assert!(reply.contains("more than 64KiB"), "{reply}");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_not_full() {
    let (shop, mut puppets) = stage().await;
    shop.say("tidy up").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    std::fs::remove_dir_all(shop.project.group(&shop.group)).unwrap();
    agent.answer(&turn, "All gone.", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    assert_eq!(answered(&shop).await.0, "All gone.");
}

#[tokio::test]
async fn a_folder_that_became_something_else_is_too_full_and_the_log_says_why() {
    let (logged, _guard) = Logged::take();
    let (shop, mut puppets) = stage().await;
    shop.say("swap it").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    let folder = shop.project.group(&shop.group);
    std::fs::remove_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/proc", &folder).unwrap();
    agent.answer(&turn, "Swapped.", 0).await;
    assert_eq!(finished(working).await.1, Worked::Answered);
    let (reply, _) = answered(&shop).await;
    assert!(reply.contains("[limits.disk: the folders of family cannot be measured"), "{reply}");
    let text = logged.text();
    let warning = text.lines().find(|line| line.contains("cannot be measured")).expect(&text);
    assert!(warning.contains("groups/family"), "{warning}");
}

/// An agent is not relied on to stop a call.
#[tokio::test]
async fn a_turn_that_goes_on_filling_a_full_folder_is_stopped_whatever_its_agent_says() {
    let (runtime, mut puppets) = Puppets::new();
    let shop = Plan::scripted("").runtime(runtime).limits(small()).build().await;
    shop.say("fill it").await;
    let working = shop.working(shop.worker(), &CancellationToken::new());
    let mut agent = greet(puppets.recv().await.unwrap()).await;
    let turn = agent.turn().await;
    std::fs::write(shop.file("big"), [0; 200_000]).unwrap();
    for _ in 0..3 {
        // Full, and not fuller from look to look.
        pass(Duration::from_secs(11)).await;
        assert!(futures_util::FutureExt::now_or_never(agent.order()).is_none(), "it is too early");
    }
    std::fs::write(shop.file("bigger"), [0; 200_000]).unwrap();
    pass(Duration::from_secs(11)).await;
    obey(&mut agent, &turn).await;
    assert!(matches!(finished(working).await.1, Worked::GivenUp(_)));
}
