//! Images and containers: what a person reads of them, with a controller and without.

use babybot::desired::{Choice, Desired, Doubt, Setting};
use babybot::manifest::Override;
use babybot::observed::{Known, Owner, SandboxSeen, SandboxState, Seen};
use babybot::plan::check::Problem;
use babybot::plan::render::{self, Color, Heading};
use babybot::plan::{Action, NoteKind, Plan, Work, plan};
use babybot::resource::{ResourceId, Risk, RuntimeKind, UserId, digest};
use insta::assert_snapshot;

use super::tampered::problems_of;
use crate::support::plan::{World, desired_on, docker, group_name, id, plan_checked, sandbox};

const HOME: &str = "
runtime kind=auto base=scratch
model demo rehearsal
group home bind=terminal
";

pub(super) const ALWAYS: &str = "
runtime kind=auto base=scratch
model demo rehearsal
group home bind=terminal lifecycle=always
";

#[test]
fn a_first_plan_on_docker_builds_the_image_first() {
    let desired = desired_on(&docker(), HOME);
    assert_snapshot!(printed(&desired, &World::empty(&desired)), @"
    manifest  babybot.toml   generation - → 1   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     +   instance             create: runtime docker (babybot.toml:2)   safe
     +   image/d16e6fc8eb67   create: base scratch (babybot.toml:2)     safe
     +   model/demo           create: kind rehearsal (babybot.toml:3)   safe
     +   memory/global        create                                    safe
     +   folder/home          create                                    safe
     +   settings/home        create                                    safe
     +   group/home           create                                    safe
           bind    terminal   babybot.toml:4
           model   demo
     +   channel/terminal     create: kind terminal                     safe

     ·   container/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime docker isolates: no network, only its group's folders

    8 to add, 0 to change, 0 to remove. Risk: all safe
    Next: babybot apply   (`plan -v` also shows 21 defaults)
    ");
}

#[test]
fn an_image_with_something_in_it_is_privileged_until_it_is_known() {
    let on = |text: &str| desired_on(&docker(), &HOME.replace("base=scratch", text));
    let plan_from = |before: &Desired, now: &Desired| {
        let mut world = World::of(before);
        world.look_for(now);
        plan_checked(now, &world)
    };
    let (scratch, debian) = (on("base=scratch"), on("base=debian:stable-slim"));
    assert_eq!(image_risk(&plan_from(&scratch, &debian)), Risk::Privileged);
    assert_eq!(image_risk(&plan_from(&debian, &scratch)), Risk::Safe);
    let packed = on("base=debian:stable-slim packages=git,curl");
    assert_eq!(image_risk(&plan_from(&debian, &packed)), Risk::Safe);
    let other = on("base=alpine:3");
    assert_eq!(image_risk(&plan_from(&packed, &other)), Risk::Privileged);
    // That it is there already makes nothing in it more trusted.
    let there = World::empty(&debian).looking(&image(&debian), Known::Is(Seen::Image));
    let plan = plan_checked(&debian, &there);
    let step = plan.steps.iter().find(|step| is_image(&step.id)).expect("the image has a step");
    assert_eq!((step.action, step.risk), (Action::Adopt, Risk::Privileged));
}

#[test]
fn an_image_that_is_named_is_not_fetched() {
    let desired = desired_on(&docker(), &HOME.replace("base=scratch", "ref=example.org/agent:1"));
    assert_snapshot!(printed(&desired, &World::empty(&desired)), @"
    manifest  babybot.toml   generation - → 1   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     +   instance           create: runtime docker (babybot.toml:2)   safe
     +   model/demo         create: kind rehearsal (babybot.toml:3)   safe
     +   memory/global      create                                    safe
     +   folder/home        create                                    safe
     +   settings/home      create                                    safe
     +   channel/terminal   create: kind terminal                     safe

     !   group/home: created later, because it needs image/dbf9fd7d9735
     !   image/dbf9fd7d9735: there is no image example.org/agent:1:
         `docker pull example.org/agent:1`
     ·   container/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime docker isolates: no network, only its group's folders

    6 to add, 0 to change, 0 to remove. Risk: all safe
    Next: babybot apply   (`plan -v` also shows 4 defaults)
    ");
    let world = World::empty(&desired).looking(&image(&desired), Known::Is(Seen::Image));
    assert_eq!(image_risk(&plan_checked(&desired, &world)), Risk::Privileged);
}

#[test]
fn without_a_program_no_image_is_planned() {
    let setting = Setting { binary: None, ..docker() };
    let desired = desired_on(&setting, HOME);
    let plan = plan_checked(&desired, &World::empty(&desired));
    assert!(plan.steps.iter().all(|step| !matches!(step.work, Work::BuildImage { .. })));
    assert_eq!(waiting(&plan), ["created later, because it needs ".to_owned() + &image(&desired)]);
}

#[test]
fn an_engine_that_does_not_answer_holds_its_groups_up() {
    let desired = desired_on(&docker(), HOME);
    let why = || Known::Unknown("connection refused".to_owned());
    let world =
        World::of(&desired).looking(&image(&desired), why()).looking("container/home", why());
    let plan = plan_checked(&desired, &world);
    assert!(plan.is_empty() && plan.is_held_back());
    let edited =
        desired_on(&docker(), &HOME.replace("group home", "group home limits.memory=2GiB"));
    let plan = plan_checked(&edited, &world);
    assert!(plan.is_empty(), "{plan:#?}");
}

#[test]
fn another_engine_is_a_line_of_its_own_and_a_weaker_user_is_privileged() {
    let at = |url: &str, uid: u32| {
        let user = Some(UserId { uid, gid: uid });
        desired_on(&Setting { engine: Some(url.to_owned()), user, ..docker() }, HOME)
    };
    let named = HOME.replace("base=scratch", "base=scratch host=unix:///b.sock");
    let named = desired_on(&docker(), &named);
    let (one, other) = (at("unix:///a.sock", 1000), at("unix:///b.sock", 1000));
    let rootless = at("unix:///r.sock", 0);
    let risk = |before: &Desired, now: &Desired| {
        let mut world = World::of(before);
        world.look_for(now);
        let plan = plan_checked(now, &world);
        for id in ["instance", "group/home"] {
            let step = plan.steps.iter().find(|step| step.id.to_string() == id);
            let mut lines = step.map(|step| &step.fields).into_iter().flatten();
            let said = lines.any(|line| line.path == "runtime.docker.host");
            assert!(said, "{id} does not say it: {plan:#?}");
        }
        plan.steps.iter().map(|step| step.risk).max()
    };
    assert_eq!(risk(&one, &other), Some(Risk::Disruptive));
    assert_eq!(risk(&one, &named), Some(Risk::Privileged));
    assert_eq!(risk(&one, &rootless), Some(Risk::Disruptive));
    assert_eq!(risk(&rootless, &one), Some(Risk::Privileged));
    // The first is where one was found, and to name what is there already changes nothing.
    let first = plan_checked(&one, &World::empty(&one));
    assert!(first.steps.iter().all(|step| step.risk == Risk::Safe), "{first:#?}");
    assert!(plan_checked(&named, &World::of(&other)).is_empty());
}

#[test]
fn an_agent_at_another_engine_is_replaced() {
    let at = |url: &str| desired_on(&Setting { engine: Some(url.to_owned()), ..docker() }, ALWAYS);
    let (before, now) = (at("unix:///a.sock"), at("unix:///b.sock"));
    let digest = before.containers[&group_name("home")].digest();
    let mut world = World::of(&before)
        .controlled()
        .running("home", sandbox("one", &digest))
        .knowing("home", "one");
    world.look_for(&now);
    let plan = plan_checked(&now, &world);
    let step = plan.steps.iter().find(|step| step.id.to_string() == "container/home").unwrap();
    assert!(matches!(step.work, Work::ReplaceAgent { .. }), "{step:#?}");
    assert_eq!(step.fields[0].path, "runtime.docker.host");
}

#[test]
fn an_image_that_is_gone_is_built_again() {
    let desired = desired_on(&docker(), HOME);
    let world = World::of(&desired).looking(&image(&desired), Known::Absent);
    assert_snapshot!(printed(&desired, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   image/d16e6fc8eb67   repair: the image is missing       safe

     ·   container/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 1 to change, 0 to remove. Risk: all safe
    Next: babybot apply
    ");
}

#[test]
fn another_program_makes_another_image_and_the_old_one_goes() {
    let before = desired_on(&docker(), HOME);
    let setting = Setting { binary: Some(digest(b"babybot, later")), ..docker() };
    let now = desired_on(&setting, HOME);
    let mut world = World::of(&before);
    world.look_for(&now);
    assert_snapshot!(printed(&now, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     +   image/23dfd13488a2   create: base scratch (babybot.toml:2)             safe
     ~   group/home           change: takes effect when the agent next starts   safe
           image   d16e6fc8eb67 → 23dfd13488a2
     -   image/d16e6fc8eb67   remove: no longer in use                          safe

     ·   container/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime docker isolates: no network, only its group's folders

    1 to add, 1 to change, 1 to remove. Risk: all safe
    Next: babybot apply   (`plan -v` also shows 3 defaults)
    ");
    world.apply(&plan_checked(&now, &world));
    assert!(plan_checked(&now, &world).is_empty());
}

#[test]
fn an_image_goes_after_the_agent_that_runs_from_it() {
    let before = desired_on(&docker(), ALWAYS);
    let setting = Setting { binary: Some(digest(b"babybot, later")), ..docker() };
    let now = desired_on(&setting, ALWAYS);
    let mut world = running(&before, "one");
    world.look_for(&now);
    let first = plan_checked(&now, &world);
    assert_eq!(waiting(&first), ["removed later, because container/home may still use it"]);
    world.apply(&first);
    let second = plan_checked(&now, &world);
    let works: Vec<_> = second.steps.iter().map(|step| &step.work).collect();
    assert!(matches!(works.as_slice(), [Work::RemoveImage { .. }]), "{works:?}");
    world.apply(&second);
    assert!(plan_checked(&now, &world).is_empty());
}

#[test]
fn more_memory_under_a_controller_is_a_change_and_one_replacement() {
    let (before, now) = (desired_on(&docker(), ALWAYS), with_memory(ALWAYS));
    let world = running(&before, "one");
    assert_snapshot!(printed(&now, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   group/home         change: takes effect when the agent next starts   safe
           limits.memory   1GiB → 2GiB   babybot.toml:4
     ~   container/home     change: the agent is replaced                     disruptive
           limits.memory   1GiB → 2GiB   babybot.toml:4

     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 2 to change, 0 to remove. Risk: 1 disruptive
    Next: babybot apply
    ");
    let mut world = world;
    world.apply(&plan_checked(&now, &world));
    assert!(plan_checked(&now, &world).is_empty());
}

#[test]
fn more_memory_without_a_controller_is_a_change_alone() {
    let (before, now) = (desired_on(&docker(), ALWAYS), with_memory(ALWAYS));
    assert_snapshot!(printed(&now, &World::of(&before)), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   group/home         change: takes effect when the agent next starts   safe
           limits.memory   1GiB → 2GiB   babybot.toml:4

     ·   container/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 1 to change, 0 to remove. Risk: all safe
    Next: babybot apply
    ");
}

#[test]
fn an_agent_at_work_is_replaced_when_it_is_done() {
    let (before, now) = (desired_on(&docker(), ALWAYS), with_memory(ALWAYS));
    let world = running(&before, "one busy");
    assert_snapshot!(printed(&now, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   group/home         change: takes effect when the agent next starts   safe
           limits.memory   1GiB → 2GiB   babybot.toml:4

     !   container/home: will be replaced when the current work is done
     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 1 to change, 0 to remove. Risk: all safe
    Next: babybot apply
    ");
}

#[test]
fn nothing_stale_runs_on_demand_either() {
    let (before, now) = (desired_on(&docker(), HOME), with_memory(HOME));
    let world = running(&before, "one");
    assert_eq!(container_work(&now, &world), Some((Action::Change, stop())));
    // What a controller would not start again, it still stops.
    let (before, now) = (desired_on(&docker(), ALWAYS), with_memory(ALWAYS));
    let world = running(&before, "one held");
    assert_eq!(container_work(&now, &world), Some((Action::Change, stop())));
}

#[test]
fn what_a_person_did_to_a_sandbox_is_mended() {
    let desired = desired_on(&docker(), ALWAYS);
    let paused = |words: &str| {
        let paused = SandboxSeen { state: SandboxState::Paused, ..fresh(&desired, "one") };
        World::of(&desired).controlled().knowing("home", words).running("home", paused)
    };
    assert_snapshot!(printed(&desired, &paused("one")), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   container/home     repair: paused outside babybot; the agent is replaced   disruptive

     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 1 to change, 0 to remove. Risk: 1 disruptive
    Next: babybot apply
    ");
    assert_eq!(container_work(&desired, &paused("one busy")), Some((Action::Mend, replace())));
    assert_eq!(container_work(&desired, &paused("one held")), Some((Action::Mend, stop())));

    let edits = vec!["memory is 512MiB".to_owned()];
    let edited = SandboxSeen { edits, ..fresh(&desired, "one") };
    let world = World::of(&desired).controlled().knowing("home", "one").running("home", edited);
    assert_snapshot!(printed(&desired, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   container/home     repair: memory is 512MiB; the agent is replaced   disruptive

     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 1 to change, 0 to remove. Risk: 1 disruptive
    Next: babybot apply
    ");

    let on_demand = desired_on(&docker(), HOME);
    let halted = SandboxSeen { state: SandboxState::Paused, ..fresh(&on_demand, "one") };
    let world = |words: &str| {
        let world = World::of(&on_demand).controlled().running("home", halted.clone());
        world.knowing("home", words)
    };
    assert_eq!(container_work(&on_demand, &world("one")), Some((Action::Mend, stop())));
    assert_eq!(container_work(&on_demand, &world("one busy")), Some((Action::Mend, replace())));
}

#[test]
fn a_second_sandbox_is_removed_and_nothing_is_started_beside_it() {
    let desired = desired_on(&docker(), ALWAYS);
    let world = running(&desired, "one").running("home", fresh(&desired, "two"));
    assert_snapshot!(printed(&desired, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     -   container/home     stop: 1 leftover container without an agent   disruptive

     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 0 to change, 1 to remove. Risk: 1 disruptive
    Next: babybot apply
    ");
    // One that no agent answers from is in the way of another.
    let alone = World::of(&desired).controlled().running("home", fresh(&desired, "two"));
    let remove = |name: &str| Work::RemoveSandboxes {
        group: group_name("home"),
        sandboxes: vec![fresh(&desired, name).id],
    };
    assert_eq!(container_work(&desired, &alone), Some((Action::Stop, remove("two"))));
    // Unless it may be the one that is just being started.
    // One of them is being started: nothing is done, and there is nothing to tell a person.
    let starting = alone.knowing("home", "starting");
    assert_eq!(container_work(&desired, &starting), None);
    assert_eq!(waiting(&plan(&desired, &starting.observed)), [""; 0]);
}

#[test]
fn an_agent_that_is_always_there_is_started_unless_it_is_held() {
    let desired = desired_on(&docker(), ALWAYS);
    let world = World::of(&desired).controlled();
    let start = Work::StartAgent { group: group_name("home") };
    assert_eq!(container_work(&desired, &world), Some((Action::Create, start)));
    assert_eq!(container_work(&desired, &world.clone().knowing("home", "held")), None);
    // The controller notices by itself that its agent has ended.
    assert_eq!(container_work(&desired, &world.knowing("home", "one")), None);
    let on_demand = desired_on(&docker(), HOME);
    assert_eq!(container_work(&on_demand, &World::of(&on_demand).controlled()), None);
}

#[test]
fn a_label_in_another_form_replaces_nothing_by_itself() {
    let desired = desired_on(&docker(), ALWAYS);
    let made_by_another = |label: &str, edits: &[&str]| {
        let edits = edits.iter().map(|edit| (*edit).to_owned()).collect();
        let one = SandboxSeen { edits, ..sandbox("one", label) };
        let world = World::of(&desired).running("home", one).controlled().knowing("home", "one");
        container_work(&desired, &world).map(|(action, _)| action)
    };
    for label in ["v0:0123456789abcdef", "v2:0123456789abcdef", "v10:sha512/0123"] {
        assert_eq!(made_by_another(label, &[]), None, "{label}");
        // What is not as it was asked for is seen by looking at it.
        let edited = made_by_another(label, &["memory is 512MiB"]);
        assert_eq!(edited, Some(Action::Mend), "{label}");
    }
    for label in ["v1:0123456789abcdef", "v:0123", "vx:0123", "0123"] {
        assert_eq!(made_by_another(label, &[]), Some(Action::Change), "{label}");
    }
}

#[test]
fn a_stranger_with_our_name_is_left_alone() {
    let desired = desired_on(&docker(), ALWAYS);
    let stranger = SandboxSeen { owner: Owner::Stranger, ..sandbox("home", "v1:other") };
    let world = World::of(&desired).running("home", stranger);
    assert_snapshot!(printed(&desired, &world.clone().controlled()), @"
    No changes can be made yet.

     !   container/home: cannot start: another container has this name
     !   container/home: bb-0123abcd-home belongs to someone else; the group cannot
         start until you rename or remove that container
    ");
    assert!(plan_checked(&desired, &world).is_empty());
}

#[test]
fn a_group_that_is_no_longer_asked_for_ends_with_its_agent() {
    let two = format!("{HOME}group kids\n");
    let (before, now) = (desired_on(&docker(), &two), desired_on(&docker(), HOME));
    let kids = sandbox("one", &before.containers[&group_name("kids")].digest());
    let world = World::of(&before).controlled().running("kids", kids);
    assert_snapshot!(printed(&now, &world.clone().knowing("kids", "one")), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     -   container/kids     stop: no longer in the manifest     disruptive
     -   group/kids         remove: no longer in the manifest   destructive

     =   group/kids: kept: groups/kids, its sessions and its messages
     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 0 to change, 2 to remove. Risk: 1 destructive, 1 disruptive
    Next: babybot apply
    ");
    let busy = plan_checked(&now, &world.knowing("kids", "one busy"));
    assert_eq!(waiting(&busy), ["will stop when the current work is done"]);
}

#[test]
fn folders_are_given_to_whom_the_agent_runs_as() {
    let owner = UserId { uid: 10_001, gid: 10_001 };
    let setting = Setting { owner: Some(owner), user: Some(owner), ..docker() };
    let (before, now) = (desired_on(&docker(), HOME), desired_on(&setting, HOME));
    let mut world = World::of(&before);
    world.look_for(&now);
    let plan = plan_checked(&now, &world);
    let step = plan.steps.iter().find(|step| step.id == id("folder/home")).expect("a step");
    assert_eq!(
        step.work,
        Work::MakeFolders { group: group_name("home"), owner: Some(owner), global: false }
    );
    assert_eq!(
        (step.fields[0].path.as_str(), step.fields[0].to.as_deref()),
        ("owner", Some("10001:10001"))
    );

    let foreign = ["groups/home".to_owned()].into();
    let look = Known::Is(Seen::Folder { missing: Default::default(), foreign });
    let world = World::of(&now).looking("folder/home", look);
    assert_snapshot!(printed(&now, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     ~   folder/home        repair: wrong owner: groups/home   safe
           owner   10001:10001

     ·   container/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime docker isolates: no network, only its group's folders

    0 to add, 1 to change, 0 to remove. Risk: all safe
    Next: babybot apply
    ");
}

#[test]
fn to_come_to_run_without_a_wall_is_privileged_even_for_a_rehearsal() {
    let (docker, none) = (desired_on(&docker(), HOME), desired_on(&Setting::default(), HOME));
    let mut world = World::of(&docker);
    world.look_for(&none);
    assert_snapshot!(printed(&none, &world), @"
    manifest  babybot.toml   generation 1 → 2   runtime none

     ~   instance             change: takes effect when an agent next starts    safe
           runtime   docker → none   babybot.toml:2
     ~   group/home           change: takes effect when the agent next starts   PRIVILEGED
           runtime   docker → none           babybot.toml:2   PRIVILEGED
             does not isolate: the agent runs as you, on this machine
           image     d16e6fc8eb67 → (none)
           user      1000:1000 → (none)
     -   image/d16e6fc8eb67   remove: no longer in use                          safe

     ·   group/home, channel/terminal: start with `babybot up`
     ·   group/home: runtime none does not isolate: the agent runs as your user
     ·   group/home: runtime none does not enforce limits.cpus, memory and pids

    0 to add, 2 to change, 1 to remove. Risk: 1 privileged
    Next: babybot apply
    ");
    let mut world = World::of(&none);
    world.look_for(&docker);
    let plan = plan_checked(&docker, &world);
    let group = plan.steps.iter().find(|step| step.id == id("group/home")).expect("a step");
    assert_eq!(group.risk, Risk::Disruptive);
}

#[test]
fn strangers_may_drive_an_agent_behind_a_wall_and_not_keep_it_without() {
    let text = HOME.replace("bind=terminal", "bind=terminal,tg:1");
    let (docker, none) = (desired_on(&docker(), &text), desired_on(&Setting::default(), &text));
    let mut world = World::of(&docker);
    plan_checked(&docker, &World::empty(&docker));
    world.look_for(&none);
    let problems = problems_of(&plan(&none, &world.observed), &none, &world);
    assert!(matches!(problems.as_slice(), [Problem::StrangerUnwalled(_)]), "{problems:?}");
}

/// The choice where `auto` found an engine that does not answer, on the first apply.
fn silent_engine() -> Setting {
    let found = "docker does not answer: permission denied";
    let doubt = Some(Doubt::Silent(found.to_owned()));
    let runtime = Choice { kind: RuntimeKind::None, reason: format!("auto: {found}"), doubt };
    Setting { runtime, ..Setting::default() }
}

#[test]
fn an_engine_that_does_not_answer_needs_approval_where_a_model_decides_for_itself() {
    let text = HOME.replace("rehearsal", "ollama");
    let desired = desired_on(&silent_engine(), &text);
    let plan = plan_checked(&desired, &World::empty(&desired));
    let group = plan.steps.iter().find(|step| step.id == id("group/home")).expect("a step");
    assert_eq!(group.risk, Risk::Privileged);
    let line = group.fields.iter().find(|field| field.path == "runtime").expect("a field");
    assert_eq!(
        line.meaning.as_deref(),
        Some(
            "does not isolate: the agent runs as you, on this machine; docker does not answer: \
             permission denied"
        )
    );
    // It is said once, when it is new.
    assert!(plan_checked(&desired, &World::of(&desired)).is_empty());
}

#[test]
fn an_engine_that_does_not_answer_is_named_and_needs_no_approval_where_the_owner_rehearses() {
    let desired = desired_on(&silent_engine(), HOME);
    let plan = plan_checked(&desired, &World::empty(&desired));
    assert!(plan.steps.iter().all(|step| step.risk == Risk::Safe), "{plan:#?}");
    let text = printed(&desired, &World::empty(&desired));
    // Wherever its lines are broken.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("docker does not answer: permission denied"), "{text}");
    assert!(plan_checked(&desired, &World::of(&desired)).is_empty());
}

#[test]
fn the_environment_needs_approval_for_a_process_even_where_the_owner_rehearses() {
    let doubt = Some(Doubt::Environment("CONTAINER_RUNTIME says so".to_owned()));
    let runtime = Choice { kind: RuntimeKind::None, reason: "named".to_owned(), doubt };
    let desired = desired_on(&Setting { runtime, ..Setting::default() }, HOME);
    let plan = plan_checked(&desired, &World::empty(&desired));
    let group = plan.steps.iter().find(|step| step.id == id("group/home")).expect("a step");
    assert_eq!(group.risk, Risk::Privileged);
}

#[test]
fn what_the_environment_says_is_shown_with_where_it_came_from() {
    let over = |variable: &str, path: &str, value: &str| Override {
        variable: variable.to_owned(),
        set: value.to_owned(),
        path: path.to_owned(),
        value: value.to_owned(),
    };
    let overrides = vec![
        over("CONTAINER_IMAGE", "ref", "example.org/agent:1"),
        over("CONTAINER_TIMEOUT", "limits.turn", "10m"),
    ];
    let text = HOME.replace("base=scratch", "ref=example.org/agent:1");
    let desired = desired_on(&Setting { overrides, ..docker() }, &text);
    let world = World::empty(&desired).looking(&image(&desired), Known::Is(Seen::Image));
    assert_snapshot!(printed(&desired, &world), @"
    manifest  babybot.toml   generation - → 1   runtime docker (auto: Docker
              20.10.24 at unix:///var/run/docker.sock)

     +   instance             create: runtime docker (babybot.toml:2)   safe
     =   image/dbf9fd7d9735   adopt: the image is already there         PRIVILEGED
           ref   example.org/agent:1   babybot.toml:2   PRIVILEGED
             from CONTAINER_IMAGE
     +   model/demo           create: kind rehearsal (babybot.toml:3)   safe
     +   memory/global        create                                    safe
     +   folder/home          create                                    safe
     +   settings/home        create                                    safe
     +   group/home           create                                    safe
           bind          terminal   babybot.toml:4
           model         demo
           limits.turn   30m
             from CONTAINER_TIMEOUT
     +   channel/terminal     create: kind terminal                     safe

     ·   container/home, channel/terminal: start with `babybot up`
     ·   instance: CONTAINER_IMAGE in the environment: runtime.image.ref is
         example.org/agent:1
     ·   instance: CONTAINER_TIMEOUT in the environment: limits.turn is 10m
     ·   group/home: runtime docker isolates: no network, only its group's folders

    7 to add, 0 to change, 0 to remove, 1 to adopt. Risk: 1 privileged
    Next: babybot apply   (`plan -v` also shows 18 defaults)
    ");

    let overrides = vec![over("CONTAINER_RUNTIME", "runtime", "none")];
    let setting = Setting { overrides, ..Setting::default() };
    let desired = desired_on(&setting, &HOME.replace("kind=auto", "kind=none"));
    assert_snapshot!(printed(&desired, &World::empty(&desired)), @"
    manifest  babybot.toml   generation - → 1   runtime none

     +   instance           create                                    safe
           runtime   none   babybot.toml:2
             from CONTAINER_RUNTIME
     +   model/demo         create: kind rehearsal (babybot.toml:3)   safe
     +   memory/global      create                                    safe
     +   folder/home        create                                    safe
     +   settings/home      create                                    safe
     +   group/home         create                                    PRIVILEGED
           bind      terminal   babybot.toml:4
           model     demo
           runtime   none       babybot.toml:2   PRIVILEGED
             does not isolate: the agent runs as you, on this machine;
             CONTAINER_RUNTIME says so, not the manifest
     +   channel/terminal   create: kind terminal                     safe

     ·   group/home, channel/terminal: start with `babybot up`
     ·   instance: CONTAINER_RUNTIME in the environment: runtime.kind is none
     ·   group/home: runtime none does not isolate: the agent runs as your user
     ·   group/home: runtime none does not enforce limits.cpus, memory and pids

    7 to add, 0 to change, 0 to remove. Risk: 1 privileged
    Next: babybot apply   (`plan -v` also shows 16 defaults)
    ");
}

#[test]
fn what_was_applied_is_kept_as_it_is() {
    let text = "runtime kind=auto\nmodel demo rehearsal\nmodel far ollama\nchannel desk\n\
                group home bind=desk env.LANG=de\ngroup kids model=far lifecycle=always\ngroup old";
    let owner = UserId { uid: 10_001, gid: 10_001 };
    let before = desired_on(&Setting { owner: Some(owner), ..docker() }, text);
    let mut world = World::of(&before);
    let now =
        desired_on(&Setting { owner: Some(owner), ..docker() }, &text.replace("group old", ""));
    world.apply(&plan_checked(&now, &world));
    let kept = Desired::of_applied(now.name.clone(), &world.specs());
    assert_eq!(kept.containers, now.containers);
    assert_eq!(kept.runtime.kind, RuntimeKind::Docker);
    let plan = plan_checked(&kept, &world);
    assert!(plan.is_empty(), "{plan:#?}");
    let world = world.looking("settings/home", Known::Absent);
    let plan = plan_checked(&kept, &world);
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.notes.iter().filter(|note| note.kind == NoteKind::Unknown).count(), 0);
}

/// A sandbox that is as it should be.
fn fresh(desired: &Desired, name: &str) -> SandboxSeen {
    sandbox(name, &desired.containers[&group_name("home")].digest())
}

/// A machine on which this was applied and whose agent runs under a controller.
fn running(desired: &Desired, agent: &str) -> World {
    let world = World::of(desired).running("home", fresh(desired, "one"));
    world.controlled().knowing("home", agent)
}

fn with_memory(text: &str) -> Desired {
    desired_on(&docker(), &text.replace("group home", "group home limits.memory=2GiB"))
}

fn replace() -> Work {
    Work::ReplaceAgent { group: group_name("home") }
}

fn stop() -> Work {
    Work::StopAgent { group: group_name("home") }
}

/// What is planned for the sandbox of the group.
#[track_caller]
fn container_work(desired: &Desired, world: &World) -> Option<(Action, Work)> {
    let plan = plan_checked(desired, world);
    let step = plan.steps.into_iter().find(|step| step.id == id("container/home"));
    step.map(|step| (step.action, step.work))
}

fn waiting(plan: &Plan) -> Vec<String> {
    let waiting = plan.notes.iter().filter(|note| note.kind == NoteKind::Waiting);
    waiting.map(|note| note.text.clone()).collect()
}

/// The image that is asked for, by its printed name.
fn image(desired: &Desired) -> String {
    desired.resources.keys().find(|id| is_image(id)).expect("there is an image").to_string()
}

fn is_image(id: &ResourceId) -> bool {
    matches!(id, ResourceId::Image(_))
}

fn image_risk(plan: &Plan) -> Risk {
    let mut steps = plan.steps.iter().filter(|step| !step.takes_away());
    let image = steps.find(|step| step.id.to_string().starts_with("image/"));
    image.map(|step| step.risk).expect("the image has a step")
}

#[track_caller]
fn printed(desired: &Desired, world: &World) -> String {
    let Choice { kind, reason, .. } = desired.runtime.clone();
    let heading = Heading { manifest: "babybot.toml".to_owned(), runtime: kind, reason };
    render::text(&plan_checked(desired, world), &heading, Color::Never)
}

#[test]
fn a_process_of_root_is_told_of_once() {
    let setting = Setting { root: true, ..Setting::default() };
    let remarks = desired_on(&setting, HOME).remarks;
    let users = remarks.iter().filter(|remark| remark.text.contains("the agent runs as"));
    let users: Vec<&str> = users.map(|remark| remark.text.as_str()).collect();
    assert_eq!(
        users,
        [
            "runtime none does not isolate: the agent runs as root, because root owns the project folder"
        ]
    );
}
