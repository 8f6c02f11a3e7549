//! The manifest, seen from outside: a text in, values or problems out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test does")]

mod habits;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;

use babybot::cli::Context;
use babybot::cli::explain::{self, ExplainArgs};
use babybot::cli::init::{self, InitArgs};
use babybot::cli::load::load;
use babybot::cli::validate::{self, ValidateArgs, ValidateFormat};
use babybot::error::Exit;
use babybot::manifest::codes::Code;
use babybot::manifest::fields::{FIELDS, Field, Type};
use babybot::manifest::render::{self, Colors};
use babybot::manifest::{self, Diagnostic, ImageSource, Manifest};
use babybot::name::GroupName;
use babybot::resource::{ChannelSpec, Lifecycle, Limits, MilliCpus, ModelSpec, SecretSource};
use babybot::source;
use babybot::unit::{ByteSize, Period};
use insta::assert_snapshot;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const BASE: &str = "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n";

// What a valid manifest means.

#[test]
fn what_is_not_written_has_its_default() {
    let manifest = valid(&format!("{BASE}[groups.home]\n"));
    let home = &manifest.groups[&group("home")];
    assert_eq!(manifest.assistant.value, "Baby");
    assert_eq!(manifest.timezone, None);
    assert!(!home.main && home.requires_trigger && home.bind.is_empty() && home.env.is_empty());
    assert_eq!(home.trigger, "@Baby");
    assert_eq!(home.model.as_str(), "local");
    assert_eq!(home.lifecycle, Lifecycle::OnDemand);
    assert_eq!(home.limits, Limits::default());
    assert!(home.fields.is_empty());
}

#[test]
fn an_ollama_model_needs_only_its_name() {
    let manifest = valid(
        "schema = 1\nname = \"home\"\n[models.local]\nkind = \"ollama\"\nmodel = \"qwen3:8b\"\n[groups.home]\n",
    );
    let model = manifest.models.values().next().unwrap();
    assert_eq!(
        model.spec,
        ModelSpec::Ollama {
            url: "http://127.0.0.1:11434".to_owned(),
            model: "qwen3:8b".to_owned(),
            context: 16_384,
            keep_alive: Period::seconds(1800),
        }
    );
    assert_eq!(model.fields["model"].line, 5);
}

#[test]
fn each_limit_is_inherited_by_itself_and_knows_where_it_was_written() {
    let manifest = valid(&format!(
        "{BASE}[runtime.limits]\nturn = \"1m\"\nidle = \"1m\"\noutput = \"1MiB\"\n\
         [defaults.group]\nlimits = {{ idle = \"2m\", output = \"2MiB\" }}\n\
         [groups.home]\nlimits.output = \"3MiB\"\n"
    ));
    let home = &manifest.groups[&group("home")];
    assert_eq!(home.limits.turn, Period::seconds(60));
    assert_eq!(home.limits.idle, Period::seconds(120));
    assert_eq!(home.limits.output, ByteSize::bytes(3 << 20));
    assert_eq!(home.limits.disk, Limits::default().disk);
    let lines: Vec<_> =
        home.fields.iter().map(|(path, at)| (path.as_str(), at.line, at.column)).collect();
    assert_eq!(lines, [("limits.idle", 10, 19), ("limits.output", 12, 17), ("limits.turn", 6, 8)]);
}

#[test]
fn a_group_takes_what_the_defaults_say_and_its_own_words_win() {
    let manifest = valid(&format!(
        "{BASE}[assistant]\nname = \"Bo\"\n\
         [defaults.group]\nlifecycle = \"always\"\nenv = {{ LANG = \"C\", A = \"1\" }}\n\
         [groups.home]\nmain = true\nenv = {{ A = \"2\" }}\n[groups.work]\ntrigger = \"!\"\nlifecycle = \"on-demand\"\n"
    ));
    let (home, work) = (&manifest.groups[&group("home")], &manifest.groups[&group("work")]);
    assert!(home.main && !home.requires_trigger && work.requires_trigger);
    assert_eq!((home.trigger.as_str(), work.trigger.as_str()), ("@Bo", "!"));
    assert_eq!((home.lifecycle, work.lifecycle), (Lifecycle::Always, Lifecycle::OnDemand));
    assert_eq!(home.env, BTreeMap::from([("A".into(), "2".into()), ("LANG".into(), "C".into())]));
    assert_eq!(home.fields["env.A"].line, 12);
    assert_eq!(home.fields["env.LANG"].line, 9);
}

#[test]
fn a_terminal_may_be_declared_and_is_there_anyway() {
    let manifest = valid(&format!(
        "{BASE}[channels.desk]\nkind = \"terminal\"\n[groups.home]\nbind = [\"terminal\", \"desk\"]\n"
    ));
    let bind: Vec<String> =
        manifest.groups[&group("home")].bind.iter().map(ToString::to_string).collect();
    assert_eq!(bind, ["terminal", "desk"]);
    assert_eq!(manifest.channels.len(), 1);
}

#[test]
fn cpus_may_be_whole_or_broken_but_not_nothing() {
    // Runtime `none` refuses the limit, but only after it was understood.
    for (written, understood) in
        [("2", true), ("0.5", true), ("0", false), ("nan", false), ("-1", false), ("inf", false)]
    {
        let problems = problems(&format!(
            "{BASE}[runtime]\nkind = \"none\"\n[groups.home]\nlimits.cpus = {written}\n"
        ));
        let expected = if understood { Code::LimitNotEnforced } else { Code::OutOfBounds };
        assert_eq!(codes(&problems), [expected], "{written}");
    }
    assert_eq!(MilliCpus(500).to_string(), "0.5");
}

#[test]
fn a_container_engine_is_reached_on_this_machine_only() {
    let check = |host: &str| {
        let text = format!("{BASE}[runtime.docker]\nhost = \"{host}\"\n[groups.home]\n");
        manifest::parse(&text).map_err(|problems| codes(&problems)).err()
    };
    for host in [
        "unix:///var/run/docker.sock",
        "tcp://127.0.0.1:2375",
        "tcp://localhost:2375",
        "tcp://[::1]:2375",
    ] {
        assert_eq!(check(host), None, "{host}");
    }
    for host in [
        "",
        "/var/run/docker.sock",
        "unix://",
        "unix://docker.sock",
        "tcp://10.0.0.7:2375",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:2375/x",
        "tcp://localhost.example:2375",
        "http://127.0.0.1:2375",
        "ssh://me@localhost",
    ] {
        assert_eq!(check(host), Some(vec![Code::BadEngine]), "{host}");
    }
}

