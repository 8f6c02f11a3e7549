//! What the rehearsal makes of a message without a script. Pure.
//!
//! A handful of sentences is understood: run, write, read, replace, remember.
//! Verbs count where one gives orders, at the start of a sentence or after a
//! greeting, so that talk about reading does not read.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use serde_json::{Value, json};

use super::heard::Heard;
use super::{Call, Play, Scene};

/// What every answer of these rules begins with.
const PREFIX: &str = "(rehearsal) ";
/// Characters of a tool's result that an answer repeats.
const RESULT_MAX: usize = 4_000;
/// Words of a message in which an order is looked for.
const WORDS_MAX: usize = 64;

const HAIKU: &str = "No model speaks yet.\n\
    Still the file gains three short lines:\n\
    a rehearsal's song.\n";
const POEM: &str = "The stage is set, the lights are low,\n\
    no actor here has lines to know.\n\
    Yet every rope and every door\n\
    works as it will, and as before.\n";
const NOTE: &str = "A note, written in rehearsal.\n";

/// What may be tried: the tool that it takes, and what to write.
const TRIES: &[(&str, &str)] = &[
    ("bb_write_file", "Write a haiku to haiku.txt"),
    ("bb_write_file", "write buy milk to list.txt"),
    ("bb_read_file", "read list.txt"),
    ("bb_edit_file", "replace milk with tea in list.txt"),
    ("bb_shell", "run sha256sum on list.txt"),
];
const REAL: &str = "For answers by a real model, install Ollama (https://ollama.com), pull a model, \
    and set kind = \"ollama\", url = \"http://127.0.0.1:11434\" and model = \"qwen3:8b\" under your \
    [models.…] table in babybot.toml. Then run babybot apply.";

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
enum Wish {
    Run(String),
    Write { path: String, content: String },
    Read(String),
    Replace { path: String, old: String, new: String },
    Remember(String),
}

/// The answer to what was heard.
pub(super) fn scene(heard: &Heard) -> Scene {
    if let Some(result) = &heard.result {
        return says(report(heard.called.as_ref(), result));
    }
    let Some(wish) = wish(&heard.message) else { return says(help(heard)) };
    let call = call(&wish, heard);
    if heard.offers(&call.tool) {
        return Play::Calls(vec![call]).into();
    }
    says(match wish {
        Wish::Remember(_) => {
            "I cannot remember things yet: no memory tool is offered here.".to_owned()
        }
        Wish::Run(_) if heard.offers("bb_write_file") => {
            let tries = tries(heard);
            format!("I cannot run commands here: this container has no shell.{tries}")
        }
        _ => format!("I would call {}, but that tool is not offered here.", call.tool),
    })
}

/// What to try, of all that works with the tools that are offered.
fn help(heard: &Heard) -> String {
    let tries = tries(heard);
    let tools = if tries.is_empty() { "" } else { ", and the tools I call are real" };
    format!(
        "Hello! No real model is working on this project: I follow a few rules{tools}.{tries}\n{REAL}"
    )
}

/// A list of what works with the tools that are offered; nothing where none are.
fn tries(heard: &Heard) -> String {
    let offered = TRIES.iter().filter(|(tool, _)| heard.offers(tool));
    let tries: String = offered.map(|(_, text)| format!("\n- {text}")).collect();
    if tries.is_empty() { tries } else { format!(" Try:{tries}") }
}

/// A harmless call of a tool that is offered, for faults that need one.
pub(super) fn any_call(heard: &Heard) -> Call {
    if heard.offers("bb_shell") || !heard.offers("bb_write_file") {
        return echo();
    }
    let arguments = json!({ "path": "rehearsal.txt", "content": NOTE });
    Call { tool: "bb_write_file".into(), arguments }
}

/// The most harmless call of all.
pub(super) fn echo() -> Call {
    Call { tool: "bb_shell".into(), arguments: json!({ "command": "echo rehearsal" }) }
}

fn says(text: String) -> Scene {
    Play::Reply(format!("{PREFIX}{text}")).into()
}

