//! Several who begin at the same moment, where there is no controller yet.

use crate::support::installation::{Installation, PATIENCE, User, wait_for_end};

/// How many begin at once, how often, and how often under `BABYBOT_SOAK=1`.
const AT_ONCE: usize = 3;
const ROUNDS: usize = 4;
const ROUNDS_SOAK: usize = 100;

const SCRIPT: &str = "[[rule]]\nsteps = [{ reply = \"to {message}\" }]\n";

#[test]
fn all_who_begin_at_the_same_moment_without_a_controller_are_answered() {
    let soak = std::env::var_os("BABYBOT_SOAK").is_some_and(|value| value == "1");
    let rounds = if soak { ROUNDS_SOAK } else { ROUNDS };
    let installation = Installation::new(User::Oneself, SCRIPT);
    for round in 0..rounds {
        // In the first round, nothing was applied yet either.
        let text = |number: usize| format!("{round} {number}");
        let children: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let mut command = installation.command(["chat", "--yes", "home", &text(number)]);
                command.spawn().unwrap()
            })
            .collect();
        for (number, child) in children.into_iter().enumerate() {
            let ended = wait_for_end(child, PATIENCE);
            let right = (0, format!("to {}\n", text(number)));
            assert_eq!((ended.code, ended.stdout.clone()), right, "{ended:?}");
        }
        installation.wait_until_nothing_runs(PATIENCE);
    }
    let states = installation.column("SELECT state FROM turns");
    assert_eq!(states, vec!["done"; AT_ONCE * rounds]);
    assert_eq!(installation.value::<i64>("SELECT count(*) FROM generations"), 1);
}
