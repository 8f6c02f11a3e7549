//! Generations, usage and sandboxes.

use std::collections::BTreeMap;

use babybot::name::{Incarnation, ModelName};
use babybot::resource::{ModelSpec, ResourceId, Risk, Spec};
use babybot::store::{
    ApplyOutcome, GENERATIONS_KEPT, NewGeneration, SANDBOXES_ENDED_KEPT, Sandbox, Store,
    StoreError, Usage, UsageOutcome, UsageTotal,
};
use babybot::unit::Period;

use super::{at, folder, group, open, running, turn_id};

fn specs(context: u32) -> BTreeMap<ResourceId, Spec> {
    let model = ModelSpec::Rehearsal { context, script: None };
    BTreeMap::from([
        (ResourceId::GlobalMemory, Spec::GlobalMemory),
        (ResourceId::Model(ModelName::new("local").unwrap()), Spec::Model(model)),
        (ResourceId::Folder(group("family")), Spec::Folder),
    ])
}

fn generation(parent: Option<u64>) -> NewGeneration {
    let number = u32::try_from(parent.unwrap_or(0) + 1).unwrap();
    NewGeneration {
        parent,
        at: at(i64::from(number)),
        digest: format!("v1:{number}"),
        manifest: "schema = 1\n".to_owned(),
        specs: specs(number),
        plan: "{}".to_owned(),
        approved: vec![Risk::Safe, Risk::Privileged],
        tool: "0.1.0".to_owned(),
        outcome: ApplyOutcome::Applied,
    }
}

#[tokio::test]
async fn a_generation_is_recorded_on_the_one_it_was_planned_on() {
    let (_folder, path) = folder();
    let store = open(&path);
    assert_eq!(store.applied().await.unwrap(), None);
    assert_eq!(store.record_generation(generation(None)).await.unwrap(), 1);
    let partial = NewGeneration { outcome: ApplyOutcome::Partial, ..generation(Some(1)) };
    assert_eq!(store.record_generation(partial).await.unwrap(), 2);
    for parent in [None, Some(1), Some(3)] {
        let stale = store.record_generation(generation(parent)).await.unwrap_err();
        assert!(
            matches!(stale, StoreError::Stale { expected, found: Some(2) } if expected == parent),
            "{stale}"
        );
    }
    let applied = store.applied().await.unwrap().unwrap();
    assert_eq!((applied.number, applied.at, &applied.specs), (2, at(2), &specs(2)));

    let reader = Store::read_only(&path).unwrap().unwrap();
    assert_eq!(reader.applied().unwrap().unwrap(), applied);
    let first = reader.generation(1).unwrap().unwrap();
    assert_eq!(first.manifest, "schema = 1\n");
    assert_eq!(first.specs, specs(1));
    assert_eq!(first.summary.approved, [Risk::Safe, Risk::Privileged]);
    let history = reader.history(10).unwrap();
    assert_eq!(history.iter().map(|entry| entry.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((history[0].outcome, history[0].parent), (ApplyOutcome::Partial, Some(1)));
    assert_eq!(reader.history(1).unwrap().len(), 1);
}

#[tokio::test]
async fn of_two_applies_at_once_one_is_stale() {
    let (_folder, path) = folder();
    let store = open(&path);
    let (one, two) = tokio::join!(
        store.record_generation(generation(None)),
        store.record_generation(generation(None)),
    );
    assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1);
    assert_eq!(store.history(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn old_generations_go_and_the_current_one_stays() {
    let (_folder, path) = folder();
    let store = open(&path);
    let last = GENERATIONS_KEPT + 3;
    for number in 0..last {
        let parent = (number > 0).then_some(number);
        store.record_generation(generation(parent)).await.unwrap();
    }
    let history = store.history(u32::MAX).await.unwrap();
    assert_eq!(history.len() as u64, GENERATIONS_KEPT);
    assert_eq!((history[0].number, history[history.len() - 1].number), (last, 4));
    assert_eq!(store.applied().await.unwrap().unwrap().number, last);
    assert_eq!(store.generation(3).await.unwrap(), None);
}

#[tokio::test]
async fn usage_adds_up_for_a_turn() {
    let (_folder, path) = folder();
    let store = open(&path);
    let turn = running(&store, 1).await;
    assert_eq!(store.usage_of(&turn).await.unwrap(), UsageTotal::default());
    let usage = |turn| Usage {
        turn,
        group: group("family"),
        model: ModelName::new("local").unwrap(),
        prompt_tokens: 100,
        completion_tokens: 7,
        duration: Period::milliseconds(250),
        outcome: UsageOutcome::Answered,
        at: at(12),
    };
    store.record_usage(usage(Some(turn.clone()))).await.unwrap();
    store.record_usage(usage(Some(turn.clone()))).await.unwrap();
    store.record_usage(usage(None)).await.unwrap();
    let total = store.usage_of(&turn).await.unwrap();
    assert_eq!((total.requests, total.prompt_tokens), (2, 200));
    assert_eq!((total.completion_tokens, total.duration_milliseconds), (14, 500));
    let unknown = store.record_usage(usage(Some(turn_id(9)))).await.unwrap_err();
    assert!(matches!(unknown, StoreError::UnknownTurn { .. }), "{unknown}");
}

fn sandbox(number: u32) -> Sandbox {
    Sandbox {
        group: group("family"),
        incarnation: Incarnation::new(format!("{number:032x}")).unwrap(),
        pid: 1_000 + number,
        start_time: 123_456_789_012,
        boot_id: "boot".to_owned(),
        started_at: at(i64::from(number)),
    }
}

#[tokio::test]
async fn a_sandbox_is_open_until_its_end_is_recorded() {
    let (_folder, path) = folder();
    let store = open(&path);
    for number in [1, 2, 2] {
        store.sandbox_started(sandbox(number)).await.unwrap();
    }
    store.close().await;
    let store = open(&path);
    assert_eq!(store.open_sandboxes().await.unwrap(), [sandbox(1), sandbox(2)]);
    store.sandbox_ended(&sandbox(1).incarnation, at(9)).await.unwrap();
    assert_eq!(store.open_sandboxes().await.unwrap(), [sandbox(2)]);
    for number in 10..10 + SANDBOXES_ENDED_KEPT + 20 {
        store.sandbox_started(sandbox(number)).await.unwrap();
        store.sandbox_ended(&sandbox(number).incarnation, at(i64::from(number))).await.unwrap();
    }
    let reader = Store::read_only(&path).unwrap().unwrap();
    assert_eq!(reader.open_sandboxes().unwrap(), [sandbox(2)]);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let rows: u32 = raw.query_row("SELECT count(*) FROM sandboxes", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, SANDBOXES_ENDED_KEPT + 1);
}