fn call(wish: &Wish, heard: &Heard) -> Call {
    let (tool, arguments) = match wish {
        Wish::Run(command) => ("bb_shell", json!({ "command": command })),
        Wish::Write { path, content } => {
            ("bb_write_file", json!({ "path": path, "content": content }))
        }
        Wish::Read(path) => ("bb_read_file", json!({ "path": path })),
        Wish::Replace { path, old, new } => {
            ("bb_edit_file", json!({ "path": path, "old_text": old, "new_text": new }))
        }
        Wish::Remember(text) => {
            ("bb_memory", json!({ "action": memory_action(heard), "text": text }))
        }
    };
    Call { tool: tool.into(), arguments }
}

/// What the offered memory tool calls adding something.
fn memory_action(heard: &Heard) -> String {
    let tool = heard.tools.iter().find(|tool| tool["name"] == "bb_memory");
    let actions = tool.map(|tool| &tool["parameters"]["properties"]["action"]["enum"]);
    let actions = actions.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let known = ["add", "remember", "append", "save", "write"];
    let known = known.iter().find(|known| actions.iter().any(|action| action == **known));
    known.unwrap_or(&"add").to_string()
}

/// What is said about a tool's result.
fn report(call: Option<&Call>, result: &str) -> String {
    let result = match result.trim_end() {
        "" => "(no output)",
        result => result,
    };
    let cut = result.char_indices().nth(RESULT_MAX).map(|(at, _)| &result[..at]);
    let result = cut.map_or_else(|| result.to_owned(), |cut| format!("{cut}… (cut)"));
    let path = call.and_then(|call| call.arguments["path"].as_str()).unwrap_or_default();
    match call.map(|call| call.tool.as_str()) {
        None | Some("bb_shell") => result,
        Some("bb_read_file") => format!("{path}:\n{result}"),
        Some(tool) if path.is_empty() => format!("{tool}: {result}"),
        Some(tool) => format!("{tool} {path}: {result}"),
    }
}

/// The first order in a message.
fn wish(text: &str) -> Option<Wish> {
    const LEADS: &[&str] =
        &["please", "then", "and", "you", "now", "just", "also", "hi", "hello", "hey"];
    let mut ordering = true;
    for (start, word) in words(text).take(WORDS_MAX) {
        if ordering && let Some(wish) = order(&text[start..]) {
            return Some(wish);
        }
        let lead = LEADS.iter().any(|lead| word.eq_ignore_ascii_case(lead));
        ordering = lead || word.starts_with('@') || word.ends_with(['.', '!', '?', ',', ';', ':']);
    }
    None
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Words are slices of the text, so their places are the distance between the two.
    text.split_whitespace().map(move |word| (word.as_ptr().addr() - text.as_ptr().addr(), word))
}

/// An order that begins with its verb.
fn order(text: &str) -> Option<Wish> {
    let (verb, rest) = text.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    match verb.trim_end_matches(':').to_ascii_lowercase().as_str() {
        "run" | "execute" => run(rest),
        "write" | "save" | "put" => write(rest),
        "read" | "show" | "print" => read(rest),
        "replace" | "change" => replace(rest),
        "remember" => Some(Wish::Remember(without(rest, &["that "]).to_owned())),
        _ => None,
    }
}

fn run(rest: &str) -> Option<Wish> {
    let rest = without(rest, &["the command "]);
    if let Some((command, after)) = rest.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
        let on = find(after, "on ").filter(|at| after[..*at].trim().is_empty());
        let file = on.and_then(|at| file(&after[at + 3..]));
        return Some(Wish::Run(with_file(command, file)));
    }
    let line = sentence(rest.lines().next()?);
    // What is printed may well say "on".
    let prints = ["echo ", "printf "].iter().any(|print| line.starts_with(print));
    let on = rfind(line, " on ").filter(|_| !prints);
    Some(Wish::Run(match on.map(|at| (&line[..at], file(&line[at + 4..]))) {
        Some((command, file)) => with_file(command, file),
        None => line.to_owned(),
    }))
}

fn with_file(command: &str, file: Option<String>) -> String {
    match file {
        Some(file) => format!("{} {}", command.trim(), quoted(&file)),
        None => command.trim().to_owned(),
    }
}

