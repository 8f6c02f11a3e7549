//! What people write out of habit from elsewhere, and what it is called here.

use super::Diagnostic;
use super::codes::Code;
use super::place::Lines;

/// Quotes that word processors make of straight ones.
const CURLY: &[char] = &['“', '”', '„', '‟', '‘', '’', '‚', '«', '»', '″'];
/// Engines that speak Docker's API.
const LIKE_DOCKER: &[&str] =
    &["podman", "colima", "orbstack", "rancher-desktop", "docker-desktop", "moby", "lima"];
/// Runtimes that this release does not have.
const RUNTIMES: &[&str] = &[
    "apple",
    "container",
    "containers",
    "vm",
    "firecracker",
    "gvisor",
    "kata",
    "kubernetes",
    "k8s",
    "containerd",
    "nerdctl",
    "lxc",
    "bubblewrap",
    "bwrap",
    "seatbelt",
    "landlock",
    "wsl",
];
/// Servers of models that this release does not know.
const SERVERS: &[&str] = &[
    "openai",
    "anthropic",
    "claude",
    "gemini",
    "google",
    "mistral",
    "groq",
    "openrouter",
    "lmstudio",
    "lm-studio",
    "llama.cpp",
    "llamacpp",
    "llama-cpp",
    "vllm",
    "mlx",
    "localai",
    "bedrock",
    "azure",
];
/// Channels that this release does not have.
const CHANNELS: &[&str] = &[
    "telegram",
    "whatsapp",
    "discord",
    "slack",
    "signal",
    "matrix",
    "imessage",
    "email",
    "sms",
    "teams",
    "irc",
    "mattermost",
];
/// What a webhook is called elsewhere.
const WEBHOOKS: &[&str] = &["web", "webhook", "http", "https", "rest", "api", "hook"];

/// What helps where a key of the list of fields has this word, which it does not take.
pub(super) fn word(path: &str, written: &str) -> Option<String> {
    let written = written.to_ascii_lowercase();
    let is_one = |words: &[&str]| words.contains(&written.as_str());
    match path {
        "runtime.kind" if is_one(LIKE_DOCKER) => {
            Some(format!("{written} speaks Docker's API: write `kind = \"docker\"`"))
        }
        "runtime.kind" if is_one(RUNTIMES) => Some(format!(
            "{written} is not available in this release: `kind` takes \"auto\", \"docker\" or \"none\""
        )),
        "models.<model>.kind" if is_one(SERVERS) => Some(format!(
            "{written} is not available in this release: `kind` takes \"ollama\" or \"rehearsal\""
        )),
        "channels.<channel>.kind" if is_one(WEBHOOKS) => {
            Some("an HTTP API for programs is `kind = \"webhook\"`".to_owned())
        }
        "channels.<channel>.kind" => channel(&written),
        _ => None,
    }
}

/// What helps where this is taken for a channel.
pub(super) fn channel(written: &str) -> Option<String> {
    let kind = written.to_ascii_lowercase();
    if WEBHOOKS.contains(&kind.as_str()) {
        return Some(format!("declare it: `[channels.{kind}]` with `kind = \"webhook\"`"));
    }
    CHANNELS.contains(&kind.as_str()).then(|| {
        format!(
            "{kind} is not available in this release: a channel is a \"terminal\" or a \"webhook\""
        )
    })
}

/// What helps on a line that cannot be read, if it shows where it comes from.
pub(super) fn line(line: &str) -> Option<&'static str> {
    let value = line.split_once('=').map_or("", |(_, value)| value).trim();
    let bare = value.split(['#', ',']).next().unwrap_or_default().trim();
    match bare {
        _ if line.contains(CURLY) => Some("write straight quotes: \" at both ends"),
        "yes" | "on" | "True" | "TRUE" | "no" | "off" | "False" | "FALSE" => {
            Some("write `true` or `false`, in small letters and without quotes")
        }
        "null" | "nil" | "None" | "~" => Some("leave the key out: it then has its default"),
        _ => None,
    }
}

/// The one problem of a text that is written in another language.
pub(super) fn other_language(text: &str, lines: &Lines<'_>) -> Option<Diagnostic> {
    let start = text.len() - text.trim_start().len();
    let (name, example) = if is_json(&text[start..]) {
        ("JSON", "`{ \"name\": \"home\" }` is `name = \"home\"`")
    } else if is_yaml(text) {
        (
            "YAML",
            "`name: home` is `name = \"home\"`, and `groups:` with `home:` below it is `[groups.home]`",
        )
    } else {
        return None;
    };
    let first = text[start..].lines().next().unwrap_or_default().trim_end();
    Some(
        Diagnostic::new(Code::Syntax, format!("this is {name}, and a manifest is TOML"))
            .at(lines.span(start..start + first.len()), format!("{name} begins here"))
            .helped(format!("in TOML, {example}; `babybot init` writes a manifest to begin with")),
    )
}

fn is_json(text: &str) -> bool {
    let inside = text.strip_prefix('{').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with(['"', '}']))
}

/// Whether no statement is TOML's and most are YAML's.
fn is_yaml(text: &str) -> bool {
    let statements =
        || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_key = |line: &str| {
        let line = line.trim_start_matches("- ");
        let key = line.split_once(':').filter(|(_, rest)| rest.is_empty() || rest.starts_with(' '));
        key.is_some_and(|(key, _)| !key.is_empty() && !key.contains(['=', '[', '{', ' ']))
    };
    let is_item = |line: &str| line == "---" || line.starts_with("- ");
    let keys = statements().filter(|line| is_key(line)).count();
    let toml = |line: &str| !is_key(line) && (line.contains('=') || line.starts_with('['));
    keys > 0
        && !statements().any(toml)
        && statements().filter(|line| is_key(line) || is_item(line)).count() * 2
            > statements().count()
}
