//! What a container is made with: every wall there is, in one place.
//!
//! Pure: a spec goes in, the engine's own description comes out. The same
//! description, read back from a container that runs, tells what was changed of
//! it from outside.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as Bind,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::{GENERATION, GROUP, INSTANCE, SPEC};
use crate::name::{GroupName, InstanceId};
use crate::resource::{MilliCpus, UserId};
use crate::runtime::process::MALLOC_TUNABLES;
use crate::runtime::{Access, HOME, Mount, SandboxSpec, WORKDIR};
use crate::unit::ByteSize;

/// What runs as the agent.
pub(super) const AGENT: [&str; 3] = ["/usr/local/bin/babybot", "agent", "--loopback"];
/// What a command of the operator is run by: an engine's own exec knows nothing of the agent's
/// filter of system calls.
pub(super) const BEFORE_COMMAND: [&str; 3] = ["/usr/local/bin/babybot", "agent", "--"];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const TMP: &str = "/tmp";
/// Executable, because package managers build there, and the group's folder is executable anyway.
const TMP_OPTIONS: &str = "rw,exec,nosuid,nodev,size=64m,mode=1777";
/// What lies over a volume of the image: nothing, and nothing can be put there.
const COVER_OPTIONS: &str = "ro,noexec,nosuid,nodev,size=4k,mode=555";
/// What engines call the network in which there is nothing.
pub(super) const NO_NETWORK: &str = "none";
/// What engines call a mount that is a folder of their own on the machine.
pub(super) const VOLUME: &str = "volume";
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

