//! Text of others made visible: what would not be seen, or would change how the rest is seen.
//!
//! Control characters command a terminal, bidirectional overrides turn text around, and invisible
//! characters make two strings look alike or hide a third. Each is shown by its number, as in
//! `\u{202e}`. What ordinary writing is made of stays: joiners within emoji and within the scripts
//! that join letters, variation selectors, flags.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::borrow::Cow;
use std::fmt::Write as _;

/// The tags of the flags that have some: England's, Scotland's and Wales's.
const FLAG_TAGS: [&str; 3] = ["gbeng", "gbsct", "gbwls"];
/// The flag that tags may follow.
const FLAG: char = '\u{1f3f4}';
/// The letters of tags are this far from ASCII.
const TAGS: u32 = 0xe_0000;
/// The end of a flag's tags.
const TAGS_END: char = '\u{e007f}';

/// A string on one line: line ends and tabs are shown by their names, too.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, |_| true, escaped)
}

/// A string of several lines: line ends and tabs stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    // The carriage return of a line's end is harmless, and elsewhere it is a command.
    let text = if text.contains("\r\n") {
        Cow::Owned(text.replace("\r\n", "\n"))
    } else {
        Cow::Borrowed(text)
    };
    let shows = |hidden: char| !matches!(hidden, '\n' | '\t');
    match text {
        Cow::Borrowed(text) => replaced(text, shows, escaped),
        Cow::Owned(text) => Cow::Owned(replaced(&text, shows, escaped).into_owned()),
    }
}

/// A whole page to be printed, made of parts that [`line()`] and [`lines`] have seen: its colours
/// and line ends stay, and what they are never made of is shown, wherever it came from.
#[must_use]
pub fn page(text: &str) -> Cow<'_, str> {
    replaced(text, |hidden| !hidden.is_control(), escaped)
}

/// JSON that is equal to this JSON and has no hidden character.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    // Within strings, JSON has escaped the control characters; between them, they are layout.
    replaced(
        text,
        |hidden| !hidden.is_ascii_control(),
        |hidden, shown| {
            for unit in hidden.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        },
    )
}

/// Whether there is a character that is not seen, or changes how others are.
#[must_use]
pub fn has_hidden(text: &str) -> bool {
    characters(text).any(|(_, _, hidden)| hidden)
}

/// The characters of a string, each with its offset and whether it is hidden where it stands.
pub fn characters(text: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let mut before = None;
    let mut tags_left = 0;
    text.char_indices().map(move |(at, character)| {
        let after = &text[at + character.len_utf8()..];
        if tags_left == 0 && character == FLAG {
            tags_left = tags(after);
        } else if tags_left > 0 {
            tags_left -= 1;
            return (at, character, false);
        }
        let hidden = is_hidden(character) && !belongs(before, character, after.chars().next());
        before = Some(character);
        (at, character, hidden)
    })
}

/// Whether a character is invisible by itself, or changes how others are seen.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether writing is made so: a joiner between what it joins, one selector behind what it varies.
fn belongs(before: Option<char>, character: char, after: Option<char>) -> bool {
    let Some(before) = before else { return false };
    match character {
        '\u{200d}' if after.is_some_and(is_pictograph) => {
            is_pictograph(before) || before == '\u{fe0f}'
        }
        '\u{200c}' | '\u{200d}' => {
            is_joining_letter(before) && after.is_none_or(|after| !is_hidden(after))
        }
        '\u{fe0e}' | '\u{fe0f}' => {
            let key = matches!(before, '0'..='9' | '#' | '*') && after == Some('\u{20e3}');
            key || is_pictograph(before) || matches!(before, '©' | '®')
        }
        '\u{fe00}'..='\u{fe0d}' | '\u{e0100}'..='\u{e01ef}' => is_ideograph(before),
        '\u{180b}'..='\u{180f}' => matches!(before, '\u{1820}'..='\u{18aa}'),
        _ => false,
    }
}

