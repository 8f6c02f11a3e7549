//! Whoever lives in the simulated world: the groups of a controller, their agents, and people who
//! do what they like.

use std::collections::BTreeMap;
use std::time::Duration;

use babybot::execute::AgentOrder;
use babybot::name::{GroupName, SandboxId};
use babybot::observed::SandboxState;
use babybot::resource::Lifecycle;

use super::world::{Container, Facts, Keeper, Mutant, Whose, World};

/// How long a group's agent may have nothing to do.
const IDLE: Duration = Duration::from_secs(60);
/// The longest turn.
const TURN_MAX: Duration = Duration::from_secs(300);
/// Attempts at starting an agent for a turn.
const RETRIES_MAX: u64 = 5;

impl World {
    /// What a group does with an order: at once, or after the turn under way.
    pub(crate) async fn order(&self, group: &GroupName, order: AgentOrder) -> Result<(), String> {
        let turn = match self.facts().keepers.get(group) {
            Some(keeper) => keeper.turn.clone(),
            None => return Err("the group is not served".to_owned()),
        };
        let ignores = self.facts().mutant == Some(Mutant::BusyIsIgnored);
        let mut patience = 0;
        let _turn = loop {
            if let Ok(turn) = turn.try_lock() {
                break Some(turn);
            }
            if self.facts().keepers.get(group).is_some_and(|keeper| keeper.working) {
                if ignores && order != AgentOrder::Start {
                    break None;
                }
                return self.put_off(group, order);
            }
            patience += 1;
            if patience > 10_000 {
                return Err("the group does not answer".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.carry_out(group, order).await
    }

    /// What a turn under way makes of an order.
    fn put_off(&self, group: &GroupName, order: AgentOrder) -> Result<(), String> {
        let mut facts = self.facts();
        let Some(keeper) = facts.keepers.get_mut(group) else {
            return Err("the group is not served".to_owned());
        };
        let sandbox = keeper.sandbox.clone();
        let halted = sandbox.and_then(|id| facts.container(&id).cloned());
        let halted = halted.filter(|found| found.state == SandboxState::Paused);
        match halted {
            Some(halted) if order != AgentOrder::Start => facts.remove(&halted.id, "it was halted"),
            _ => drop(facts.keepers.get_mut(group).map(|keeper| keeper.later = Some(order))),
        }
        Ok(())
    }

    async fn carry_out(&self, group: &GroupName, order: AgentOrder) -> Result<(), String> {
        if order != AgentOrder::Start {
            self.rest(group, "an order").await;
        }
        let held = self.facts().keepers.get(group).is_none_or(|keeper| keeper.held);
        match order {
            AgentOrder::Stop => Ok(()),
            _ if held => Err("the group is paused".to_owned()),
            AgentOrder::Start | AgentOrder::Replace => self.wake_agent(group).await,
        }
    }

    /// Lets an agent finish and end.
    async fn rest(&self, group: &GroupName, why: &str) {
        let sandbox = self.facts().keepers.get(group).and_then(|keeper| keeper.sandbox.clone());
        let Some(sandbox) = sandbox else { return };
        let time = self.facts().chance.between(5, 400);
        tokio::time::sleep(Duration::from_millis(time)).await;
        let mut facts = self.facts();
        facts.remove(&sandbox, why);
        facts.let_go(group, &sandbox);
    }

    /// Starts an agent unless one runs.
    async fn wake_agent(&self, group: &GroupName) -> Result<(), String> {
        let (id, time, fails) = {
            let mut facts = self.facts();
            let keeper = facts.keepers.get(group).cloned().unwrap_or_default();
            if let Some(id) = keeper.sandbox {
                if facts.container(&id).is_some_and(Container::is_alive) {
                    return Ok(());
                }
                facts.remove(&id, "it has ended");
                facts.let_go(group, &id);
            }
            let faults = facts.weather.faults;
            let roll = facts.chance.below(1000);
            let fails = if roll < faults { facts.chance.between(1, 4) } else { 0 };
            if fails == 1 {
                return Err("the engine does not answer".to_owned());
            }
            let id = facts.create(group)?;
            let keeper = facts.keepers.entry(group.clone()).or_default();
            (keeper.starting, keeper.making) = (true, Some(id.clone()));
            (id, facts.chance.between(20, 600), fails)
        };
        self.trace(|| format!("{group} starts {id}"));
        self.wake.notify_one();
        tokio::time::sleep(Duration::from_millis(time)).await;
        self.facts().set_state(&id, SandboxState::Running);
        self.wake.notify_one();
        tokio::time::sleep(Duration::from_millis(time)).await;
        let mut facts = self.facts();
        let runs = facts.container(&id).is_some_and(Container::is_alive);
        let right = runs && fails == 0;
        if !right {
            // What did not start is removed, unless that fails too.
            if fails == 2 {
                facts.set_state(&id, SandboxState::Ended);
            } else {
                facts.remove(&id, "it did not start");
            }
        }
        if let Some(keeper) = facts.keepers.get_mut(group) {
            keeper.sandbox = right.then(|| id.clone());
            (keeper.starting, keeper.making) = (false, None);
        }
        drop(facts);
        if !right {
            return Err("no greeting".to_owned());
        }
        self.rest_when_idle(group, &id);
        Ok(())
    }

    fn rest_when_idle(&self, group: &GroupName, id: &SandboxId) {
        let (world, group, id) = (self.clone(), group.clone(), id.clone());
        self.spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let turn = match world.facts().keepers.get(&group) {
                    Some(keeper) if keeper.sandbox.as_ref() == Some(&id) => keeper.turn.clone(),
                    _ => return,
                };
                let Ok(_turn) = turn.try_lock() else { continue };
                let rests = {
                    let facts = world.facts();
                    let idle = facts.keepers.get(&group).is_some_and(|keeper| !keeper.is_busy());
                    idle && facts.lifecycle(&group) == Some(Lifecycle::OnDemand)
                };
                if rests {
                    return world.rest(&group, "nothing to do").await;
                }
            }
        });
    }

