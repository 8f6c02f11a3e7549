//! Plans that were changed by hand after they were made: the check finds each of them.

use babybot::desired::{Desired, Setting};
use babybot::name::ImageTag;
use babybot::observed::{Controller, Known, Owner, SandboxSeen, Seen};
use babybot::plan::check::{Problem, check};
use babybot::plan::{Action, Plan, Step, Work, plan};
use babybot::resource::{ImageSpec, ModelSpec, ResourceId, Risk, Spec, UserId};

use super::FAMILY;
use super::containers::ALWAYS;
use crate::support::plan::{
    World, desired, desired_on, docker, group_name, id, plan_checked, running, sandbox,
};

#[test]
fn a_step_twice() {
    rejects(&[Problem::TwoSteps], |plan| {
        let step = plan.steps[0].clone();
        plan.steps.insert(0, step);
    });
}

#[test]
fn a_group_before_its_folder() {
    rejects(&[Problem::Order], |plan| {
        let group = position(plan, "group/family");
        let step = plan.steps.remove(group);
        plan.steps.insert(0, step);
    });
}

#[test]
fn a_group_that_does_not_wait_for_its_folder() {
    let folder = id("folder/family");
    rejects(&[Problem::DoesNotWait(folder.clone())], move |plan| {
        step(plan, "group/family").needs.retain(|below| *below != folder);
    });
}

#[test]
fn a_removal_at_the_end() {
    rejects(&[Problem::Order], |plan| {
        let at = position(plan, "group/old");
        let removal = plan.steps.remove(at);
        plan.steps.push(removal);
    });
}

#[test]
fn another_parent() {
    rejects(&[Problem::Parent], |plan| plan.parent = Some(7));
}

#[test]
fn a_folder_removed() {
    rejects(&[Problem::RemovesData], |plan| {
        let mut step = step(plan, "group/old").clone();
        step.id = id("folder/old");
        plan.steps.insert(1, step);
    });
}

#[test]
fn a_resource_of_nobody() {
    rejects(&[Problem::Foreign, Problem::Work], |plan| {
        step(plan, "model/local").id = id("model/mallory");
    });
}

#[test]
fn a_group_removed_that_the_manifest_asks_for() {
    // It also stands where nothing is removed any more.
    rejects(&[Problem::Contrary, Problem::Order], |plan| {
        let step = step(plan, "group/family");
        (step.action, step.work, step.risk) = (Action::Remove, Work::Forget, Risk::Destructive);
    });
}

#[test]
fn work_on_another_group() {
    rejects(&[Problem::Work], |plan| {
        let step = step(plan, "folder/family");
        step.work = Work::MakeFolders { group: group_name("main"), owner: None, global: false };
    });
}

#[test]
fn another_spec_than_was_asked_for() {
    rejects(&[Problem::Work], |plan| {
        let spec = Spec::Model(ModelSpec::Rehearsal { context: 1, script: None });
        step(plan, "model/local").work = Work::Record { spec };
    });
}

#[test]
fn a_privileged_step_called_safe() {
    let (said, needed) = (Risk::Safe, Risk::Privileged);
    rejects(&[Problem::RiskUnderstated { said, needed }], |plan| {
        step(plan, "model/local").risk = Risk::Safe;
    });
}

#[test]
fn a_privileged_step_called_safe_in_every_field_too() {
    let (said, needed) = (Risk::Safe, Risk::Privileged);
    rejects(&[Problem::RiskUnderstated { said, needed }], |plan| {
        let step = step(plan, "model/local");
        step.risk = Risk::Safe;
        step.fields.clear();
    });
}

#[test]
fn a_removed_group_called_safe() {
    let (said, needed) = (Risk::Safe, Risk::Destructive);
    rejects(&[Problem::RiskUnderstated { said, needed }], |plan| {
        step(plan, "group/old").risk = Risk::Safe;
    });
}

#[test]
fn a_missing_wall_unsaid() {
    rejects(&[Problem::WallUnsaid], |plan| {
        let step = step(plan, "group/main");
        step.fields.retain(|field| field.path != "runtime");
    });
}

#[test]
fn a_missing_wall_unsaid_on_a_model() {
    let (before, now) = ("model m rehearsal\ngroup g model=m", "model m ollama\ngroup g model=m");
    let (desired, world) = (desired(now), World::with(before));
    let mut plan = plan_checked(&desired, &world);
    plan.steps[0].fields.retain(|field| !field.path.starts_with("groups."));
    assert_eq!(problems(&plan, now, &world), [Problem::WallUnsaid]);
}

#[test]
fn a_step_on_something_that_nobody_could_see() {
    let unknown = || Known::Unknown("permission denied".to_owned());
    let world = before().looking("folder/family", unknown());
    let blind = plan(&desired(FAMILY), &before().observed);
    let problem = Problem::LookUnknown(id("folder/family"));
    // The folder itself, and the settings and the group that stand on it.
    assert_eq!(problems(&blind, FAMILY, &world), [problem.clone(), problem.clone(), problem]);
}

