//! One file of a group never outgrows `limits.disk`, whoever writes it and however.

use crate::support::docker::needs_engine;
use crate::support::home::Home;

use super::house::RUN;

const GROUP: &str = "[groups.home]\nbind = [\"terminal\"]\nrequires_trigger = false\n\
                     limits = { disk = \"1MiB\" }\n";

/// Tries to write more than a file may hold, and says how each way ended and how much there is.
/// Whether a program is told or ended is up to the shell. What was written goes at once, so that
/// the folders never hold too much.
const WAYS: &str = r#"
(ulimit -f unlimited) 2>/dev/null && echo "the limit is undone"
try() { "$1" 2>/dev/null && ended=well || ended=badly; echo "$1 $ended $(wc -c < large)"; rm large; }
plain() { head -c 3000000 /dev/zero > large; }
hole() { dd if=/dev/zero of=large bs=1 count=1 seek=3000000; }
grown() { : > large; truncate -s 3000000 large; }
apart() { setsid sh -c 'head -c 3000000 /dev/zero > large'; }
small() { head -c 1048576 /dev/zero > large; }
for way in plain hole grown apart small; do try $way; done
"#;

const ENDS: &str = "plain badly 1048576\nhole badly 0\ngrown badly 0\napart badly 1048576\n\
                    small well 1048576\n";

fn check(home: &Home) {
    home.apply();
    home.place.write("groups/home/run.sh", WAYS);
    let tool = home.place.run(&["chat", "home", "run"]);
    assert_eq!((tool.code, tool.stdout.as_str()), (0, ENDS), "{tool:?}");
    let command = home.place.run(&["exec", "-q", "home", "--", "sh", "run.sh"]);
    assert_eq!((command.code, command.stdout.as_str()), (0, ENDS), "{command:?}");
}

#[test]
fn no_file_outgrows_the_limit_where_agents_are_processes() {
    check(&Home::none("", GROUP, RUN));
}

#[test]
fn no_file_outgrows_the_limit_where_agents_are_in_containers() {
    let engine = needs_engine!();
    check(&Home::docker(engine, "", GROUP, RUN));
}
