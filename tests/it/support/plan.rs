//! Manifests built without a parser, and a world that carries out plans.

use std::collections::{BTreeMap, BTreeSet};

use babybot::desired::{Choice, Desired, Setting};
use babybot::manifest::{
    Declared, Fallback, Group, ImageSource, KindWish, Manifest, RuntimeWish, Span, Written,
};
use babybot::name::{
    ChannelName, ChatId, GroupName, ModelName, ProjectName, SandboxId, SecretName,
};
use babybot::observed::{
    AgentSeen, Applied, Availability, Controller, Known, Observed, Owner, SandboxSeen,
    SandboxState, Seen,
};
use babybot::plan::check::{Finding, check};
use babybot::plan::{Plan, Step, Work, plan};
use babybot::resource::{
    Binding, ChannelSpec, ContainerSpec, Lifecycle, Limits, ModelSpec, ResourceId, RuntimeKind,
    SecretRef, SecretSource, SenderMode, Senders, Spec, UserId, WebhookSpec, containers,
};

/// A resource by its printed name.
pub(crate) fn id(text: &str) -> ResourceId {
    ResourceId::try_from(text.to_owned()).expect("tests write valid resource names")
}

/// A group by its name.
pub(crate) fn group_name(text: &str) -> GroupName {
    GroupName::new(text).expect("tests write valid names")
}

