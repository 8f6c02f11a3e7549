//! Planning, seen from outside: a manifest and a machine in, one printed plan out.

use std::collections::{BTreeMap, BTreeSet};

use babybot::observed::{Availability, Controller, Known, Seen};
use babybot::plan::render::{self, Color, Heading};
use babybot::plan::{Action, NoteKind, Plan, plan};
use babybot::resource::{Risk, RuntimeKind};
use insta::assert_snapshot;

use crate::support::plan::{World, desired, id, plan_checked, running};

mod choice;
mod containers;
mod properties;
mod risks;
mod senders;
mod tampered;
mod users;

const ONE: &str = "
model demo rehearsal
group main main=true bind=terminal requires_trigger=false
";

const FAMILY: &str = "
model demo rehearsal
model local ollama
group main main=true bind=terminal model=local requires_trigger=false
group family bind=terminal env.LANG=de_DE.UTF-8 limits.memory=2GiB
group kids
";

#[test]
fn a_first_apply_builds_from_the_ground_up() {
    assert_snapshot!(first(ONE), @"
    manifest  babybot.toml   generation - → 1   runtime none

     +   instance           create: runtime none                      safe
     +   model/demo         create: kind rehearsal (babybot.toml:2)   safe
     +   memory/global      create                                    safe
     +   folder/main        create                                    safe
     +   settings/main      create                                    safe
     +   group/main         create                                    PRIVILEGED
           main               true       babybot.toml:3   PRIVILEGED
           bind               terminal   babybot.toml:3
           requires_trigger   false      babybot.toml:3
           model              demo
     +   channel/terminal   create: kind terminal                     safe

     ·   group/main, channel/terminal: start with `babybot up`
     ·   group/main: runtime none does not isolate: the agent runs as your user
     ·   group/main: runtime none does not enforce limits.cpus, memory and pids

    7 to add, 0 to change, 0 to remove. Risk: 1 privileged
    Next: babybot apply   (`plan -v` also shows 14 defaults)
    ");
}

#[test]
fn a_family_of_three_says_what_main_may_do_and_that_nothing_holds_it_back() {
    assert_snapshot!(first(FAMILY), @"
    manifest  babybot.toml   generation - → 1   runtime none

     +   instance           create: runtime none                            safe
     +   model/demo         create: kind rehearsal (babybot.toml:2)         safe
     +   model/local        create                                          PRIVILEGED
           kind    ollama                   babybot.toml:3   PRIVILEGED
           url     http://127.0.0.1:11434                    PRIVILEGED
           model   qwen3:8b
     +   memory/global      create                                          safe
     +   folder/family      create                                          safe
     +   folder/kids        create                                          safe
     +   folder/main        create                                          safe
     +   settings/family    create: env.LANG de_DE.UTF-8 (babybot.toml:5)   safe
     +   settings/kids      create                                          safe
     +   settings/main      create                                          safe
     +   group/family       create                                          safe
           bind            terminal   babybot.toml:5
           model           demo
           limits.memory   2GiB       babybot.toml:5
     +   group/kids         create                                          safe
           bind    (none)
           model   demo
     +   group/main         create                                          PRIVILEGED
           main               true       babybot.toml:4   PRIVILEGED
           bind               terminal   babybot.toml:4
           requires_trigger   false      babybot.toml:4
           model              local      babybot.toml:4
           runtime            none                        PRIVILEGED
             does not isolate: the agent runs as you, on this machine
     +   channel/terminal   create: kind terminal                           safe

     ·   group/family, group/kids and 2 more: start with `babybot up`
     ·   group/family, group/kids and 1 more: runtime none does not isolate: the
         agent runs as your user
     ·   group/family, group/kids and 1 more: runtime none does not enforce
         limits.cpus, memory and pids

    14 to add, 0 to change, 0 to remove. Risk: 2 privileged
    Next: babybot apply   (`plan -v` also shows 38 defaults)
    ");
}

#[test]
fn nothing_to_do_is_said_in_one_line() {
    assert_snapshot!(next(ONE, ONE), @"No changes. The machine matches babybot.toml (generation 1).");
}

#[test]
fn an_edited_model_shows_only_what_changed() {
    let now = FAMILY.replace("local ollama", "local ollama url=http://10.0.0.7:11434 context=8192");
    assert_snapshot!(next(FAMILY, &now), @"
    manifest  babybot.toml   generation 1 → 2   runtime none

     ~   model/local        change: takes effect with the next turn   PRIVILEGED
           url       http://127.0.0.1:11434 → http://10.0.0.7:11434   babybot.toml:3   PRIVILEGED
           context   16384 → 8192                                     babybot.toml:3

     ·   group/family, group/kids and 2 more: start with `babybot up`
     ·   group/family, group/kids and 1 more: runtime none does not isolate: the
         agent runs as your user
     ·   group/family, group/kids and 1 more: runtime none does not enforce
         limits.cpus, memory and pids

    0 to add, 1 to change, 0 to remove. Risk: 1 privileged
    Next: babybot apply
    ");
}

#[test]
fn a_model_that_stops_rehearsing_says_which_agents_it_sets_free() {
    let now = ONE.replace("demo rehearsal", "demo ollama");
    assert_snapshot!(next(ONE, &now), @"
    manifest  babybot.toml   generation 1 → 2   runtime none

     ~   model/demo         change: takes effect with the next turn   PRIVILEGED
           kind                  rehearsal → ollama       babybot.toml:2   PRIVILEGED
           url                   http://127.0.0.1:11434                    PRIVILEGED
           model                 qwen3:8b
           keep_alive            30m
           groups.main.runtime   none (unchanged)                          PRIVILEGED
             does not isolate, and the model is no longer the rehearsal: the agent
             runs as you, on this machine

     ·   group/main, channel/terminal: start with `babybot up`
     ·   group/main: runtime none does not isolate: the agent runs as your user
     ·   group/main: runtime none does not enforce limits.cpus, memory and pids

    0 to add, 1 to change, 0 to remove. Risk: 1 privileged
    Next: babybot apply
    ");
}

#[test]
fn a_removed_group_goes_and_its_data_stays() {
    let now = FAMILY.replace("group kids", "").replace("bind=terminal env", "env");
    assert_snapshot!(next(FAMILY, &now), @"
    manifest  babybot.toml   generation 1 → 2   runtime none

     -   group/kids         remove: no longer in the manifest                 destructive
     ~   group/family       change: takes effect when the agent next starts   safe
           bind   terminal → (none)

     =   group/kids: kept: groups/kids, its sessions and its messages
     ·   group/family, group/main and 1 more: start with `babybot up`
     ·   group/family, group/main: runtime none does not isolate: the agent runs as
         your user
     ·   group/family, group/main: runtime none does not enforce limits.cpus, memory
         and pids

    0 to add, 1 to change, 1 to remove. Risk: 1 destructive
    Next: babybot apply
    ");
}

#[test]
fn what_holds_for_the_whole_house_changes_in_one_line() {
    let text = |parallel: u32| format!("runtime parallel={parallel}\n{FAMILY}");
    let (before, now) = (desired(&text(4)), desired(&text(5)));
    let plan = plan_checked(&now, &World::of(&before));
    assert_eq!(plan.steps.len(), 1, "{plan:#?}");
    let step = &plan.steps[0];
    assert_eq!((step.id.to_string().as_str(), step.fields.len()), ("instance", 1));
    assert_eq!(step.reason, "takes effect at once");
}

#[test]
fn folders_that_are_already_there_are_adopted() {
    let desired = desired(ONE);
    let folder = Known::Is(Seen::Folder { missing: BTreeSet::new(), foreign: BTreeSet::new() });
    let world = World::empty(&desired)
        .looking("folder/main", folder)
        .looking("memory/global", Known::Is(Seen::GlobalMemory));
    assert_snapshot!(printed(&plan_checked(&desired, &world)), @"
    manifest  babybot.toml   generation - → 1   runtime none

     +   instance           create: runtime none                      safe
     +   model/demo         create: kind rehearsal (babybot.toml:2)   safe
     =   memory/global      adopt: the file is already there          safe
     =   folder/main        adopt: the folders are already there      safe
     +   settings/main      create                                    safe
     +   group/main         create                                    PRIVILEGED
           main               true       babybot.toml:3   PRIVILEGED
           bind               terminal   babybot.toml:3
           requires_trigger   false      babybot.toml:3
           model              demo
     +   channel/terminal   create: kind terminal                     safe

     ·   group/main, channel/terminal: start with `babybot up`
     ·   group/main: runtime none does not isolate: the agent runs as your user
     ·   group/main: runtime none does not enforce limits.cpus, memory and pids

    5 to add, 0 to change, 0 to remove, 2 to adopt. Risk: 1 privileged
    Next: babybot apply   (`plan -v` also shows 14 defaults)
    ");
}

#[test]
fn drift_is_found_and_mended() {
    let env = BTreeMap::from([("LANG".to_owned(), "fr_FR.UTF-8".to_owned())]);
    let missing = BTreeSet::from(["data/ipc/kids".to_owned()]);
    let world = World::with(FAMILY)
        .looking("settings/family", Known::Is(Seen::Settings { env: Some(env) }))
        .looking("settings/main", Known::Is(Seen::Settings { env: None }))
        .looking("folder/kids", Known::Is(Seen::Folder { missing, foreign: BTreeSet::new() }))
        .looking("memory/global", Known::Absent);
    assert_snapshot!(printed(&plan_checked(&desired(FAMILY), &world)), @"
    manifest  babybot.toml   generation 1 → 2   runtime none

     ~   memory/global      repair: the file is missing        safe
     ~   folder/kids        repair: data/ipc/kids is missing   safe
     ~   settings/family    repair: the file was edited        safe
           env.LANG   fr_FR.UTF-8 → de_DE.UTF-8   babybot.toml:5
     ~   settings/main      repair: the file was edited        safe

     ·   group/family, group/kids and 2 more: start with `babybot up`
     ·   group/family, group/kids and 1 more: runtime none does not isolate: the
         agent runs as your user
     ·   group/family, group/kids and 1 more: runtime none does not enforce
         limits.cpus, memory and pids

    0 to add, 4 to change, 0 to remove. Risk: all safe
    Next: babybot apply
    ");
}

#[test]
fn what_is_unknown_is_left_alone_with_all_that_stands_on_it() {
    let desired = desired(FAMILY);
    let world = World::empty(&desired)
        .looking("folder/family", Known::Unknown("permission denied".to_owned()))
        .looking("container/kids", Known::Unknown("/proc cannot be read".to_owned()))
        .looking("model/local", Known::Unknown("connection refused".to_owned()));
    assert_snapshot!(printed(&plan_checked(&desired, &world)), @"
    manifest  babybot.toml   generation - → 1   runtime none

     +   instance           create: runtime none                      safe
     +   model/demo         create: kind rehearsal (babybot.toml:2)   safe
     +   model/local        create                                    PRIVILEGED
           kind    ollama                   babybot.toml:3   PRIVILEGED
           url     http://127.0.0.1:11434                    PRIVILEGED
           model   qwen3:8b
     +   memory/global      create                                    safe
     +   folder/kids        create                                    safe
     +   folder/main        create                                    safe
     +   settings/kids      create                                    safe
     +   settings/main      create                                    safe
     +   group/kids         create                                    safe
           bind    (none)
           model   demo
     +   group/main         create                                    PRIVILEGED
           main               true       babybot.toml:4   PRIVILEGED
           bind               terminal   babybot.toml:4
           requires_trigger   false      babybot.toml:4
           model              local      babybot.toml:4
           runtime            none                        PRIVILEGED
             does not isolate: the agent runs as you, on this machine
     +   channel/terminal   create: kind terminal                     safe

     ?   model/local: could not be checked: connection refused
     ?   folder/family: could not be checked: permission denied
     ?   container/kids: could not be checked: /proc cannot be read
     !   settings/family: created later, because it needs folder/family
     !   group/family: created later, because it needs folder/family
     ·   group/family, group/kids and 2 more: start with `babybot up`
     ·   group/family, group/kids and 1 more: runtime none does not isolate: the
         agent runs as your user
     ·   group/family, group/kids and 1 more: runtime none does not enforce
         limits.cpus, memory and pids

    11 to add, 0 to change, 0 to remove. Risk: 2 privileged
    Next: babybot apply   (`plan -v` also shows 27 defaults)
    ");
}

#[test]
fn without_the_last_generation_nothing_is_planned() {
    let mut world = World::with(FAMILY);
    world.observed.applied = Known::Unknown("the store is locked".to_owned());
    assert_snapshot!(printed(&plan_checked(&desired(ONE), &world)), @"
    Part of the machine could not be checked. No other changes.

     ?   instance: the last applied generation could not be checked: the store is
         locked
    ");
}

#[test]
fn a_missing_model_comes_with_the_command_that_gets_it() {
    let text = "model local ollama\nmodel far ollama url=http://10.0.0.7:11434 model=gemma3:4b";
    let missing = || Known::Is(Seen::Model(Availability::Missing));
    let world = World::with(text).looking("model/local", missing()).looking("model/far", missing());
    let plan = plan_checked(&desired(text), &world);
    assert!(plan.is_empty());
    assert_snapshot!(printed(&plan), @"
    No changes. The machine matches babybot.toml (generation 1).

     !   model/far: not on http://10.0.0.7:11434:
         `OLLAMA_HOST=http://10.0.0.7:11434 ollama pull gemma3:4b`
     !   model/local: not on http://127.0.0.1:11434: `ollama pull qwen3:8b`
    ");
}

#[test]
fn a_leftover_agent_is_stopped_only_where_no_controller_can_be_its_own() {
    let container = Known::Is(running(3));
    let mut world = World::with(ONE).looking("container/gone", container);
    assert_snapshot!(printed(&plan_checked(&desired(ONE), &world)), @"
    manifest  babybot.toml   generation 1 → 2   runtime none

     -   container/gone     stop: left over from an earlier run, 3 processes   disruptive

     ·   group/main, channel/terminal: start with `babybot up`
     ·   group/main: runtime none does not isolate: the agent runs as your user
     ·   group/main: runtime none does not enforce limits.cpus, memory and pids

    0 to add, 0 to change, 1 to remove. Risk: 1 disruptive
    Next: babybot apply
    ");

    world.observed.controller = Controller::Unknown("the socket does not answer".to_owned());
    assert!(plan_checked(&desired(ONE), &world).is_empty());
    world.observed.controller = Controller::Running;
    assert!(plan_checked(&desired(ONE), &world.knowing("main", "one")).steps.len() == 1);
}

#[test]
fn a_settings_file_of_somebody_else_is_not_replaced_in_passing() {
    let desired = desired(ONE);
    let world =
        World::empty(&desired).looking("settings/main", Known::Is(Seen::Settings { env: None }));
    let plan = plan_checked(&desired, &world);
    assert_eq!(risk_of(&plan, "settings/main"), Risk::Destructive);
}

#[test]
fn a_plan_reads_the_same_to_a_program() {
    let desired = desired(ONE);
    let plan = plan_checked(&desired, &World::empty(&desired));
    let json = render::json(&plan, &heading()).expect("a plan has a JSON form");
    assert_eq!(render::from_json(&json).expect("it reads back"), plan);
    assert_snapshot!(json, @r#"
    {
      "format": "1.2",
      "manifest": "babybot.toml",
      "runtime": "none",
      "reason": "",
      "generation": {
        "from": null,
        "to": 1
      },
      "parent": null,
      "steps": [
        {
          "id": "instance",
          "action": "create",
          "reason": "",
          "fields": [
            {
              "path": "assistant.name",
              "from": null,
              "to": "Baby",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "assistant.timezone",
              "from": null,
              "to": "the machine's",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "runtime",
              "from": null,
              "to": "none",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "runtime.parallel",
              "from": null,
              "to": "5",
              "meaning": null,
              "at": null,
              "risk": "safe"
            }
          ],
          "risk": "safe",
          "at": null,
          "work": {
            "do": "record",
            "spec": {
              "resource": "instance",
              "spec": {
                "assistant": "Baby",
                "timezone": null,
                "parallel": 5,
                "runtime": {
                  "kind": "none"
                }
              }
            }
          }
        },
        {
          "id": "model/demo",
          "action": "create",
          "reason": "",
          "fields": [
            {
              "path": "kind",
              "from": null,
              "to": "rehearsal",
              "meaning": null,
              "at": {
                "line": 2,
                "column": 1,
                "offset": 0,
                "length": 1
              },
              "risk": "safe"
            },
            {
              "path": "context",
              "from": null,
              "to": "16384",
              "meaning": null,
              "at": null,
              "risk": "safe"
            }
          ],
          "risk": "safe",
          "at": {
            "line": 2,
            "column": 1,
            "offset": 0,
            "length": 1
          },
          "work": {
            "do": "record",
            "spec": {
              "resource": "model",
              "spec": {
                "kind": "rehearsal",
                "context": 16384,
                "script": null
              }
            }
          }
        },
        {
          "id": "memory/global",
          "action": "create",
          "reason": "",
          "fields": [],
          "risk": "safe",
          "at": null,
          "work": {
            "do": "write-global-memory"
          }
        },
        {
          "id": "folder/main",
          "action": "create",
          "reason": "",
          "fields": [],
          "risk": "safe",
          "at": {
            "line": 3,
            "column": 1,
            "offset": 0,
            "length": 1
          },
          "work": {
            "do": "make-folders",
            "group": "main",
            "owner": null
          }
        },
        {
          "id": "settings/main",
          "action": "create",
          "reason": "",
          "fields": [],
          "risk": "safe",
          "at": {
            "line": 3,
            "column": 1,
            "offset": 0,
            "length": 1
          },
          "needs": [
            "folder/main"
          ],
          "work": {
            "do": "write-settings",
            "group": "main",
            "env": {}
          }
        },
        {
          "id": "group/main",
          "action": "create",
          "reason": "",
          "fields": [
            {
              "path": "main",
              "from": null,
              "to": "true",
              "meaning": null,
              "at": {
                "line": 3,
                "column": 1,
                "offset": 0,
                "length": 1
              },
              "risk": "privileged"
            },
            {
              "path": "bind",
              "from": null,
              "to": "terminal",
              "meaning": null,
              "at": {
                "line": 3,
                "column": 1,
                "offset": 0,
                "length": 1
              },
              "risk": "safe"
            },
            {
              "path": "trigger",
              "from": null,
              "to": "@Baby",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "requires_trigger",
              "from": null,
              "to": "false",
              "meaning": null,
              "at": {
                "line": 3,
                "column": 1,
                "offset": 0,
                "length": 1
              },
              "risk": "safe"
            },
            {
              "path": "model",
              "from": null,
              "to": "demo",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "lifecycle",
              "from": null,
              "to": "on-demand",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "runtime",
              "from": null,
              "to": "none",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.cpus",
              "from": null,
              "to": "2",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.memory",
              "from": null,
              "to": "1GiB",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.pids",
              "from": null,
              "to": "256",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.turn",
              "from": null,
              "to": "30m",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.idle",
              "from": null,
              "to": "30m",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.output",
              "from": null,
              "to": "10MiB",
              "meaning": null,
              "at": null,
              "risk": "safe"
            },
            {
              "path": "limits.disk",
              "from": null,
              "to": "2GiB",
              "meaning": null,
              "at": null,
              "risk": "safe"
            }
          ],
          "risk": "privileged",
          "at": {
            "line": 3,
            "column": 1,
            "offset": 0,
            "length": 1
          },
          "needs": [
            "model/demo",
            "instance",
            "memory/global",
            "folder/main",
            "settings/main"
          ],
          "work": {
            "do": "record",
            "spec": {
              "resource": "group",
              "spec": {
                "main": true,
                "bind": [
                  {
                    "channel": "terminal",
                    "chat": null
                  }
                ],
                "trigger": "@Baby",
                "requires_trigger": false,
                "model": "demo",
                "lifecycle": "on-demand",
                "runtime": "none",
                "capabilities": {
                  "wall": "none",
                  "images": false,
                  "loopback": false,
                  "mounts": false,
                  "exec": true,
                  "events": false,
                  "limits": {
                    "cpus": false,
                    "memory": false,
                    "pids": false
                  }
                },
                "image": null,
                "user": null,
                "engine": null,
                "limits": {
                  "cpus": 2000,
                  "memory": "1GiB",
                  "pids": 256,
                  "turn": "30m",
                  "idle": "30m",
                  "output": "10MiB",
                  "disk": "2GiB"
                }
              }
            }
          }
        },
        {
          "id": "channel/terminal",
          "action": "create",
          "reason": "",
          "fields": [
            {
              "path": "kind",
              "from": null,
              "to": "terminal",
              "meaning": null,
              "at": null,
              "risk": "safe"
            }
          ],
          "risk": "safe",
          "at": null,
          "work": {
            "do": "record",
            "spec": {
              "resource": "channel",
              "spec": {
                "kind": "terminal"
              }
            }
          }
        }
      ],
      "notes": [
        {
          "kind": "starts",
          "ids": [
            "group/main",
            "channel/terminal"
          ],
          "text": "start with `babybot up`"
        },
        {
          "kind": "standing",
          "ids": [
            "group/main"
          ],
          "text": "runtime none does not isolate: the agent runs as your user"
        },
        {
          "kind": "standing",
          "ids": [
            "group/main"
          ],
          "text": "runtime none does not enforce limits.cpus, memory and pids"
        }
      ],
      "changes": 7,
      "counts": {
        "add": 7,
        "change": 0,
        "remove": 0,
        "adopt": 0
      },
      "risks": {
        "safe": 6,
        "privileged": 1
      },
      "approval": [
        "privileged"
      ]
    }
    "#);
}

#[test]
fn a_plan_of_a_later_format_is_not_guessed_at() {
    let error = render::from_json(r#"{"format":"2.0","steps":[]}"#).expect_err("is refused");
    assert_snapshot!(error, @"the plan has format 2.0, this version reads 1.2");
}

#[test]
fn colour_adds_nothing_but_colour() {
    let desired = desired(FAMILY);
    let plan = plan_checked(&desired, &World::empty(&desired));
    let painted = render::text(&plan, &heading(), Color::Always);
    assert!(painted.contains("\u{1b}[1;31mPRIVILEGED\u{1b}[0m"));
    let mut plain = String::new();
    for (index, part) in painted.split('\u{1b}').enumerate() {
        plain.push_str(if index == 0 { part } else { part.split_once('m').expect("an escape").1 });
    }
    assert_eq!(plain, printed(&plan));
}

#[test]
fn a_value_cannot_rewrite_the_page() {
    let text = "model demo rehearsal\ngroup main trigger=\u{1b}[2J\u{202e}x";
    let desired = desired(text);
    let page = printed(&plan_checked(&desired, &World::empty(&desired)));
    assert!(page.contains(r"\u{1b}[2J\u{202e}x"), "{page}");
}

#[test]
fn another_manifest_is_named_in_the_next_command() {
    let desired = desired(ONE);
    let plan = plan_checked(&desired, &World::empty(&desired));
    let heading = Heading { manifest: "my homes/a.toml".to_owned(), ..heading() };
    let page = render::text(&plan, &heading, Color::Never);
    let last = page.lines().last().unwrap_or_default();
    assert_snapshot!(last, @"Next: babybot apply --manifest 'my homes/a.toml'   (`plan -v` also shows 14 defaults)");
}

#[test]
fn a_comment_added_meanwhile_is_the_same_work() {
    let (before, after) = (desired(FAMILY), desired(&format!("\n\n{FAMILY}")));
    let world = World::empty(&before).observed;
    let (one, two) = (plan(&before, &world), plan(&after, &world));
    assert_ne!(one, two, "the places differ");
    assert!(one.same_work(&two));
    let other = plan(&desired(ONE), &world);
    assert!(!one.same_work(&other));
}

#[test]
fn moving_a_binding_is_no_change() {
    let text = "model demo rehearsal\nchannel desk\ngroup main bind=terminal,desk";
    let moved = text.replace("terminal,desk", "desk,terminal");
    let world = World::with(text);
    assert!(plan_checked(&desired(&moved), &world).is_empty());
}

#[test]
fn each_change_of_a_group_has_its_risk() {
    let base = "model demo rehearsal\nmodel local ollama\nchannel desk\ngroup g bind=terminal";
    let cases = [
        ("group g bind=terminal main=true", Risk::Privileged),
        ("group g bind=terminal,desk", Risk::Safe),
        ("group g", Risk::Safe),
        ("group g bind=terminal trigger=@Bob", Risk::Safe),
        ("group g bind=terminal requires_trigger=false", Risk::Safe),
        ("group g bind=terminal limits.memory=4GiB", Risk::Safe),
        ("group g bind=terminal lifecycle=always", Risk::Safe),
        ("group g bind=terminal model=local", Risk::Privileged),
        // Nobody can be bound to this yet: `check` refuses it, and the risk is right all the same.
        ("group g bind=terminal,tg:1", Risk::Privileged),
    ];
    for (line, risk) in cases {
        let now = desired(&base.replace("group g bind=terminal", line));
        let plan = plan(&now, &World::with(base).observed);
        assert_eq!(risk_of(&plan, "group/g"), risk, "{line}");
    }
}

#[test]
fn with_others_in_the_chat_more_is_at_stake() {
    let base = "model demo rehearsal\ngroup g bind=tg:1,tg:2";
    let cases = [
        ("group g bind=tg:1", Risk::Disruptive),
        ("group g bind=tg:1,tg:2 trigger=@Bob", Risk::Disruptive),
        ("group g bind=tg:1,tg:2 requires_trigger=false", Risk::Privileged),
        ("group g bind=tg:1,tg:2,tg:3", Risk::Privileged),
        ("group g bind=tg:1,tg:2 limits.memory=4GiB", Risk::Safe),
    ];
    for (line, risk) in cases {
        let now = desired(&base.replace("group g bind=tg:1,tg:2", line));
        let plan = plan(&now, &World::with(base).observed);
        assert_eq!(risk_of(&plan, "group/g"), risk, "{line}");
    }
}

#[test]
fn each_change_of_a_model_has_its_risk() {
    let base = "model m ollama";
    let cases = [
        ("model m ollama url=http://10.0.0.7:1", Risk::Privileged),
        ("model m ollama model=gemma3:4b", Risk::Safe),
        ("model m ollama context=4096", Risk::Safe),
        ("model m rehearsal", Risk::Safe),
    ];
    for (line, risk) in cases {
        let plan = plan_checked(&desired(line), &World::with(base));
        assert_eq!(risk_of(&plan, "model/m"), risk, "{line}");
    }
    let plan = plan_checked(&desired(base), &World::with("model m rehearsal"));
    assert_eq!(risk_of(&plan, "model/m"), Risk::Privileged);
}

#[test]
fn the_line_that_makes_a_change_privileged_is_the_one_that_says_so() {
    let base = "model demo rehearsal\nmodel one ollama\nmodel two ollama\ngroup g model=demo";
    let lines = |from: &str, to: &str| {
        let (before, now) = (base.replace("=demo", from), base.replace("=demo", to));
        let plan = plan_checked(&desired(&now), &World::with(&before));
        let fields = plan.steps.into_iter().flat_map(|step| step.fields);
        fields.map(|field| format!("{} {}", field.path, field.risk)).collect::<Vec<_>>()
    };
    assert_eq!(lines("=demo", "=one"), ["model privileged", "runtime privileged"]);
    assert_eq!(lines("=one", "=two"), ["model safe"]);
    assert_eq!(lines("=one", "=demo"), ["model safe"]);
}

#[test]
fn a_group_that_was_without_a_wall_before_is_not_asked_about_again() {
    let now = FAMILY.replace("bind=terminal model=local", "bind=terminal model=local trigger=@Bob");
    let plan = plan_checked(&desired(&now), &World::with(FAMILY));
    assert_eq!(plan.risks(), BTreeMap::from([(Risk::Safe, 1)]));
}

#[test]
fn a_channel_stays_while_a_group_that_is_left_alone_uses_it() {
    let text = "model demo rehearsal\nchannel desk\ngroup main bind=desk";
    let now = "model demo rehearsal\ngroup main bind=terminal";
    let mut world = World::with(text);
    world.look_for(&desired(now));
    let world = world.looking("folder/main", Known::Unknown("disk error".to_owned()));
    let plan = plan_checked(&desired(now), &world);
    let ids: Vec<String> = plan.steps.iter().map(|step| step.id.to_string()).collect();
    assert_eq!(ids, ["channel/terminal"]);
    let waiting = plan.notes.iter().filter(|note| note.kind == NoteKind::Waiting);
    let waiting: Vec<&str> = waiting.map(|note| note.text.as_str()).collect();
    assert_eq!(
        waiting,
        [
            "changed later, because it needs folder/main",
            "removed later, because group/main still uses it"
        ]
    );
}

#[test]
fn a_group_that_comes_back_finds_its_folders() {
    let without = FAMILY.replace("group kids", "");
    let mut world = World::with(FAMILY);
    let removal = plan_checked(&desired(&without), &world);
    world.apply(&removal);
    assert!(plan_checked(&desired(&without), &world).is_empty());
    let back = plan_checked(&desired(FAMILY), &world);
    let steps: Vec<_> = back.steps.iter().map(|step| (step.action, step.id.clone())).collect();
    assert_eq!(steps, [(Action::Create, id("group/kids"))]);
}

fn heading() -> Heading {
    Heading {
        manifest: "babybot.toml".to_owned(),
        runtime: RuntimeKind::None,
        reason: String::new(),
    }
}

fn printed(plan: &Plan) -> String {
    render::text(plan, &heading(), Color::Never)
}

/// The plan for a machine on which babybot never was.
#[track_caller]
fn first(text: &str) -> String {
    let desired = desired(text);
    printed(&plan_checked(&desired, &World::empty(&desired)))
}

/// The plan from one manifest, applied, to another.
#[track_caller]
fn next(before: &str, now: &str) -> String {
    let desired = desired(now);
    let mut world = World::with(before);
    world.look_for(&desired);
    printed(&plan_checked(&desired, &world))
}

fn risk_of(plan: &Plan, resource: &str) -> Risk {
    let step = plan.steps.iter().find(|step| step.id == id(resource));
    step.map(|step| step.risk).expect("the resource has a step")
}
