//! Replies that a callback did not take, in the hands of a person.

use serde_json::{Value, json};

use super::site::{Called, Site};
use crate::support::docker::needs_engine;
use crate::support::installation::wait_until;

const HERE: &str = "[[rule]]\nsteps = [{ reply = \"here\" }]\n";

#[test]
fn a_reply_that_was_not_taken_is_shown_and_sent_again_or_given_up() {
    let engine = needs_engine!();
    let called = Called::start();
    *called.status.lock().unwrap() = "404 Not Found";
    let site = Site::new(engine, "a", Some(called.port), HERE);
    let up = site.up();
    let list = || {
        let ended = site.home.place.run(&["outbox", "list", "--format", "json"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let lines = ended.stdout.lines();
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let failed = |count: usize| {
        let posts = list();
        posts.len() == count && posts.iter().all(|post| post["state"] == "failed")
    };
    for id in ["one", "two"] {
        // Whatever the callback says, a reply can be read.
        assert_eq!(site.ask("a", &json!({ "text": "hello", "id": id })), "here");
    }
    wait_until("both replies are parked", || failed(2));
    let number = |at: usize| list()[at]["id"].to_string();
    let shown = site.home.place.run(&["outbox", "list"]).stdout;
    assert!(shown.contains("api:a  failed after 1 attempt: the callback answered 404"), "{shown}");
    *called.status.lock().unwrap() = "204 No Content";
    let retried = site.home.place.run(&["outbox", "retry", &number(1)]);
    assert_eq!((retried.code, retried.stdout.contains("is sent again")), (0, true), "{retried:?}");
    wait_until("it is delivered", || failed(1));
    let unknown = site.home.place.run(&["outbox", "retry", "99999"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("no entry 99999"), "{unknown:?}");
    up.end();
    // Without a controller, under the lock.
    let dropped = site.home.place.run(&["outbox", "drop", &number(0)]);
    assert_eq!((dropped.code, dropped.stdout.contains("is given up")), (0, true), "{dropped:?}");
    assert_eq!(list()[0]["failure"], "dropped by the operator");
    let unknown = site.home.place.run(&["outbox", "drop", "99999"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("babybot outbox list"), "{unknown:?}");
}
