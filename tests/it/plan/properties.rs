//! What holds for any two states, however they came about.

use std::collections::{BTreeMap, BTreeSet};

use babybot::desired::Desired;
use babybot::observed::{Applied, Availability, Controller, Known, Observed, Seen};
use babybot::plan::check::check;
use babybot::plan::{Action, Plan, Step, plan};
use babybot::resource::{ResourceId, Risk, Spec};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestError, TestRunner};

use crate::support::plan::{World, desired, id, running};

/// Two manifests and a machine: the first was applied, in part or in full, and then things
/// happened; the second is to be applied now.
#[derive(Clone, Debug)]
struct Case {
    now: Vec<String>,
    observed: Observed,
}

proptest! {
    #![proptest_config(Config { cases: 400, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_plan_once_applied_leaves_nothing_to_do(case in cases()) {
        let mut world = World { observed: case.observed.clone() };
        world.apply(&plan(&case.desired(), &world.observed));
        let again = plan(&case.desired(), &world.observed);
        prop_assert!(again.is_empty(), "{again:#?}");
    }

    #[test]
    fn a_plan_cut_short_is_finished_by_the_next(case in cases(), count in 0..12_usize) {
        let mut world = World { observed: case.observed.clone() };
        world.apply_first(&plan(&case.desired(), &world.observed), count);
        let rest = plan(&case.desired(), &world.observed);
        prop_assert_eq!(check(&rest, &case.desired(), &world.observed), Ok(()));
        world.apply(&rest);
        let again = plan(&case.desired(), &world.observed);
        prop_assert!(again.is_empty(), "{again:#?}");
    }

    #[test]
    fn removals_run_from_the_roof_down_and_the_rest_from_the_ground_up(case in cases()) {
        let steps = case.plan().steps;
        let removals = steps.iter().take_while(|step| step.takes_away()).count();
        let (down, up) = steps.split_at(removals);
        prop_assert!(up.iter().all(|step| !step.takes_away()));
        prop_assert!(down.is_sorted_by(|one, two| one.id > two.id));
        prop_assert!(up.is_sorted_by(|one, two| one.id < two.id));
    }

    #[test]
    fn the_order_in_which_things_are_written_and_found_makes_no_difference(
        (case, shuffled) in cases().prop_flat_map(|case| {
            let looks: Vec<_> = case.observed.looks.clone().into_iter().collect();
            let shuffled = (Just(case.now.clone()).prop_shuffle(), Just(looks).prop_shuffle());
            (Just(case), shuffled)
        }),
    ) {
        let (lines, looks) = shuffled;
        let observed = Observed { looks: looks.into_iter().collect(), ..case.observed.clone() };
        let one = json(&without_places(case.plan()));
        let two = json(&without_places(plan(&desired(&lines.join("\n")), &observed)));
        prop_assert_eq!(one, two);
    }

    #[test]
    fn what_is_unknown_is_never_touched(case in cases()) {
        prop_assert_eq!(touches_unknown(&case, &case.plan()), None);
    }

    #[test]
    fn a_generation_records_changes_only_for_what_was_done(
        case in cases(),
        mask in vec(any::<bool>(), 32),
    ) {
        let plan = case.plan();
        let before = World { observed: case.observed.clone() }.specs();
        let chosen = plan.steps.iter().zip(mask).filter(|(_, chosen)| *chosen);
        let done: BTreeSet<ResourceId> = chosen.map(|(step, _)| step.id.clone()).collect();
        let after = plan.recorded(&before, &done);
        for id in before.keys().chain(after.keys()) {
            prop_assert!(before.get(id) == after.get(id) || done.contains(id), "{}", id);
        }
    }

    #[test]
    fn the_check_accepts_every_plan_that_is_made(case in cases()) {
        prop_assert_eq!(check(&case.plan(), &case.desired(), &case.observed), Ok(()));
    }

    #[test]
    fn a_step_is_as_bad_as_its_worst_field_and_a_plan_as_its_worst_step(case in cases()) {
        let plan = case.plan();
        for step in &plan.steps {
            prop_assert!(step.fields.iter().all(|field| field.risk <= step.risk));
        }
        let worst = plan.steps.iter().map(|step| step.risk).max();
        prop_assert_eq!(plan.risks().keys().max().copied(), worst);
        let privileged = plan.steps.iter().flat_map(|step| &step.fields);
        let privileged = privileged.filter(|field| field.risk == Risk::Privileged).count() > 0;
        prop_assert_eq!(privileged, plan.risks_to_name().contains(&Risk::Privileged));
    }

    #[test]
    fn nothing_that_a_group_has_written_is_removed(case in cases()) {
        let kept = |step: &&Step| {
            use ResourceId::{Folder, GlobalMemory, Settings};
            matches!(step.id, Folder(_) | GlobalMemory | Settings(_)) && step.takes_away()
        };
        let plan = case.plan();
        prop_assert_eq!(plan.steps.iter().find(kept), None);
    }

    #[test]
    fn no_step_changes_what_is_already_as_it_should_be(case in cases()) {
        let desired = case.desired();
        let before = World { observed: case.observed.clone() }.specs();
        for step in case.plan().steps {
            if matches!(step.id, ResourceId::Model(_) | ResourceId::Group(_) | ResourceId::Channel(_)) {
                let wanted = desired.resources.get(&step.id).map(|wanted| &wanted.spec);
                prop_assert_ne!(before.get(&step.id), wanted);
            }
        }
    }
}