#[test]
fn what_containers_are_held_to_may_be_written_wherever_they_may_run() {
    for kind in ["auto", "docker"] {
        let manifest = valid(&format!(
            "{BASE}[runtime]\nkind = \"{kind}\"\nlimits = {{ cpus = 0.5, memory = \"64MiB\", pids = 64 }}\n[groups.home]\n"
        ));
        assert_eq!(manifest.groups[&group("home")].limits.pids, 64);
    }
    let image = "[runtime.image]\npackages = [\"git\", \"curl\", \"git\", \"g++-14\"]\nbinary = \"~/bin/babybot\"\n";
    let manifest = valid(&format!("{BASE}{image}[groups.home]\n"));
    let packages = ["curl", "g++-14", "git"].map(str::to_owned).to_vec();
    let (base, binary) = ("debian:stable-slim".to_owned(), Some("~/bin/babybot".to_owned()));
    assert_eq!(manifest.runtime.image.source, ImageSource::Built { base, packages, binary });
    let none = format!("{BASE}[runtime.image]\nref = \"scratch\"\n[groups.home]\n");
    assert_eq!(codes(&problems(&none)), [Code::BadImage]);
}

#[test]
fn a_secret_may_come_from_any_variable_or_file() {
    let manifest = valid(&format!(
        "{BASE}[secrets]\na = {{ env = \"BABYBOT_TOKEN\" }}\nb = {{ file = \"~/.config/token\" }}\n[groups.home]\n"
    ));
    let sources: Vec<_> = manifest.secrets.values().map(|source| source.value.clone()).collect();
    assert_eq!(
        sources,
        [SecretSource::Env("BABYBOT_TOKEN".into()), SecretSource::File("~/.config/token".into())]
    );
    let wrong = format!("{BASE}[secrets]\na = {{ env = \"TOKEN=x\" }}\n[groups.home]\n");
    assert_eq!(codes(&problems(&wrong)), [Code::BadVariable]);
}

const WEBHOOK: &str = "schema = 1\nname = \"home\"\nmodels.local.kind = \"rehearsal\"\n\
    secrets.api.env = \"API_TOKEN\"\ngroups.kitchen.bind = [\"api:kitchen\"]\n\
    [channels.api]\nkind = \"webhook\"\n";

#[test]
fn a_webhook_needs_a_token_and_listens_on_loopback() {
    let manifest = valid(&format!("{WEBHOOK}token = {{ secret = \"api\" }}\n"));
    let channel = manifest.channels.values().next().unwrap();
    let ChannelSpec::Webhook(webhook) = &channel.spec else { panic!("{channel:?}") };
    assert_eq!(webhook.listen.to_string(), "127.0.0.1:8787");
    assert_eq!(webhook.token.to_string(), "secret api from the variable API_TOKEN");
    assert_eq!(webhook.callback, None);
    assert_eq!(manifest.groups[&group("kitchen")].bind[0].to_string(), "api:kitchen");
    for (rest, code) in [
        ("", Code::MissingKey),
        ("token = {}", Code::MissingKey),
        ("token = \"hunter2\"", Code::SecretLiteral),
        ("token = { secret = \"apo\" }", Code::UnknownSecret),
    ] {
        assert_eq!(codes(&problems(&format!("{WEBHOOK}{rest}\n"))), [code], "{rest}");
    }
    for secret in ["token = \"hunter2\"", "token = { secret = \"hunter2\" }"] {
        assert!(!human(&format!("{WEBHOOK}{secret}\n")).contains("hunter2"), "{secret}");
    }
}

#[test]
fn a_webhook_listens_where_a_socket_can_and_once() {
    let at = |listen: &str| {
        let token = "token = { secret = \"api\" }";
        manifest::parse(&format!("{WEBHOOK}{token}\nlisten = \"{listen}\"\n"))
            .map_err(|problems| codes(&problems))
            .err()
    };
    for listen in ["127.0.0.1:1", "[::1]:8787", "0.0.0.0:80", "192.168.1.2:65535"] {
        assert_eq!(at(listen), None, "{listen}");
    }
    for listen in ["", "8787", ":8787", "localhost:8787", "127.0.0.1", "127.0.0.1:0", "[::1]"] {
        assert_eq!(at(listen), Some(vec![Code::BadListen]), "{listen}");
    }
    let token = "token = { secret = \"api\" }\n";
    let two = format!("{WEBHOOK}{token}[channels.apo]\nkind = \"webhook\"\n{token}");
    assert_eq!(codes(&problems(&two)), [Code::BadListen]);
}

#[test]
fn a_callback_is_where_nobody_reads_along() {
    let posts = |url: &str| {
        let rest = format!("token = {{ secret = \"api\" }}\ncallback.url = \"{url}\"\n");
        manifest::parse(&format!("{WEBHOOK}{rest}callback.secret = \"api\"\n"))
            .map_err(|problems| codes(&problems))
            .err()
    };
    for url in [
        "https://example.org/replies",
        "http://127.0.0.1:5678/webhook/replies",
        "http://[::1]:1/",
        "http://localhost:8123",
    ] {
        assert_eq!(posts(url), None, "{url}");
    }
    for url in [
        "http://example.org/",
        "http://10.0.0.1/",
        "http://localhost.example.org/",
        "http://127.0.0.1@example.org/",
        "https://user:pass@example.org/",
        "https://example.org/?key=1",
        "ftp://example.org/",
        "",
    ] {
        assert_eq!(posts(url), Some(vec![Code::BadCallback]), "{url}");
    }
}

