//! What the list of fields says of a change is what the planner makes of it.

use babybot::desired::{Desired, Setting};
use babybot::manifest::fields::{FIELDS, Field, Type};
use babybot::manifest::{self, Manifest};
use babybot::name::{ChannelName, ChatId};
use babybot::observed::{Known, Seen};
use babybot::plan::plan;
use babybot::resource::{Binding, ResourceId, Risk};

use crate::support::plan::{World, docker, plan_checked};

#[test]
fn the_documented_risk_is_the_worst_that_is_planned() {
    for field in FIELDS.iter() {
        let documented = field.risk.unwrap_or(Risk::Safe);
        let Some((one, other)) = values(field) else { continue };
        let mut planned = Risk::Safe;
        for (from, to) in [(&one, &other), (&other, &one)] {
            for (before, after) in [(false, false), (true, true), (false, true)] {
                // Only a binding itself can bring strangers in.
                if before == after || field.key() == "bind" {
                    let worst = change((field, from, before), (field, to, after));
                    planned = planned.max(worst);
                }
            }
        }
        assert_eq!(planned, documented, "{}", field.path);
    }
}

#[test]
fn coming_to_run_without_a_wall_is_what_a_runtime_risks() {
    let runtime = FIELDS.iter().find(|field| field.path == "runtime.kind").unwrap();
    let model = FIELDS.iter().find(|field| field.path == "groups.<group>.model").unwrap();
    let text = |value: &str| text(model, value);
    let world = world(&desired(&text("\"local\""), false));
    let plan = plan_checked(&desired(&text("\"real\""), false), &world);
    let line = plan.steps.iter().flat_map(|step| &step.fields).find(|line| line.path == "runtime");
    assert_eq!(line.map(|line| line.risk), runtime.risk);
}

/// Two values of a field, as lines of TOML; `None` where a change cannot be written.
fn values(field: &Field) -> Option<(String, String)> {
    let (one, other) = match (field.path.as_str(), field.takes) {
        // What the runtime's kind comes to is chosen elsewhere; see the test above.
        ("schema" | "runtime.kind" | "runtime.fallback", _) => return None,
        // Which program an image holds is seen by its content.
        ("runtime.image.binary", _) => return None,
        ("runtime.docker.host", _) => ("\"unix:///run/a.sock\"", "\"unix:///run/b.sock\""),
        ("runtime.image.packages", _) => ("[\"git\"]", "[\"curl\"]"),
        ("runtime.parallel", _) => ("2", "3"),
        (path, _) if path.ends_with("limits.pids") => ("64", "128"),
        (path, Type::Size { .. }) if path.ends_with("limits.memory") => ("\"64MiB\"", "\"1GiB\""),
        ("models.<model>.kind", _) => ("\"rehearsal\"", "\"ollama\"\nmodels.extra.model = \"m\""),
        ("models.<model>.url", _) => ("\"http://127.0.0.1:1\"", "\"http://10.0.0.1:1\""),
        (path, Type::Text) if path.ends_with(".model") && !path.starts_with("models.") => {
            ("\"local\"", "\"real\"")
        }
        ("channels.<channel>.kind", _) => ("\"terminal\"", "\"webhook\""),
        ("channels.<channel>.listen", _) => ("\"127.0.0.1:1\"", "\"0.0.0.0:1\""),
        ("channels.<channel>.callback.url", _) => ("\"https://a/\"", "\"https://b/\""),
        (path, _) if path.starts_with("channels.") => ("\"one\"", "\"two\""),
        ("assistant.timezone", _) => ("\"Europe/Berlin\"", "\"Europe/Paris\""),
        (_, Type::Text) => ("\"one\"", "\"two\""),
        ("groups.<group>.senders.allow", _) => ("[\"api:claimed:Ann\"]", "[\"*\"]"),
        (_, Type::Texts) => ("[]", "[\"terminal\"]"),
        (_, Type::Boolean) => ("false", "true"),
        (_, Type::Integer { .. }) => ("4096", "8192"),
        (_, Type::Duration { .. }) => ("\"1m\"", "\"2m\""),
        (_, Type::Size { .. }) => ("\"1MiB\"", "\"2MiB\""),
        (_, Type::Choice([only])) => return Some((String::new(), format!("\"{only}\""))),
        (_, Type::Choice(words)) => {
            return Some((format!("\"{}\"", words[0]), format!("\"{}\"", words[1])));
        }
        (_, Type::Cpus { .. }) => ("1", "2"),
    };
    Some((one.to_owned(), other.to_owned()))
}

