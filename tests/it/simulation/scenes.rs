//! Single scenes: one thing goes wrong for long, and somebody looks at the clock.

use std::time::Duration;

use babybot::execute::AgentOrder;
use babybot::name::GroupName;
use babybot::observed::SandboxState;

use super::story::{Story, Telling, manifest};
use super::world::{Mutant, Weather, World};

/// Plays a scene with the loop of a controller that was just started and is at rest.
fn scene<F: Future<Output = ()>>(seed: u64, play: impl FnOnce(Story) -> F) {
    scene_with(None, seed, play);
}

fn scene_with<F: Future<Output = ()>>(
    mutant: Option<Mutant>,
    seed: u64,
    play: impl FnOnce(Story) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let telling = Telling { seed, rounds: 0, mutant, lying: false };
        let mut story = Story::new(telling).await;
        rounds(&mut story, Duration::from_secs(120)).await;
        play(story).await;
    });
}

/// Rounds for that long.
async fn rounds(story: &mut Story, time: Duration) {
    let until = story.world.elapsed() + time;
    while story.world.elapsed() < until {
        let round = story.round().await;
        story.wait(round.as_ref()).await;
    }
}

/// How long until a group has an agent again.
async fn until_it_runs(story: &mut Story, group: &str) -> Duration {
    let began = story.world.elapsed();
    while !runs(&story.world, group) {
        let round = story.round().await;
        if runs(&story.world, group) {
            break;
        }
        story.wait(round.as_ref()).await;
        assert!(story.world.elapsed() - began < Duration::from_secs(600), "{group} stays down");
    }
    story.world.elapsed() - began
}

fn name(group: &str) -> GroupName {
    GroupName::new(group).unwrap()
}

fn runs(world: &World, group: &str) -> bool {
    let facts = world.facts();
    let sandbox = facts.keepers.get(&name(group)).and_then(|keeper| keeper.sandbox.clone());
    sandbox.and_then(|id| facts.container(&id).cloned()).is_some_and(|found| found.is_alive())
}

/// An agent is killed, and its controller notices.
fn kill(world: &World, group: &str) {
    let mut facts = world.facts();
    let id = facts.keepers.get_mut(&name(group)).unwrap().sandbox.take().unwrap();
    facts.set_state(&id, SandboxState::Ended);
    drop(facts);
    world.wake.notify_one();
}

#[test]
fn what_is_killed_is_back_within_a_second_also_the_third_time() {
    scene(1, async |mut story| {
        for time in 1..=3 {
            kill(&story.world, "one");
            let down = until_it_runs(&mut story, "one").await;
            // The engine itself takes up to 1.2 s for a start here.
            assert!(down < Duration::from_millis(2200), "the {time}. time: {down:?}");
            rounds(&mut story, Duration::from_secs(10)).await;
        }
    });
}

#[test]
fn a_group_that_hangs_keeps_no_other_from_being_mended() {
    scene(2, async |mut story| {
        story.world.facts().weather.hung = vec!["direct one".to_owned()];
        kill(&story.world, "one");
        rounds(&mut story, Duration::from_secs(5)).await;
        kill(&story.world, "two");
        let down = until_it_runs(&mut story, "two").await;
        assert!(down < Duration::from_millis(2200), "{down:?}");
    });
}

#[test]
fn a_model_that_does_not_answer_keeps_no_group_from_being_mended() {
    scene(3, async |mut story| {
        story.world.facts().weather.hung = vec!["model".to_owned()];
        kill(&story.world, "one");
        let down = until_it_runs(&mut story, "one").await;
        assert!(down < Duration::from_secs(5), "{down:?}");
    });
}

#[test]
fn an_image_that_takes_an_hour_keeps_no_folder_from_being_mended() {
    scene(4, async |mut story| {
        {
            let mut facts = story.world.facts();
            facts.weather.hung = vec!["build".to_owned()];
            facts.images.clear();
        }
        rounds(&mut story, Duration::from_secs(5)).await;
        story.world.facts().folders.clear();
        story.world.wake.notify_one();
        rounds(&mut story, Duration::from_secs(5)).await;
        assert_eq!(story.world.facts().folders.len(), 4);
    });
}

#[test]
fn what_fails_for_ever_is_tried_seldom_even_if_the_engine_is_often_silent() {
    for seed in 1..=5 {
        scene(seed, async |mut story| {
            let faults = 300;
            story.world.facts().weather =
                Weather { faults, refused: vec!["direct"], ..Weather::default() };
            kill(&story.world, "one");
            let before = story.world.facts().changes;
            rounds(&mut story, Duration::from_secs(3600)).await;
            let changes = story.world.facts().changes - before;
            // Within an hour: a dozen while the waits grow, and then one every five minutes; and
            // what a look tells too late, now and then.
            assert!(changes < 60, "seed {seed}: {changes} calls");
        });
    }
}