#[test]
fn of_a_webhook_a_chat_is_bound_by_a_name_that_fits_into_a_path() {
    let rest = "channels.api.kind = \"webhook\"\nchannels.api.token.secret = \"api\"\n\
        secrets.api.env = \"API_TOKEN\"\nmodels.local.kind = \"rehearsal\"\n";
    let bound = |bind: &str| {
        let text = format!("schema = 1\nname = \"h\"\n{rest}[groups.g]\nbind = [\"{bind}\"]\n");
        manifest::parse(&text).map_err(|problems| codes(&problems)).err()
    };
    for bind in ["api:kitchen", "api:Kitchen_2.0-b", "api:0"] {
        assert_eq!(bound(bind), None, "{bind}");
    }
    for bind in ["api", "api:", "api:a/b", "api:..", "api:a b", "api:a:b", "api:%41", "api:ü"] {
        assert_eq!(bound(bind), Some(vec![Code::BadBinding]), "{bind}");
    }
    assert_eq!(bound(&format!("api:{}", "x".repeat(65))), Some(vec![Code::BadBinding]));
}

#[test]
fn senders_are_everybody_or_somebody_of_a_channel_that_is_declared() {
    let base = "schema = 1\nname = \"h\"\nchannels.api.kind = \"webhook\"\n\
        channels.api.token.secret = \"api\"\nsecrets.api.env = \"API_TOKEN\"\n\
        models.local.kind = \"rehearsal\"\n[groups.g]\nbind = [\"api:k\"]\n";
    let read = |senders: &str| manifest::parse(&format!("{base}senders = {{ {senders} }}\n"));
    let allowed = |entry: &str| {
        let manifest = read(&format!("allow = [\"{entry}\"], mode = \"drop\""));
        manifest.map_err(|problems| codes(&problems)).err()
    };
    for entry in ["*", "api:claimed:Ann", "api:claimed:Ann: 2", "api:channel:api"] {
        assert_eq!(allowed(entry), None, "{entry}");
    }
    for entry in
        ["", "api", "**", "terminal:1", "api:", "api:Ann", "api:claimed:", "api:channel:b", "*:1"]
    {
        let code = if entry == "*:1" { Code::UnknownChannel } else { Code::BadSender };
        assert_eq!(allowed(entry), Some(vec![code]), "{entry}");
    }
    assert_eq!(allowed("apo:claimed:Ann"), Some(vec![Code::UnknownChannel]));
    assert_eq!(allowed("api:claimed:A\\u202Enn"), Some(vec![Code::BadSender]));
    for (senders, code) in [
        ("mode = \"drop\"", Code::MissingKey),
        ("allow = [], mode = \"ignore\"", Code::UnknownWord),
        ("allow = \"*\"", Code::WrongType),
        ("allow = [], deny = []", Code::UnknownKey),
    ] {
        assert_eq!(codes(&read(senders).unwrap_err()), [code], "{senders}");
    }
    let senders = |text: &str| read(text).unwrap().groups[&group("g")].senders.clone().unwrap();
    let read = senders("allow = [\"api:claimed:Ann\", \"*\"]");
    let allow: Vec<String> = read.allow.iter().map(ToString::to_string).collect();
    assert_eq!((allow.join(" "), read.mode.word()), ("* api:claimed:Ann".to_owned(), "trigger"));
    assert_eq!(senders("allow = [], mode = \"drop\"").mode.word(), "drop");
}

#[test]
fn a_conversation_is_of_a_chat_and_of_nothing_else_yet() {
    let group = format!("{BASE}[groups.home]\n");
    assert_eq!(valid(&format!("{group}conversation = \"per-chat\"\n")), valid(&group));
    let shown = human(&format!("{group}conversation = \"per-sender\"\n"));
    assert!(shown.contains("per-sender") && shown.contains("\"per-chat\""), "{shown}");
}

#[test]
fn an_address_is_a_host_and_a_port_and_nothing_else() {
    let check = |url: &str| {
        manifest::parse(&format!(
            "schema = 1\nname = \"home\"\n[models.a]\nkind = \"ollama\"\nmodel = \"m\"\nurl = \"{url}\"\n[groups.home]\n"
        ))
        .map_err(|problems| codes(&problems))
        .err()
    };
    for url in [
        "http://localhost",
        "https://ollama.lan:443",
        "http://[::1]:11434",
        "http://10.0.0.2:1",
        "http://a/",
        "http://a:1/ollama",
        "https://a.b/x/y_z/",
        "http://[::1]/o",
    ] {
        assert_eq!(check(url), None, "{url}");
    }
    for url in [
        "",
        "localhost:11434",
        "ftp://a",
        "http://",
        "http://:80",
        "http://a:0",
        "http://a:65536",
        "http://a:+1",
        "http://a:",
        "http://a?x",
        "http://a#x",
        "http://a/b?c",
        "http://a//b",
        "http://a/../b",
        "http://a/b c",
        "http:///b",
        "http://u:p@a",
        "http://[::1",
        "http://[x]:1",
        "http://[::1]x",
        "http://a b",
        "http://a..b",
        "http://ä",
        "HTTP://a:1:2",
    ] {
        assert_eq!(check(url), Some(vec![Code::BadUrl]), "{url}");
    }
}

// What a person reads.

macro_rules! faults {
    ($($name:ident: $text:expr;)+) => {
        $(#[test]
        fn $name() {
            assert_snapshot!(human($text));
        })+
    };
}