/// A file's name as one word of a shell.
fn quoted(file: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._/+-@%:,=~".contains(c);
    let file = if file.starts_with('-') { format!("./{file}") } else { file.to_owned() };
    if file.chars().all(plain) { file } else { format!("'{}'", file.replace('\'', r"'\''")) }
}

fn write(rest: &str) -> Option<Wish> {
    let (head, path) = split_at_file(rest, &[" to ", " into ", " in ", " as "])?;
    let content = content(head)?;
    Some(Wish::Write { path, content })
}

/// What is written where something is described rather than quoted.
fn content(text: &str) -> Option<String> {
    let text = without(text.trim(), &["me ", "down ", "the text ", "the words "]);
    let kind = without(text, &["a ", "short "]).to_ascii_lowercase();
    let begins = |word: &str| kind.split(|c: char| !c.is_alphanumeric()).next() == Some(word);
    for marker in [" that says ", " that reads ", " which says ", " saying ", " with the text "] {
        if let Some(at) = find(text, marker) {
            return Some(ended(unquoted(&text[at + marker.len()..])));
        }
    }
    if begins("haiku") {
        return Some(HAIKU.to_owned());
    }
    if begins("poem") {
        return Some(POEM.to_owned());
    }
    if kind == "note" {
        return Some(NOTE.to_owned());
    }
    (!text.is_empty()).then(|| ended(unquoted(text)))
}

/// A text file ends with a line feed.
fn ended(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

fn read(rest: &str) -> Option<Wish> {
    let rest = without(rest, &["me ", "the ", "file ", "contents of ", "content of ", "file "]);
    clear_file(rest).map(Wish::Read)
}

fn replace(rest: &str) -> Option<Wish> {
    let (head, path) = split_at_file(rest, &[" in "])?;
    let (at, length) =
        find(head, " with ").map(|at| (at, 6)).or(find(head, " by ").map(|at| (at, 4)))?;
    let (old, new) = (unquoted(&head[..at]), unquoted(&head[at + length..]));
    Some(Wish::Replace { path, old: old.to_owned(), new: new.to_owned() })
}

/// Splits before the last of these words that has a file after it.
fn split_at_file<'a>(text: &'a str, words: &[&str]) -> Option<(&'a str, String)> {
    let mut places: Vec<(usize, usize)> = Vec::new();
    let lower = text.to_ascii_lowercase();
    for word in words {
        places.extend(lower.match_indices(word).map(|(at, word)| (at, word.len())));
    }
    places.sort_unstable();
    let after = |&(at, length): &(usize, usize)| {
        without(text[at + length..].trim(), &["the ", "a ", "file ", "called ", "named "])
    };
    let clear = places.iter().rev().find_map(|at| Some((&text[..at.0], clear_file(after(at))?)));
    // A name without a dot is a file only where nothing else follows.
    clear.or_else(|| {
        let last = places.last()?;
        let name = sentence(after(last));
        (!name.is_empty() && !name.contains(char::is_whitespace))
            .then(|| (&text[..last.0], name.to_owned()))
    })
}

/// A file's name at the start of this text: quoted, or a word that looks like one.
fn clear_file(text: &str) -> Option<String> {
    if let Some(name) = in_quotes(text) {
        return Some(name.to_owned());
    }
    let word = sentence(text.split_whitespace().next()?);
    looks_like_file(word).then(|| word.to_owned())
}

/// A file's name: as [`clear_file`], or all of the text, for names with blanks.
fn file(text: &str) -> Option<String> {
    let whole = sentence(text);
    clear_file(text.trim()).or_else(|| (!whole.is_empty()).then(|| whole.to_owned()))
}

fn looks_like_file(word: &str) -> bool {
    let dotted = word.split_once('.').is_some_and(|(_, after)| {
        after.starts_with(|c: char| c.is_alphanumeric()) && !word.ends_with('.')
    });
    let shouted = word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase());
    dotted || word.contains('/') || shouted
}

const QUOTES: &[(char, char)] = &[('`', '`'), ('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’')];

/// What stands in quotes at the start of this text.
fn in_quotes(text: &str) -> Option<&str> {
    QUOTES.iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(*open)?.split_once(*close)?.0;
        (!inner.is_empty()).then_some(inner)
    })
}

