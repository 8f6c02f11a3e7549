//! Applying against a world that fails, forgets and changes under one's hands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use babybot::clock::SystemClock;
use babybot::desired::{Desired, Setting};
use babybot::execute::{self, Change, StepOutcome};
use babybot::manifest;
use babybot::name::GroupName;
use babybot::observe::{self, Found, Look};
use babybot::observed::{AgentSeen, Applied, Availability, Controller, Known, Seen};
use babybot::plan::{Plan, Work, plan};
use babybot::reconcile::{ApplyError, Approved, apply};
use babybot::resource::{ResourceId, ResourceKind, Risk, Spec};
use babybot::store::{self, Store};
use futures_util::future::BoxFuture;

const TWO_GROUPS: &str = r#"
schema = 1
name = "home"
[models.rehearsal]
kind = "rehearsal"
[groups.one]
bind = ["terminal"]
env = { LANG = "de" }
[groups.two]
"#;

/// What is there, in memory.
#[derive(Default)]
struct Facts {
    memory: bool,
    folders: BTreeSet<GroupName>,
    settings: BTreeMap<GroupName, BTreeMap<String, String>>,
    changes: Vec<String>,
}

/// How a change goes wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing happens, and it says so.
    Before,
    /// It happens, and says that it did not.
    LostAnswer,
    /// It happens, and never says anything.
    Hang,
}

#[derive(Clone, Default)]
struct World {
    facts: Arc<Mutex<Facts>>,
    faults: BTreeMap<String, Fault>,
    store: Option<Store>,
    database: PathBuf,
}

impl World {
    async fn new(folder: &std::path::Path) -> Self {
        let database = folder.join("babybot.db");
        let store = Store::open(&database).unwrap();
        Self { store: Some(store), database, ..Self::default() }
    }

    fn failing(mut self, change: &str, fault: Fault) -> Self {
        self.faults.insert(change.to_owned(), fault);
        self
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn changes(&self) -> Vec<String> {
        self.facts.lock().unwrap().changes.clone()
    }

    /// Does `effect` under `name`, as the faults have it.
    fn change<'a>(
        &'a self,
        name: String,
        effect: impl FnOnce(&mut Facts) + Send + 'a,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let fault = self.faults.get(&name).copied();
            if fault != Some(Fault::Before) {
                let mut facts = self.facts.lock().unwrap();
                effect(&mut facts);
                facts.changes.push(name);
            }
            match fault {
                None => Ok(()),
                Some(Fault::Before) => Err("no space left".to_owned()),
                Some(Fault::LostAnswer) => Err("the answer was lost".to_owned()),
                Some(Fault::Hang) => std::future::pending().await,
            }
        })
    }
}

/// A look at a world.
struct Eyes<'a>(&'a World);

impl Look for Eyes<'_> {
    fn see<'a>(&'a self, id: &'a ResourceId, _: &'a Spec) -> BoxFuture<'a, Known<Seen>> {
        let facts = self.0.facts.lock().unwrap();
        let seen = match id {
            ResourceId::Image(_) => Some(Seen::Image),
            ResourceId::Model(_) => Some(Seen::Model(Availability::Present)),
            ResourceId::GlobalMemory => facts.memory.then_some(Seen::GlobalMemory),
            ResourceId::Folder(group) => facts
                .folders
                .contains(group)
                .then(|| Seen::Folder { missing: BTreeSet::new(), foreign: BTreeSet::new() }),
            ResourceId::Settings(group) => {
                let env = facts.settings.get(group).cloned();
                env.map(|env| Seen::Settings { env: Some(env) })
            }
            id => panic!("{id} is not looked at"),
        };
        Box::pin(std::future::ready(seen.map_or(Known::Absent, Known::Is)))
    }
    fn find(&self, _: ResourceKind) -> BoxFuture<'_, Found> {
        Box::pin(async { Ok(BTreeMap::new()) })
    }
    fn applied(&self) -> BoxFuture<'_, Known<Applied>> {
        let applied = Store::read_only(&self.0.database).unwrap().unwrap().applied().unwrap();
        let known = match applied {
            Some(applied) => Known::Is(Applied { number: applied.number, specs: applied.specs }),
            None => Known::Absent,
        };
        Box::pin(std::future::ready(known))
    }
    fn controller(&self) -> BoxFuture<'_, Controller> {
        Box::pin(std::future::ready(Controller::Absent))
    }
    fn agents(&self) -> BTreeMap<GroupName, AgentSeen> {
        BTreeMap::new()
    }
}

