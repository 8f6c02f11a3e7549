//! Which bytes of a manifest may be somebody's secret, and are shown to nobody.
//!
//! Reads broken texts as well as sound ones, and rather hides too much.

use std::ops::Range;

use super::token;

/// Last words of a name that say that it holds a secret.
const SECRET_WORDS: &[&str] = &[
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIALS",
];

/// Whether a name ends in words that say that it holds a secret.
pub(super) fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    SECRET_WORDS.iter().any(|word| {
        name.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with('_'))
    })
}

/// The values to hide: all strings within `[secrets]`, the value of a key that names a secret, and
/// known kinds of tokens wherever they stand.
pub(super) fn hidden(text: &str) -> Vec<Range<usize>> {
    let mut scan = Scan { text, ..Scan::default() };
    while scan.at < text.len() {
        scan.step();
    }
    scan.found.extend(token::tokens(text));
    scan.found
}

/// Where the scan is, and what it knows of that place.
#[derive(Default)]
struct Scan<'t> {
    text: &'t str,
    at: usize,
    /// Whether the table is `[secrets]`, or has the name of a secret itself.
    table: bool,
    /// Whether each open bracket stands in a value to hide.
    open: Vec<bool>,
    /// Whether the key at hand names a secret.
    key: bool,
    /// Whether the key at hand has got its `=`.
    value: bool,
    comment: bool,
    found: Vec<Range<usize>>,
}

impl Scan<'_> {
    fn step(&mut self) {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return };
        if (self.at == 0 || self.text[..self.at].ends_with('\n')) && self.header() {
            return;
        }
        match first {
            '\n' => {
                self.comment = false;
                if self.open.is_empty() {
                    (self.key, self.value) = (false, false);
                }
            }
            '#' => self.comment = true,
            '"' | '\'' => return self.string(),
            '=' => self.value = true,
            '{' | '[' => {
                self.open.push(self.hides());
                self.value = first == '[';
            }
            '}' | ']' => {
                self.key = self.open.pop().unwrap_or_default();
            }
            ',' => self.value = self.open.last().copied().unwrap_or_default(),
            _ if is_word(first) => return self.word(),
            _ => {}
        }
        self.at += first.len_utf8();
    }

    fn hides(&self) -> bool {
        self.table || self.key || self.open.last().copied().unwrap_or_default()
    }

    /// Takes a line that is a table's header.
    fn header(&mut self) -> bool {
        let line = self.text[self.at..].split('\n').next().unwrap_or_default();
        let name = line.trim_start();
        let Some(name) = name.strip_prefix('[') else { return false };
        let name = name.trim_start_matches('[');
        let name = name.split([']', '#']).next().unwrap_or_default();
        let names: Vec<String> = name
            .split('.')
            .map(|word| word.trim().trim_matches(['"', '\'']).to_ascii_lowercase())
            .collect();
        let first = names.first().is_some_and(|word| is_secrets(word));
        // The second word is what somebody called a group or a model.
        let last = names.len() > 2 && names.last().is_some_and(|word| names_secret(word));
        if name.contains([',', '=', '{']) {
            return false;
        }
        self.table = first || last;
        self.open.clear();
        (self.key, self.value, self.comment) = (false, false, false);
        self.at += line.len();
        true
    }

    /// Takes a bare word: a key, or a value without quotes.
    fn word(&mut self) {
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let after = rest[length..].trim_start_matches([' ', '\t']);
        let is_key = after.starts_with(['=', '"', '\'', '.']);
        if is_key && !(self.value && self.key) {
            self.set_key(&rest[..length]);
        } else if self.value && self.key {
            self.found.push(self.at..self.at + length);
        }
        self.at += length;
    }

    fn set_key(&mut self, name: &str) {
        let (first, last) = match name.split_once('.') {
            Some((first, _)) => (first, name.rsplit('.').next().unwrap_or_default()),
            None => (name, name),
        };
        self.key = names_secret(last) || (self.open.is_empty() && is_secrets(first));
        self.value = false;
    }

    /// Takes a text in quotes, up to its end or, where it has none, that of its line.
    fn string(&mut self) {
        let rest = &self.text[self.at..];
        let quote = &rest[..1];
        let triple = quote.repeat(3);
        let (start, length) = if rest.starts_with(&triple) && !self.comment {
            let length = rest[3..].find(&triple).unwrap_or(rest.len() - 3);
            (3, length)
        } else {
            let line = rest[1..].split('\n').next().unwrap_or_default();
            let mut escaped = false;
            let end = line.find(|c| {
                let ends = !escaped && quote.starts_with(c);
                escaped = !escaped && c == '\\' && quote == "\"";
                ends
            });
            (1, end.unwrap_or(line.len()))
        };
        let content = self.at + start..self.at + start + length;
        self.at = (content.end + start).min(self.text.len());
        while !self.text.is_char_boundary(self.at) {
            self.at -= 1;
        }
        // Without a closing quote, the line's end is still to come.
        if start == 1 && self.text[content.end..].starts_with('\n') {
            self.at = content.end;
        }
        let after = self.text[self.at..].trim_start_matches([' ', '\t']);
        if after.starts_with('=') && !self.hides() {
            self.set_key(&self.text[content]);
        } else if after.starts_with('=') {
            self.value = false;
        } else if self.hides() {
            self.found.push(content);
        }
    }
}

