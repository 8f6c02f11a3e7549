//! A user of its own for each group, so that what the kernel counts for a user is counted for a group.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::collections::{BTreeMap, BTreeSet};

use crate::name::GroupName;
use crate::resource::{GROUP_USERS, ResourceId, Spec, UserId};

/// Whom each group's agent runs as. A group keeps the user that was applied; else that of its
/// folder; else it gets the lowest that neither a folder nor a generation has. Of groups that have
/// the same one, the first by name keeps it. Where there are more groups than users, those that are
/// left share the first.
///
/// `owners` says whom each folder in `groups/` belongs to, whether its group is asked for or not.
#[must_use]
pub fn claim_users<'a>(
    groups: impl Iterator<Item = &'a GroupName> + Clone,
    applied: &BTreeMap<ResourceId, Spec>,
    owners: &BTreeMap<String, UserId>,
) -> BTreeMap<GroupName, UserId> {
    let is_ours = |user: &UserId| GROUP_USERS.contains(&user.uid) && user.gid == user.uid;
    let recorded: BTreeMap<&GroupName, UserId> = applied
        .iter()
        .filter_map(|(id, spec)| match spec {
            Spec::Group(group) => Some((id.group()?, group.user.filter(is_ours)?)),
            _ => None,
        })
        .collect();
    let mut taken: BTreeSet<u32> =
        recorded.values().chain(owners.values()).map(|user| user.uid).collect();
    let mut users: BTreeMap<GroupName, UserId> = BTreeMap::new();
    let mut claimed: BTreeSet<u32> = BTreeSet::new();
    for group in groups.clone() {
        if let Some(user) = recorded.get(group).filter(|user| claimed.insert(user.uid)) {
            users.insert(group.clone(), *user);
        }
    }
    let others: BTreeSet<u32> = recorded.values().map(|user| user.uid).collect();
    for group in groups.clone().filter(|group| !recorded.contains_key(group)) {
        let owner = owners.get(group.as_str()).filter(|user| is_ours(user));
        let free = |user: &&UserId| !others.contains(&user.uid) && claimed.insert(user.uid);
        if let Some(user) = owner.filter(free) {
            users.insert(group.clone(), *user);
        }
    }
    for group in groups {
        if !users.contains_key(group) {
            let free = GROUP_USERS.clone().find(|uid| !taken.contains(uid));
            let uid = free.unwrap_or(*GROUP_USERS.start());
            taken.insert(uid);
            users.insert(group.clone(), UserId { uid, gid: uid });
        }
    }
    users
}