#[test]
fn a_leftover_stopped_while_a_controller_runs() {
    let found = || Known::Is(running(1));
    let mut world = World::with(FAMILY).looking("container/main", found());
    let plan = plan_checked(&desired(FAMILY), &world);
    assert_eq!(plan.steps.len(), 1);
    world.observed.controller = Controller::Running;
    assert_eq!(problems(&plan, FAMILY, &world), [Problem::Work]);
}

#[test]
fn work_on_agents_that_are_not_there_or_not_idle_or_not_ours() {
    let desired = desired_on(&docker(), ALWAYS);
    let digest = desired.containers[&group_name("home")].digest();
    let world = |words: &str| {
        let world = World::of(&desired).controlled().running("home", sandbox("one", &digest));
        world.knowing("home", words)
    };
    let home = || group_name("home");
    let remove =
        |name: &str| Work::RemoveSandboxes { group: home(), sandboxes: vec![sandbox(name, "").id] };
    let stranger = SandboxSeen { owner: Owner::Stranger, ..sandbox("two", "") };
    let beside = || world("one").running("home", stranger.clone());
    let alone = World::of(&desired).controlled().running("home", stranger.clone());
    let stale = SandboxSeen { digest: Some("v1:old".to_owned()), ..sandbox("one", "") };
    let busy = World::of(&desired).controlled().running("home", stale).knowing("home", "one busy");
    let start = Work::StartAgent { group: home() };
    let replace = Work::ReplaceAgent { group: home() };
    let stop = Work::StopAgent { group: home() };
    let cases = [
        (Action::Create, start.clone(), world("one"), "beside one that runs"),
        (Action::Create, start.clone(), world(""), "beside one that nobody holds"),
        (Action::Create, start.clone(), alone.clone(), "where a stranger has the name"),
        (Action::Create, start.clone(), World::of(&desired), "without a controller"),
        (Action::Create, start, World::of(&desired).controlled().knowing("home", "held"), "held"),
        (Action::Change, replace.clone(), world("one"), "for no reason"),
        (Action::Change, replace, busy.clone(), "in the middle of a turn"),
        (Action::Change, stop.clone(), busy, "in the middle of a turn"),
        (Action::Stop, stop, world("one"), "that is asked for"),
        (Action::Stop, remove("one"), world("one"), "that an agent answers from"),
        (Action::Stop, remove("two"), beside(), "of a stranger"),
        (Action::Stop, remove("three"), world("one"), "that nobody saw"),
        (Action::Stop, Work::StopLeftover { group: home() }, world("one"), "of a controller"),
    ];
    for (action, work, world, what) in cases {
        let step = Step {
            id: id("container/home"),
            action,
            reason: String::new(),
            fields: Vec::new(),
            risk: Risk::Disruptive,
            at: None,
            needs: Vec::new(),
            work,
        };
        let parent = Some(1);
        let plan = Plan { parent, steps: vec![step.clone()], notes: Vec::new() };
        assert_eq!(problems_of(&plan, &desired, &world), [Problem::Work], "{what}: {step:?}");
    }
}

#[test]
fn work_on_images_that_are_asked_for_in_use_or_nobodys() {
    let desired = desired_on(&docker(), ALWAYS);
    let there = || Known::Is(Seen::Image);
    let old = "image/0123456789ab";
    let other = ImageSpec::Built {
        base: "scratch".to_owned(),
        packages: Vec::new(),
        content: "sha256:other".to_owned(),
        user: UserId { uid: 0, gid: 0 },
        binary: None,
    };
    let tag = |text: &str| ImageTag::new(text).expect("a tag");
    let wanted = image_of(&desired);
    let wanted_tag = tag(wanted.strip_prefix("image/").expect("an image"));
    let remove = |tag: ImageTag| Work::RemoveImage { tag };
    let world = World::of(&desired).looking(old, there());
    let stale = sandbox("one", "v1:old");
    let used = world.clone().controlled().running("home", stale).knowing("home", "one busy");
    let old_tag = tag("0123456789ab");
    let step = |resource: &str, action, work| Step {
        id: id(resource),
        action,
        reason: String::new(),
        fields: Vec::new(),
        risk: Risk::Safe,
        at: None,
        needs: Vec::new(),
        work,
    };
    let cases = [
        (step(old, Action::Remove, remove(old_tag.clone())), &used, vec![Problem::InUse]),
        (
            step(&wanted, Action::Remove, remove(wanted_tag)),
            &world,
            vec![Problem::Contrary, Problem::InUse],
        ),
        (
            step("image/ba9876543210", Action::Remove, remove(tag("ba9876543210"))),
            &world,
            vec![Problem::Foreign, Problem::LookUnknown(id("image/ba9876543210"))],
        ),
        (step(old, Action::Remove, remove(tag("ba9876543210"))), &world, vec![Problem::Work]),
        (
            step(&wanted, Action::Mend, Work::BuildImage { image: other }),
            &world,
            vec![Problem::Work],
        ),
    ];
    for (step, world, expected) in cases {
        let plan = Plan { parent: Some(1), steps: vec![step.clone()], notes: Vec::new() };
        assert_eq!(problems_of(&plan, &desired, world), expected, "{step:?}");
    }
}

