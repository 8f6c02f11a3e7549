//! What is under way, in words. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::cli::join::one_line;
use crate::cli::terminal;
use crate::name::GroupName;
use crate::visible;

/// The longest argument of a tool that is shown, in columns.
const ARGUMENT_MAX: usize = 60;
/// Arguments that say most of what a tool does.
const TELLING: &[&str] = &["path", "command", "pattern", "query", "url", "name"];

/// Whom a message is queued behind.
pub(super) fn queued(behind: &[GroupName], group: &GroupName) -> String {
    let names: Vec<&str> = behind.iter().map(GroupName::as_str).collect();
    match names[..] {
        [] => "queued".to_owned(),
        [only] if only == group.as_str() => {
            format!("queued behind another conversation with {group}")
        }
        _ => format!("queued behind {} (runtime.parallel)", names.join(", ")),
    }
}

/// A tool and its most telling argument, on one line.
pub(super) fn tool(name: &str, arguments: &str) -> String {
    let name = one_line(name);
    let Ok(Value::Object(arguments)) = serde_json::from_str(arguments) else { return name };
    let telling = TELLING.iter().find_map(|key| arguments.get(*key)?.as_str());
    let first = || arguments.values().find_map(Value::as_str);
    match telling.or_else(first) {
        Some(argument) => format!("{name} {}", terminal::cut(&one_line(argument), ARGUMENT_MAX)),
        None => name,
    }
}

/// What is under way and for how long, from a second on.
pub(super) fn lasting(what: &str, time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{what}…"),
        seconds => format!("{what}… {seconds} s"),
    }
}

/// Text with nothing in it that is not seen.
pub(super) fn readable(text: &str) -> String {
    visible::lines(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_shown_with_the_argument_that_says_most() {
        assert_eq!(
            tool("bb_write_file", r#"{"content":"long","path":"a.txt"}"#),
            "bb_write_file a.txt"
        );
        assert_eq!(
            tool("bb_shell", "{\"command\":\"echo a\\u001b[2J\\nb\"}"),
            "bb_shell echo a\\u{1b}[2J b"
        );
        assert_eq!(tool("bb_other", r#"{"count":3}"#), "bb_other");
        assert_eq!(tool("bb_other", "not an object"), "bb_other");
        let long = tool("bb_shell", &serde_json::json!({"command": "x".repeat(500)}).to_string());
        assert!(long.chars().count() <= "bb_shell ".len() + ARGUMENT_MAX, "{long}");
    }

    #[test]
    fn who_is_waited_for_is_named() {
        let name = |name| GroupName::new(name).unwrap();
        assert_eq!(
            queued(&[name("kids"), name("work")], &name("home")),
            "queued behind kids, work (runtime.parallel)"
        );
        assert_eq!(
            queued(&[name("home")], &name("home")),
            "queued behind another conversation with home"
        );
    }
}