/// Where the volumes are covered that an image declares: an engine would put a writable folder of
/// the machine at each, whatever is said of the root. What is mounted at one covers it already.
///
/// # Errors
/// With the volume that cannot be covered: one within a folder that is mounted, since its cover
/// would need a place to be in that, and one that is no place of its own.
pub(super) fn covers(volumes: &[String], mounts: &[Mount]) -> Result<Vec<String>, String> {
    let mut covers = Vec::new();
    for volume in volumes {
        // Engines take `/data/` and `//data` for the same place.
        let path: PathBuf = Path::new(volume).components().collect();
        let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
        let is = |place: &str| path == Path::new(place);
        let is_within = |place: &str| path.starts_with(place) && !is(place);
        if !path.is_absolute() || is("/") || !plain {
            return Err(volume.clone());
        }
        if mounts.iter().any(|mount| is_within(&mount.target)) {
            return Err(volume.clone());
        }
        if !is(TMP) && !mounts.iter().any(|mount| is(&mount.target)) {
            covers.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(covers)
}

/// The whole description of a sandbox's container. `covers` are the places of the image at which
/// nothing is to be.
pub(super) fn body(
    spec: &SandboxSpec,
    image: &str,
    argv: &[String],
    covers: Vec<String>,
) -> ContainerCreateBody {
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
        // An image's own check would be run within the container for as long as it lives.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host_config(spec, covers)),
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

fn host_config(spec: &SandboxSpec, covers: Vec<String>) -> HostConfig {
    let covers = covers.into_iter().map(|path| (path, COVER_OPTIONS.to_owned()));
    let tmpfs = std::iter::once((TMP.to_owned(), TMP_OPTIONS.to_owned())).chain(covers);
    let memory = spec.container.memory.map(bytes);
    let limit = |name: &str, count: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(count),
        hard: Some(count),
    };
    HostConfig {
        network_mode: Some(NO_NETWORK.to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec![
            "no-new-privileges:true".to_owned(),
            // SELinux, where an engine has it, would keep an agent from folders that carry another
            // label, and labels of the machine's files are not changed.
            "label=disable".to_owned(),
        ]),
        privileged: Some(false),
        readonly_rootfs: Some(true),
        tmpfs: Some(tmpfs.collect()),
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

pub(super) fn bytes(size: ByteSize) -> i64 {
    i64::try_from(size.as_bytes()).unwrap_or(i64::MAX)
}

pub(super) fn nano(cpus: MilliCpus) -> i64 {
    i64::from(cpus.0) * 1_000_000
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::name::Incarnation;
    use crate::resource::{ContainerSpec, RuntimeKind};

    pub(in crate::runtime::docker) fn spec() -> SandboxSpec {
        let mount = |source: &str, target: &str, access| Mount {
            source: source.into(),
            target: target.to_owned(),
            access,
        };
        SandboxSpec {
            instance: InstanceId::new("0123456789abcdef0123456789abcdef").unwrap(),
            group: GroupName::new("family").unwrap(),
            incarnation: Incarnation::new("0123456789abcdef0123456789abcdef").unwrap(),
            generation: 7,
            container: ContainerSpec {
                runtime: RuntimeKind::Docker,
                image: Some("localhost/agent:1".into()),
                user: Some(UserId { uid: 1000, gid: 1001 }),
                main: false,
                cpus: Some(MilliCpus(500)),
                memory: Some(ByteSize::bytes(64 << 20)),
                pids: Some(64),
                engine: None,
            },
            mounts: vec![
                mount("/srv/groups/family", "/workspace/group", Access::Write),
                mount("/srv/groups/global", "/workspace/global", Access::Read),
            ],
            user: None,
            env: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        }
    }

    pub(in crate::runtime::docker) fn made(spec: &SandboxSpec) -> ContainerCreateBody {
        body(spec, "localhost/agent:1", &AGENT.map(ToOwned::to_owned), vec!["/data".into()])
    }

    #[test]
    fn a_container_is_made_with_every_wall() {
        let body = made(&spec());
        assert_eq!(body.user.as_deref(), Some("1000:1001"));
        assert_eq!(
            (body.open_stdin, body.stdin_once, body.tty),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!(body.healthcheck.unwrap().test.unwrap(), ["NONE"]);
        assert_eq!(body.entrypoint.unwrap(), ["/usr/local/bin/babybot"]);
        assert_eq!(body.cmd.unwrap(), ["agent", "--loopback"]);
        let environment = body.env.unwrap();
        assert!(environment.contains(&"HOME=/home/agent".to_owned()), "{environment:?}");
        assert!(environment.contains(&"LANG=C.UTF-8".to_owned()), "{environment:?}");
        assert_eq!((body.exposed_ports, body.volumes), (None, None));

        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true", "label=disable"]);
        assert_eq!((host.privileged, host.readonly_rootfs), (Some(false), Some(true)));
        assert_eq!((host.init, host.auto_remove), (Some(false), Some(false)));
        assert_eq!(host.ipc_mode.as_deref(), Some("private"));
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(64)));
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
        let none = (None, None, None, None, None);
        assert_eq!(
            (host.binds, host.devices, host.port_bindings, host.volumes_from, host.pid_mode),
            none
        );
        let limits = host.ulimits.unwrap();
        let limits =
            limits.iter().map(|limit| (limit.name.as_deref().unwrap(), limit.hard.unwrap()));
        assert_eq!(limits.collect::<Vec<_>>(), [("nofile", 4096), ("nproc", 4096), ("core", 0)]);
        let tmpfs: BTreeMap<_, _> = host.tmpfs.unwrap().into_iter().collect();
        assert_eq!(tmpfs.keys().collect::<Vec<_>>(), ["/data", "/tmp"]);
        assert!(tmpfs["/data"].starts_with("ro,noexec,"), "{tmpfs:?}");
        let mounts = host.mounts.unwrap();
        let mounts = mounts.iter().map(|mount| (mount.target.as_deref().unwrap(), mount.read_only));
        assert_eq!(
            mounts.collect::<Vec<_>>(),
            [("/workspace/group", Some(false)), ("/workspace/global", Some(true))]
        );
    }

    #[test]
    fn whom_the_engine_demands_is_the_user() {
        let spec = SandboxSpec { user: Some((0, 0)), ..spec() };
        assert_eq!(made(&spec).user.as_deref(), Some("0:0"));
    }

    #[test]
    fn a_volume_of_the_image_is_covered_or_refused() {
        let covers = |volume: &str| covers(&[volume.to_owned()], &spec().mounts);
        for (volume, cover) in [
            ("/data", "/data"),
            ("//var/./lib/", "/var/lib"),
            ("/workspace", "/workspace"),
            ("/tmp/a", "/tmp/a"),
        ] {
            assert_eq!(covers(volume), Ok(vec![cover.to_owned()]), "{volume}");
        }
        // These are covered by what is mounted there.
        for volume in ["/tmp", "/tmp/", "/workspace/group", "/workspace/global/"] {
            assert_eq!(covers(volume), Ok(vec![]), "{volume}");
        }
        for volume in ["/workspace/group/data", "/", "", "data", "/a/../workspace"] {
            assert_eq!(covers(volume), Err(volume.to_owned()), "{volume}");
        }
    }
}
