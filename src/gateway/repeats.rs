//! Tells a model that turns in circles from one that writes something regular. Pure.
//!
//! A loop is an end of the text that is one unit again and again: a token, a sentence, a whole
//! paragraph. People ask for such texts too: rules of dots, tables of zeros, the same line fifty
//! times. What tells them apart is only how long it goes on.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

/// The longest unit that counts as short, in characters: a token or two.
const SHORT_UNIT_MAX: usize = 8;
/// Longest run of a short unit, in characters.
///
/// Measured on the corpus of the tests below, which holds what people ask for and this project's own
/// sources: the longest such run there is 400 characters. A looping model writes this in a minute.
const SHORT_RUN_MAX: usize = 1024;
/// Longest run of any other unit, in characters.
///
/// Measured likewise: the longest such run in the corpus is 1,640 characters, a picture of equal
/// lines. An answer of 4,096 tokens, the most there is, has about four times this bound.
const RUN_MAX: usize = 4096;
/// How often a unit must come at least, so that the size of a paragraph alone ends nothing.
const REPEATS_MIN: usize = 4;
/// How many new characters make it worth another look.
const LOOK_EVERY: usize = 64;

/// Watches a text as it grows.
#[derive(Debug, Default)]
pub(super) struct RepeatGuard {
    /// The end of the text, newest last.
    tail: Vec<char>,
    unseen: usize,
}

impl RepeatGuard {
    /// Whether the text with this added has turned in circles for too long.
    pub(super) fn tripped_by(&mut self, text: &str) -> bool {
        let before = self.tail.len();
        self.tail.extend(text.chars());
        self.unseen += self.tail.len() - before;
        if self.unseen < LOOK_EVERY {
            return false;
        }
        self.unseen = 0;
        let extra = self.tail.len().saturating_sub(RUN_MAX);
        self.tail.drain(..extra);
        runs(&self.tail).any(|run| run.is_too_long())
    }
}

/// An end of a text that is one unit again and again.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Length of the unit.
    unit: usize,
    /// Length of the whole.
    length: usize,
}

impl Run {
    fn limit(self) -> usize {
        if self.unit <= SHORT_UNIT_MAX { SHORT_RUN_MAX } else { RUN_MAX }
    }

    fn is_too_long(self) -> bool {
        self.length >= self.limit() && self.length >= REPEATS_MIN * self.unit
    }
}