/// The text without quotes around all of it.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner =
        QUOTES.iter().find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close));
    inner.unwrap_or(text)
}

/// The text without the punctuation that ends a sentence, but with a lone `.`.
fn sentence(text: &str) -> &str {
    let text = text.trim().trim_end_matches(['!', '?', ',', ';', ':']);
    match text.strip_suffix('.') {
        Some(before) if before.ends_with(char::is_alphanumeric) => before,
        _ => text,
    }
}

/// The text without these words at its start, each taken once and in this order.
fn without<'a>(text: &'a str, words: &[&str]) -> &'a str {
    words.iter().fold(text, |text, word| match text.get(..word.len()) {
        Some(start) if start.eq_ignore_ascii_case(word) => text[word.len()..].trim_start(),
        _ => text,
    })
}

fn find(text: &str, word: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(word)
}

fn rfind(text: &str, word: &str) -> Option<usize> {
    text.to_ascii_lowercase().rfind(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn runs(text: &str, command: &str) {
        assert_eq!(wish(text), Some(Wish::Run(command.into())), "{text}");
    }

    #[track_caller]
    fn writes(text: &str, path: &str, content: &str) {
        let expected = Wish::Write { path: path.into(), content: content.into() };
        assert_eq!(wish(text), Some(expected), "{text}");
    }

    #[track_caller]
    fn reads(text: &str, path: &str) {
        assert_eq!(wish(text), Some(Wish::Read(path.into())), "{text}");
    }

    #[test]
    fn commands_are_run() {
        runs("run sha256sum on a.bin", "sha256sum a.bin");
        runs("Please run wc -l on my notes.txt.", "wc -l 'my notes.txt'");
        runs("@Baby run sha256sum on a.bin and tell me", "sha256sum a.bin");
        runs("RUN `ls -la`", "ls -la");
        runs("run `wc -c` on \"it's.txt\"", r"wc -c 'it'\''s.txt'");
        runs("Hello! Can you run cat on -n", "cat ./-n");
        runs("run echo on and on", "echo on and on");
        runs("run ls .", "ls .");
        runs("run uname -a", "uname -a");
    }

    #[test]
    fn texts_are_written() {
        writes("Write a haiku to haiku.txt", "haiku.txt", HAIKU);
        writes(
            "Hi! write me a short poem about rain into poems/rain.txt, please",
            "poems/rain.txt",
            POEM,
        );
        writes("write hello to hello.txt", "hello.txt", "hello\n");
        writes("write \"a to b\" to the file x.txt.", "x.txt", "a to b\n");
        writes("write a note that says buy milk to list", "list", "buy milk\n");
        writes("save 1, 2 and 3 in numbers.csv", "numbers.csv", "1, 2 and 3\n");
        writes("write a note to note.txt", "note.txt", NOTE);
        writes("write go to bed to plan.md and then go to sleep", "plan.md", "go to bed\n");
        assert_eq!(HAIKU.lines().count(), 3);
    }

    #[test]
    fn files_are_read() {
        reads("read haiku.txt", "haiku.txt");
        reads("Show me the file `my notes`", "my notes");
        reads("hello, read README please", "README");
    }

    #[test]
    fn texts_are_replaced() {
        let expected = |old: &str, new: &str| {
            let (path, old, new) = ("list.txt".into(), old.into(), new.into());
            Some(Wish::Replace { path, old, new })
        };
        assert_eq!(wish("replace milk with tea in list.txt"), expected("milk", "tea"));
        assert_eq!(
            wish("Replace 'a with b' with \"c\" in list.txt"),
            expected("'a", "b' with \"c\"")
        );
    }

    proptest::proptest! {
        /// Whatever is written, it is understood or not, and nothing breaks.
        #[test]
        fn any_text_is_survived(text in "((run|write|read|replace|remember| on | to | with | in |`|'|\\.|/|ü)|\\PC){0,24}") {
            let _ = wish(&text);
            let _ = order(&text);
        }
    }

    #[test]
    fn talk_is_no_order() {
        for text in ["hello", "how do I run faster?", "I read in the news", "show me", "", "run"] {
            assert_eq!(wish(text), None, "{text}");
        }
    }
}