#[test]
fn trying_without_a_wait_is_noticed() {
    let wrongs = |mutant| {
        let mut wrongs = Vec::new();
        scene_with(mutant, 10, async |mut story| {
            story.world.facts().weather.refused = vec!["direct"];
            kill(&story.world, "one");
            for _ in 0..40 {
                let round = story.round().await;
                story.wait(round.as_ref()).await;
            }
            wrongs = story.world.facts().wrongs.clone();
        });
        wrongs
    };
    assert_eq!(wrongs(None), Vec::<String>::new());
    let found = wrongs(Some(Mutant::NoWait));
    assert!(found.iter().any(|wrong| wrong.contains("within a minute")), "{found:?}");
}

#[test]
fn a_clock_that_is_put_back_keeps_nothing_down() {
    scene(6, async |mut story| {
        story.world.facts().weather.refused = vec!["direct"];
        kill(&story.world, "one");
        rounds(&mut story, Duration::from_secs(60)).await;
        {
            let mut facts = story.world.facts();
            facts.weather = Weather::default();
            facts.skew = -86_400_000;
        }
        let down = until_it_runs(&mut story, "one").await;
        assert!(down < Duration::from_secs(35), "{down:?}");
    });
}

#[test]
fn another_generation_is_not_made_to_wait_for_what_failed_before_it() {
    scene(7, async |mut story| {
        story.world.facts().weather.refused = vec!["direct"];
        kill(&story.world, "one");
        rounds(&mut story, Duration::from_secs(600)).await;
        // Another manifest; the agent cannot be started along with it yet.
        story.apply(&manifest(1, 0)).await;
        story.world.facts().weather = Weather::default();
        story.world.wake.notify_one();
        let down = until_it_runs(&mut story, "one").await;
        assert!(down < Duration::from_secs(3), "{down:?}");
    });
}

#[test]
fn a_group_that_cannot_be_changed_goes_on_with_the_image_it_had() {
    for refused in ["settings two", "build"] {
        scene(11, async |mut story| {
            story.world.facts().weather.refused = vec![refused];
            story.apply(&manifest(1, 1)).await;
            story.world.facts().weather = Weather::default();
            kill(&story.world, "two");
            let down = until_it_runs(&mut story, "two").await;
            assert!(down < Duration::from_secs(3), "{refused}: {down:?}");
            assert_eq!(story.world.facts().wrongs, Vec::<String>::new(), "{refused}");
        });
    }
}

#[test]
fn an_order_to_a_group_at_work_waits_for_its_turn() {
    scene(8, async |mut story| {
        story.world.message(&name("one"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let sandbox = story.world.facts().keepers[&name("one")].sandbox.clone();
        story.world.order(&name("one"), AgentOrder::Replace).await.unwrap();
        assert_eq!(story.world.facts().keepers[&name("one")].sandbox, sandbox);
        rounds(&mut story, Duration::from_secs(120)).await;
        assert_ne!(story.world.facts().keepers[&name("one")].sandbox, sandbox);
    });
}

#[test]
fn a_controller_at_rest_asks_little_and_changes_nothing() {
    scene(9, async |mut story| {
        let text: String = (0..100).map(|n| format!("\n group g{n:03}")).collect();
        let text = format!("model demo rehearsal{text}");
        let desired = crate::support::plan::desired_on(&crate::support::plan::docker(), &text);
        story.apply(&desired).await;
        rounds(&mut story, Duration::from_secs(600)).await;
        {
            let mut facts = story.world.facts();
            facts.looks.clear();
            facts.changes = 0;
        }
        let (mut count, began) = (0, story.world.elapsed());
        while story.world.elapsed() - began < Duration::from_secs(300) {
            let round = story.round().await;
            assert!(round.is_some_and(|round| round.due.is_none()));
            story.wait(None).await;
            count += 1;
        }
        let facts = story.world.facts();
        assert_eq!(facts.changes, 0);
        // One round every thirty seconds: each asks the engine for one list, for the image and for
        // its images, the model once, and reads two files of each group and one of all.
        assert!((8..=11).contains(&count), "{count} rounds");
        let looks = |what| facts.looks.get(what).copied().unwrap_or_default();
        assert_eq!(looks("list"), count);
        assert_eq!(looks("image"), count);
        assert_eq!(looks("images"), count);
        assert_eq!(looks("model"), count);
        // The folders of the four groups that were there before outlive them and are looked at.
        assert!(looks("files") <= count * (2 * 104 + 1), "{} files", looks("files"));
    });
}
