//! What a controller that runs for a year keeps: each kind has a bound.

use babybot::name::ModelName;
use babybot::resource::ResourceId;
use babybot::store::{DRIFT_KEPT, Drift, ENDPOINTS_MAX, USAGE_KEPT, Usage, UsageOutcome};
use babybot::unit::Period;
use rusqlite::Connection;

use super::{at, folder, group, open};

fn count(path: &std::path::Path, table: &str) -> u32 {
    let store = Connection::open(path).unwrap();
    store.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn the_newest_requests_to_models_are_kept() {
    let (_folder, path) = folder();
    let store = open(&path);
    Connection::open(&path)
        .unwrap()
        .execute_batch(&format!(
            "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {})
             INSERT INTO usage SELECT id, NULL, 'home', 'local', 1, 1, 1, 'answered', id FROM n",
            USAGE_KEPT + 10
        ))
        .unwrap();
    for number in 0..3 {
        let usage = Usage {
            turn: None,
            group: group("family"),
            model: ModelName::new("local").unwrap(),
            prompt_tokens: 1,
            completion_tokens: 1,
            duration: Period::seconds(1),
            outcome: UsageOutcome::Answered,
            at: at(number),
        };
        store.record_usage(usage).await.unwrap();
    }
    assert_eq!(count(&path, "usage"), USAGE_KEPT);
    let newest = "SELECT count(*) FROM usage WHERE grp = 'family'";
    let kept: u32 =
        Connection::open(&path).unwrap().query_row(newest, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn the_newest_drift_is_kept() {
    let (_folder, path) = folder();
    let store = open(&path);
    for number in 0..i64::from(DRIFT_KEPT) + 20 {
        let (id, text) = (ResourceId::GlobalMemory, number.to_string());
        store.record_drift(Drift { at: at(number), id, text, mended: true }).await.unwrap();
    }
    assert_eq!(count(&path, "drift"), DRIFT_KEPT);
    let newest = store.drift(1).await.unwrap();
    assert_eq!(newest[0].at, at(i64::from(DRIFT_KEPT) + 19));
}

#[tokio::test]
async fn the_newest_engines_are_remembered() {
    let (_folder, path) = folder();
    let store = open(&path);
    for number in 0..ENDPOINTS_MAX + 5 {
        let endpoint = format!("unix:///engine-{number}");
        store.remember_endpoint(&endpoint, at(i64::from(number))).await.unwrap();
    }
    assert_eq!(count(&path, "endpoints"), ENDPOINTS_MAX);
    let newest = format!("unix:///engine-{}", ENDPOINTS_MAX + 4);
    assert_eq!(store.endpoints().await.unwrap()[0], newest);
}