    /// A message comes in: a turn, in an agent that is started for it.
    pub(crate) fn message(&self, group: &GroupName) {
        let (world, group) = (self.clone(), group.clone());
        self.spawn(async move {
            let turn = world.facts().keepers.get(&group).map(|keeper| keeper.turn.clone());
            let Some(Ok(_turn)) = turn.as_ref().map(|turn| turn.try_lock()) else { return };
            if world.facts().keepers.get(&group).is_none_or(|keeper| keeper.held) {
                return;
            }
            world.set_working(&group, true);
            world.work(&group).await;
            // What ended just before the turn did is noticed with it.
            world.look_after_turn(&group);
            world.set_working(&group, false);
            let later =
                world.facts().keepers.get_mut(&group).and_then(|keeper| keeper.later.take());
            if let Some(order) = later.filter(|order| *order != AgentOrder::Start) {
                let _ = world.carry_out(&group, order).await;
            }
            world.wake.notify_one();
        });
    }

    fn set_working(&self, group: &GroupName, working: bool) {
        if let Some(keeper) = self.facts().keepers.get_mut(group) {
            keeper.working = working;
        }
    }

    async fn work(&self, group: &GroupName) {
        let began = self.elapsed();
        let mut left = self.facts().chance.between(1, 100);
        let mut retries = 0;
        while left > 0 {
            if self.elapsed() - began > TURN_MAX {
                // Its limit: whatever state the agent is in, it is ended.
                self.set_working(group, false);
                return self.rest(group, "the turn took too long").await;
            }
            match self.look_after_turn(group) {
                Some(state) => left -= u64::from(state == SandboxState::Running),
                // A hold lets the turn finish, but starts nothing for it.
                None if self.facts().keepers.get(group).is_none_or(|keeper| keeper.held) => return,
                None => {
                    if self.wake_agent(group).await.is_err() {
                        retries += 1;
                        if retries > RETRIES_MAX {
                            return;
                        }
                        tokio::time::sleep(Duration::from_secs(retries)).await;
                    }
                    continue;
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// What the agent of a turn does; `None`: there is none any more.
    fn look_after_turn(&self, group: &GroupName) -> Option<SandboxState> {
        let mut facts = self.facts();
        let sandbox = facts.keepers.get(group).and_then(|keeper| keeper.sandbox.clone())?;
        match facts.container(&sandbox) {
            Some(found) if found.is_alive() => Some(found.state),
            _ => {
                facts.remove(&sandbox, "it has ended");
                facts.let_go(group, &sandbox);
                None
            }
        }
    }

    /// The controller notices in a while that an agent has ended.
    fn ended(&self, id: &SandboxId) {
        let (world, id) = (self.clone(), id.clone());
        self.spawn(async move {
            let time = world.facts().chance.between(1, 800);
            tokio::time::sleep(Duration::from_millis(time)).await;
            let mut facts = world.facts();
            let found = facts
                .keepers
                .iter()
                .find(|(_, keeper)| keeper.sandbox.as_ref() == Some(&id) && !keeper.working);
            if let Some(group) = found.map(|(group, _)| group.clone()) {
                facts.let_go(&group, &id);
            }
            drop(facts);
            world.wake.notify_one();
        });
    }

    /// Somebody, or chance, does something to the machine.
    pub(crate) fn meddle(&self) {
        let mut facts = self.facts();
        let groups: Vec<GroupName> = facts.keepers.keys().cloned().collect();
        let Some(group) = facts.chance.pick(&groups) else { return };
        let mine: Vec<Container> = facts
            .containers
            .iter()
            .filter(|found| {
                found.group == group && matches!(found.whose, Whose::Ours | Whose::Copy)
            })
            .cloned()
            .collect();
        let one = facts.chance.pick(&mine);
        let roll = facts.chance.below(26);
        let mut dead = None;
        let what = match (roll, one) {
            (0 | 1, Some(one)) => {
                let gone = facts.chance.one_in(2);
                if gone {
                    facts.containers.retain(|found| found.id != one.id);
                } else {
                    facts.set_state(&one.id, SandboxState::Ended);
                }
                dead = Some(one.id.clone());
                format!("{} is killed{}", one.id, if gone { " and removed" } else { "" })
            }
            (2 | 3, Some(one)) if one.state == SandboxState::Running => {
                facts.set_state(&one.id, SandboxState::Paused);
                format!("{} is paused", one.id)
            }
            (4, Some(one)) if one.state == SandboxState::Paused => {
                facts.set_state(&one.id, SandboxState::Running);
                format!("{} is unpaused", one.id)
            }
            (5, Some(one)) => {
                facts.change(&one.id, |found| found.edits.push("memory: 1 GiB".to_owned()));
                format!("{} is edited", one.id)
            }
            (6, Some(one)) => {
                let id = facts.fresh_id();
                let copy = Container { id: id.clone(), named: false, whose: Whose::Copy, ..one };
                facts.containers.push(copy);
                format!("{id} is a copy of a container of {group}")
            }
            // Where lists lie as well, nobody could tell any more that it is there.
            (7, Some(one)) if !facts.weather.lying && facts.is_held_by_agent(&one) => {
                facts.change(&one.id, |found| found.named = false);
                format!("{} is given another name", one.id)
            }
            (8, _) => {
                let free = !facts.containers.iter().any(|c| c.group == group && c.named);
                let whose = if free { Whose::Stranger } else { Whose::Decoy };
                let id = facts.fresh_id();
                facts.containers.push(Container {
                    id: id.clone(),
                    group: group.clone(),
                    named: whose == Whose::Stranger,
                    whose,
                    state: SandboxState::Running,
                    digest: "v1:another".to_owned(),
                    image: None,
                    edits: Vec::new(),
                });
                format!("{id} comes to be near {group}: {whose:?}")
            }
            (9 | 10, _) => {
                facts.containers.retain(|found| {
                    !(found.group == group && matches!(found.whose, Whose::Stranger | Whose::Decoy))
                });
                format!("strangers leave {group}")
            }
            (11, _) => {
                let place = facts.folders.entry(group.clone()).or_default();
                place.missing.insert(format!("groups/{group}"));
                format!("a folder of {group} is deleted")
            }
            (12, _) => {
                facts.folders.remove(&group);
                facts.settings.remove(&group);
                format!("all folders of {group} are deleted")
            }
            (13, _) => {
                let edited = facts.chance.one_in(2);
                let env = edited.then(|| BTreeMap::from([("X".to_owned(), "edited".to_owned())]));
                facts.settings.insert(group.clone(), env);
                format!("the settings of {group} are edited")
            }
            (14, _) => {
                facts.settings.remove(&group);
                format!("the settings of {group} are deleted")
            }
            (15, _) => {
                facts.memory = false;
                "the global memory is deleted".to_owned()
            }
            (16, _) => {
                let containers = &facts.containers;
                let used = |tag: &_| containers.iter().any(|c| c.image.as_ref() == Some(tag));
                let unused = facts.images.iter().find(|tag| !used(*tag)).cloned();
                if let Some(tag) = &unused {
                    facts.images.remove(tag);
                }
                format!("an image is removed: {unused:?}")
            }
            (17, _) => {
                let seconds = i64::try_from(facts.chance.below(7_200_000)).unwrap() - 3_600_000;
                facts.skew += seconds;
                // Attempts count by the wall clock.
                facts.calls.clear();
                format!("the clock is set by {seconds} ms")
            }
            (18, _) => {
                let keeper = facts.keepers.entry(group.clone()).or_default();
                keeper.held = !keeper.held;
                format!("{group} held: {}", keeper.held)
            }
            (19, _) => {
                let keeper = facts.keepers.entry(group.clone()).or_default();
                let inside = keeper.leases == 0 && keeper.sandbox.is_some();
                keeper.leases = u32::from(inside);
                format!("somebody looks inside {group}: {inside}")
            }
            (20, _) => {
                facts.containers.retain(|found| {
                    !(found.state == SandboxState::Ended && found.whose == Whose::Ours)
                });
                "what ended is gone".to_owned()
            }
            _ => {
                drop(facts);
                self.trace(|| format!("a message for {group}"));
                return self.message(&group);
            }
        };
        drop(facts);
        self.trace(|| what);
        if let Some(id) = dead {
            self.ended(&id);
        }
    }

    /// Everybody leaves, and what they hold is let go.
    pub(crate) fn leave_alone(&self) {
        let mut facts = self.facts();
        facts.weather = Default::default();
        for keeper in facts.keepers.values_mut() {
            keeper.leases = 0;
        }
        drop(facts);
        self.trace(|| "from here on, everybody leaves it alone".to_owned());
    }

    /// Groups that are not served any more end within a while.
    pub(crate) fn dismiss(&self, group: &GroupName) {
        let (world, group) = (self.clone(), group.clone());
        self.spawn(async move {
            let turn = world.facts().keepers.get(&group).map(|keeper| keeper.turn.clone());
            if let Some(turn) = turn {
                let _ = tokio::time::timeout(Duration::from_secs(15), turn.lock()).await;
            }
            let keeper = world.facts().keepers.get(&group).cloned();
            let served = world.facts().lifecycle(&group).is_some();
            if let (Some(Keeper { sandbox: Some(id), .. }), false) = (keeper, served) {
                world.facts().containers.retain(|found| found.id != id);
            }
            let mut facts = world.facts();
            if facts.lifecycle(&group).is_none() {
                facts.keepers.remove(&group);
            }
            drop(facts);
            world.wake.notify_one();
        });
    }
}

impl Facts {
    fn is_held_by_agent(&self, one: &Container) -> bool {
        let keeper = self.keepers.get(&one.group);
        keeper.is_some_and(|keeper| keeper.sandbox.as_ref() == Some(&one.id))
    }

    fn let_go(&mut self, group: &GroupName, id: &SandboxId) {
        if let Some(keeper) = self.keepers.get_mut(group)
            && keeper.sandbox.as_ref() == Some(id)
        {
            keeper.sandbox = None;
        }
    }

    fn change(&mut self, id: &SandboxId, edit: impl FnOnce(&mut Container)) {
        if let Some(found) = self.containers.iter_mut().find(|found| found.id == *id) {
            edit(found);
        }
    }
}
