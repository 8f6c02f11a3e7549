//! Manifests built without a parser, and a world that carries out plans.

use std::collections::{BTreeMap, BTreeSet};

use babybot::desired::{Desired, Setting};
use babybot::manifest::{Declared, Group, Manifest, RuntimeWish, Span, Written};
use babybot::name::{ChannelName, ChatId, GroupName, ModelName, ProjectName, SandboxId};
use babybot::observed::{
    Applied, Availability, Controller, Known, Observed, Owner, SandboxSeen, SandboxState, Seen,
};
use babybot::plan::check::{Finding, check};
use babybot::plan::{Plan, Step, Work, plan};
use babybot::resource::{Binding, ChannelSpec, Lifecycle, Limits, ModelSpec, ResourceId, Spec};

/// A resource by its printed name.
pub(crate) fn id(text: &str) -> ResourceId {
    ResourceId::try_from(text.to_owned()).expect("tests write valid resource names")
}

/// A group by its name.
pub(crate) fn group_name(text: &str) -> GroupName {
    GroupName::new(text).expect("tests write valid names")
}

/// Reads lines such as `model local ollama`, `channel desk` and `group main bind=terminal
/// model=local env.LANG=de`; each line is one line of the manifest, each field has its place.
pub(crate) fn manifest(text: &str) -> Manifest {
    let mut manifest = Manifest {
        name: Written { value: ProjectName::new("home").expect("a name"), at: None },
        assistant: Written { value: "Baby".to_owned(), at: None },
        timezone: None,
        runtime: RuntimeWish::default(),
        secrets: BTreeMap::new(),
        models: BTreeMap::new(),
        channels: BTreeMap::new(),
        groups: BTreeMap::new(),
    };
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = Span { offset: 0, length: 1, line: number + 1, column: 1 };
        match words.as_slice() {
            [] => {}
            ["model", name, kind, fields @ ..] => {
                let name = ModelName::new(*name).expect("a name");
                manifest.models.insert(name, model(kind, fields, at));
            }
            ["channel", name] => {
                let name = ChannelName::new(*name).expect("a name");
                let fields = BTreeMap::from([("kind".to_owned(), at)]);
                let declared = Declared { at, spec: ChannelSpec::Terminal, fields };
                manifest.channels.insert(name, declared);
            }
            ["group", name, fields @ ..] => {
                manifest.groups.insert(group_name(name), group(fields, at));
            }
            _ => unreachable!("not a line of a test manifest: {line}"),
        }
    }
    manifest
}

fn model(kind: &str, fields: &[&str], at: Span) -> Declared<ModelSpec> {
    let mut spec = match kind {
        "ollama" => ModelSpec::Ollama {
            url: "http://127.0.0.1:11434".to_owned(),
            model: "qwen3:8b".to_owned(),
            context: 16384,
            keep_alive: "30m".parse().expect("a period"),
        },
        _ => ModelSpec::Rehearsal { context: 16384, script: None },
    };
    let mut places = BTreeMap::from([("kind".to_owned(), at)]);
    for field in fields {
        let (path, value) = field.split_once('=').expect("a field has a value");
        places.insert(path.to_owned(), at);
        match (&mut spec, path) {
            (ModelSpec::Ollama { url, .. }, "url") => *url = value.to_owned(),
            (ModelSpec::Ollama { model, .. }, "model") => *model = value.to_owned(),
            (
                ModelSpec::Ollama { context, .. } | ModelSpec::Rehearsal { context, .. },
                "context",
            ) => *context = value.parse().expect("a number"),
            _ => unreachable!("not a field of a test model: {field}"),
        }
    }
    Declared { at, spec, fields: places }
}