/// For every end of the text, the smallest unit that makes it up. The text is read backwards, where
/// its ends are beginnings, so that Knuth, Morris and Pratt's table of borders has all of them.
fn runs(text: &[char]) -> impl Iterator<Item = Run> {
    let at = |index: usize| text[text.len() - 1 - index];
    let mut borders = vec![0_usize; text.len()];
    let mut border = 0;
    for index in 1..text.len() {
        while border > 0 && at(index) != at(border) {
            border = borders[border - 1];
        }
        border += usize::from(at(index) == at(border));
        borders[index] = border;
    }
    (1..=text.len()).zip(borders).map(|(length, border)| Run { unit: length - border, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest run of short and of other units, wherever in the text it ends.
    fn longest(text: &str) -> (usize, usize) {
        let (mut short, mut other) = (0, 0);
        let text: Vec<char> = text.chars().collect();
        // Runs that end between two looks are as long at the next but for a few characters.
        for end in (0..=text.len()).step_by(16).chain([text.len()]) {
            for run in runs(&text[end.saturating_sub(RUN_MAX)..end]) {
                let repeats = run.length >= REPEATS_MIN * run.unit;
                let kept = if run.unit <= SHORT_UNIT_MAX { &mut short } else { &mut other };
                *kept = (*kept).max(if repeats { run.length } else { 0 });
            }
        }
        (short, other)
    }

    /// After how many characters the guard cuts, fed in pieces of a token's size.
    fn cut_after(text: &str) -> Option<usize> {
        let mut guard = RepeatGuard::default();
        let characters: Vec<char> = text.chars().collect();
        let mut fed = 0;
        for piece in characters.chunks(3) {
            fed += piece.len();
            if guard.tripped_by(&piece.iter().collect::<String>()) {
                return Some(fed);
            }
        }
        None
    }

    /// What people ask for, and would not want to have cut.
    fn asked_for() -> Vec<(&'static str, String)> {
        let numbered = |count: u32, line: fn(u32) -> String| (1..=count).map(line).collect();
        vec![
            ("forty emoji", "🎉".repeat(40)),
            ("hearts of many code points", "❤️\u{200d}🔥".repeat(60)),
            ("a row of dots", ".".repeat(200)),
            ("the dots of a table of contents", "Chapter ............ 7\n".repeat(30)),
            ("a long rule", "=".repeat(400)),
            ("the rule of a table", format!("|{}\n", "---|".repeat(60))),
            ("an empty table", "|      |      |      |\n".repeat(50)),
            ("a progress bar", format!("[{}{}] 70%", "#".repeat(140), "-".repeat(60))),
            ("a picture of equal lines", format!("|{}|\n", " ".repeat(38)).repeat(40)),
            ("a board", "⬛⬜⬛⬜⬛⬜⬛⬜\n⬜⬛⬜⬛⬜⬛⬜⬛\n".repeat(8)),
            ("laughter", format!("{} 哈哈哈{}", "ha".repeat(150), "哈".repeat(100))),
            ("a scream", format!("N{}!", "o".repeat(300))),
            ("a third", format!("0.{}", "3".repeat(400))),
            ("bits", "01".repeat(128)),
            ("zeros in Base64", "A".repeat(344)),
            ("a chorus", "Na na na na, hey hey, goodbye\n".repeat(24)),
            ("lines to write out", "I will not talk in class.\n".repeat(60)),
            ("rows of zeros", "0,0,0,0,0,0\n".repeat(120)),
            ("a matrix", format!("[{}]\n", "0, ".repeat(30)).repeat(15)),
            ("equal objects", "  { \"x\": 0, \"y\": 0 },\n".repeat(60)),
            ("blank lines", format!("above{}below", "\n".repeat(60))),
            ("a list", numbered(300, |n| format!("{n}. item {n}\n"))),
            ("a CSV", numbered(200, |n| format!("2026-01-{:02},{},ok,0,0\n", n % 28 + 1, n * 7))),
            (
                "objects",
                numbered(100, |n| format!("{{\"id\": {n}, \"name\": \"\", \"tags\": []}},\n")),
            ),
            (
                "a multiplication table",
                numbered(20, |n| {
                    (1..=20).map(|m| format!("{:4}", n * m)).collect::<String>() + "\n"
                }),
            ),
            (
                "a log",
                numbered(100, |n| format!("12:00:{:02} INFO request served in 3 ms\n", n % 60)),
            ),
            ("calls in code", numbered(80, |n| format!("    assert_eq!(check({n}), None);\n"))),
            ("a hex dump", numbered(64, |n| format!("{:08x}  {}\n", n * 16, "00 ".repeat(16)))),
            ("closing braces", "        }\n      }\n    }\n  }\n}\n".repeat(10)),
            ("a source", include_str!("repeats.rs").to_owned()),
            ("another source", include_str!("../manifest/fields.rs").to_owned()),
            ("a list of packages", include_str!("../../Cargo.lock").to_owned()),
            ("prose", include_str!("../../docs/ARCHITECTURE.md").to_owned()),
            ("tables", include_str!("../../docs/MANIFEST.md").to_owned()),
        ]
    }

    #[test]
    fn what_people_ask_for_stays_whole_with_room_to_spare() {
        let (mut short, mut other) = (0, 0);
        for (name, text) in asked_for() {
            let runs = longest(&text);
            assert!(runs.0 * 2 <= SHORT_RUN_MAX && runs.1 * 2 <= RUN_MAX, "{name}: {runs:?}");
            assert_eq!(cut_after(&text), None, "{name}");
            (short, other) = (short.max(runs.0), other.max(runs.1));
        }
        // What the bounds say that they were measured on.
        assert_eq!((short, other), (400, 1640));
    }

    #[test]
    fn every_loop_is_cut_long_before_an_answer_is_full() {
        let paragraph = "I am sorry for the confusion. Let me look at the file again and tell you \
                         what is in it. The file holds a list of names, one on each line. ";
        for unit in [
            "spam ",
            "0",
            " the",
            "\n",
            "🎉",
            "\u{200b}",
            "ab",
            "\\n",
            "I cannot do that. ",
            "| | | |\n",
            "{\"a\": 1}, ",
            paragraph,
            &paragraph.repeat(4).replace("names", "words"),
        ] {
            let before = "An ordinary beginning, and then: ";
            let looping = format!("{before}{}", unit.repeat(16_384 / unit.chars().count() + 1));
            let short = unit.chars().count() <= SHORT_UNIT_MAX;
            let limit = if short { SHORT_RUN_MAX } else { RUN_MAX };
            let at = cut_after(&looping).unwrap_or_else(|| panic!("{unit:?} is not cut"));
            assert!(at <= before.len() + limit + LOOK_EVERY + 3, "{unit:?}: {at}");
        }
    }
}
