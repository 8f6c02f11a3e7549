//! A secret is refused by what it looks like, wherever it is written, and never repeated.

use babybot::manifest::codes::Code;
use babybot::manifest::parse;
use babybot::manifest::render::{Colors, human, json};

const TOKEN: &str = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8";

/// The codes of the problems of a manifest with these lines, none of whose words may be the token.
#[track_caller]
fn codes(lines: &str) -> Vec<Code> {
    let text = format!("schema = 1\nname = \"home\"\n{lines}\n");
    let problems = parse(&text).err().unwrap_or_default();
    for shown in [human("m", &text, &problems, Colors::Plain), json("m", &problems)] {
        assert!(!shown.contains(&TOKEN[4..16]), "{shown}");
    }
    problems.into_iter().map(|problem| problem.code).collect()
}

#[test]
fn a_token_in_env_is_refused_like_a_secret_by_name() {
    let model = "[models.a]\nkind = \"rehearsal\"\n[groups.home]\n";
    for value in [TOKEN.to_owned(), format!("https://me:{TOKEN}@example.org")] {
        assert_eq!(
            codes(&format!("{model}env = {{ NOTE = \"{value}\" }}")),
            [Code::SecretVariable]
        );
        // By both, it is one problem.
        assert_eq!(
            codes(&format!("{model}env = {{ TOKEN = \"{value}\" }}")),
            [Code::SecretVariable]
        );
    }
    assert_eq!(codes(&format!("{model}env = {{ NOTE = \"sk-learn\" }}")), []);
}

#[test]
fn a_token_in_any_other_string_is_a_secret_in_the_manifest() {
    let rest = "[groups.home]\n";
    for lines in [
        format!("[assistant]\nname = \"{TOKEN}\"\n[models.a]\nkind = \"rehearsal\"\n{rest}"),
        format!("[models.a]\nkind = \"ollama\"\nmodel = \"{TOKEN}\"\n{rest}"),
        format!("[models.a]\nkind = \"rehearsal\"\n{rest}trigger = \"@{TOKEN}\""),
        format!("[models.a]\nkind = \"rehearsal\"\n[secrets]\na = {{ env = \"{TOKEN}\" }}\n{rest}"),
        format!("[models.a]\nkind = \"rehearsal\"\n{rest}bind = [\"{TOKEN}\"]"),
    ] {
        assert!(codes(&lines).contains(&Code::SecretLiteral), "{lines}");
    }
}

#[test]
fn a_token_is_not_shown_by_any_other_problem() {
    for lines in [
        format!("{TOKEN} = 1"),
        TOKEN.to_owned(),
        format!("[groups.\"{TOKEN}\"]"),
        format!("[models.{TOKEN}]\nkind = \"{TOKEN}\""),
        format!("# {TOKEN}\n[groups]\nx = 1"),
        format!("[runtime.limits]\nturn = \"{TOKEN}\"\ncpus = {TOKEN}"),
        format!("[assistant]\ntimezone = \"{TOKEN}\"\n[groups.home]\nmodel = \"{TOKEN}\""),
    ] {
        assert!(!codes(&lines).is_empty(), "{lines}");
    }
}