fn is_secrets(word: &str) -> bool {
    matches!(word, "secrets" | "secret")
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '+' | '/' | ':')
}

#[cfg(test)]
mod tests {
    use super::{hidden, names_secret};

    #[test]
    fn a_name_tells_by_its_last_words() {
        for name in ["GITHUB_TOKEN", "token", "api_key", "X-Api-Key", "DB_PASSWORD", "SECRET"] {
            assert!(names_secret(name), "{name}");
        }
        for name in ["LANG", "TOKENS_MAX", "MAX_TOKENS", "KEY", "MONKEY", "SECRETARY", "MYTOKEN"] {
            assert!(!names_secret(name), "{name}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_found_however_it_is_written() {
        for hides in [
            "token = \"hunter2\"",
            "token=\"hunter2",
            "token = 'hunter2'",
            "token = hunter2 # note",
            "token \"hunter2\"",
            "a.token = \"hunter2\"",
            "\"token\" = \"hunter2\"",
            "env = { LANG = \"C\", GITHUB_TOKEN = \"hunter2\" }",
            "password = [\"hunter2\", 'hunter2']",
            "password = [\n  \"hunter2\",\n]",
            "password = { value = \"hunter2\" }",
            "token = \"\"\"\nhunter2\n\"\"\"",
            "token = \"\"\"hunter2",
            "secrets.telegram = \"hunter2\"",
            "secrets = { a = \"hunter2\" }",
            "[secrets]\ntelegram = \"hunter2\"",
            "[secrets.telegram]\nvalue = \"hunter2\"",
            "[ secrets ]\n# telegram = \"hunter2\"",
            "[[secrets]]\nb = [[\"hunter2\"]]",
            "[channels.tg.token]\nvalue = \"hunter2\"",
            "a = \"\\\"\" # don't\ntoken = \"\\\"hunter2\"",
        ] {
            let mut shown = hides.to_owned();
            for range in hidden(hides) {
                shown.replace_range(range.clone(), &"*".repeat(range.len()));
            }
            assert!(!shown.contains("hunter2"), "{hides}\n{shown}");
            assert!(!shown.contains("note") || shown.contains("# note"), "{shown}");
        }
    }

    #[test]
    fn everything_else_stays_readable() {
        for text in [
            "name = \"home\"\n[groups.token]\ntrigger = \"@Baby\"",
            "env = { LANG = \"C\", A = \"b\" }",
            "[secrets]\n[groups.home]\ntrigger = \"@Baby\"",
            "token = \"\"\nname = \"home\"",
        ] {
            let hidden: Vec<_> = hidden(text).into_iter().filter(|at| !at.is_empty()).collect();
            assert!(hidden.is_empty(), "{text}: {hidden:?}");
        }
    }
}
