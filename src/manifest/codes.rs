//! Every code a diagnostic can carry, and what `babybot explain` says about it.
//!
//! A code keeps its number and its meaning for ever; a problem that no longer
//! exists leaves a gap.

use std::fmt;

macro_rules! codes {
    ($($(#[doc = $title:literal])+ $name:ident = $number:literal, $meaning:literal, $wrong:literal, $fix:literal;)+) => {
        /// What sort of problem a diagnostic reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $title])+ $name,)+ }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The digits of the code.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $number),+ }
            }

            /// What it means, how it comes about and how to fix it.
            #[must_use]
            pub fn explanation(self) -> Explanation {
                match self {
                    $(Self::$name => Explanation {
                        title: concat!($($title),+).trim_ascii(),
                        meaning: $meaning,
                        wrong: $wrong,
                        fix: $fix,
                    }),+
                }
            }
        }
    };
}

/// What there is to say about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The problem in one line.
    pub title: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// A manifest, or a command, that shows it.
    pub wrong: &'static str,
    /// How to fix it.
    pub fix: &'static str,
}

impl Code {
    /// The code of which a person wrote `BB0107`, `bb0107`, `0107` or `107`.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let digits = text.trim().trim_start_matches(['b', 'B']);
        let number: u16 = digits.parse().ok()?;
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("BB{:04}", self.number()))
    }
}