impl Change for World {
    fn carry_out<'a>(&'a self, work: &'a Work) -> BoxFuture<'a, Result<(), String>> {
        match work {
            Work::MakeFolders { group, .. } => self.change(format!("folder/{group}"), |facts| {
                facts.folders.insert(group.clone());
            }),
            Work::WriteGlobalMemory => {
                self.change("memory/global".to_owned(), |facts| facts.memory = true)
            }
            Work::WriteSettings { group, env } => {
                self.change(format!("settings/{group}"), |facts| {
                    facts.settings.insert(group.clone(), env.clone());
                })
            }
            Work::Record { .. } | Work::Forget => Box::pin(async { Ok(()) }),
            work => self.change(format!("{work:?}"), |_| {}),
        }
    }
}

fn desired(text: &str) -> Desired {
    Desired::new(&manifest::parse(text).unwrap(), &Setting::default())
}

async fn planned(desired: &Desired, world: &World) -> Plan {
    plan(desired, &observe::observe(desired, &Eyes(world)).await)
}

async fn apply_to(
    world: &World,
    desired: &Desired,
    plan: &Plan,
) -> Result<babybot::reconcile::ApplyReport, ApplyError> {
    let approved = Approved { desired, text: TWO_GROUPS, plan, risks: vec![Risk::Safe] };
    apply(&approved, &Eyes(world), world, world.store(), &SystemClock, |_, _| {}).await
}

#[tokio::test]
async fn a_step_that_fails_holds_back_its_own_group_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path()).await.failing("folder/one", Fault::Before);
    let desired = desired(TWO_GROUPS);
    let first = planned(&desired, &world).await;
    let applied = apply_to(&world, &desired, &first).await.unwrap();
    let outcome = |name: &str| {
        let found = applied.report.steps.iter().find(|(id, _)| id.to_string() == name);
        found.unwrap_or_else(|| panic!("no step {name}")).1.clone()
    };
    assert_eq!(outcome("folder/one"), StepOutcome::Failed("no space left".to_owned()));
    let by = ResourceId::Folder(GroupName::new("one").unwrap());
    assert_eq!(outcome("settings/one"), StepOutcome::HeldBack(by.clone()));
    assert_eq!(outcome("group/one"), StepOutcome::HeldBack(by));
    assert_eq!(outcome("group/two"), StepOutcome::Done);
    let recorded = world.store().history(1).await.unwrap().remove(0);
    assert_eq!(recorded.outcome, store::ApplyOutcome::Partial);

    // Once the cause is gone, the next apply does the rest and only that.
    let world = World { faults: BTreeMap::new(), ..world };
    let rest = planned(&desired, &world).await;
    let rest_ids: Vec<String> = rest.steps.iter().map(|step| step.id.to_string()).collect();
    assert_eq!(rest_ids, ["folder/one", "settings/one", "group/one"]);
    let applied = apply_to(&world, &desired, &rest).await.unwrap();
    assert!(applied.report.is_complete() && applied.left.is_empty());
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_found_done_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path()).await.failing("settings/one", Fault::LostAnswer);
    let desired = desired(TWO_GROUPS);
    apply_to(&world, &desired, &planned(&desired, &world).await).await.unwrap();
    let world = World { faults: BTreeMap::new(), ..world };
    let applied = apply_to(&world, &desired, &planned(&desired, &world).await).await.unwrap();
    assert!(applied.left.is_empty());
    assert_eq!(world.changes().iter().filter(|change| *change == "settings/one").count(), 1);
}