#[test]
fn a_weaker_runtime_or_another_engine_called_safe() {
    let (said, needed) = (Risk::Safe, Risk::Privileged);
    let understated = Problem::RiskUnderstated { said, needed };
    let quiet = |before: &Desired, now: &Desired, resource: &str| {
        let mut world = World::of(before);
        world.look_for(now);
        let mut plan = plan_checked(now, &world);
        let step = step(&mut plan, resource);
        step.risk = Risk::Safe;
        step.fields.clear();
        problems_of(&plan, now, &world)
    };
    let on_docker = desired_on(&docker(), ALWAYS);
    let none = desired_on(&Setting::default(), ALWAYS);
    let problems = quiet(&on_docker, &none, "group/home");
    assert_eq!(problems, [understated.clone(), Problem::WallUnsaid]);
    let engine = ALWAYS.replace("base=scratch", "base=scratch host=unix:///run/other.sock");
    let engine = desired_on(&docker(), &engine);
    let found = quiet(&on_docker, &engine, "instance");
    assert_eq!(found, std::slice::from_ref(&understated));
    // Nobody wrote where it is: it is elsewhere, or no longer rootless.
    let at = |url: &str, uid: u32| {
        let user = Some(UserId { uid, gid: uid });
        desired_on(&Setting { engine: Some(url.to_owned()), user, ..docker() }, ALWAYS)
    };
    let (one, other) = (at("unix:///a.sock", 1000), at("unix:///b.sock", 1000));
    let moved = Problem::RiskUnderstated { said, needed: Risk::Disruptive };
    for resource in ["instance", "group/home"] {
        assert_eq!(quiet(&one, &other, resource), std::slice::from_ref(&moved), "{resource}");
    }
    let rootless = quiet(&at("unix:///a.sock", 0), &one, "group/home");
    assert_eq!(rootless, std::slice::from_ref(&understated));
    let base = desired_on(&docker(), &ALWAYS.replace("base=scratch", "base=alpine:3"));
    assert_eq!(quiet(&on_docker, &base, &image_of(&base)), [understated]);
}

#[test]
fn a_plan_without_knowing_the_last_generation() {
    let desired = desired(FAMILY);
    let mut world = World::empty(&desired);
    let blind = plan_checked(&desired, &world);
    world.observed.applied = Known::Unknown("the store is locked".to_owned());
    assert_eq!(problems(&blind, FAMILY, &world), [Problem::GenerationUnknown]);
}

#[test]
fn strangers_at_an_agent_without_a_wall() {
    let now = "model demo rehearsal\ngroup g bind=terminal,tg:1";
    let desired = desired(now);
    let world = World::empty(&desired);
    let problems = problems(&plan(&desired, &world.observed), now, &world);
    assert!(
        matches!(problems.as_slice(), [Problem::StrangerUnwalled(b)] if b.to_string() == "tg:1")
    );
}

#[test]
fn a_finding_reads_as_a_sentence() {
    let mut plan = plan(&desired(FAMILY), &before().observed);
    plan.parent = None;
    step(&mut plan, "model/local").risk = Risk::Safe;
    let findings = check(&plan, &desired(FAMILY), &before().observed).expect_err("tampered");
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    the plan does not start from the applied generation
    model/local has risk safe and needs privileged
    ");
}

/// A machine with one group that goes, and without those that come.
fn before() -> World {
    let mut world = World::with("model demo rehearsal\ngroup old");
    world.look_for(&desired(FAMILY));
    world
}

/// Tampers with the plan from [`before`] to [`FAMILY`] and looks it over.
#[track_caller]
fn rejects(expected: &[Problem], tamper: impl FnOnce(&mut Plan)) {
    let world = before();
    let mut plan = plan_checked(&desired(FAMILY), &world);
    tamper(&mut plan);
    assert_eq!(problems(&plan, FAMILY, &world), expected);
}

fn problems(plan: &Plan, now: &str, world: &World) -> Vec<Problem> {
    problems_of(plan, &desired(now), world)
}

/// What the check finds wrong with a plan.
pub(super) fn problems_of(plan: &Plan, desired: &Desired, world: &World) -> Vec<Problem> {
    let findings = check(plan, desired, &world.observed).err().unwrap_or_default();
    findings.into_iter().map(|finding| finding.problem).collect()
}

fn position(plan: &Plan, resource: &str) -> usize {
    let at = |step: &Step| step.id == id(resource);
    plan.steps.iter().position(at).expect("the resource has a step")
}

fn step<'a>(plan: &'a mut Plan, resource: &str) -> &'a mut Step {
    let at = position(plan, resource);
    &mut plan.steps[at]
}

fn image_of(desired: &Desired) -> String {
    let mut ids = desired.resources.keys();
    ids.find(|id| matches!(id, ResourceId::Image(_))).expect("there is an image").to_string()
}
