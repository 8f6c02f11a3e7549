//! Requests of agents: read strictly, and answered in one shape.

use babybot::clock::Timestamp;
use babybot::name::GroupName;
use babybot::request::{AGE_MAX, Ask, REQUEST_MAX, RequestError, TEXT_MAX, parse, response, tools};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_780_000_000_000);

fn read(request: &Value) -> Result<babybot::request::Request, RequestError> {
    parse(request.to_string().as_bytes(), &GroupName::new("family").unwrap(), NOW)
}

/// A request to send, with something changed in it.
fn send(change: &Value) -> Value {
    let payload = json!({"name": "send", "text": "Hello"});
    let mut request = json!({"id": "a-1", "type": "command", "payload": payload});
    for (key, value) in change.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

fn time(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds).unwrap().to_string()
}

#[test]
fn a_request_to_send_is_read_with_all_that_it_may_say() {
    let to_another = json!({"name": "send", "text": "Hello", "to": "main"});
    let whole = send(&json!({
        "groupFolder": "family", "timestamp": time(NOW.0), "deadline": time(NOW.0 + 1),
        "payload": to_another,
    }));
    let read_whole = read(&whole).unwrap();
    assert_eq!(read_whole.id.as_str(), "a-1");
    let main = Some(GroupName::new("main").unwrap());
    assert_eq!(read_whole.ask, Ask::Send { text: "Hello".into(), to: main });
    let own = json!({"payload": {"name": "send", "text": "Hello", "to": "family"}});
    assert_eq!(read(&send(&own)).unwrap().ask, Ask::Send { text: "Hello".into(), to: None });
}

#[test]
fn whatever_is_wrong_with_a_request_is_named() {
    let of_text = |text: String| json!({"payload": {"name": "send", "text": text}});
    for (change, code, words) in [
        (json!({"more": 1}), "invalid", "unknown field `more`"),
        (json!({"id": "../up"}), "invalid", "not a valid identifier"),
        (json!({"id": ""}), "invalid", "cannot be empty"),
        (json!({"type": "task"}), "invalid", "no type `task`"),
        (json!({"payload": []}), "invalid", "not an object"),
        (json!({"payload": {"text": "x"}}), "invalid", "no `name`"),
        (json!({"payload": {"name": "groups"}}), "invalid", "no command `groups`"),
        (json!({"payload": {"name": "send"}}), "invalid", "missing field `text`"),
        (json!({"payload": {"name": "send", "text": 7}}), "invalid", "invalid type"),
        (json!({"payload": {"name": "send", "text": "x", "as": "y"}}), "invalid", "unknown field"),
        (json!({"payload": {"name": "send", "text": "x", "to": "A B"}}), "invalid", "a-z"),
        (of_text(" \n".into()), "invalid", "empty"),
        (of_text("x".repeat(TEXT_MAX + 1)), "too-large", "at most"),
        (of_text("x".repeat(REQUEST_MAX)), "too-large", "at most"),
        (json!({"groupFolder": "main"}), "not-permitted", "another group"),
        (json!({"timestamp": time(NOW.0 - AGE_MAX - 1000)}), "expired", "too old"),
        (json!({"deadline": time(NOW.0 - 1000)}), "expired", "too old"),
        (json!({"deadline": "tomorrow"}), "invalid", "`deadline` is no time"),
    ] {
        let error = read(&send(&change)).unwrap_err();
        assert_eq!(error.code(), code, "{change} {error}");
        assert!(error.to_string().contains(words), "{change}: {error}");
    }
    let group = GroupName::new("family").unwrap();
    assert_eq!(parse(b"{", &group, NOW).unwrap_err().code(), "invalid");
}

#[test]
fn an_answer_has_the_shape_of_a_request() {
    let id = read(&send(&json!({}))).unwrap().id;
    let done = response(Some(&id), &Ok("sent"));
    assert_eq!(done, json!({"id": "a-1", "type": "response", "payload": {"message": "sent"}}));
    let refused = response(None, &Err(RequestError::NoTurn));
    let payload = json!({"code": "no-destination", "message": "no turn is running"});
    assert_eq!(refused, json!({"id": null, "type": "error", "payload": payload}));
}

#[test]
fn only_the_main_group_is_told_that_it_may_name_another() {
    let names = |main| {
        let told = tools(main).remove(0).spec;
        told.parameters.into_iter().map(|parameter| parameter.name).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(false), names(true)),
        (vec!["text".into()], vec!["text".into(), "to".into()])
    );
    let schema: usize = tools(true).iter().map(|tool| tool.spec.schema().to_string().len()).sum();
    assert!(schema < 500, "{schema} bytes of every prompt");
}
