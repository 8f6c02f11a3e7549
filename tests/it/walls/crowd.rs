//! Several projects at one engine, each at its own business, and somebody who tidies up.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use babybot::clock::{Clock as _, SystemClock};
use bollard::query_parameters::{
    PruneContainersOptions, PruneImagesOptions, RemoveImageOptionsBuilder,
};

use super::house::{House, RUN};
use crate::simulation::chance::Chance;
use crate::support::docker::{Daemon, Engine, block_on};
use crate::support::home::HOME;

/// How long it goes on, and how long under `BABYBOT_SOAK=1`.
const SHORT: Duration = Duration::from_secs(15);
const SOAK: Duration = Duration::from_secs(300);

/// At an engine of its own, where nothing is pruned that is another test's.
#[test]
fn projects_that_build_remove_and_start_at_one_engine_fail_no_apply() {
    let Some((_daemon, engine)) = Daemon::start() else { return };
    let soak = std::env::var_os("BABYBOT_SOAK").is_some_and(|value| value == "1");
    let deadline = Instant::now() + if soak { SOAK } else { SHORT };
    let seed = u64::from_str_radix(&SystemClock.random_bits()[..16], 16).unwrap();
    println!("seed {seed}");
    let houses = [0, 1].map(|_| House::building(&engine, HOME, RUN));
    let applied = Mutex::new(0);
    std::thread::scope(|scope| {
        for (number, house) in houses.iter().enumerate() {
            let (engine, applied) = (&engine, &applied);
            let mut chance = Chance::new(seed.wrapping_add(number as u64));
            scope.spawn(move || live(house, engine, &mut chance, deadline, applied));
        }
        let (engine, mut chance) = (&engine, Chance::new(seed.wrapping_sub(1)));
        scope.spawn(move || prune(engine, &mut chance, deadline));
    });
    assert!(*applied.lock().unwrap() >= 2, "hardly anything was applied");
}

/// Applies again and again, at least twice: another image, the same one, one that was removed.
fn live(
    house: &House,
    engine: &Engine,
    chance: &mut Chance,
    deadline: Instant,
    applied: &Mutex<usize>,
) {
    house.apply();
    house.change_base();
    let mut other = true;
    loop {
        house.apply();
        *applied.lock().unwrap() += 1;
        if Instant::now() > deadline {
            return;
        }
        match chance.below(4) {
            0 => {
                for image in house.images() {
                    let options = RemoveImageOptionsBuilder::default().force(true).build();
                    let _ = block_on(engine.client().remove_image(&image, Some(options), None));
                }
            }
            1 | 2 if other => {
                house.restore_base();
                other = false;
            }
            1 | 2 => {
                house.change_base();
                other = true;
            }
            _ => {
                let ended = house.chat("home", "hello");
                assert_eq!((ended.code, ended.stdout.as_str()), (0, "here\n"), "{ended:?}");
            }
        }
    }
}

/// Takes away whatever is in use by nobody at the moment, what is just being built among it: now and
/// then, since nothing could be built by anybody if it never stopped.
fn prune(engine: &Engine, chance: &mut Chance, deadline: Instant) {
    let client = engine.client();
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(chance.between(4_000, 12_000)));
        let _ = block_on(client.prune_images(None::<PruneImagesOptions>));
        let _ = block_on(client.prune_containers(None::<PruneContainersOptions>));
    }
}