faults! {
    an_unknown_key_names_what_may_have_been_meant:
        "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n\n[groups.family]\nlimits = { tunr = \"4m\", idle = \"2m\" }\n";
    an_unknown_section_is_one_problem_only: "schema = 1\nname = \"home\"\n[model.local]\nkind = \"rehearsal\"\n[group.home]\n";
    a_key_without_a_value_hides_nothing: "schema = 1\n\nname \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nmodel = \"lokal\"\nmain\ntrigger = \n";
    a_key_written_twice_shows_both: "schema = 1\nname = \"home\"\nname = \"office\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nmain = true\n[groups.home]\nmain = true\n";
    broken_lines_are_reported_one_by_one: "schema = 1\nname = \"home\n[models.local]\nkind = rehearsal\n[groups.home\nbind = [\"terminal\"\nmain = yes\nenv = { LANG = \"C\"\n[groups.work]\nmain = 1\n";
    a_wrong_type_says_what_is_taken: "schema = \"1\"\nname = 7\nassistant = \"Baby\"\n[models.local]\nkind = true\n[[groups]]\nname = \"home\"\n";
    what_is_required_is_asked_for: "[models.local]\n[models.other]\nkind = \"ollama\"\n[groups.home]\nmodel = \"local\"\n[channels.desk]\n[secrets]\nfoo = {}\n";
    a_later_schema_is_refused: "schema = 2\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\n";
    a_word_that_is_none_of_those_taken: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"olama\"\n[groups.home]\nlifecycle = \"ondemand\"\n";
    units_and_bounds: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\ncontext = 1024\n[groups.home.limits]\nturn = 30\nidle = \"30\"\noutput = \"10MB\"\ndisk = \"0B\"\n";
    names_that_cannot_be_folders: "schema = 1\nname = \"My Home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.global]\n[groups.\"../etc\"]\n[groups.\"Family Chat\"]\n[groups.\"\\u001b[31mred\"]\n";
    a_key_of_another_kind: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\nurl = \"http://127.0.0.1:11434\"\n[groups.home]\n";
    a_terminal_bound_twice_shows_both: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nbind = [\"terminal\"]\n[groups.work]\nbind = [\"terminal\"]\n";
    two_mains_show_both: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nmain = true\n\n\n\n\n\n[groups.work]\nmain = true\n";
    references_that_lead_nowhere: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[defaults.group]\nmodel = \"lokal\"\n[groups.home]\nbind = [\"terminl\", \"tg:-100\", \"terminal:me\"]\nmodel = \"gpt\"\n";
    several_models_need_a_choice: "schema = 1\nname = \"home\"\n[models.a]\nkind = \"rehearsal\"\n[models.b]\nkind = \"rehearsal\"\n[groups.home]\n[groups.work]\n[groups.club]\nmodel = \"a\"\n";
    no_model_and_no_group: "schema = 1\nname = \"home\"\n";
    a_secret_in_the_manifest_is_not_shown: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[secrets]\ntelegram = \"123456:AAF-hunter2\"\nboth = { env = \"A\", file = \"b\" }\n[groups.home]\n";
    a_runtime_of_a_later_release: "schema = 1\nname = \"home\"\n[runtime]\nkind = \"apple-container\"\nlimits = { memory = \"1GiB\" }\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\n";
    limits_that_nothing_enforces: "schema = 1\nname = \"home\"\n[runtime]\nkind = \"none\"\n[runtime.limits]\ncpus = 2\n[models.local]\nkind = \"rehearsal\"\n[defaults.group.limits]\npids = 64\n[groups.home]\nlimits = { memory = \"1GiB\" }\n";
    variables_that_belong_to_the_sandbox: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home.env]\nPATH = \"/tmp\"\nLD_PRELOAD = \"x\"\nBABYBOT_X = \"x\"\nTZ = \"Asia/Tokyo\"\n\"a-b\" = \"x\"\nNOTE = \"two\\nlines\"\n";
    models_that_cannot_be_used: "schema = 1\nname = \"home\"\n[models.a]\nkind = \"ollama\"\nmodel = \"gpt-oss:120b-cloud\"\nurl = \"http://me:secret@127.0.0.1:11434\"\n[models.b]\nkind = \"rehearsal\"\nscript = \"../../etc/passwd\"\n[groups.home]\nmodel = \"a\"\n";
    texts_and_zones: "schema = 1\nname = \"home\"\n[assistant]\nname = \"\"\ntimezone = \"Europe/Belin\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\ntrigger = \" @Baby\"\n";
    a_group_with_a_foreign_letter: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.Küche]\nmain = true\n[groups.home]\nlärm = 1\n";
    a_slip_of_a_key_that_is_written_already: "schema = 1\nname = \"home\"\nnme = \"office\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nbind = \"terminal\"\nmain = \"yes\"\nlimits.turn = 5\nlifecycle = true\n";
    a_variable_that_holds_a_secret: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nenv = { LANG = \"C\", GITHUB_TOKEN = \"ghp_hunter2\" }\n[groups.work.env]\ndb_password = \"hunter2\"\nTOKENS_MAX = \"5\"\n";
    an_image_that_cannot_be_had: "schema = 1\nname = \"home\"\n[runtime.image]\nref = \"registry/agent:1\"\nbase = \"scratch\"\npackages = [\"git\", \"c url\", \"$(id)\"]\nbinary = \"../babybot\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\n";
    a_runtime_written_badly: "schema = 1\nname = \"home\"\n[runtime]\nkind = \"dcoker\"\nfallback = \"docker\"\nparallel = 0\nimage = \"debian\"\ndocker = { hosts = \"x\", host = \"tcp://10.0.0.7:2375\" }\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\n";
    columns_count_characters: "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nenv = { \"GRÜSSE\" = \"日本語\", HOME = \"/\" } # ☕\n";
}

#[test]
fn many_problems_are_cut_for_a_person_but_not_for_a_program() {
    let groups: String = (0..60).map(|n| format!("[groups.g{n}]\nmodle = 1\n")).collect();
    let text = format!("{BASE}{groups}");
    let problems = problems(&text);
    let shown = render::human("babybot.toml", &text, &problems, Colors::Plain);
    assert_eq!(shown.matches("error[BB0107]").count(), render::SHOWN_MAX);
    assert!(shown.ends_with("and 10 more, see `babybot validate --format json`\n60 errors\n"));
    let parsed: serde_json::Value =
        serde_json::from_str(&render::json("babybot.toml", &problems)).unwrap();
    assert_eq!(parsed["problems"].as_array().unwrap().len(), 60);
}

