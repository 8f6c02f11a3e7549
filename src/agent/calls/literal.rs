//! JSON as models write it. Pure.
//!
//! Valid JSON is read as such. Some invalid JSON has only one meaning, and is
//! read too: a trailing comma, a line break in a string, a needless backslash,
//! Python's words and quotes. Anything else is an error.

use serde_json::{Map, Number, Value};

/// How deep values may be nested, as in `serde_json`.
const DEPTH_MAX: usize = 128;

/// Why no value could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LiteralError {
    /// The text ends within it.
    Open,
    /// It is none, in words.
    Not(String),
}

/// Reads the value at the start of `text`, and returns it with the rest.
pub(super) fn prefix(text: &str) -> Result<(Value, &str), LiteralError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok((value, &text[values.byte_offset()..])),
        None => Err(LiteralError::Open),
        Some(Err(error)) if error.is_eof() => Err(LiteralError::Open),
        Some(Err(error)) => match (Lenient { rest: text }).value(0) {
            Ok((value, rest)) => Ok((value, rest)),
            Err(LiteralError::Open) => Err(LiteralError::Open),
            // The strict reader says it better.
            Err(LiteralError::Not(_)) => Err(LiteralError::Not(error.to_string())),
        },
    }
}

/// Reads `text` as one value.
pub(super) fn whole(text: &str) -> Option<Value> {
    let (value, rest) = prefix(text).ok()?;
    rest.trim().is_empty().then_some(value)
}

struct Lenient<'a> {
    rest: &'a str,
}

impl<'a> Lenient<'a> {
    fn value(mut self, depth: usize) -> Result<(Value, &'a str), LiteralError> {
        let value = self.one(depth)?;
        Ok((value, self.rest))
    }

    fn one(&mut self, depth: usize) -> Result<Value, LiteralError> {
        if depth > DEPTH_MAX {
            return Err(LiteralError::Not("nested too deep".to_owned()));
        }
        match self.peek()? {
            '{' => self.object(depth),
            '[' => self.list(depth),
            quote @ ('"' | '\'') => self.string(quote).map(Value::String),
            _ => self.word(),
        }
    }

    /// The next character that is no blank.
    fn peek(&mut self) -> Result<char, LiteralError> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next().ok_or(LiteralError::Open)
    }

    fn take(&mut self, wanted: char) -> Result<bool, LiteralError> {
        let found = self.peek()? == wanted;
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        Ok(found)
    }

    fn object(&mut self, depth: usize) -> Result<Value, LiteralError> {
        let mut fields = Map::new();
        self.take('{')?;
        loop {
            if self.take('}')? {
                return Ok(Value::Object(fields));
            }
            let quote = self.peek()?;
            if !matches!(quote, '"' | '\'') {
                return Err(unexpected(quote));
            }
            let name = self.string(quote)?;
            if !self.take(':')? {
                return Err(unexpected(self.peek()?));
            }
            let value = self.one(depth + 1)?;
            fields.insert(name, value);
            if !self.take(',')? && self.peek()? != '}' {
                return Err(unexpected(self.peek()?));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, LiteralError> {
        let mut items = Vec::new();
        self.take('[')?;
        loop {
            if self.take(']')? {
                return Ok(Value::Array(items));
            }
            items.push(self.one(depth + 1)?);
            if !self.take(',')? && self.peek()? != ']' {
                return Err(unexpected(self.peek()?));
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<String, LiteralError> {
        self.take(quote)?;
        let mut text = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => {
                    let Some((_, escaped)) = characters.next() else {
                        return Err(LiteralError::Open);
                    };
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        '"' | '\'' | '\\' | '/' => text.push(escaped),
                        'u' => {
                            let hex: String = characters.by_ref().take(4).map(|(_, c)| c).collect();
                            let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                            text.push(code.ok_or_else(|| unexpected('u'))?);
                        }
                        // As in a pattern: `\d` is meant as it stands.
                        other => text.extend(['\\', other]),
                    }
                }
                _ if character == quote => {
                    self.rest = &self.rest[at + quote.len_utf8()..];
                    return Ok(text);
                }
                other => text.push(other),
            }
        }
        Err(LiteralError::Open)
    }

    /// A number, or a word for a value.
    fn word(&mut self) -> Result<Value, LiteralError> {
        let inner = |c: char| c.is_alphanumeric() || matches!(c, '-' | '+' | '.' | '_');
        let end = self.rest.find(|c| !inner(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if rest.is_empty() {
            // More of it may come.
            let words = ["true", "false", "null", "True", "False", "None"];
            let begins = words.iter().any(|known| known.starts_with(word));
            let number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            return Err(if begins || number {
                LiteralError::Open
            } else {
                unexpected(self.peek()?)
            });
        }
        let value = match word {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" => Value::Null,
            number => match number.parse::<Number>() {
                Ok(number) => Value::Number(number),
                Err(_) => return Err(unexpected(self.peek()?)),
            },
        };
        self.rest = rest;
        Ok(value)
    }
}

fn unexpected(character: char) -> LiteralError {
    LiteralError::Not(format!("unexpected `{character}`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_mean_only_one_thing_is_read() {
        let expected = json!({"a": [1, 2.5], "b": {"c": null}, "d": "it's", "e": true});
        for text in [
            r#"{"a": [1, 2.5], "b": {"c": null}, "d": "it's", "e": true} and so on"#,
            r#"{"a": [1, 2.5,], "b": {"c": null,}, "d": "it's", "e": true,} and so on"#,
            r#"{'a': [1, 2.5], 'b': {'c': None}, 'd': "it's", 'e': True} and so on"#,
        ] {
            assert_eq!(prefix(text), Ok((expected.clone(), " and so on")), "{text}");
        }
        assert_eq!(whole("{\"a\": \"one\ntwo\"}"), Some(json!({"a": "one\ntwo"})));
        assert_eq!(whole(r#"{"a": "grep '\d'"}"#), Some(json!({"a": r"grep '\d'"})));
    }

    #[test]
    fn what_could_mean_two_things_is_an_error() {
        for text in ["{'a': 'it's'}", "{a: 1}", "{\"a\" 1}", "[1 2]", "{\"a\": 1;}", "(1)"] {
            assert!(
                matches!(prefix(text), Err(LiteralError::Not(_))),
                "{text}: {:?}",
                prefix(text)
            );
        }
        for text in ["", "{", "{\"a", "{\"a\": ", "{'a': [1, ", "{'a': 'b", "[1,\n'x',"] {
            assert_eq!(prefix(text), Err(LiteralError::Open), "{text}");
        }
    }

    proptest::proptest! {
        /// JSON is read as JSON.
        #[test]
        fn json_is_read_as_it_is(text in "[\\PC\\n]{0,20}", number in -1000i64..1000) {
            let value = json!({"text": text, "list": [number, {"x": text}]});
            proptest::prop_assert_eq!(whole(&value.to_string()), Some(value));
        }

        /// No input makes the reader panic or run on.
        #[test]
        fn anything_is_read_to_an_end(text in "[\\[\\]{}\"':,\\\\a-c0-9u \\n]{0,60}") {
            let _ = prefix(&text);
        }
    }
}