/// The planted bug: with unknown taken for absent, the property above does not hold.
#[test]
fn a_planner_that_takes_unknown_for_absent_is_found_out() {
    let mut runner = TestRunner::deterministic();
    let outcome = runner.run(&cases(), |case| {
        let plan = plan(&case.desired(), &unknown_as_absent(&case.observed));
        prop_assert_eq!(touches_unknown(&case, &plan), None);
        Ok(())
    });
    assert!(matches!(outcome, Err(TestError::Fail(..))), "{outcome:?}");
}

/// The other planted bug: steps in the order of their names alone break what they stand on.
#[test]
fn the_check_finds_a_plan_that_is_turned_around() {
    let mut runner = TestRunner::deterministic();
    let outcome = runner.run(&cases(), |case| {
        let mut plan = case.plan();
        plan.steps.reverse();
        prop_assert_eq!(check(&plan, &case.desired(), &case.observed), Ok(()));
        Ok(())
    });
    assert!(matches!(outcome, Err(TestError::Fail(..))), "{outcome:?}");
}

#[test]
fn planning_a_thousand_groups_that_are_as_they_should_be_finds_nothing() {
    let groups: Vec<String> = (0..1000).map(|n| format!("group g{n} env.N={n}")).collect();
    let text = format!("model demo rehearsal\n{}", groups.join("\n"));
    let world = World::with(&text);
    assert!(plan(&desired(&text), &world.observed).is_empty());
}

impl Case {
    fn desired(&self) -> Desired {
        desired(&self.now.join("\n"))
    }

    fn plan(&self) -> Plan {
        plan(&self.desired(), &self.observed)
    }
}

/// The first step that touches what the last look could not see.
fn touches_unknown(case: &Case, plan: &Plan) -> Option<ResourceId> {
    let unseen = |step: &&Step| {
        if matches!(case.observed.applied, Known::Unknown(_)) {
            return true;
        }
        match &step.id {
            ResourceId::Model(_) | ResourceId::Channel(_) => false,
            ResourceId::Group(_) if step.action == Action::Remove => false,
            ResourceId::Group(group) => [
                ResourceId::GlobalMemory,
                ResourceId::Folder(group.clone()),
                ResourceId::Settings(group.clone()),
            ]
            .iter()
            .any(|below| is_unknown(&case.observed, below)),
            id => is_unknown(&case.observed, id),
        }
    };
    plan.steps.iter().find(unseen).map(|step| step.id.clone())
}

fn is_unknown(observed: &Observed, id: &ResourceId) -> bool {
    matches!(observed.looks.get(id), None | Some(Known::Unknown(_)))
}

fn unknown_as_absent(observed: &Observed) -> Observed {
    let mut observed = observed.clone();
    if matches!(observed.applied, Known::Unknown(_)) {
        observed.applied = Known::Absent;
    }
    for look in observed.looks.values_mut() {
        if matches!(look, Known::Unknown(_)) {
            *look = Known::Absent;
        }
    }
    observed
}

fn without_places(mut plan: Plan) -> Plan {
    for step in &mut plan.steps {
        step.at = None;
        step.fields.iter_mut().for_each(|field| field.at = None);
    }
    plan
}

fn json(plan: &Plan) -> String {
    serde_json::to_string(plan).expect("a plan has a JSON form")
}

fn cases() -> impl Strategy<Value = Case> {
    let controller = prop_oneof![
        4 => Just(Controller::Absent),
        1 => Just(Controller::Running),
        1 => Just(Controller::Unknown("silence".to_owned())),
    ];
    (manifests(), manifests(), generations(), looks(), controller).prop_map(
        |(before, now, generation, looks, controller)| {
            let specs = desired(&before.join("\n")).resources.into_iter();
            let specs = specs.map(|(id, wanted)| (id, wanted.spec)).collect();
            Case {
                now,
                observed: Observed {
                    controller,
                    applied: generation(specs),
                    looks,
                    agents: BTreeMap::new(),
                },
            }
        },
    )
}