#[tokio::test]
async fn a_world_that_moved_since_the_plan_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path()).await;
    let desired = desired(TWO_GROUPS);
    let old = planned(&desired, &world).await;
    world.facts.lock().unwrap().memory = true;
    let refused = apply_to(&world, &desired, &old).await;
    assert!(matches!(refused, Err(ApplyError::Stale(_))), "{refused:?}");
    assert!(world.changes().is_empty());
    assert!(world.store().applied().await.unwrap().is_none());
}

#[tokio::test]
async fn an_apply_that_is_cut_off_after_any_step_is_finished_by_the_next() {
    let desired = desired(TWO_GROUPS);
    let steps = ["memory/global", "folder/one", "folder/two", "settings/one", "settings/two"];
    for step in steps {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(folder.path()).await.failing(step, Fault::Hang);
        let first = planned(&desired, &world).await;
        {
            // It did its work and will never say so: whoever waited for it is gone.
            let mut cut = Box::pin(execute::execute(&first, &world, |_, _| {}));
            let waited = tokio::time::timeout(Duration::ZERO, &mut cut).await;
            assert!(waited.is_err(), "{step}");
        }
        let world = World { faults: BTreeMap::new(), ..world };
        let again = planned(&desired, &world).await;
        let applied = apply_to(&world, &desired, &again).await.unwrap();
        assert!(applied.left.is_empty(), "{step}: {:?}", applied.left);
        let changes = world.changes();
        let once: BTreeSet<&String> = changes.iter().collect();
        assert_eq!(changes.len(), once.len(), "{step} was done twice: {changes:?}");
    }
}

#[tokio::test]
async fn two_who_apply_at_once_make_one_generation_each_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path()).await;
    let desired = desired(TWO_GROUPS);
    let plan = planned(&desired, &world).await;
    apply_to(&world, &desired, &plan).await.unwrap();
    // The same plan again: its parent is not the newest any more.
    let late = apply_to(&world, &desired, &plan).await;
    assert!(matches!(late, Err(ApplyError::Stale(_))), "{late:?}");
    assert_eq!(world.store().applied().await.unwrap().unwrap().number, 1);
}

#[test]
fn a_manifest_whose_tables_are_shuffled_makes_the_same_plan() {
    let tables: Vec<String> = (0..12)
        .map(|n| {
            format!(
                "[groups.g{n:02}]\nenv = {{ N = \"{n}\" }}\nlimits = {{ turn = \"{}m\" }}\n",
                n + 1
            )
        })
        .collect();
    let head = "schema = 1\nname = \"home\"\n[models.rehearsal]\nkind = \"rehearsal\"\n";
    let print = |tables: &[String]| {
        let desired = desired(&format!("{head}{}", tables.concat()));
        let observed = babybot::observed::Observed {
            controller: Controller::Absent,
            applied: Known::Absent,
            looks: desired.resources.keys().map(|id| (id.clone(), Known::Absent)).collect(),
            agents: BTreeMap::new(),
        };
        let mut plan = plan(&desired, &observed);
        // Places are where things are written, which is what is shuffled.
        for step in &mut plan.steps {
            step.at = None;
            step.fields.iter_mut().for_each(|field| field.at = None);
        }
        serde_json::to_string(&plan).unwrap()
    };
    let straight = print(&tables);
    let mut shuffled = tables.clone();
    for round in 0..20 {
        // A fixed walk through many orders is as good as chance, and the same every time.
        shuffled.rotate_left(round % 5 + 1);
        shuffled.swap(round % 12, (round * 7 + 3) % 12);
        assert_eq!(print(&shuffled), straight, "{shuffled:?}");
    }
}