fn is_pictograph(character: char) -> bool {
    matches!(character,
        '‼' | '⁉' | '™' | 'ℹ' | '\u{2190}'..='\u{2bff}' | '〰' | '〽' | '㊗' | '㊙'
        | '\u{1f000}'..='\u{1faff}')
}

/// Letters of the scripts that are written with joiners: from Arabic to Myanmar, and Mongolian.
fn is_joining_letter(character: char) -> bool {
    let script = matches!(character,
        '\u{620}'..='\u{109f}' | '\u{1780}'..='\u{17d3}' | '\u{1820}'..='\u{18aa}');
    script && !is_hidden(character)
}

fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3000}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// How many characters behind a flag are the tags of a known one.
fn tags(after: &str) -> usize {
    let tag = |letter: char| char::from_u32(TAGS + u32::from(letter));
    let follows = |name: &&&str| {
        let expected = name.chars().filter_map(tag).chain([TAGS_END]);
        expected.zip(after.chars().chain(['\0'; 8])).all(|(expected, found)| expected == found)
    };
    FLAG_TAGS.iter().find(follows).map_or(0, |name| name.len() + 1)
}

fn escaped(hidden: char, shown: &mut String) {
    shown.extend(hidden.escape_default());
}

fn replaced(
    text: &str,
    shows: impl Fn(char) -> bool,
    show: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    // Most of what is printed is plain.
    if text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for (_, character, hidden) in characters(text) {
        if hidden && shows(character) {
            show(character, &mut shown);
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::{has_hidden, json, line, lines, page};

    #[test]
    fn what_nobody_sees_is_shown() {
        for (text, expected) in [
            ("a\u{202e}b\u{2066}c\u{2069}", "a\\u{202e}b\\u{2066}c\\u{2069}"),
            ("pass\u{200b}word\u{feff}", "pass\\u{200b}word\\u{feff}"),
            ("\u{1b}[31m\r\n\t", "\\u{1b}[31m\\r\\n\\t"),
            ("a\u{200d}b\u{fe0f}\u{ad}", "a\\u{200d}b\\u{fe0f}\\u{ad}"),
            // Bytes may be hidden in selectors and in tags.
            ("😀\u{fe0f}\u{fe0f}\u{e0141}", "😀\u{fe0f}\\u{fe0f}\\u{e0141}"),
            ("\u{1f3f4}\u{e0068}\u{e0069}\u{e007f}", "\u{1f3f4}\\u{e0068}\\u{e0069}\\u{e007f}"),
            ("\u{3164}\u{115f}\u{85}\u{9b}", "\\u{3164}\\u{115f}\\u{85}\\u{9b}"),
            ("\u{200d}😀\u{200d}", "\\u{200d}😀\\u{200d}"),
        ] {
            assert_eq!(line(text), expected);
            assert!(has_hidden(text), "{expected}");
        }
    }

    #[test]
    fn ordinary_writing_stays() {
        for text in [
            "plain — “quoted”, naïve, 日本語, עברית, العربية",
            "👩\u{200d}🚀 👨\u{200d}👩\u{200d}👧 🏳\u{fe0f}\u{200d}🌈 👍🏽 ❤\u{fe0f} 1\u{fe0f}\u{20e3} ©\u{fe0f}",
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "می\u{200c}خواهم क्\u{200d}ष 葛\u{e0100}",
            "e\u{301} 🇩🇪",
        ] {
            assert_eq!(line(text), text);
            assert!(!has_hidden(text), "{text}");
        }
    }

    #[test]
    fn lines_keep_their_ends_and_pages_their_colours() {
        assert_eq!(lines("a\r\n\tb\rc\u{1b}"), "a\n\tb\\rc\\u{1b}");
        assert_eq!(page("\u{1b}[31mred\u{1b}[0m\n\u{202e}"), "\u{1b}[31mred\u{1b}[0m\n\\u{202e}");
    }

    #[test]
    fn json_says_the_same() {
        let text = "{\n \"a\": \"\u{202e}\u{85}\u{e0001}é\"\n}";
        let shown = json(text);
        assert_eq!(shown, "{\n \"a\": \"\\u202e\\u0085\\udb40\\udc01é\"\n}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(text));
    }
}
