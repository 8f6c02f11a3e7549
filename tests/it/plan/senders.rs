//! Who may write to a group: more people are privileged, fewer are not, and the second opinion
//! finds out by itself.

use babybot::desired::Desired;
use babybot::plan::Plan;
use babybot::plan::check::Problem;
use babybot::resource::Risk;

use super::tampered::problems_of;
use crate::support::plan::{World, desired_on, docker, id, plan_checked};

const ANN: &str = "senders.allow=api:claimed:Ann,tg:1";
const ANN_AND_BOB: &str = "senders.allow=api:claimed:Ann,api:claimed:Bob,tg:1,tg:2";
const ALL: &str = "senders.allow=*";
const NOBODY: &str = "senders.allow=";
const DROP: &str = "senders.mode=drop";

/// A group that is bound to a webhook (`api:k`), or to a channel that nobody knows (`tg:-1`), which
/// counts as one with strangers.
fn desired(bind: &str, senders: &str) -> Desired {
    let text = format!("model demo rehearsal\nchannel api webhook\ngroup g bind={bind} {senders}");
    desired_on(&docker(), &text)
}

fn planned(bind: &str, from: &str, to: &str) -> (Plan, World, Desired) {
    let (world, now) = (World::of(&desired(bind, from)), desired(bind, to));
    (plan_checked(&now, &world), world, now)
}

#[test]
fn more_senders_are_privileged_and_fewer_are_safe() {
    let (webhook, strangers) = ("api:k", "tg:-1");
    let drop = |allow: &str| format!("{allow} {DROP}");
    let cases = [
        // Whoever has a webhook's token is let in until somebody says who.
        (webhook, String::new(), ANN.to_owned(), false),
        (webhook, ANN.to_owned(), String::new(), true),
        (webhook, ALL.to_owned(), String::new(), false),
        (webhook, drop(ANN), String::new(), true),
        // Strangers are not.
        (strangers, String::new(), drop(ANN), true),
        (strangers, String::new(), NOBODY.to_owned(), true),
        (strangers, String::new(), drop(NOBODY), false),
        (strangers, ANN.to_owned(), String::new(), false),
        (strangers, ALL.to_owned(), String::new(), false),
    ];
    for (bind, from, to, opens) in cases {
        check(bind, &from, &to, opens);
    }
    for bind in [webhook, strangers] {
        check(bind, ANN, ANN_AND_BOB, true);
        check(bind, ANN_AND_BOB, ANN, false);
        check(bind, ANN, ALL, true);
        check(bind, ALL, ANN, false);
        check(bind, ALL, NOBODY, false);
        // What others write is read by the agent, or is not.
        check(bind, &drop(ANN), ANN, true);
        check(bind, ANN, &drop(ANN), false);
        check(bind, &drop(ALL), ALL, false);
        // Fewer are answered, and more are read.
        check(bind, &drop(ANN_AND_BOB), ANN, true);
    }
    // Only its owner writes at a terminal.
    check("terminal", "", ALL, false);
    check("terminal", ALL, "", false);
}

#[test]
fn a_sender_of_another_channel_opens_nothing() {
    check("api:k", "senders.allow=tg:1 senders.mode=drop", &format!("{NOBODY} {DROP}"), false);
    check("api:k", &format!("{NOBODY} {DROP}"), "senders.allow=tg:1 senders.mode=drop", false);
}

#[test]
fn two_lists_that_read_the_same_are_not_the_same() {
    let lists = ["tg:a, tg:b", "tg:a|tg:b"];
    let [one, two] = lists.map(|list| {
        let mut desired = desired("tg:-1", NOBODY);
        let wanted = desired.resources.get_mut(&id("group/g")).unwrap();
        let babybot::resource::Spec::Group(group) = &mut wanted.spec else { panic!("no group") };
        let allow = &mut group.senders.as_mut().unwrap().allow;
        allow.extend(list.split('|').map(|entry| entry.parse().unwrap()));
        desired
    });
    let plan = plan_checked(&two, &World::of(&one));
    let fields: Vec<_> = plan.steps.iter().flat_map(|step| &step.fields).collect();
    assert_eq!(fields.len(), 1, "{fields:?}");
    assert_eq!((fields[0].path.as_str(), fields[0].risk), ("senders.allow", Risk::Privileged));
}

/// What the planner makes of a change, and that the second opinion sees it where a plan says less.
#[track_caller]
fn check(bind: &str, from: &str, to: &str, opens: bool) {
    let (mut plan, world, now) = planned(bind, from, to);
    let step = plan.steps.iter_mut().find(|step| step.id == id("group/g")).expect("it changes");
    let expected = if opens { Risk::Privileged } else { Risk::Safe };
    assert_eq!(step.risk, expected, "{bind}: {from:?} to {to:?}");
    let said = step.fields.iter().map(|field| field.risk).max();
    assert_eq!(said, Some(expected), "{bind}: {from:?} to {to:?}");
    step.risk = Risk::Safe;
    step.fields.iter_mut().for_each(|field| field.risk = Risk::Safe);
    let needed = Risk::Privileged;
    let found = problems_of(&plan, &now, &world);
    let understated = Problem::RiskUnderstated { said: Risk::Safe, needed };
    assert_eq!(found, if opens { vec![understated] } else { Vec::new() }, "{from:?} to {to:?}");
}