#[test]
fn no_diagnostic_shows_what_may_be_a_secret() {
    for spoilt in [
        "[groups.home]\nenv = { GITHUB_TOKEN = \"hunter2\" }",
        "[groups.home.env]\nMY_API_KEY = 'hunter2'",
        "[groups.home]\ntoken = \"hunter2\"",
        "[groups.home]\nbot = { password = [\"hunter2\"] }",
        "[groups.home]\npassword = \"hunter2",
        "[groups.home]\npassword = hunter2",
        "[groups.home]\npassword \"hunter2\"",
        "[channels.tg]\nkind = \"telegram\"\ntoken = \"hunter2\"",
        "[channels.tg]\ntoken = \"hunter2\"\nkind = \"telegram\"",
        "[secrets]\ntelegram = \"hunter2\"",
        "[secrets]\ntelegram = { evn = \"hunter2\" }",
        "[secrets]\ntelegram = { env = \"hunter2-AAF\" }",
        "[secrets.telegram]\nvalue = \"hunter2\"",
        "[secrets]\ntelegram = { env = \"A\", file = \"hunter2\" }",
    ] {
        let text = format!("{BASE}{spoilt}\n");
        let problems = problems(&text);
        let shown = render::human("babybot.toml", &text, &problems, Colors::Plain);
        assert!(!shown.contains("hunter2"), "{spoilt}: {shown}");
        let json = render::json("babybot.toml", &problems);
        assert!(!json.contains("hunter2"), "{spoilt}: {json}");
    }
}

#[test]
fn a_flood_of_problems_is_bounded_and_counted() {
    let keys: String = (0..50_000).map(|n| format!("key{n} = 1\n")).collect();
    let text = format!("{BASE}[groups.home]\n{keys}");
    let problems = problems(&text);
    assert_eq!(problems.len(), 50_000);
    let json = render::json("babybot.toml", &problems);
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["problems"].as_array().unwrap().len(), render::PROBLEMS_MAX);
    assert_eq!(parsed["more"], 49_000);
    let shown = render::human("babybot.toml", &text, &problems, Colors::Plain);
    assert!(shown.contains("and 49950 more") && shown.ends_with("50000 errors\n"));
}

#[test]
fn colour_is_only_where_it_was_asked_for() {
    let text = format!("{BASE}[groups.home]\nmodle = 1\n");
    let problems = problems(&text);
    let plain = render::human("babybot.toml", &text, &problems, Colors::Plain);
    let coloured = render::human("babybot.toml", &text, &problems, Colors::Ansi);
    assert!(!plain.contains('\u{1b}'));
    assert!(coloured.contains("\u{1b}[31m"), "{coloured:?}");
    assert!(!coloured.contains("\u{1b}]8;"), "no terminal links");
}

#[test]
fn a_program_is_given_every_place() {
    let text = "schema = 1\nname = \"home\"\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nbind = [\"terminal\"]\n[groups.work]\nbind = [\"terminal\"]\n";
    let json = render::json("babybot.toml", &problems(text));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_snapshot!(serde_json::to_string_pretty(&json).unwrap());
    assert_eq!(render::json("x", &[]), "{\"valid\":true,\"problems\":[]}\n");
}

#[test]
fn a_line_too_long_to_show_is_named_only() {
    let text = format!("{BASE}[groups.home]\nmodle = \"{}\"\n", "x".repeat(3000));
    let shown = human(&text);
    assert!(shown.contains("─[babybot.toml:6:1]") && shown.len() < 500, "{shown}");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let shown = human(&format!("{BASE}[groups.home]\nmodle = \"\u{1b}[31m\u{7f}\"\n"));
    assert!(!shown.contains(['\u{1b}', '\u{7f}']), "{shown:?}");
    let shown = human("schema = 1\rname = \"home\"\r\nmodle = 1\r\n");
    assert!(!shown.contains('\r') && shown.contains("schema = 1?name"), "{shown:?}");
}

// Places.

#[test]
fn places_are_right_in_every_way_of_writing() {
    let ways = [
        ("limits = { tunr = \"4m\" }", "tunr"),
        ("limits.tunr = \"4m\"", "tunr"),
        ("limits = {\n  tunr = \"4m\",\n}", "tunr"),
        ("[groups.home.limits]\ntunr = \"4m\"", "tunr"),
        ("\"limits\".'tunr' = \"4m\"", "'tunr'"),
        ("env = { Ä = 1, B = \"ok\" }", "Ä"),
        ("env.\"日\" = \"x\"", "\"日\""),
    ];
    for (written, marked) in ways {
        let text = format!("{BASE}[groups.home]\r\n# ☕日本\r\n{written}\r\n");
        let found = problems(&text);
        let span = found.iter().find_map(|problem| {
            let span = problem.span()?;
            (text[span.offset..span.offset + span.length] == *marked).then_some(span)
        });
        let span = span.unwrap_or_else(|| panic!("{written}: {found:#?}"));
        let before = &text[..span.offset];
        assert_eq!(span.line, before.matches('\n').count() + 1, "{written}");
        let line = before.rsplit('\n').next().unwrap();
        assert_eq!(span.column, line.chars().count() + 1, "{written}");
    }
}

#[test]
fn problems_come_in_the_order_of_the_text() {
    let text = format!(
        "{BASE}[groups.b]\nbind = [\"terminal\"]\n[groups.a]\nbind = [\"terminal\"]\n[groups.b.limits]\nturn = \"0s\"\nidle\n"
    );
    let offsets: Vec<_> = problems(&text).iter().map(|p| p.span().unwrap().offset).collect();
    assert!(offsets.is_sorted() && offsets.len() == 3, "{offsets:?}");
}

// All at once.

#[test]
fn bounds_are_checked_by_name() {
    let many: String = (0..10_001).map(|n| format!("[groups.g{n}]\n")).collect();
    assert_eq!(codes(&problems(&format!("{BASE}{many}"))), [Code::TooManyGroups]);
    let long = "x".repeat(4097);
    let text = format!("{BASE}[groups.home]\ntrigger = \"{long}\"\n");
    assert_eq!(codes(&problems(&text)), [Code::TextTooLong]);
    let huge = format!("{BASE}# {}\n", "x".repeat(4 << 20));
    assert_eq!(codes(&problems(&huge)), [Code::TooLarge]);
}

