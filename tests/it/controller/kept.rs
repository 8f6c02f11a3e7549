//! A message to a group whose engine is away: it is stored first, and all else waits.

use crate::support::docker::{Front, needs_engine};
use crate::support::home::{HOME, Home, LONG, within_tasks};
use crate::support::installation::{PATIENCE, wait_for_end, wait_until};

use super::engine::through;

/// Nobody is the controller: whoever says something becomes it, and needs the engine.
#[test]
fn a_message_is_stored_before_anybody_asks_an_engine_that_hangs() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let mut front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), HOME, LONG);
    home.apply();
    front.hang();
    let before = front.requests();
    let said = home.say("home", "quick 1");
    wait_until("the engine is asked", || front.requests() > before);
    assert_eq!(home.place.column("SELECT text FROM messages"), ["quick 1"]);
    front.cut();
    let ended = wait_for_end(said, PATIENCE);
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert!(ended.stderr.contains("it does not answer"), "{ended:?}");
    assert!(ended.stderr.contains("your message is kept"), "{ended:?}");
    front.open();
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
}

#[test]
fn a_message_is_kept_while_the_engine_of_its_group_is_away_and_answered_after() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let mut front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), HOME, LONG);
    let up = home.up();
    front.cut();
    for (number, text) in ["quick 1", "quick 2"].into_iter().enumerate() {
        let mut command = home.place.command(["chat", "--wait", "1s", "home", text]);
        let ended = wait_for_end(command.spawn().unwrap(), PATIENCE);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
        let words = "no answer within 1 s; your message is kept";
        assert!(ended.stderr.contains(words), "{ended:?}");
        let stored = home.place.column("SELECT text FROM messages ORDER BY seq");
        assert_eq!(stored.len(), number + 1, "{stored:?}");
        assert_eq!(stored[number], text);
    }
    // One that hangs holds up the answer, and nothing before it.
    front.open();
    front.hang();
    let waits = home.say("home", "quick 3");
    let stored = || home.place.column("SELECT text FROM messages").len();
    wait_until("it is stored", || stored() == 3);
    assert_eq!(home.place.column("SELECT state FROM turns WHERE state = 'done'"), [""; 0]);
    front.cut();
    front.open();
    home.assert_answered(waits);
    home.assert_each_message_has_one_reply(3);
    up.end();
}

#[test]
fn nobody_waits_longer_for_an_engine_that_hangs_than_for_one_that_is_gone() {
    let engine = needs_engine!();
    let _tasks = within_tasks();
    let mut front = Front::of(&engine);
    let home = Home::docker(engine, &through(&front), HOME, LONG);
    let up = home.up();
    front.hang();
    let mut command = home.place.command(["chat", "--wait", "1s", "home", "quick 1"]);
    let ended = wait_for_end(command.spawn().unwrap(), PATIENCE);
    assert_eq!(ended.code, 1, "{ended:?}");
    // Before anybody could tell that the engine is away.
    let kept = "no answer within 1 s; your message is kept";
    assert!(ended.stderr.contains(kept) && !ended.stderr.contains("later"), "{ended:?}");
    front.cut();
    front.open();
    home.ask("quick 2");
    home.assert_each_message_has_one_reply(2);
    up.end();
}
