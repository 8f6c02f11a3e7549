//! What is written out of habit from elsewhere gets a hint that says what it is called here.

use babybot::manifest::codes::Code;
use babybot::manifest::parse;

/// A manifest without the part that a test is about.
const REST: &str = "[models.a]\nkind = \"rehearsal\"\n[groups.home]\n";

/// The one problem of a text: its code, and its label and help as one string.
#[track_caller]
fn problem(text: &str) -> (Code, String) {
    let mut problems = parse(text).expect_err("a problem");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let problem = problems.remove(0);
    let label = problem.labels.first().map_or("", |label| label.text.as_str());
    (problem.code, format!("{label}; {}", problem.help.unwrap_or_default()))
}

#[track_caller]
fn helps(lines: &str, code: Code, expected: &str) {
    let (found, help) = problem(&format!("schema = 1\nname = \"x\"\n{lines}\n"));
    assert!(found == code && help.contains(expected), "{lines}: {found} {help}");
}

#[test]
fn kinds_of_elsewhere_are_known_by_name() {
    let kind = |table: &str, kind: &str| format!("{REST}[{table}]\nkind = \"{kind}\"");
    for engine in ["podman", "Podman", "colima", "orbstack"] {
        helps(&kind("runtime", engine), Code::UnknownWord, "write `kind = \"docker\"`");
    }
    for runtime in ["apple", "container", "firecracker"] {
        helps(&kind("runtime", runtime), Code::UnknownWord, "not available in this release");
    }
    for server in ["openai", "anthropic", "llama.cpp"] {
        let lines = format!("[models.a]\nkind = \"{server}\"\n[groups.home]");
        helps(&lines, Code::UnknownWord, "`kind` takes \"ollama\" or \"rehearsal\"");
    }
    for channel in ["telegram", "whatsapp", "discord"] {
        let expected =
            "not available in this release: a channel is a \"terminal\" or a \"webhook\"";
        helps(&kind("channels.tg", channel), Code::UnknownWord, expected);
        helps(&format!("{REST}bind = [\"{channel}:12\"]"), Code::UnknownChannel, expected);
    }
}

#[test]
fn a_key_of_another_table_is_told_its_place() {
    helps(
        &format!("{REST}timezone = \"Europe/Berlin\""),
        Code::UnknownKey,
        "belongs under `[assistant]`",
    );
    helps(
        &format!("{REST}memory = \"1GiB\""),
        Code::UnknownKey,
        "belongs under `[groups.home.limits]`",
    );
    helps(
        &format!("{REST}[runtime]\nmemory = \"1GiB\""),
        Code::UnknownKey,
        "belongs under `[runtime.limits]`",
    );
    helps(&format!("timezone = \"UTC\"\n{REST}"), Code::UnknownKey, "belongs under `[assistant]`");
    helps(&format!("{REST}trigge = \"x\""), Code::UnknownKey, "did you mean `trigger`?");
}

#[test]
fn curly_quotes_and_words_of_other_languages_are_explained() {
    for value in ["“@Baby”", "‘@Baby’", "„@Baby“"] {
        helps(&format!("{REST}trigger = {value}"), Code::Syntax, "write straight quotes");
    }
    for value in ["yes", "no", "on", "off", "True", "FALSE"] {
        helps(
            &format!("{REST}requires_trigger = {value}"),
            Code::Syntax,
            "write `true` or `false`",
        );
    }
    helps(&format!("{REST}trigger = null"), Code::Syntax, "leave the key out");
    helps(&format!("{REST}trigger = Baby"), Code::Syntax, "write a string in quotes");
}

#[test]
fn a_text_in_another_language_has_one_problem() {
    for json in ["{}", "{\"name\": \"home\"}", "\n  {\n  \"schema\": 1,\n  \"groups\": {}\n}\n"] {
        assert!(problem(json).1.starts_with("JSON begins here; in TOML,"), "{json}");
    }
    for yaml in [
        "name: home\n",
        "---\nschema: 1\nname: home\ngroups:\n  home:\n    bind:\n      - terminal\n",
        "# mine\nmodels:\n  - kind: ollama\n    url: http://127.0.0.1:11434\n",
    ] {
        assert!(problem(yaml).1.starts_with("YAML begins here; in TOML,"), "{yaml}");
    }
    // One slip does not make a text YAML's.
    let (code, _) =
        problem(&format!("schema = 1\nname: \"home\"\n{REST}").replace("name:", "name"));
    assert_eq!(code, Code::NoValue);
}

#[test]
fn a_name_beyond_ascii_is_spelled_without() {
    let named = |name: &str| REST.replace("home", name);
    for (name, expected) in
        [("Küche", "`kueche`"), ("\"Küche\"", "`kueche`"), ("\"Семья\"", "`semya`")]
    {
        let (_, help) = problem(&format!("schema = 1\nname = \"x\"\n{}", named(name)));
        assert!(help.contains(expected), "{name}: {help}");
    }
}
