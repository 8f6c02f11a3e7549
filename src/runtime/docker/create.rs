//! What a container is made with: every wall there is, in one place.
//!
//! Pure: a spec goes in, the engine's own description comes out. The same
//! description, read back from a container that runs, tells what was changed of
//! it from outside.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, Mount as Bind,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum, SystemInfo,
};

use super::{GENERATION, GROUP, INSTANCE, SPEC};
use crate::name::{GroupName, InstanceId};
use crate::resource::{ContainerSpec, MilliCpus, UserId};
use crate::runtime::process::MALLOC_TUNABLES;
use crate::runtime::{Access, Mount, SandboxSpec};
use crate::unit::ByteSize;

/// What runs as the agent.
pub(super) const AGENT: [&str; 3] = ["/usr/local/bin/babybot", "agent", "--loopback"];

/// Where an agent works.
const WORKDIR: &str = "/workspace/group";
/// Where an agent is at home.
const HOME: &str = "/home/agent";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executable, because package managers build there, and the group's folder is executable anyway.
const TMP: &str = "rw,exec,nosuid,nodev,size=64m,mode=1777";
/// Open files of one process.
const FILES_MAX: i64 = 4096;
/// Processes of one user on the whole machine: the cgroup's own limit is what counts.
const PROCESSES_MAX: i64 = 4096;

/// What a container of `group` is called. It stays the same, so that there are never two.
pub(super) fn name(instance: &InstanceId, group: &GroupName) -> String {
    format!("{}{group}", name_prefix(instance))
}

/// What the names of all containers of an instance begin with.
pub(super) fn name_prefix(instance: &InstanceId) -> String {
    format!("bb-{}-", instance.short())
}

/// The whole description of a sandbox's container.
pub(super) fn body(spec: &SandboxSpec, image: &str, argv: &[String]) -> ContainerCreateBody {
    let user = user(spec);
    let labels = [
        (INSTANCE, spec.instance.to_string()),
        (GROUP, spec.group.to_string()),
        (SPEC, spec.container.digest()),
        (GENERATION, spec.generation.to_string()),
    ];
    let (program, arguments) = argv.split_at(1.min(argv.len()));
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(program.to_vec()),
        cmd: Some(arguments.to_vec()),
        env: Some(environment(&spec.env)),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        user: user.map(|user| user.to_string()),
        working_dir: Some(WORKDIR.to_owned()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        // The end of the link is the end of stdin, and that is the agent's.
        stdin_once: Some(true),
        tty: Some(false),
        // An image may say otherwise.
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(host_config(spec)),
        ..ContainerCreateBody::default()
    }
}

fn user(spec: &SandboxSpec) -> Option<UserId> {
    spec.user.map(|(uid, gid)| UserId { uid, gid }).or(spec.container.user)
}

fn environment(own: &BTreeMap<String, String>) -> Vec<String> {
    let mut all: BTreeMap<&str, &str> = BTreeMap::from([
        ("PATH", PATH),
        ("HOME", HOME),
        ("USER", "agent"),
        ("LOGNAME", "agent"),
        ("GLIBC_TUNABLES", MALLOC_TUNABLES),
    ]);
    all.extend(own.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn host_config(spec: &SandboxSpec) -> HostConfig {
    let memory = spec.container.memory.map(bytes);
    let limit = |name: &str, count: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(count),
        hard: Some(count),
    };
    HostConfig {
        network_mode: Some("none".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        privileged: Some(false),
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), TMP.to_owned())])),
        memory,
        // As much as memory alone: no swap.
        memory_swap: memory,
        nano_cpus: spec.container.cpus.map(nano),
        pids_limit: spec.container.pids.map(i64::from),
        ulimits: Some(vec![
            limit("nofile", FILES_MAX),
            limit("nproc", PROCESSES_MAX),
            limit("core", 0),
        ]),
        ipc_mode: Some("private".to_owned()),
        // The agent is the first process, which no tool of its own can kill.
        init: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // Removed by hand, once it was asked how it ended.
        auto_remove: Some(false),
        // stdout is the link.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        mounts: Some(spec.mounts.iter().map(bind).collect()),
        ..HostConfig::default()
    }
}

fn bind(mount: &Mount) -> Bind {
    let read_only = mount.access == Access::Read;
    Bind {
        typ: Some(MountType::BIND),
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.clone()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            create_mountpoint: Some(false),
            // Engines before 25 do not know it; what it forbids is refused beforehand.
            read_only_force_recursive: read_only.then_some(true),
            ..MountBindOptions::default()
        }),
        ..Bind::default()
    }
}

