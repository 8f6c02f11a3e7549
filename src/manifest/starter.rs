//! The manifest that `babybot init` begins with.
//!
//! Lines that begin with `#! ` are switched off: without these three
//! characters they are part of a valid manifest, one block at a time or all.

/// What `babybot init` found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// What is known of Ollama.
    pub ollama: Ollama,
    /// The container runtimes that are installed, by the names of their commands.
    pub runtimes: Vec<&'static str>,
}

/// What is known of Ollama.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ollama {
    /// No command and no server.
    Absent,
    /// It is installed, but no server answers.
    Silent,
    /// A server answers, but has no model that runs on it.
    Empty {
        /// The server.
        url: String,
    },
    /// A server answers and has models.
    Ready {
        /// The server.
        url: String,
        /// Its models that run on it, the one to use first; at least one.
        models: Vec<String>,
    },
}

/// Where Ollama listens if nothing else is said.
pub const OLLAMA_URL: &str = "http://127.0.0.1:11434";
/// The model to name where none is installed.
pub const MODEL_SUGGESTED: &str = "qwen3:8b";
/// The command of the engine that agents' containers are made with.
const DOCKER: &str = "docker";
/// Most installed models listed in a comment.
const LISTED_MAX: usize = 12;

/// The starter manifest for what was found.
#[must_use]
pub fn starter(findings: &Findings) -> String {
    let mut text = String::from(
        "# The manifest of your babybot. `babybot plan` shows the changes, `babybot apply` makes them.\n\
         # Lines that begin with `#!` are switched off: remove the `#! ` to switch them on.\n\
         # `babybot schema` describes every key, also to editors; `babybot explain CODE` says more of an error.\n\
         schema = 1\n\
         name   = \"home\"\n\
         \n\
         [assistant]\n\
         name = \"Baby\"\n\
         #! timezone = \"Europe/Berlin\"    # default: this machine's\n\
         \n",
    );
    text.push_str(&runtime(&findings.runtimes));
    text.push_str(&models(&findings.ollama));
    text.push_str(
        "# A group is one conversation with a memory and a folder of its own.\n\
         # Talk to it with `babybot chat home`.\n\
         [groups.home]\n\
         bind = [\"terminal\"]\n\
         #! requires_trigger = false       # in chats with others: answer everything, not only what begins with @Baby\n\
         #! main = true                    # what `babybot chat` without a name talks to; will administer the others\n\
         #! lifecycle = \"always\"           # default: on-demand, from the first message until it is idle\n",
    );
    text
}

fn runtime(found: &[&str]) -> String {
    let found_line = if found.is_empty() {
        "# No container runtime was found, so agents are plain processes of this machine, which the\n\
         # plan says; with Docker installed, they are containers without a network.\n"
            .to_owned()
    } else {
        format!("# Found on this machine: {}.\n", found.join(", "))
    };
    let mut text = format!(
        "{found_line}\
         [runtime]\n\
         kind = \"auto\"                    # docker where it answers, else none: a plain process\n\
         #! parallel = 5                   # agents that run a turn at once\n\
         #! limits = {{ cpus = 2, memory = \"1GiB\", pids = 256 }}\n\n"
    );
    // Where there is an engine, it most likely can pull, and a shell makes for a better agent.
    text.push_str(if found.contains(&DOCKER) {
        "# The base of the container image. \"scratch\" is empty: nothing is pulled, and\n\
         # agents have no shell. With \"scratch\", `packages` cannot be used.\n\
         [runtime.image]\n\
         base = \"debian:stable-slim\"\n\
         #! packages = [\"git\", \"curl\", \"python3\"]\n\n"
    } else {
        "# The container image holds babybot alone. Another base brings a shell, such as\n\
         # \"debian:stable-slim\" with packages = [\"git\"].\n\
         [runtime.image]\n\
         base = \"scratch\"\n\n"
    });
    text
}

fn models(ollama: &Ollama) -> String {
    let (url, model) = match ollama {
        Ollama::Ready { url, models } => {
            (url.as_str(), models.first().map_or(MODEL_SUGGESTED, String::as_str))
        }
        Ollama::Empty { url } => (url.as_str(), MODEL_SUGGESTED),
        Ollama::Absent | Ollama::Silent => (OLLAMA_URL, MODEL_SUGGESTED),
    };
    let served = format!(
        "[models.ollama]\nkind  = \"ollama\"\nurl   = {}\nmodel = {}\n",
        quoted(url),
        quoted(model)
    );
    let rehearsed = "[models.rehearsal]\nkind = \"rehearsal\"\n";
    match ollama {
        Ollama::Ready { models, .. } => {
            let mut text = String::from("# Your Ollama answers with this model.\n");
            if models.len() > 1 {
                let shown: Vec<String> =
                    models.iter().take(LISTED_MAX).map(|model| commented(model)).collect();
                text.push_str(&format!("# It also has: {}\n", shown[1..].join(", ")));
            }
            text.push_str(&served);
            text.push_str(
                "\n# To try things without it: a built-in stand-in that follows rules.\n",
            );
            text.push_str(&switched_off(&format!(
                "{rehearsed}[defaults.group]\nmodel = \"rehearsal\"\n"
            )));
            text.push('\n');
            text
        }
        _ => {
            let why = match ollama {
                Ollama::Empty { .. } => format!(
                    "# Ollama answers, but has no model yet: `ollama pull {MODEL_SUGGESTED}`, then switch this on.\n"
                ),
                Ollama::Silent => {
                    "# Ollama is installed, but did not answer: start it, then switch this on.\n"
                        .to_owned()
                }
                _ => "# With Ollama (https://ollama.com) installed, switch this on.\n".to_owned(),
            };
            format!(
                "# A built-in stand-in that follows rules, so that everything can be tried at once.\n\
                 {rehearsed}\n{why}{}\n",
                switched_off(&format!("{served}[defaults.group]\nmodel = \"ollama\"\n"))
            )
        }
    }
}

fn switched_off(text: &str) -> String {
    text.lines().map(|line| format!("#! {line}\n")).collect()
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A text that cannot end the comment it stands in.
fn commented(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}