type Side<'a> = (&'a Field, &'a str, bool);

/// The worst risk of the plan from one value to another.
fn change(before: Side<'_>, after: Side<'_>) -> Risk {
    let worst = |setting: &Setting| {
        let mut world = world(&desired_on(setting, &text(before.0, before.1), before.2));
        let desired = desired_on(setting, &text(after.0, after.1), after.2);
        world.look_for(&desired);
        for resource in desired.resources.keys() {
            if matches!(resource, ResourceId::Image(_)) {
                world = world.looking(&resource.to_string(), Known::Is(Seen::Image));
            }
        }
        // The second opinion refuses strangers without a wall; here only the planner is asked.
        let plan = plan(&desired, &world.observed);
        plan.steps.iter().map(|step| step.risk).max().unwrap_or(Risk::Safe)
    };
    // What only containers have shows with an engine alone.
    worst(&Setting::default()).max(worst(&docker()))
}

fn world(desired: &Desired) -> World {
    let mut world = World::empty(desired);
    let plan = plan(desired, &world.observed);
    world.apply(&plan);
    world
}

/// A manifest in which a field has this value; an empty one is not written.
fn text(field: &Field, value: &str) -> String {
    let path = field
        .path
        .replace("<model>", "extra")
        .replace("<group>", "home")
        .replace("<channel>", "desk")
        .replace("<secret>", "telegram")
        .replace("<variable>", "NAME");
    let mut lines = vec!["schema = 1".to_owned()];
    let mut line = |own: &str, rest: &str| {
        if path != own {
            lines.push(format!("{own} = {rest}"));
        }
    };
    line("name", "\"home\"");
    line("models.local.kind", "\"rehearsal\"");
    line("models.real.kind", "\"ollama\"");
    line("models.real.model", "\"qwen3:8b\"");
    line("defaults.group.model", "\"local\"");
    if path.starts_with("models.") {
        let kind = field.of_kind.unwrap_or("rehearsal");
        line("models.extra.kind", &format!("\"{kind}\""));
        if kind == "ollama" {
            line("models.extra.model", "\"m\"");
        }
    }
    if path.starts_with("channels.") {
        line("secrets.one.env", "\"ONE\"");
        line("secrets.two.env", "\"TWO\"");
        line("channels.desk.kind", "\"webhook\"");
        if field.key() != "kind" || value.contains("webhook") {
            line("channels.desk.token.secret", "\"one\"");
        }
    }
    if path.contains(".callback.") {
        line("channels.desk.callback.url", "\"https://a/\"");
        line("channels.desk.callback.secret", "\"one\"");
    }
    if path.contains(".senders.") {
        // A sender is somebody at a webhook.
        line("secrets.api.env", "\"API\"");
        line("channels.api.kind", "\"webhook\"");
        line("channels.api.token.secret", "\"api\"");
        line("groups.home.bind", "[\"api:kitchen\"]");
        line("groups.home.senders.allow", "[\"api:claimed:Ann\"]");
    }
    if !path.starts_with("groups.") || value.is_empty() {
        line("groups.home.main", "false");
    }
    if !value.is_empty() {
        lines.push(format!("{path} = {value}"));
    }
    lines.join("\n")
}

fn desired(text: &str, strangers: bool) -> Desired {
    desired_on(&Setting::default(), text, strangers)
}

fn desired_on(setting: &Setting, text: &str, strangers: bool) -> Desired {
    let mut manifest: Manifest =
        manifest::parse(text).unwrap_or_else(|problems| unreachable!("{problems:#?}\n{text}"));
    if strangers {
        // No channel of this release has anybody but its owner on it; those to come will.
        let binding = Binding {
            channel: ChannelName::new("tg").unwrap(),
            chat: Some(ChatId::new("-100").unwrap()),
        };
        manifest.groups.values_mut().for_each(|group| group.bind.push(binding.clone()));
    }
    Desired::new(&manifest, setting)
}