#[test]
fn what_cannot_be_recovered_from_brings_no_phantoms() {
    let hopeless = [
        "schema = 1\nname = \"\"\"home\n[models.local]\nkind = \"rehearsal\"\n[groups.home]\nbind = [\"terminal\"]\n",
        "schema = 1\nname = \"home\"\n[models.local\nkind = \"rehearsal\"\n[groups.home]\nbind = [\"terminal\"\n[groups.work]\n",
        "}{",
        "\u{0}",
        "= = =\n[[[\n",
        "a.b.c.d = {{{{[[[[\n\"\"\"\n'''\n",
    ];
    for text in hopeless {
        let found = problems(text);
        assert!(found.iter().all(|problem| problem.span().is_some()), "{text:?}: {found:?}");
        assert!(
            !codes(&found).contains(&Code::BoundTwice)
                && !codes(&found).contains(&Code::UnknownModel),
            "{text:?}: {found:#?}"
        );
    }
    let deep = format!("{BASE}[groups.home]\na{} = 1\n", ".a".repeat(200));
    assert_eq!(problems(&deep).len(), 1, "{:#?}", problems(&deep));
    let deep = format!("{BASE}[groups.home]\nbind = {}\n", "[".repeat(5000));
    assert_eq!(codes(&problems(&deep)), [Code::Syntax]);
}

/// One way to spoil a group, and how the spoilt piece is marked.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// The line that is spoilt, as it was.
    line: &'static str,
    /// The same line, spoilt.
    spoilt: &'static str,
    /// The piece that is marked; empty where the parser decides that.
    marked: &'static str,
    code: Code,
}

const GROUP: &str = "trigger = \"@Baby\"\nrequires_trigger = true\nmodel = \"local\"\nlifecycle = \"on-demand\"\nenv = { LANG = \"C\" }\nlimits = { turn = \"10m\" }\n";

const FAULTS: &[Fault] = &[
    Fault {
        line: "trigger = \"@Baby\"",
        spoilt: "triger = \"@Baby\"",
        marked: "triger",
        code: Code::UnknownKey,
    },
    Fault {
        line: "trigger = \"@Baby\"",
        spoilt: "trigger \"@Baby\"",
        marked: "trigger",
        code: Code::NoValue,
    },
    Fault {
        line: "trigger = \"@Baby\"",
        spoilt: "trigger = \"@Baby",
        marked: "",
        code: Code::Syntax,
    },
    Fault {
        line: "trigger = \"@Baby\"",
        spoilt: "trigger = \"@Baby\\q\"",
        marked: "",
        code: Code::Syntax,
    },
    Fault {
        line: "requires_trigger = true",
        spoilt: "requires_trigger = \"true\"",
        marked: "\"true\"",
        code: Code::WrongType,
    },
    Fault {
        line: "requires_trigger = true",
        spoilt: "requires_trigger = yes",
        marked: "",
        code: Code::Syntax,
    },
    Fault {
        line: "requires_trigger = true",
        spoilt: "requires_trigger = true\nrequires_trigger = true",
        marked: "requires_trigger",
        code: Code::DuplicateKey,
    },
    Fault {
        line: "requires_trigger = true",
        spoilt: "requires_trigger",
        marked: "requires_trigger",
        code: Code::NoValue,
    },
    Fault {
        line: "model = \"local\"",
        spoilt: "model = \"lokal\"",
        marked: "\"lokal\"",
        code: Code::UnknownModel,
    },
    Fault {
        line: "lifecycle = \"on-demand\"",
        spoilt: "lifecycle = \"ondemand\"",
        marked: "\"ondemand\"",
        code: Code::UnknownWord,
    },
    Fault {
        line: "lifecycle = \"on-demand\"",
        spoilt: "lifecycle = on-demand",
        marked: "",
        code: Code::Syntax,
    },
    Fault {
        line: "env = { LANG = \"C\" }",
        spoilt: "env = { PATH = \"C\" }",
        marked: "PATH",
        code: Code::BadVariable,
    },
    Fault {
        line: "env = { LANG = \"C\" }",
        spoilt: "env = { LANG = \"C\"",
        marked: "",
        code: Code::Syntax,
    },
    Fault {
        line: "limits = { turn = \"10m\" }",
        spoilt: "limits = { turn = \"10\" }",
        marked: "\"10\"",
        code: Code::BadUnit,
    },
    Fault {
        line: "limits = { turn = \"10m\" }",
        spoilt: "limits = { turn = \"0s\" }",
        marked: "\"0s\"",
        code: Code::OutOfBounds,
    },
    Fault {
        line: "limits = { turn = \"10m\" }",
        spoilt: "limits = { memory = \"1GiB\" }",
        marked: "\"1GiB\"",
        code: Code::LimitNotEnforced,
    },
    Fault {
        line: "limits = { turn = \"10m\" }",
        spoilt: "bind = [\"nowhere\"]",
        marked: "\"nowhere\"",
        code: Code::UnknownChannel,
    },
    Fault {
        line: "limits = { turn = \"10m\" }",
        spoilt: "bind = [\"terminal:x\"",
        marked: "",
        code: Code::Syntax,
    },
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// In a thousand groups with k faults, one of them an `=` missing on line 3, there are k problems.
    #[test]
    fn a_thousand_groups_with_k_faults_have_k_problems(
        spoilt in prop::collection::btree_map(0..1000_usize, 0..FAULTS.len(), 1..40),
        line_three in prop::sample::select(vec!["name \"home\"", "name", "name ="]),
    ) {
        check_faults(&spoilt, line_three)?;
    }
}

#[test]
fn every_kind_of_fault_is_found_among_a_thousand_groups() {
    let spoilt = (0..FAULTS.len()).map(|kind| (kind * 50, kind)).collect();
    check_faults(&spoilt, "name \"home\"").unwrap();
}

