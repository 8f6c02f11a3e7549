//! The words that no message and no document uses. docs/STYLE.md says which words take their place.

use super::source::Source;
use super::{code, files, none};

/// Words and phrases that a reader stumbles over, in lower case.
const AVOIDED: &[&str] = &[
    "a text",
    "at work",
    "cannot be told",
    "goes on ending",
    "is gone",
    "is held",
    "is no word",
    "let go",
    "let it go",
    "lets it go",
    "make way",
    "makes way",
    "mend",
    "mended",
    "nobody's",
    "not begun",
    "on your word",
    "sandbox",
    "stands on it",
    "struck",
    "texts",
    "the operator",
    "wall",
    "walls",
    "was ever applied",
    "what was said",
    "whoever",
];

/// Words that make a clause the subject of a sentence.
const CLAUSES: &[&str] = &["what ", "whatever ", "whether ", "whoever "];

#[test]
fn messages_use_plain_words() {
    let findings: Vec<String> = code()
        .iter()
        .flat_map(|(path, text)| {
            let source = Source::new(path, text);
            let strings: Vec<(usize, &str)> = source
                .tokens
                .iter()
                .filter(|token| !source.is_test(token))
                .filter_map(|token| Some((token.line, token.quoted?)))
                .collect();
            let stumbles = strings.into_iter().filter_map(|(line, string)| {
                let why = stumbles(string)?;
                Some(format!("{path}:{line}: {why}: {string}"))
            });
            stumbles.collect::<Vec<_>>()
        })
        .collect();
    none(&findings);
}

#[test]
fn documents_use_plain_words() {
    let mut findings = Vec::new();
    let mut documents = files("docs", &[".md"]);
    documents.extend(files(".", &["README.md", "CHANGELOG.md"]));
    // The first is the page of these words, the second is for those who change the code.
    let for_users = |path: &str| !path.ends_with("STYLE.md") && !path.ends_with("ARCHITECTURE.md");
    for (path, text) in documents.iter().filter(|(path, _)| for_users(path)) {
        for (index, line) in text.lines().enumerate() {
            if let Some(word) = avoided(line) {
                findings.push(format!("{path}:{}: `{word}`: {line}", index + 1));
            }
        }
    }
    none(&findings);
}

#[test]
fn a_word_that_is_avoided_is_found() {
    assert_eq!(stumbles("\"the image is gone\""), Some("`is gone` is avoided".into()));
    assert_eq!(stumbles("\"fix it to mend it\""), Some("`mend` is avoided".into()));
    assert_eq!(stumbles("\"what was applied stays\""), Some("a clause is its subject".to_owned()));
    for plain in
        ["\"recommended\"", "\"mend\"", "\"wall\"", "\"a_sandbox text\"", "\"SELECT what \""]
    {
        assert_eq!(stumbles(plain), None, "{plain}");
    }
}

/// Why a reader stumbles over a string as it is written, if anybody reads it: what has no space in
/// it is a key or a path, and what has an upper-case verb of SQL in front is a statement.
fn stumbles(string: &str) -> Option<String> {
    let text = string.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '#');
    let text = text.trim_matches(['"', '#']).trim();
    let statement = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "WITH", "PRAGMA", "ALTER"];
    if !text.contains(' ') || statement.iter().any(|verb| text.starts_with(verb)) {
        return None;
    }
    if CLAUSES.iter().any(|clause| text.to_lowercase().starts_with(clause)) {
        return Some("a clause is its subject".to_owned());
    }
    avoided(text).map(|word| format!("`{word}` is avoided"))
}

/// The first word or phrase of a text that is avoided, where it stands as a word of its own.
fn avoided(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    AVOIDED.iter().copied().find(|word| {
        text.match_indices(word).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
    })
}
