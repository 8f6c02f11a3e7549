//! Values that are secrets whatever they are called: the tokens of known services, and private keys.

use std::ops::Range;

/// How a service's tokens begin, and how many characters more they have at least.
const PREFIXES: &[(&str, usize)] = &[
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("ghr_", 30),
    ("github_pat_", 30),
    ("glpat-", 18),
    ("xoxa-", 18),
    ("xoxb-", 18),
    ("xoxe-", 18),
    ("xoxp-", 18),
    ("xoxr-", 18),
    ("xoxs-", 18),
    ("xapp-", 18),
    ("sk-", 18),
    ("sk_live_", 16),
    ("rk_live_", 16),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 30),
    ("hf_", 30),
    ("npm_", 30),
    ("pypi-", 30),
    ("dckr_pat_", 20),
    ("tskey-", 18),
];
/// Letters and digits in a row that a token has somewhere. Words that people make have fewer.
const RUN_MIN: usize = 12;
/// Characters of a Telegram bot's token behind its number.
const BOT_TOKEN: usize = 35;
/// What the parts of a JSON web token begin with.
const WEB_TOKEN: &str = "eyJ";
/// The parts of a private key's frame.
const KEY: (&str, &str, &str) = ("-----BEGIN ", "PRIVATE KEY-----", "-----END ");

/// Whether a known kind of token stands in this string.
pub(super) fn has_token(text: &str) -> bool {
    !tokens(text).is_empty()
}

/// Where known kinds of tokens stand.
pub(super) fn tokens(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut inside = false;
    while let Some(character) = text[at..].chars().next() {
        let begins = !inside || character == '-';
        let length = if begins { token(&text[at..]) } else { None };
        inside = is_token(character);
        match length {
            Some(length) => {
                found.push(at..at + length);
                at += length;
                inside = false;
            }
            None => at += character.len_utf8(),
        }
    }
    found
}

/// The length of the token that a text begins with.
fn token(text: &str) -> Option<usize> {
    match text.as_bytes().first()? {
        b'-' => key(text),
        b'0'..=b'9' => bot_token(text),
        b'e' => web_token(text),
        _ => service_token(text),
    }
}

fn service_token(text: &str) -> Option<usize> {
    let (prefix, least) = PREFIXES.iter().find(|(prefix, _)| text.starts_with(prefix))?;
    let rest = &text[prefix.len()..];
    let length = span(rest);
    (length >= *least && is_random(&rest[..length])).then_some(prefix.len() + length)
}

/// Whether it is as no word is: with letters and digits mixed, many in a row.
fn is_random(text: &str) -> bool {
    text.split(['-', '_']).any(|run| {
        run.len() >= RUN_MIN
            && run.bytes().any(|letter| letter.is_ascii_digit())
            && run.bytes().any(|letter| letter.is_ascii_alphabetic())
    })
}

fn bot_token(text: &str) -> Option<usize> {
    let number = text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text[number..].strip_prefix(':')?;
    let length = span(rest);
    let fits = (8..=12).contains(&number) && length == BOT_TOKEN;
    (fits && rest[..length].bytes().any(|letter| letter.is_ascii_uppercase()))
        .then_some(number + 1 + length)
}

fn web_token(text: &str) -> Option<usize> {
    let head = span(text);
    let claims = text[head..].strip_prefix('.')?;
    let length = span(claims);
    let is_token = text.starts_with(WEB_TOKEN) && claims.starts_with(WEB_TOKEN);
    let signature = claims[length..].strip_prefix('.').filter(|_| is_token)?;
    Some(head + 1 + length + 1 + span(signature))
}

/// A private key, to the end of its frame or, where that is missing, of the text's.
fn key(text: &str) -> Option<usize> {
    let (begin, private, end) = KEY;
    let head = text.strip_prefix(begin)?;
    let line = head.find("-----").map(|dashes| &head[..dashes + "-----".len()])?;
    line.ends_with(private).then(|| match text.find(end) {
        Some(at) => at + end.len() + text[at + end.len()..].find("-----").map_or(0, |end| end + 5),
        None => text.len(),
    })
}

/// How many characters of a token a text begins with. All are ASCII.
fn span(text: &str) -> usize {
    text.bytes().take_while(|byte| is_token(char::from(*byte))).count()
}

fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::{has_token, tokens};

    /// Each without a part, so that nobody takes this file for a leak.
    const BODY: &str = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R";

    #[test]
    fn known_kinds_of_tokens_are_found_wherever_they_stand() {
        let web = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx{BODY}.{BODY}");
        let words = [
            "ghp_",
            "gho_",
            "github_pat_",
            "glpat-",
            "xoxb-",
            "xoxp-1-",
            "sk-",
            "sk-ant-api03-",
            "sk-proj-",
            "AIza",
            "hf_",
            "npm_",
            "123456789:",
        ];
        let mut all: Vec<String> = words.iter().map(|prefix| format!("{prefix}{BODY}")).collect();
        all.extend([web, "AKIAIOSFODNN7EXAMPLE".to_owned()]);
        all.push("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----".to_owned());
        all.push("-----BEGIN OPENSSH PRIVATE KEY-----\\nb3Bl".to_owned());
        for token in all {
            for text in [token.clone(), format!("https://me:{token}"), format!("Bearer {token}")] {
                let found = tokens(&text);
                assert_eq!(found.len(), 1, "{text}");
                assert_eq!(&text[found[0].clone()], token, "{text}");
            }
        }
    }

    #[test]
    fn ordinary_words_are_no_tokens() {
        for text in [
            "sk-learn",
            "sk-learn-contrib-and-much-more-of-it",
            "task-force-of-twenty-people-2026",
            "ghp_",
            "ghp_token",
            "AKIA",
            "hf_transfer",
            "hf_hub_enable_hf_transfer_of_models",
            "xoxb-your-token-goes-here-please",
            "glpat-",
            "AIza",
            "eyJ.eyJ",
            "12345678:home",
            "127.0.0.1:11434",
            "2026-11-28T09:30:00",
            "-----BEGIN PUBLIC KEY-----",
            "-----",
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            "risk-a1B2c3D4e5F6g7H8i9J0k1",
        ] {
            assert!(!has_token(text), "{text}");
        }
    }
}