fn check_faults(spoilt: &BTreeMap<usize, usize>, line_three: &str) -> Result<(), TestCaseError> {
    let mut text = format!(
        "schema = 1\n# Grüße ☕\n{line_three}\n[models.local]\nkind = \"rehearsal\"\n[runtime]\nkind = \"none\"\n"
    );
    // The code, line and piece of each problem, in the order of the text.
    let mut expected = vec![(Code::NoValue, 3, "name")];
    for number in 0..1000 {
        text.push_str(&format!("\n[groups.g{number}]\n"));
        let Some(kind) = spoilt.get(&number) else {
            text.push_str(GROUP);
            continue;
        };
        let fault = &FAULTS[*kind];
        let (before, after) = GROUP.split_once(fault.line).unwrap();
        let twice = fault.spoilt.matches('\n').count();
        let line = text.matches('\n').count() + before.matches('\n').count() + 1 + twice;
        expected.push((fault.code, line, fault.marked));
        text.push_str(&format!("{before}{}{after}", fault.spoilt));
    }
    let found = problems(&text);
    let places: Vec<_> = found
        .iter()
        .zip(expected.iter().map(|(_, _, marked)| marked).chain(std::iter::repeat(&"")))
        .map(|(problem, marked)| {
            let span = problem.span().unwrap();
            let piece = &text[span.offset..span.offset + span.length];
            (problem.code, span.line, if marked.is_empty() { "" } else { piece })
        })
        .collect();
    prop_assert_eq!(places, expected, "{:#?}", found);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default() })]

    /// Whatever a file holds, it is either understood or explained, and every place lies in it.
    #[test]
    fn no_text_is_too_strange(
        cuts in prop::collection::vec((0..400_usize, prop::sample::select(vec!["", "[", "]", "\"", "'''", "{", "}", "=", "\n", "#", "é", "\\", ",", "."])), 1..6),
    ) {
        let mut text = format!("{BASE}[groups.home]\n{GROUP}[groups.work]\nbind = [\"terminal\"]\nenv = {{ \"É\" = '''x'''}}\n");
        for (at, put) in cuts {
            let at = text.char_indices().map(|(at, _)| at).nth(at % text.chars().count()).unwrap();
            let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
            text.replace_range(at..end, put);
        }
        if let Err(problems) = manifest::parse(&text) {
            prop_assert!(!problems.is_empty());
            for problem in &problems {
                for label in &problem.labels {
                    let end = label.span.offset + label.span.length;
                    prop_assert!(text.get(label.span.offset..end).is_some(), "{:?} {:?}", problem, text);
                }
            }
            let shown = render::human("babybot.toml", &text, &problems, Colors::Plain);
            prop_assert!(shown.contains("error[BB"), "{}", shown);
        }
    }
}

// The list of fields and the codes.

#[test]
fn every_field_is_accepted_with_its_sample() {
    for field in FIELDS.iter() {
        let text = with_field(field, field.sample);
        valid(&text);
    }
}

#[test]
fn every_field_is_read() {
    // A date is of no type that a field takes: a decoder that looks at it objects.
    for field in FIELDS.iter() {
        let text = with_field(field, "1979-05-27");
        let problems = problems(&text);
        let wrong = problems.iter().filter(|problem| problem.code == Code::WrongType);
        assert_eq!(wrong.count(), 1, "{}: {problems:?}\n{text}", field.path);
    }
}

#[test]
fn no_table_takes_a_key_that_is_not_a_field() {
    let tables: BTreeSet<&str> = FIELDS.iter().map(Field::table).collect();
    for table in tables.into_iter().filter(|table| !table.ends_with(".env")) {
        let sibling = FIELDS.iter().find(|field| field.table() == table).unwrap();
        let stray = Field {
            path: if table.is_empty() { "stray".into() } else { format!("{table}.stray") },
            ..sibling.clone()
        };
        let problems = problems(&with_field(&stray, "1"));
        assert!(codes(&problems).contains(&Code::UnknownKey), "{table}: {problems:?}");
    }
}

#[test]
fn the_defaults_that_are_documented_are_those_that_hold() {
    let limits = Limits::default();
    let documented = |key: &str| {
        let path = format!("runtime.limits.{key}");
        FIELDS.iter().find(|field| field.path == path).unwrap().default.trim_matches('"').to_owned()
    };
    assert_eq!(documented("cpus"), limits.cpus.to_string());
    assert_eq!(documented("memory"), limits.memory.to_string());
    assert_eq!(documented("pids"), limits.pids.to_string());
    assert_eq!(documented("turn"), limits.turn.to_string());
    assert_eq!(documented("idle"), limits.idle.to_string());
    assert_eq!(documented("output"), limits.output.to_string());
    assert_eq!(documented("disk"), limits.disk.to_string());
}

#[test]
fn every_code_is_shown_by_its_own_example() {
    for code in Code::ALL {
        let explanation = code.explanation();
        assert!(!explanation.title.is_empty() && !explanation.fix.is_empty(), "{code}");
        if explanation.wrong.is_empty() || code.number() < 100 {
            continue;
        }
        let found = codes(&problems(explanation.wrong));
        assert!(found.contains(code), "{code}: {found:?}");
    }
}

#[test]
fn codes_are_found_however_they_are_written() {
    for written in ["BB0107", "bb0107", "0107", "107", " BB107 "] {
        assert_eq!(Code::find(written), Some(Code::UnknownKey), "{written}");
    }
    for written in ["BB9999", "", "BB", "unknown", "-107"] {
        assert_eq!(Code::find(written), None, "{written}");
    }
    let numbers: Vec<u16> = Code::ALL.iter().map(|code| code.number()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

// The file itself.

#[test]
fn a_file_that_is_no_manifest_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let code = |name: &str| {
        let report = source::read(&path(name)).unwrap_err();
        assert!(report.problems.iter().all(|problem| problem.help.is_some()));
        let shown = report.human(Colors::Plain);
        assert!(shown.starts_with("error[BB000"), "{shown}");
        report.problems[0].code
    };
    assert_eq!(code("missing"), Code::FileMissing);
    std::fs::create_dir(path("babybot.toml")).unwrap();
    assert_eq!(code("babybot.toml"), Code::NotAFile);
    let report = source::read(&path("babybot.toml")).unwrap_err();
    assert!(!report.problems[0].help.as_deref().unwrap().contains("babybot.toml"), "{report:?}");
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(code("pipe"), Code::NotAFile);
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    assert_eq!(code("socket"), Code::NotAFile);
    std::fs::write(path("empty"), " \n").unwrap();
    assert_eq!(code("empty"), Code::Empty);
    std::fs::write(path("large"), vec![b'#'; (4 << 20) + 1]).unwrap();
    assert_eq!(code("large"), Code::TooLarge);
    std::fs::write(path("latin"), b"schema = 1\nname = \"caf\xe9\"\n").unwrap();
    assert_eq!(code("latin"), Code::NotUtf8);
    let report = source::read(&path("latin")).unwrap_err();
    assert!(report.problems[0].message.contains("byte 22, on line 2"), "{report:?}");
    if !rustix::process::geteuid().is_root() {
        std::fs::write(path("locked"), "").unwrap();
        std::fs::set_permissions(path("locked"), std::fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(code("locked"), Code::Unreadable);
    }
}

#[test]
fn what_was_read_is_kept_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("babybot.toml");
    let text = format!("{BASE}[groups.home] # ☕\r\n");
    std::fs::write(&path, &text).unwrap();
    let source = source::read(&path).unwrap();
    assert_eq!(source.text, text);
    assert_eq!(source.manifest, valid(&text));
}

// The verbs.

#[test]
fn validate_ends_with_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path());
    for format in [ValidateFormat::Human, ValidateFormat::Json] {
        let args = ValidateArgs { format };
        std::fs::write(&context.manifest, format!("{BASE}[groups.home]\n")).unwrap();
        assert_eq!(validate::run(&args, &context).unwrap(), Exit::Ok);
        std::fs::write(&context.manifest, BASE).unwrap();
        assert_eq!(validate::run(&args, &context).unwrap(), Exit::ManifestInvalid);
    }
    assert_eq!(load(&context).unwrap_err(), Exit::ManifestInvalid);
}