/// Reads lines such as `model local ollama`, `channel desk`, `channel api webhook` and `group main bind=terminal
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
            ["runtime", fields @ ..] => runtime(&mut manifest.runtime, fields, at),
            ["channel", name, kind @ ..] => {
                let name = ChannelName::new(*name).expect("a name");
                let fields = BTreeMap::from([("kind".to_owned(), at)]);
                let spec = match kind {
                    [] => ChannelSpec::Terminal,
                    _ => webhook(),
                };
                let declared = Declared { at, spec, fields };
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

/// A webhook, of which a test says no more than that it is one.
fn webhook() -> ChannelSpec {
    let source = SecretSource::Env("API_TOKEN".to_owned());
    let token = SecretRef { name: SecretName::new("api").expect("a name"), source };
    let listen = "127.0.0.1:8787".parse().expect("an address");
    ChannelSpec::Webhook(Box::new(WebhookSpec { listen, token, callback: None }))
}

fn runtime(wish: &mut RuntimeWish, fields: &[&str], at: Span) {
    for field in fields {
        let (path, value) = field.split_once('=').expect("a field has a value");
        if ["base", "packages", "ref"].contains(&path) {
            wish.image.at = Some(at);
            wish.image.fields.insert(path.to_owned(), at);
        }
        match (path, &mut wish.image.source) {
            ("kind", _) => {
                let kinds = [
                    ("auto", KindWish::Auto),
                    ("docker", KindWish::Docker),
                    ("none", KindWish::None),
                ];
                let kind = kinds.iter().find(|(word, _)| *word == value).expect("a runtime");
                wish.kind = Written { value: kind.1, at: Some(at) };
            }
            ("fallback", _) => wish.fallback = Fallback::Error,
            ("host", _) => {
                wish.docker_host = Some(Written { value: value.to_owned(), at: Some(at) });
            }
            ("parallel", _) => {
                wish.parallel = Written { value: value.parse().expect("a number"), at: Some(at) };
            }
            ("base", ImageSource::Built { base, .. }) => *base = value.to_owned(),
            ("packages", ImageSource::Built { packages, .. }) => {
                packages.extend(value.split(',').map(str::to_owned));
            }
            ("ref", source) => *source = ImageSource::Named(value.to_owned()),
            _ => unreachable!("not a field of a test runtime: {field}"),
        }
    }
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
        senders: None,
        model: ModelName::new("demo").expect("a name"),
        lifecycle: Lifecycle::OnDemand,
        runtime: None,
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
            "senders.allow" => {
                let allow = value.split(',').filter(|entry| !entry.is_empty());
                let allow = allow.map(|entry| entry.parse().expect("a sender")).collect();
                group.senders = Some(Senders { allow, mode: SenderMode::Trigger });
            }
            "senders.mode" => {
                let senders = group.senders.as_mut().expect("senders.allow stands before it");
                senders.mode = SenderMode::Drop;
            }
            "requires_trigger" => group.requires_trigger = value == "true",
            "model" => group.model = ModelName::new(value).expect("a name"),
            "limits.memory" => group.limits.memory = value.parse().expect("a size"),
            "lifecycle" => group.lifecycle = Lifecycle::Always,
            "runtime" => {
                let kinds = [RuntimeKind::None, RuntimeKind::Docker];
                group.runtime = kinds.into_iter().find(|kind| kind.word() == value);
            }
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

/// What a test manifest asks for on a machine like this.
pub(crate) fn desired_on(setting: &Setting, text: &str) -> Desired {
    Desired::new(&manifest(text), setting)
}

/// A machine with Docker.
pub(crate) fn docker() -> Setting {
    Setting {
        capabilities: BTreeMap::new(),
        users: BTreeMap::new(),
        runtime: Choice {
            kind: RuntimeKind::Docker,
            reason: "auto: Docker 20.10.24 at unix:///var/run/docker.sock".to_owned(),
            doubt: None,
        },
        user: Some(UserId { uid: 1000, gid: 1000 }),
        owner: None,
        engine: None,
        binary: Some(babybot::resource::digest(b"babybot")),
        warnings: Vec::new(),
        overrides: Vec::new(),
        root: false,
    }
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
        Self::of(&desired(text))
    }

    /// A machine on which this was applied, and nothing happened since.
    pub(crate) fn of(desired: &Desired) -> Self {
        let mut world = Self::empty(desired);
        world.apply(&plan(desired, &world.observed));
        world
    }

    /// The same machine under a controller.
    pub(crate) fn controlled(mut self) -> Self {
        self.observed.controller = Controller::Running;
        self
    }

    /// The same machine with what a controller knows of a group's agent, such as `one busy`: the
    /// sandbox it holds, and how it is.
    pub(crate) fn knowing(mut self, group: &str, words: &str) -> Self {
        let mut agent = AgentSeen::default();
        for word in words.split_whitespace() {
            match word {
                "busy" => agent.busy = true,
                "held" => agent.held = true,
                "starting" => agent.starting = true,
                name => agent.sandbox = Some(SandboxId::new(name).expect("an id")),
            }
        }
        self.observed.agents.insert(group_name(group), agent);
        self
    }

    /// The same machine with this sandbox of a group besides those it has.
    pub(crate) fn running(mut self, group: &str, sandbox: SandboxSeen) -> Self {
        let id = ResourceId::Container(group_name(group));
        match self.observed.looks.get_mut(&id) {
            Some(Known::Is(Seen::Container { sandboxes })) => sandboxes.push(sandbox),
            _ => {
                let seen = Seen::Container { sandboxes: vec![sandbox] };
                self.observed.looks.insert(id, Known::Is(seen));
            }
        }
        self
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
            let specs = plan.recorded(&self.specs(), &done);
            self.carry_out(step, &containers(&specs));
            done.insert(step.id.clone());
        }
        if !done.is_empty() {
            let specs = plan.recorded(&self.specs(), &done);
            self.observed.applied = Known::Is(Applied { number: plan.generation(), specs });
        }
    }

    fn carry_out(&mut self, step: &Step, specs: &BTreeMap<GroupName, ContainerSpec>) {
        let look = match &step.work {
            Work::MakeFolders { .. } => {
                Known::Is(Seen::Folder { missing: BTreeSet::new(), foreign: BTreeSet::new() })
            }
            Work::WriteGlobalMemory => Known::Is(Seen::GlobalMemory),
            Work::WriteSettings { env, .. } => Known::Is(Seen::Settings { env: Some(env.clone()) }),
            Work::BuildImage { .. } => Known::Is(Seen::Image),
            Work::RemoveImage { .. } => Known::Absent,
            Work::StartAgent { group } => return self.start(group, specs),
            Work::ReplaceAgent { group } => {
                self.stop(group);
                return self.start(group, specs);
            }
            Work::StopAgent { group } => return self.stop(group),
            Work::RemoveSandboxes { group, sandboxes } => {
                return self.remove(group, |sandbox| sandboxes.contains(&sandbox.id));
            }
            Work::StopLeftover { group } => return self.remove(group, |_| true),
            Work::Record { .. } | Work::Forget => return,
        };
        self.observed.looks.insert(step.id.clone(), look);
    }

    fn start(&mut self, group: &GroupName, specs: &BTreeMap<GroupName, ContainerSpec>) {
        let agent = self.observed.agents.entry(group.clone()).or_default();
        assert_eq!(agent.sandbox, None, "{group} would have two agents");
        let new = sandbox("new", &specs[group].digest());
        agent.sandbox = Some(new.id.clone());
        let look = self.observed.looks.get(&ResourceId::Container(group.clone()));
        assert!(matches!(look, None | Some(Known::Absent)), "{group} would have two sandboxes");
        let seen = Seen::Container { sandboxes: vec![new] };
        self.observed.looks.insert(ResourceId::Container(group.clone()), Known::Is(seen));
    }

    fn stop(&mut self, group: &GroupName) {
        let agent = self.observed.agents.get_mut(group).expect("the controller knows it");
        let known = agent.sandbox.take().expect("the controller holds one");
        self.remove(group, |sandbox| sandbox.id == known);
    }

    /// Removes those sandboxes of a group that are ours and that this holds of.
    fn remove(&mut self, group: &GroupName, which: impl Fn(&SandboxSeen) -> bool) {
        let id = ResourceId::Container(group.clone());
        let Some(Known::Is(Seen::Container { sandboxes })) = self.observed.looks.get_mut(&id)
        else {
            unreachable!("{group} has no sandbox to remove");
        };
        sandboxes.retain(|sandbox| sandbox.owner == Owner::Stranger || !which(sandbox));
        if sandboxes.is_empty() {
            self.observed.looks.remove(&id);
        }
    }
}

/// A sandbox of ours that runs, made from what has this digest.
pub(crate) fn sandbox(name: &str, digest: &str) -> SandboxSeen {
    SandboxSeen {
        id: SandboxId::new(name).expect("an id"),
        name: format!("bb-0123abcd-{name}"),
        owner: Owner::Ours,
        state: SandboxState::Running,
        digest: Some(digest.to_owned()),
        edits: Vec::new(),
        processes: Some(2),
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
