//! Where log lines go: to stderr, as many as were asked for.

use std::io;

use tracing_subscriber::EnvFilter;

/// Begins to log. `verbosity` is the number of `-v` less the number of `-q`; the environment
/// variable `BABYBOT_LOG` (as in `babybot=debug`) says it more finely.
pub fn init(verbosity: i32, color: bool) {
    let level = match verbosity {
        ..=-1 => "error",
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("BABYBOT_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,babybot={level}")));
    // Once is enough; a second call, as from a test, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(color)
        .without_time()
        .with_target(verbosity > 1)
        .try_init();
}
