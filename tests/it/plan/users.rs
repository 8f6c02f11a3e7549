//! Which user each group has, where each has one of its own.

use std::collections::BTreeMap;

use babybot::desired::{Setting, claim_users};
use babybot::resource::{GROUP_USERS, ResourceId, Spec, UserId};

use crate::support::plan::{World, desired_on, docker, group_name, plan_checked};

const THREE: &str = "
model demo rehearsal
group ada
group bob main=true
group eve
";

fn user(uid: u32) -> UserId {
    UserId { uid, gid: uid }
}

/// The users of these groups, by name.
fn claimed(
    groups: &[&str],
    applied: &BTreeMap<ResourceId, Spec>,
    owners: &[(&str, u32)],
) -> Vec<u32> {
    let groups: Vec<_> = groups.iter().map(|name| group_name(name)).collect();
    let owners = owners.iter().map(|(name, uid)| ((*name).to_owned(), user(*uid))).collect();
    let users = claim_users(groups.iter(), applied, &owners);
    groups.iter().map(|group| users[group].uid).collect()
}

/// What was applied, with these users.
fn applied(users: &[(&str, u32)]) -> BTreeMap<ResourceId, Spec> {
    let users = users.iter().map(|(name, uid)| (group_name(name), user(*uid))).collect();
    World::of(&desired_on(&Setting { users, ..docker() }, THREE)).specs()
}

#[test]
fn each_group_has_the_lowest_user_that_is_free() {
    let nothing = BTreeMap::new();
    assert_eq!(claimed(&["ada", "bob"], &nothing, &[]), [10_001, 10_002]);
    // Folders of others keep theirs, whether or not their group is asked for.
    let owners = [("gone", 10_001), ("bob", 10_003), ("root", 0)];
    assert_eq!(claimed(&["ada", "bob", "eve"], &nothing, &owners), [10_002, 10_003, 10_004]);
}

#[test]
fn what_was_applied_stays_whoever_owns_the_folder_now() {
    let before = applied(&[("ada", 10_007), ("bob", 10_002), ("eve", 10_001)]);
    let owners = [("ada", 10_002), ("new", 10_007)];
    let groups = ["ada", "bob", "eve", "new"];
    assert_eq!(claimed(&groups, &before, &owners), [10_007, 10_002, 10_001, 10_003]);
}

#[test]
fn of_groups_that_shared_a_user_the_first_keeps_it() {
    let all = ["ada", "bob", "eve"];
    let shared = applied(&all.map(|name| (name, 10_001)));
    let owners = all.map(|name| (name, 10_001));
    assert_eq!(claimed(&all, &shared, &owners), [10_001, 10_002, 10_003]);
    // Without what was applied, the folders say the same.
    assert_eq!(claimed(&all, &BTreeMap::new(), &owners), [10_001, 10_002, 10_003]);
}

#[test]
fn groups_beyond_the_last_user_share_the_first() {
    let many: Vec<String> = (0..1_002).map(|number| format!("g{number:04}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let users = claimed(&many, &BTreeMap::new(), &[]);
    assert_eq!(users[999..], [*GROUP_USERS.end(), 10_001, 10_001]);
}

#[test]
fn another_user_of_a_group_is_a_line_of_its_folders() {
    let on = |users: &[(&str, u32)]| {
        let users = users.iter().map(|(name, uid)| (group_name(name), user(*uid))).collect();
        let one = Some(user(10_001));
        desired_on(&Setting { users, owner: one, user: one, ..docker() }, THREE)
    };
    let (before, now) = (on(&[]), on(&[("ada", 10_001), ("bob", 10_002), ("eve", 10_003)]));
    let plan = plan_checked(&now, &World::of(&before));
    let steps: Vec<String> = plan.steps.iter().map(|step| step.id.to_string()).collect();
    assert_eq!(steps, ["folder/bob", "folder/eve", "group/bob", "group/eve"]);
    // What all read is the main group's.
    let paths = plan.steps[..2].iter().map(|step| step.fields.len());
    assert_eq!(paths.collect::<Vec<_>>(), [2, 1]);
}