fn bytes(size: ByteSize) -> i64 {
    i64::try_from(size.as_bytes()).unwrap_or(i64::MAX)
}

fn nano(cpus: MilliCpus) -> i64 {
    i64::from(cpus.0) * 1_000_000
}

/// Which limits an engine enforces. It forgets the others when a container is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enforced {
    /// Memory.
    pub(super) memory: bool,
    /// Swap.
    pub(super) swap: bool,
    /// Processor time.
    pub(super) cpus: bool,
    /// Processes.
    pub(super) pids: bool,
}

impl Enforced {
    /// As the engine says. One that says nothing enforces everything.
    pub(super) fn new(info: &SystemInfo) -> Self {
        Self {
            memory: info.memory_limit != Some(false),
            swap: info.swap_limit != Some(false),
            cpus: info.cpu_cfs_quota != Some(false),
            pids: info.pids_limit != Some(false),
        }
    }
}

/// What of a container is not as its spec says, as far as the engine enforces it.
pub(super) fn edits(
    found: &ContainerInspectResponse,
    spec: &ContainerSpec,
    enforced: Enforced,
) -> Vec<String> {
    let host = found.host_config.clone().unwrap_or_default();
    let config = found.config.clone().unwrap_or_default();
    let number = |found: Option<i64>| found.filter(|number| *number > 0);
    let size = |number: Option<i64>| match number {
        Some(number) => ByteSize::bytes(number.unsigned_abs()).to_string(),
        None => "unlimited".to_owned(),
    };
    let cpus = |number: Option<i64>| match number {
        Some(number) => {
            MilliCpus(u32::try_from(number / 1_000_000).unwrap_or(u32::MAX)).to_string()
        }
        None => "unlimited".to_owned(),
    };
    let count = |number: Option<i64>| number.map_or("unlimited".to_owned(), |n| n.to_string());

    let mut edits = Vec::new();
    let mut compare = |what: &str, is: String, meant: String| {
        if is != meant {
            edits.push(format!("{what} is {is} instead of {meant}"));
        }
    };
    let memory = spec.memory.map(bytes);
    if enforced.memory {
        compare("memory", size(number(host.memory)), size(memory));
    }
    if enforced.memory && enforced.swap {
        compare("memory with swap", size(number(host.memory_swap)), size(memory));
    }
    if enforced.cpus {
        compare("cpus", cpus(processors(&host)), cpus(spec.cpus.map(nano)));
    }
    if enforced.pids {
        compare("pids", count(number(host.pids_limit)), count(spec.pids.map(i64::from)));
    }
    compare("network", host.network_mode.unwrap_or_default(), "none".to_owned());
    let privileged = host.privileged.unwrap_or_default();
    compare("privileged", privileged.to_string(), false.to_string());
    let dropped = host.cap_drop.unwrap_or_default();
    // Podman lists them one by one.
    if !dropped.iter().any(|name| name == "ALL") && dropped.len() < CAPABILITIES_MIN {
        edits.push(format!("only {} capabilities are dropped", dropped.len()));
    }
    if let Some(added) = host.cap_add.filter(|added| !added.is_empty()) {
        edits.push(format!("it has the capabilities {}", added.join(", ")));
    }
    // A container can be moved into a network without a word of it in how it was made.
    let networks = found.network_settings.clone().and_then(|settings| settings.networks);
    for network in
        networks.into_iter().flatten().map(|(name, _)| name).filter(|name| name != "none")
    {
        edits.push(format!("it is in the network {network}"));
    }
    let mut compare = |what: &str, is: String, meant: Option<String>| {
        if let Some(meant) = meant.filter(|meant| *meant != is) {
            edits.push(format!("{what} is {is} instead of {meant}"));
        }
    };
    compare("user", config.user.unwrap_or_default(), spec.user.map(|user| user.to_string()));
    compare("image", config.image.unwrap_or_default(), spec.image.clone());
    edits
}

/// As many capabilities as an engine gives if nothing is dropped.
const CAPABILITIES_MIN: usize = 11;

/// Processor time, which `docker update` may say in either of two ways.
fn processors(host: &HostConfig) -> Option<i64> {
    let nano = host.nano_cpus.filter(|nano| *nano > 0);
    nano.or_else(|| {
        let quota = host.cpu_quota.filter(|quota| *quota > 0)?;
        let period = host.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
        Some(quota.saturating_mul(1_000_000_000) / period)
    })
}
