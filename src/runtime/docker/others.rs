//! Others at the same engine: what they may break, and how often it is tried again.
//!
//! An engine is shared. While babybot builds, another project may remove the layer
//! that the builder takes from its cache; while it lists, a container on the list
//! may go. Such a failure says nothing about what was asked, so it is asked again,
//! a few times and no more.

use std::future::Future;
use std::time::Duration;

use super::failure::Failure;

/// How often something is tried at all.
pub(super) const TRIES_MAX: u32 = 5;
/// The pause before the second try; it grows with each one.
const PAUSE: Duration = Duration::from_millis(50);

/// Words of an engine that looked for something in its own store which is not there any more.
const GONE: &[&str] = &[
    "layer does not exist",
    "layer not retained",
    "layer not known",
    "failed to get digest",
    "unrecognized image id",
    "unknown parent image id",
    "unable to find image",
    "marked for removal",
];
/// Places of an engine's store, in which nobody but the engine names a file.
const STORES: &[&str] = &["imagedb", "layerdb", "overlay2", "content digest", "/overlay/"];
const NOT_THERE: &[&str] = &["no such file or directory", "not found"];

/// Whether an engine's words say that somebody else changed it meanwhile.
pub(super) fn changed(words: &str) -> bool {
    let words = words.to_lowercase();
    let says = |all: &[&str]| all.iter().any(|one| words.contains(one));
    says(GONE) || says(STORES) && says(NOT_THERE)
}

/// Whether a builder's words, midway, say the same: it was at work on what it names.
pub(super) fn changed_midway(words: &str) -> bool {
    let lower = words.to_lowercase();
    // Then the words are those of a command, whatever they are.
    let of_command = lower.contains("returned a non-zero code");
    let own = ["no such image", "no such container"];
    !of_command && (changed(words) || own.iter().any(|one| lower.contains(one)))
}

/// Waits before the try that follows this one.
pub(super) async fn pause(tries: u32) {
    tokio::time::sleep(PAUSE * tries).await;
}

/// Does something, and again where somebody else changed the engine meanwhile.
pub(super) async fn despite<T, W>(work: impl Fn() -> W) -> Result<T, Failure>
where
    W: Future<Output = Result<T, Failure>>,
{
    until(work, |failure| matches!(failure, Failure::Changed(_))).await
}

/// Does something until it comes to an end that does not pass by itself.
pub(super) async fn until<T, W>(
    work: impl Fn() -> W,
    passes: fn(&Failure) -> bool,
) -> Result<T, Failure>
where
    W: Future<Output = Result<T, Failure>>,
{
    let mut tries = 1;
    loop {
        match work().await {
            Err(failure) if tries < TRIES_MAX && passes(&failure) => {
                tracing::debug!(why = failure.words(), tries, "the engine is asked again");
                pause(tries).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_took_away_is_told_from_what_was_never_there() {
        for words in [
            "failed to get digest sha256:1f: open /var/lib/docker/image/overlay2/imagedb/content/\
             sha256/1f: no such file or directory",
            "layer does not exist",
            "unrecognized image ID sha256:1f",
            "error creating overlay mount to /srv/overlay2/1f/merged: no such file or directory",
            "container is marked for removal and cannot be started",
        ] {
            assert!(changed(words) && changed_midway(words), "{words}");
        }
        for words in [
            "COPY failed: file not found in build context: stat babybot: file does not exist",
            "exec /bin/sh: no such file or directory",
            "no space left on device",
            "The command '/bin/sh -c echo no such image' returned a non-zero code: 1",
            "write /var/lib/docker/overlay2/1f/diff/babybot: no space left on device",
        ] {
            assert!(!changed_midway(words), "{words}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_tried_a_few_times_and_no_more() {
        let count = std::cell::Cell::new(0);
        let failing = |failure: Failure| {
            count.set(count.get() + 1);
            std::future::ready(Err::<(), _>(failure))
        };
        let changed = || failing(Failure::Changed("layer does not exist".to_owned()));
        assert!(despite(changed).await.is_err());
        assert_eq!(count.get(), TRIES_MAX);
        assert!(despite(|| failing(Failure::Refused("no".to_owned()))).await.is_err());
        assert_eq!(count.get(), TRIES_MAX + 1);
    }
}