type Generation = fn(BTreeMap<ResourceId, Spec>) -> Known<Applied>;

/// Whether a generation is known, and how much of what was asked for it had recorded.
fn generations() -> impl Strategy<Value = Generation> {
    let full: Generation = |specs| Known::Is(Applied { number: 41, specs });
    let part: Generation = |specs| {
        let specs = specs.into_iter().enumerate().filter(|(index, _)| index % 3 != 1);
        Known::Is(Applied { number: 41, specs: specs.map(|(_, spec)| spec).collect() })
    };
    let ground: Generation = |specs| {
        let half = specs.len() / 2;
        Known::Is(Applied { number: 41, specs: specs.into_iter().take(half).collect() })
    };
    prop_oneof![
        6 => Just(full),
        2 => Just(part),
        2 => Just(ground),
        2 => Just((|_| Known::Absent) as Generation),
        1 => Just((|_| Known::Unknown("locked".to_owned())) as Generation),
    ]
}

/// The lines of a valid manifest.
fn manifests() -> impl Strategy<Value = Vec<String>> {
    let group = |name: &'static str| {
        let bind = select(vec!["", "bind=terminal", "bind=desk", "bind=terminal,desk"]);
        let model = select(vec!["model=demo", "model=local"]);
        let rest = select(vec![
            "",
            "main=true",
            "trigger=@Bob",
            "requires_trigger=false env.LANG=de",
            "env.LANG=fr limits.memory=2GiB",
            "lifecycle=always",
        ]);
        let line = (bind, model, rest)
            .prop_map(move |(bind, model, rest)| format!("group {name} {bind} {model} {rest}"));
        prop::option::weighted(0.7, line)
    };
    let model = |name: &'static str| {
        let kinds = vec!["rehearsal", "ollama", "ollama url=http://10.0.0.7:1", "ollama context=1"];
        select(kinds).prop_map(move |kind| format!("model {name} {kind}"))
    };
    let groups = (group("main"), group("kids"), group("family"));
    (model("demo"), model("local"), groups, any::<(bool, bool)>()).prop_map(
        |(demo, local, (main, kids, family), (spare_demo, spare_local))| {
            let groups: Vec<String> = [main, kids, family].into_iter().flatten().collect();
            let uses = |word: &str| groups.iter().any(|line| line.contains(word));
            let mut lines = Vec::new();
            lines.extend((spare_demo || uses("model=demo")).then_some(demo));
            lines.extend((spare_local || uses("model=local")).then_some(local));
            lines.extend(uses("desk").then(|| "channel desk".to_owned()));
            lines.extend(groups);
            lines
        },
    )
}

/// What the world may show, of the resources of any manifest above and of some others.
fn looks() -> impl Strategy<Value = BTreeMap<ResourceId, Known<Seen>>> {
    let names = ["main", "kids", "family", "old"];
    let of = |kind: &str| names.map(|name| id(&format!("{kind}/{name}"))).to_vec();
    let folder = prop_oneof![
        3 => Just(Seen::Folder { missing: BTreeSet::new(), foreign: BTreeSet::new() }),
        1 => Just(Seen::Folder { missing: BTreeSet::from(["data".to_owned()]), foreign: BTreeSet::new() }),
    ];
    let lang = |value: &str| BTreeMap::from([("LANG".to_owned(), value.to_owned())]);
    let settings = select(vec![None, Some(BTreeMap::new()), Some(lang("de")), Some(lang("fr"))])
        .prop_map(|env| Seen::Settings { env });
    let model = select(vec![Availability::Present, Availability::Missing]).prop_map(Seen::Model);
    let container = (1..5_u32).prop_map(running);
    (
        btree_map(select(of("folder")), known(folder), 2..5),
        btree_map(select(of("settings")), known(settings), 2..5),
        btree_map(select(of("container")), known(container), 0..3),
        btree_map(select(vec![id("model/demo"), id("model/local")]), known(model), 0..3),
        btree_map(Just(ResourceId::GlobalMemory), known(Just(Seen::GlobalMemory)), 1),
    )
        .prop_map(|(folders, settings, containers, models, memory)| {
            let all = [folders, settings, containers, models, memory];
            all.into_iter().flatten().collect()
        })
}

fn known(seen: impl Strategy<Value = Seen>) -> impl Strategy<Value = Known<Seen>> {
    prop_oneof![
        5 => seen.prop_map(Known::Is),
        3 => Just(Known::Absent),
        1 => Just(Known::Unknown("permission denied".to_owned())),
    ]
}
