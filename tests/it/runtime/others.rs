//! Others at the same engine: each call that fails because of them is made again, and not for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{Method, StatusCode};
use babybot::name::GroupName;
use babybot::resource::{ImageSpec, UserId, digest};
use babybot::runtime::{Binary, Runtime as _, RuntimeError};
use serde_json::json;

use super::answers::{Answer, Played, ok, said};
use super::place::Place;

/// How often something is tried at all.
const TRIES: usize = 5;
/// A layer that the builder takes from its cache, and that is not there any more.
const LAYER_GONE: &str = "failed to get digest sha256:4f: open /var/lib/docker/image/overlay2/\
                          imagedb/content/sha256/4f: no such file or directory";

fn image() -> ImageSpec {
    ImageSpec::Built {
        base: "scratch".to_owned(),
        packages: Vec::new(),
        content: digest(b"x"),
        user: UserId { uid: 1, gid: 1 },
        binary: None,
    }
}

fn binary() -> Binary {
    Binary { bytes: Arc::new(b"x".to_vec()) }
}

fn failed_build(why: &str) -> Answer {
    ok(json!({ "errorDetail": { "message": why }, "error": why }))
}

#[tokio::test]
async fn a_build_that_loses_a_layer_or_its_image_is_made_again_without_the_cache() {
    let (builds, tags) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let engine = Played::new(move |method, path| match (method, path) {
        (&Method::POST, "/build") => match builds.fetch_add(1, Ordering::Relaxed) {
            0 => failed_build(LAYER_GONE),
            1 => failed_build("No such image: sha256:4f"),
            _ => ok(json!({ "stream": "Successfully built 4f\n" })),
        },
        (&Method::POST, path) if path.ends_with("/tag") => {
            match tags.fetch_add(1, Ordering::Relaxed) {
                0 => said(404, "No such image: localhost/babybot-agent:x"),
                _ => (StatusCode::CREATED, String::new()),
            }
        }
        _ => said(404, "no such image"),
    });
    let place = Place::none();
    let built = engine.docker().build_image(&place.instance, &image(), binary(), &|_| {}).await;
    assert_eq!(built, Ok(()));
    let caches = engine.queries("nocache=");
    let unused = caches.iter().map(|query| query.contains("nocache=true")).collect::<Vec<_>>();
    assert_eq!(unused, [false, true, true, true], "{caches:?}");
}

#[tokio::test]
async fn a_build_that_always_loses_something_is_given_up_and_one_that_is_wrong_at_once() {
    for (why, tries) in [(LAYER_GONE, TRIES), ("COPY failed: no such file or directory", 1)] {
        let engine = Played::new(move |_, path| match path {
            "/build" => failed_build(why),
            _ => said(404, "no such image"),
        });
        let place = Place::none();
        let built = engine.docker().build_image(&place.instance, &image(), binary(), &|_| {}).await;
        let Err(RuntimeError::Failed(words)) = built else { panic!("{built:?}") };
        assert!(words.contains(why), "{words}");
        assert_eq!(engine.asked("POST /build").len(), tries, "{why}");
    }
}

#[tokio::test]
async fn an_image_that_somebody_else_removes_at_the_same_time_is_removed() {
    let place = Place::none();
    let owner = place.instance.clone();
    let removals = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&removals);
    let engine = Played::new(move |method, path| {
        let gone = seen.load(Ordering::Relaxed) > 0;
        match (method, path) {
            (&Method::DELETE, _) => {
                seen.fetch_add(1, Ordering::Relaxed);
                said(500, "unrecognized image ID sha256:4f")
            }
            (_, "/containers/json") => ok(json!([])),
            (_, path) if path.contains("babybot-agent") && !gone => ok(json!({
                "Id": "sha256:4f",
                "Config": { "Labels": { "io.babybot.instance": owner.as_str() } },
            })),
            _ => said(404, "no such image"),
        }
    });
    let removed = engine.docker().remove_image(&place.instance, &image().tag()).await;
    assert_eq!(removed, Ok(()));
    assert_eq!(removals.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_container_that_is_pruned_before_it_starts_is_made_again() {
    let engine = Played::new(|method, path| match (method, path) {
        (&Method::POST, "/containers/create") => {
            (StatusCode::CREATED, json!({ "Id": "4f", "Warnings": [] }).to_string())
        }
        (_, path) if path.contains("/images/") => ok(json!({ "Id": "sha256:1" })),
        _ => said(404, "No such container: 4f"),
    });
    let place = Place::none();
    let mut spec = place.spec("family", "true");
    spec.container.image = Some("localhost/agent:1".into());
    let launched = engine.docker().launch(spec).await;
    assert!(matches!(launched, Err(RuntimeError::Launch(_))), "{launched:?}");
    assert_eq!(engine.asked("POST /containers/create").len(), TRIES);
}

#[tokio::test]
async fn a_list_from_which_something_goes_is_made_again() {
    let place = Place::none();
    let (instance, asked) = (place.instance.clone(), AtomicUsize::new(0));
    let engine = Played::new(move |_, _| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => said(404, "No such container: 5e"),
        1 => said(500, LAYER_GONE),
        _ => ok(json!([{
            "Id": "4f", "Names": ["/x"], "State": "exited",
            "Labels": {
                "io.babybot.instance": instance.as_str(), "io.babybot.group": "family",
            },
        }])),
    });
    let listed = engine.docker().list(&place.instance).await.unwrap();
    assert!(listed.contains_key(&GroupName::new("family").unwrap()), "{listed:?}");
}
