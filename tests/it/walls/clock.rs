//! One clock for messages, tools and commands, and one environment, in an image without zone data.

use super::house::{House, RUN, VERB_MAX};
use crate::support::docker::needs_engine;
use crate::support::installation::{Ended, wait_for_end};

const GROUPS: &str = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n\
                      env = { GREETING = \"hello there\" }\n";
const TELLS: &str = "echo $TZ; date +%z; echo $GREETING; echo ${GLIBC_TUNABLES-none}";

/// Runs the program on a machine whose zone this is.
#[track_caller]
fn run_in(zone: &str, house: &House, arguments: &[&str]) -> Ended {
    let child = house.command(arguments).env("TZ", zone).spawn().unwrap();
    let ended = wait_for_end(child, VERB_MAX);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

#[test]
fn tools_and_commands_have_the_zone_of_messages_and_the_groups_environment() {
    let engine = needs_engine!();
    let house = House::new(&engine, GROUPS, RUN);
    house.apply();
    house.installation.write("groups/home/run.sh", TELLS);
    let told = |zone: &str| {
        let tool = run_in(zone, &house, &["chat", "home", "run"]).stdout;
        let command = run_in(zone, &house, &["exec", "home", "--", "sh", "-c", TELLS]).stdout;
        assert_eq!(tool.trim(), command.trim(), "a command is told something else");
        tool.trim().to_owned()
    };
    // The machine's zone, where the manifest names none.
    assert_eq!(told("Asia/Kolkata"), "IST-5:30\n+0530\nhello there\nnone");
    house.edit("[runtime]", "[assistant]\ntimezone = \"Asia/Tokyo\"\n\n[runtime]");
    house.apply();
    assert_eq!(told("Asia/Kolkata"), "JST-9\n+0900\nhello there\nnone");
}
