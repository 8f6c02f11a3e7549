//! Who of those that a program names is answered.

use serde_json::{Value, json};

use super::site::{Site, client};
use crate::support::docker::{block_on, needs_engine};

const HERE: &str = "[[rule]]\nsteps = [{ reply = \"here\" }]\n";
/// `a` reads what others say, `b` does not store it.
const SENDERS: &str = "
[groups.a.senders]
allow = [\"api:claimed:Ann\"]
[groups.b.senders]
allow = [\"api:claimed:Ann\", \"api:channel:api\"]
mode = \"drop\"
";

#[test]
fn only_senders_that_a_group_allows_are_answered_and_more_of_them_need_approval() {
    let engine = needs_engine!();
    let site = Site::new(engine, "ab", None, HERE);
    let path = site.home.place.root().join("babybot.toml");
    let manifest = std::fs::read_to_string(&path).unwrap() + SENDERS;
    site.home.place.write("babybot.toml", &manifest);
    let up = site.up();
    let write = |chat: &str, message: Value| {
        block_on(site.write(&client(), chat, "0s", &message)).expect("the webhook answers")
    };
    let (status, body) = write("a", json!({ "text": "the door is open", "sender": "Bob" }));
    assert_eq!((status, &body["answered"]), (202, &json!(false)), "{body}");
    let (status, body) = write("b", json!({ "text": "the door is open", "sender": "Bob" }));
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")), "{body}");
    assert_eq!(write("a", json!({ "text": "nobody says this" })).1["answered"], json!(false));
    assert_eq!(site.ask("a", &json!({ "text": "hello", "sender": "Ann" })), "here");
    assert_eq!(site.ask("b", &json!({ "text": "hello", "sender": "Ann" })), "here");
    assert_eq!(site.ask("b", &json!({ "text": "hello" })), "here");
    let stored = site.home.place.column("SELECT grp || ' ' || sender FROM messages ORDER BY seq");
    let expected = ["a Bob (claimed)", "a api", "a Ann (claimed)", "b Ann (claimed)", "b api"];
    assert_eq!(stored, expected);

    let apply = |text: String, yes: &str| {
        site.home.place.write("babybot.toml", &text);
        site.command(&["apply", yes]).output().unwrap().status.code()
    };
    let narrower = manifest.replace(", \"api:channel:api\"", "");
    assert_eq!(apply(narrower.clone(), "--yes=safe"), Some(0));
    assert_eq!(apply(manifest, "--yes"), Some(7));
    assert_eq!(apply(narrower.replace("mode = \"drop\"", ""), "--yes"), Some(7));
    assert_eq!(write("b", json!({ "text": "hello" })).0, 404);
    up.end();
}
