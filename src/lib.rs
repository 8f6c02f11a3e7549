//! babybot makes a machine match `babybot.toml`: one agent for each chat group, with exactly its
//! folder, limits and environment, answering with the models of its owner.
//!
//! ```text
//! control  babybot.toml ─► source ─► manifest ─► desired ─┐
//!          folders, processes, models ─► observe ─► observed ─► plan ─► check ─► execute ─► the same doors
//!                                                            └─► cli prints it       └─► a generation in store
//!
//! chat     terminal ─► store ─► host ─► session ═ link ═╪═ agent ⇄ tools        ╪ the sandbox's wall
//!          terminal ◄─ store ◄───────── session ═ link ═╪═ agent
//!          model ◄───────────────────── gateway ═ link ═╪═ agent
//! ```
//!
//! Imports point down, from each floor to those beneath it; the loop from change back to plan
//! closes through the world, never through code. The binary, `main`, stands on top. A test
//! (`tests/it/tidy.rs`) holds the floors, docs/ARCHITECTURE.md says what each room promises.
//!
//! Front: verbs, and the only room that prints.
//! - [`cli`]: one file per verb, with its arguments, its help and its function
//!
//! - [`controller`]: the groups of one instance, and the loop that keeps them as applied
//!
//! - [`machine`]: what a manifest means on this machine, and what was found of it
//!
//! Loops decide when, never what.
//! - [`host`]: the controller's work, from a stored message to a stored reply
//! - [`delivery`]: what is stored to be sent, sent: one loop for each channel
//! - [`agent`]: what runs inside a sandbox: the model's turn, its tools, its transcript
//! - [`reconcile`]: look again, check, carry out, record, look once more
//!
//! Hands put doors to use.
//! - [`session`]: one running agent and the turn it is at work on
//! - [`observe`]: looks at the machine and changes nothing
//! - [`execute`]: carries a plan out, one attempt at each step
//!
//! Doors each face one neighbour and know no other door.
//! - [`source`]: the manifest's file, and its problems as a person reads them
//! - [`runtime`]: starts and ends sandboxes
//! - [`link`]: HTTP/2 over any byte stream, between an agent and its host
//! - [`gateway`]: Ollama's API, narrowed to what one agent may ask
//! - [`channel`]: where people and programs write to groups and are answered
//! - [`control`]: the socket through which other verbs reach the controller
//! - [`store`]: messages, turns, replies and generations, in SQLite
//! - [`project`]: the project's folders, touched without following a link
//!
//! Paper is pure: no file, no clock, no process, no network, no async.
//! - [`manifest`]: what a person wrote, as checked values that know their place
//! - [`desired`]: what it means: the resources that should be
//! - [`observed`]: what was found, and how sure that is
//! - [`plan`]: what would make the two equal, and what that risks
//! - [`route`]: which group a message goes to, and what its agent reads
//! - [`request`]: what an agent may ask of its host
//! - [`protocol`]: what the two ends of a link say
//!
//! Foundations carry everything.
//! - [`name`]: identifiers, each its own type
//! - [`unit`](mod@unit): lengths of time and sizes
//! - [`resource`]: what is managed: kinds, names and specs
//! - [`secret`]: values of secrets, read where the manifest says and shown to nobody
//! - [`error`]: how a verb ends
//! - [`clock`]: moments, and the one way to ask the machine for one
//! - [`zone`]: time zones, by name and by rule
//! - [`process`]: the machine's processes, named so that none is mistaken for another
//! - [`file`](mod@file): files that are opened as files, and nothing else
//! - [`walk`](mod@walk): everything below a folder, while others may change it
//! - [`line`](mod@line): lines out of bytes, however they were cut
//! - [`visible`]: text of others, with nothing in it that is not seen
//! - [`wire`]: how both ends of an HTTP/2 connection are set up, within bounds
//! - [`logging`]: what is written to stderr while a verb runs

#[cfg(not(target_os = "linux"))]
compile_error!(
    "babybot runs on Linux today. On Windows, use it within WSL2: \
     https://learn.microsoft.com/windows/wsl"
);

pub mod agent;
pub mod channel;
pub mod cli;
pub mod clock;
pub mod control;
pub mod controller;
pub mod delivery;
pub mod desired;
pub mod error;
pub mod execute;
pub mod file;
pub mod gateway;
pub mod host;
pub mod line;
pub mod link;
pub mod logging;
pub mod machine;
pub mod manifest;
pub mod name;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod process;
pub mod project;
pub mod protocol;
pub mod reconcile;
pub mod request;
pub mod resource;
pub mod route;
pub mod runtime;
pub mod secret;
pub mod session;
pub mod source;
pub mod store;
pub mod unit;
pub mod visible;
pub mod walk;
pub mod wire;
pub mod zone;