#[test]
fn explain_knows_its_codes_and_says_so_of_others() {
    let context = context(std::path::Path::new("."));
    let explain = |code: &str| explain::run(&ExplainArgs { code: Some(code.into()) }, &context);
    assert_eq!(explain("bb0107").unwrap(), Exit::Ok);
    let error = explain("BB0197").unwrap_err();
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.hint().unwrap().starts_with("did you mean BB01"), "{error:?}");
    assert_eq!(explain("nonsense").unwrap_err().hint(), Some("`babybot explain` lists every code"));
}

#[tokio::test]
async fn init_writes_one_valid_file_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path());
    assert_eq!(init::run(&InitArgs {}, &context).await.unwrap(), Exit::Ok);
    let written = source::read(&context.manifest).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = init::run(&InitArgs {}, &context).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.hint().is_some());
    assert_eq!(std::fs::read_to_string(&context.manifest).unwrap(), written.text);
}

#[tokio::test]
async fn init_does_not_write_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path());
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &context.manifest).unwrap();
    let error = init::run(&InitArgs {}, &context).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.to_string().contains("elsewhere, which is not there"), "{error}");
    assert!(!folder.path().join("elsewhere").exists());
}

#[tokio::test]
async fn init_names_the_file_that_was_asked_for_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let missing = context(&folder.path().join("nowhere"));
    let error = init::run(&InitArgs {}, &missing).await.unwrap_err();
    assert!(error.to_string().ends_with("nowhere is not a folder"), "{error}");
    // Nobody, not even root, makes files here.
    let locked = context(std::path::Path::new("/proc/self"));
    let error = init::run(&InitArgs {}, &locked).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot write /proc/self/babybot.toml: "), "{error}");
    assert!(!error.to_string().contains(".babybot-init-"), "{error}");
}

fn context(folder: &std::path::Path) -> Context {
    Context {
        manifest: folder.join("babybot.toml"),
        color_stdout: false,
        color_stderr: false,
        quiet: 0,
        verbose: 0,
    }
}

/// A manifest that holds one more value, at the place of a field.
fn with_field(field: &Field, value: &str) -> String {
    let path = field
        .path
        .replace("<model>", "extra")
        .replace("<group>", "home")
        .replace("<channel>", "desk")
        .replace("<secret>", "token")
        .replace("<variable>", "NAME");
    let written = format!("{path} = {value}\n");
    let mut lines = vec![];
    for (own, line) in [("schema", "schema = 1\n"), ("name", "name = \"home\"\n")] {
        if path != own {
            lines.push(line.to_owned());
        }
    }
    lines.push("models.local.kind = \"rehearsal\"\n".to_owned());
    if path.starts_with("models.") {
        let kind = field.of_kind.unwrap_or("rehearsal");
        if field.key() != "kind" {
            lines.push(format!("models.extra.kind = \"{kind}\"\n"));
        }
        if kind == "ollama" && field.key() != "model" {
            lines.push("models.extra.model = \"qwen3:8b\"\n".to_owned());
        }
    }
    if path != "defaults.group.model" {
        lines.push("defaults.group.model = \"local\"\n".to_owned());
    }
    if path.starts_with("channels.") && path != "channels.desk.kind" {
        let kind = field.of_kind.unwrap_or("terminal");
        lines.push(format!("channels.desk.kind = \"{kind}\"\n"));
        for (key, line) in [
            ("token.secret", "channels.desk.token.secret = \"api\"\n"),
            ("callback.url", "channels.desk.callback.url = \"https://example.org/\"\n"),
            ("callback.secret", "channels.desk.callback.secret = \"api\"\n"),
        ] {
            let needed = key == "token.secret" || path.contains(".callback.");
            if kind == "webhook" && needed && path != format!("channels.desk.{key}") {
                lines.push(line.to_owned());
            }
        }
        lines.push("secrets.api.env = \"API_TOKEN\"\n".to_owned());
    }
    if path.ends_with(".senders.mode") {
        lines.push("groups.home.senders.allow = [\"*\"]\n".to_owned());
    }
    lines.push(written);
    lines.push("groups.other.main = false\n".to_owned());
    debug_assert!(!matches!(field.takes, Type::Texts) || value.starts_with(['[', '1']));
    lines.concat()
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

#[track_caller]
fn valid(text: &str) -> Manifest {
    manifest::parse(text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"))
}

#[track_caller]
fn problems(text: &str) -> Vec<Diagnostic> {
    manifest::parse(text).expect_err("the manifest is valid")
}

fn codes(problems: &[Diagnostic]) -> Vec<Code> {
    problems.iter().map(|problem| problem.code).collect()
}

#[track_caller]
fn human(text: &str) -> String {
    render::human("babybot.toml", text, &problems(text), Colors::Plain)
}