fn group(fields: &[&str], at: Span) -> Group {
    let mut group = Group {
        at,
        main: false,
        bind: Vec::new(),
        trigger: "@Baby".to_owned(),
        requires_trigger: true,
        model: ModelName::new("demo").expect("a name"),
        lifecycle: Lifecycle::OnDemand,
        limits: Limits::default(),
        env: BTreeMap::new(),
        fields: BTreeMap::new(),
    };
    for field in fields {
        let (path, value) = field.split_once('=').expect("a field has a value");
        group.fields.insert(path.to_owned(), at);
        match path {
            "main" => group.main = value == "true",
            "bind" => group.bind.extend(value.split(',').map(binding)),
            "trigger" => group.trigger = value.to_owned(),
            "requires_trigger" => group.requires_trigger = value == "true",
            "model" => group.model = ModelName::new(value).expect("a name"),
            "limits.memory" => group.limits.memory = value.parse().expect("a size"),
            "lifecycle" => group.lifecycle = Lifecycle::Always,
            _ => {
                let name = path.strip_prefix("env.").expect("a field of a test group");
                group.env.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    group
}

fn binding(text: &str) -> Binding {
    let (channel, chat) = match text.split_once(':') {
        Some((channel, chat)) => (channel, Some(ChatId::new(chat).expect("a chat"))),
        None => (text, None),
    };
    Binding { channel: ChannelName::new(channel).expect("a name"), chat }
}

/// What a test manifest asks for.
pub(crate) fn desired(text: &str) -> Desired {
    Desired::new(&manifest(text), &Setting::default())
}

/// A machine that plans can be made for and carried out on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct World {
    /// What a look at it shows.
    pub(crate) observed: Observed,
}

impl World {
    /// A machine on which babybot never was, looked at for these resources.
    pub(crate) fn empty(desired: &Desired) -> Self {
        let mut world = Self {
            observed: Observed {
                controller: Controller::Absent,
                applied: Known::Absent,
                looks: BTreeMap::new(),
                agents: BTreeMap::new(),
            },
        };
        world.look_for(desired);
        world
    }

    /// A machine on which this manifest was applied, and nothing happened since.
    pub(crate) fn with(text: &str) -> Self {
        let desired = desired(text);
        let mut world = Self::empty(&desired);
        world.apply(&plan(&desired, &world.observed));
        world
    }

    /// Looks for what a manifest asks for and was not looked for yet: it is not there, except for
    /// models, which their servers have.
    pub(crate) fn look_for(&mut self, desired: &Desired) {
        for resource in desired.resources.keys() {
            let look = match resource {
                ResourceId::Model(_) => Known::Is(Seen::Model(Availability::Present)),
                _ => Known::Absent,
            };
            self.observed.looks.entry(resource.clone()).or_insert(look);
        }
    }

    /// The same machine with another look at one resource.
    pub(crate) fn looking(mut self, resource: &str, look: Known<Seen>) -> Self {
        self.observed.looks.insert(id(resource), look);
        self
    }

    /// What the last generation recorded.
    pub(crate) fn specs(&self) -> BTreeMap<ResourceId, Spec> {
        match &self.observed.applied {
            Known::Is(applied) => applied.specs.clone(),
            Known::Absent | Known::Unknown(_) => BTreeMap::new(),
        }
    }

    /// Carries out a whole plan.
    pub(crate) fn apply(&mut self, plan: &Plan) {
        self.apply_first(plan, plan.steps.len());
    }

    /// Carries out the first steps of a plan and records a generation.
    pub(crate) fn apply_first(&mut self, plan: &Plan, count: usize) {
        let mut done = BTreeSet::new();
        for step in plan.steps.iter().take(count) {
            self.carry_out(step);
            done.insert(step.id.clone());
        }
        if !done.is_empty() {
            let specs = plan.recorded(&self.specs(), &done);
            self.observed.applied = Known::Is(Applied { number: plan.generation(), specs });
        }
    }

    fn carry_out(&mut self, step: &Step) {
        let look = match &step.work {
            Work::MakeFolders { .. } => {
                Known::Is(Seen::Folder { missing: BTreeSet::new(), foreign: BTreeSet::new() })
            }
            Work::WriteGlobalMemory => Known::Is(Seen::GlobalMemory),
            Work::WriteSettings { env, .. } => Known::Is(Seen::Settings { env: Some(env.clone()) }),
            Work::BuildImage { .. } => Known::Is(Seen::Image),
            Work::StartAgent { .. } | Work::ReplaceAgent { .. } => return,
            Work::RemoveImage { .. }
            | Work::StopAgent { .. }
            | Work::RemoveSandboxes { .. }
            | Work::StopLeftover { .. } => Known::Absent,
            Work::Record { .. } | Work::Forget => return,
        };
        self.observed.looks.insert(step.id.clone(), look);
    }
}

/// A sandbox of ours that runs, with this many processes.
pub(crate) fn running(processes: u32) -> Seen {
    let sandbox = SandboxSeen {
        id: SandboxId::new("one").expect("an id"),
        name: "bb-0-one".to_owned(),
        owner: Owner::Ours,
        state: SandboxState::Running,
        digest: None,
        edits: Vec::new(),
        processes: Some(processes),
    };
    Seen::Container { sandboxes: vec![sandbox] }
}

/// Plans, and has every plan looked over.
#[track_caller]
pub(crate) fn plan_checked(desired: &Desired, world: &World) -> Plan {
    let plan = plan(desired, &world.observed);
    assert_eq!(check(&plan, desired, &world.observed), Ok::<(), Vec<Finding>>(()), "{plan:#?}");
    plan
}
