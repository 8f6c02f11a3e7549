//! What tests share: builders, fakes that stand at the doors, and simulated worlds.

pub(crate) mod docker;
pub(crate) mod folder;
pub(crate) mod home;
pub(crate) mod installation;
pub(crate) mod machine;
pub(crate) mod ollama;
pub(crate) mod plan;
pub(crate) mod workshop;

/// Says on the real stderr that a test did not run, and why.
///
/// Where `BABYBOT_REQUIRE_ALL` is set, not running is failing.
#[track_caller]
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("BABYBOT_REQUIRE_ALL").is_none(), "not run: {why}");
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}