codes! {
    /// there is no manifest
    FileMissing = 1,
    "babybot reads ./babybot.toml, or the file that --manifest names, and there is none.",
    "$ cd /tmp && babybot plan",
    "Go to the folder of your project, name the file with --manifest PATH, or write a new one with `babybot init`.";
    /// the manifest is not a file
    NotAFile = 2,
    "--manifest names a folder, a pipe or a device. Only a regular file is read.",
    "$ babybot --manifest . validate",
    "Name the file itself, such as ./babybot.toml.";
    /// the manifest cannot be read
    Unreadable = 3,
    "The file is there, but the system did not let babybot read it.",
    "$ chmod 000 babybot.toml && babybot validate",
    "Give yourself the right to read it: chmod u+r babybot.toml.";
    /// the manifest is empty
    Empty = 4,
    "The file is empty, or has blank space only.",
    "$ : > babybot.toml && babybot validate",
    "Remove the file and write a new one with `babybot init`.";
    /// the manifest is not UTF-8
    NotUtf8 = 5,
    "TOML is UTF-8 text. The message names the first byte that is not.",
    "$ printf 'name = \"caf\\351\"' > babybot.toml && babybot validate",
    "Save the file as UTF-8 in your editor, or convert it: iconv -f latin1 -t utf-8.";
    /// the manifest is too large
    TooLarge = 6,
    "A manifest has at most 4 MiB, which is far more than 10,000 groups need.",
    "$ babybot --manifest /var/log/messages validate",
    "Name the right file, or make it smaller.";

    /// the text is not TOML
    Syntax = 101,
    "The line cannot be read, so it is left out. Everything else is checked.",
    "name = \"home",
    "Look at the place shown: a quote or a bracket that is not closed, or a string without quotes.";
    /// a key has no value
    NoValue = 102,
    "A line has a key, but no `=` and value after it.",
    "name \"home\"",
    "Write `key = value`.";
    /// a key is written twice
    DuplicateKey = 103,
    "Every key and every table may stand once. babybot reads the first.",
    "name = \"home\"\nname = \"office\"",
    "Remove one of the two, or merge the two tables.";
    /// a value has the wrong type
    WrongType = 104,
    "The key is right, but takes another type of value: a string is in quotes, numbers and true or false are not.",
    "schema = \"1\"",
    "The help line says what the key takes.";
    /// a required key is missing
    MissingKey = 105,
    "There is no sensible default, so the key must be written.",
    "schema = 1",
    "Add the key.";
    /// the manifest is of another version
    SchemaVersion = 106,
    "`schema` is the version of the manifest's shape. A later one may mean things that this release does not know.",
    "schema = 2",
    "Write `schema = 1`, or install the release of babybot that this manifest was written for.";
    /// a key is not known
    UnknownKey = 107,
    "No such key exists here. babybot does not skip what it does not know: a limit with a typing mistake would be no limit.",
    "[assistant]\ntimezon = \"Europe/Berlin\"",
    "Correct or remove it. The help line lists the known keys.";
    /// a word is not one of those the key takes
    UnknownWord = 108,
    "The key takes one of a few words.",
    "[models.local]\nkind = \"olama\"",
    "The help line lists the words.";
    /// a length of time or a size cannot be read
    BadUnit = 109,
    "Lengths of time and sizes are a whole number and one unit, in quotes: \"30m\", \"10MiB\".",
    "[runtime.limits]\nturn = \"30\"",
    "Add the unit: ms, s, m, h or d for time; B, KiB, MiB, GiB or TiB for sizes.";
    /// a number is out of bounds
    OutOfBounds = 110,
    "The value is smaller than what works, or larger than what can be meant. Zero is no limit that an agent could work with.",
    "[runtime.limits]\nturn = \"0s\"",
    "The help line gives both bounds.";
    /// a string is too long
    TextTooLong = 111,
    "A string in the manifest has at most 4 KiB.",
    "",
    "Shorten it. Long instructions belong in a file.";
    /// there are too many groups
    TooManyGroups = 112,
    "One manifest has at most 10,000 groups.",
    "",
    "Split them over several installations.";
    /// a name cannot be used
    BadName = 113,
    "Names become folders and parts of container names, so they are a-z, 0-9 and -, start with a letter or digit, and have at most 31 characters. `global` is the folder that all groups share.",
    "[groups.\"../family\"]",
    "Choose another name.";
    /// a key belongs to another kind
    KeyOfOtherKind = 114,
    "Which keys a model takes depends on its kind.",
    "[models.local]\nkind = \"rehearsal\"\nurl = \"http://127.0.0.1:11434\"",
    "Remove the key, or change the kind.";

    /// a chat is bound twice
    BoundTwice = 201,
    "A message goes to one group, so a channel or chat can be bound by one group only, and once.",
    "[groups.home]\nbind = [\"terminal\"]\n[groups.work]\nbind = [\"terminal\"]",
    "Remove one of the two. `babybot chat GROUP` reaches a group that is not bound, too.";
    /// there are two main groups
    TwoMains = 202,
    "The main group is the one that `babybot chat` without a name talks to, and will administer the others. There is at most one.",
    "[groups.home]\nmain = true\n[groups.work]\nmain = true",
    "Remove `main = true` from one of them.";
    /// a model is not declared
    UnknownModel = 203,
    "The group asks for a model that has no table under [models].",
    "[models.local]\nkind = \"rehearsal\"\n[groups.home]\nmodel = \"lokal\"",
    "Correct the name, or declare the model.";
    /// a channel is not declared
    UnknownChannel = 204,
    "The group listens on a channel that has no table under [channels]. Only `terminal` is always there.",
    "[groups.home]\nbind = [\"terminl\"]",
    "Correct the name, or declare the channel.";
    /// a group has no model
    NoModel = 205,
    "Where exactly one model is declared, every group uses it. With none or several, someone has to choose.",
    "schema = 1\nname = \"home\"\n[groups.home]",
    "Declare a model, or write `model = \"…\"` in the group or in [defaults.group].";
    /// there is no group
    NoGroups = 206,
    "A manifest needs at least one group: there is nothing to talk to without one.",
    "schema = 1\nname = \"home\"",
    "Add a group: [groups.home].";
    /// the manifest contains a secret
    SecretLiteral = 207,
    "The manifest is kept in history and may be shared, so it names the place of a secret, never its value. A string that looks like a token of a known service or like a private key is taken to be one.",
    "[secrets]\ntelegram = \"123:abc\"",
    "Write { env = \"TELEGRAM_TOKEN\" } or { file = \"~/.config/babybot/telegram\" }. If the manifest was shared, replace the secret.";
    /// the runtime is not available in this release
    RuntimeUnavailable = 208,
    "This release runs agents in containers of a Docker engine, or as plain processes of this machine. Apple's containers come with a later one.",
    "[runtime]\nkind = \"apple-container\"",
    "Write `kind = \"auto\"`, or leave the key out.";
    /// the runtime cannot enforce a limit
    LimitNotEnforced = 209,
    "Runtime `none` does not isolate, so it cannot enforce this limit. babybot refuses a limit that it cannot enforce.",
    "[runtime]\nkind = \"none\"\n[groups.home]\nlimits = { memory = \"2GiB\" }",
    "Leave the limit out, or use a runtime that can enforce it, such as docker.";
    /// an environment variable cannot be set
    BadVariable = 210,
    "Names are letters, digits and _, and do not start with a digit. PATH, HOME, USER, LOGNAME, LD_*, GLIBC_TUNABLES and BABYBOT_* are reserved, and TZ follows from `assistant.timezone`. Values have no line ends and no NUL.",
    "[groups.home]\nenv = { LD_PRELOAD = \"/tmp/x.so\" }",
    "Choose another name, or remove it.";
    /// a cloud model is refused
    CloudModel = 212,
    "A model whose name ends in :cloud or -cloud does not run on your machine: Ollama would send everything said to a service.",
    "[models.local]\nkind = \"ollama\"\nmodel = \"gpt-oss:120b-cloud\"",
    "Choose a model that runs on your own server; `ollama list` shows those you have.";
    /// the address of a server cannot be used
    BadUrl = 213,
    "The address of an Ollama server is http://host:port or https://host:port, with a path if a proxy serves Ollama under one. Credentials are not allowed: history would show them.",
    "[models.local]\nkind = \"ollama\"\nmodel = \"qwen3:8b\"\nurl = \"127.0.0.1:11434\"",
    "Write it as in http://127.0.0.1:11434.";
    /// a path leads out of the project
    BadPath = 214,
    "The script of a rehearsal and the program of an image lie in the project folder; the program may also be named by a path that begins with ~/.",
    "[models.local]\nkind = \"rehearsal\"\nscript = \"../script.toml\"",
    "Write a path relative to the folder of the manifest, without `..`.";
    /// the time zone does not exist
    UnknownTimezone = 215,
    "Time zones have IANA names.",
    "[assistant]\ntimezone = \"Europe/Belin\"",
    "Write a name such as Europe/Berlin, or leave the key out for the machine's own.";
    /// a string cannot be used here
    BadText = 216,
    "Names and triggers are words that a person types: not empty, without space around them, line ends or hidden characters.",
    "[assistant]\nname = \"\"",
    "Correct the string.";
    /// a binding does not fit its channel
    BadBinding = 217,
    "A binding is the name of a channel, or `channel:chat`. A terminal is one conversation and has no chats; of a webhook, a chat is named.",
    "[groups.home]\nbind = [\"terminal:me\"]",
    "Write the channel's name alone: bind = [\"terminal\"].";
    /// a variable holds a secret
    SecretVariable = 218,
    "`env` is never for secrets: the agent and its tools can read it, and the manifest is kept in history. A variable whose name ends in TOKEN, SECRET, PASSWORD, PASSWD, API_KEY, ACCESS_KEY, PRIVATE_KEY or CREDENTIALS is taken to hold one, and so is a value that looks like a token of a known service or like a private key.",
    "[groups.home]\nenv = { GITHUB_TOKEN = \"…\" }",
    "Remove it; if the manifest was shared, replace the secret. If only its name looks like a secret, give the variable another name.";
    /// these image settings contradict each other
    BadImage = 219,
    "These image settings contradict each other. An image is either built, on a base and with packages, or named by `ref`. The base `scratch` is empty and cannot install packages. Packages are plain names.",
    "[runtime.image]\nbase = \"scratch\"\npackages = [\"git\"]",
    "Remove one of the two; for packages, choose a base such as debian:stable-slim.";
    /// the address of the container engine cannot be used
    BadEngine = 220,
    "Access to a container engine is equivalent to root on its machine. So babybot reaches an engine on this machine only: by a socket, or by a loopback address.",
    "[runtime.docker]\nhost = \"tcp://10.0.0.7:2375\"",
    "Write it as in unix:///var/run/docker.sock or tcp://127.0.0.1:2375, or leave it out for the one that is found.";
    /// a secret is not declared
    UnknownSecret = 231,
    "A channel uses a secret that has no entry under [secrets].",
    "[channels.api]\nkind = \"webhook\"\ntoken = { secret = \"api\" }",
    "Declare the secret: [secrets] and below it api = { env = \"BABYBOT_API_TOKEN\" }, or correct the name.";
    /// a webhook cannot listen there
    BadListen = 232,
    "A webhook listens on an IP address of this machine and a port from 1 to 65535, which no other webhook has.",
    "[secrets]\napi = { env = \"T\" }\n[channels.api]\nkind = \"webhook\"\ntoken = { secret = \"api\" }\nlisten = \"localhost\"",
    "Write it as in 127.0.0.1:8787.";
    /// the address of a callback cannot be used
    BadCallback = 233,
    "Replies are posted to one URL: on https, or on http at a loopback address, where nobody on the way can read them. Credentials and queries are not allowed in it: history would show them.",
    "[secrets]\napi = { env = \"T\" }\n[channels.api]\nkind = \"webhook\"\ntoken = { secret = \"api\" }\ncallback = { url = \"http://example.org/\", secret = \"api\" }",
    "Write it as in https://example.org/replies or http://127.0.0.1:5678/webhook/replies.";
    /// a sender cannot be named here
    BadSender = 234,
    "An entry of `senders.allow` is \"*\" for everybody, or a channel, a colon and the sender's identifier as that channel knows it. Of a webhook, \"api:claimed:Ann\" is the sender that a program calls Ann, and \"api:channel:api\" is a program that names no sender. Only you write at a terminal, so it has no senders to name.",
    "[groups.home.senders]\nallow = [\"terminal:me\"]",
    "Write \"*\", or an entry such as \"api:claimed:Ann\".";
}
