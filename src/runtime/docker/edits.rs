//! What was changed of a container from outside: its description, read back, beside its spec.
//!
//! Pure, like what it was made with.

use bollard::models::{ContainerInspectResponse, HostConfig, RestartPolicyNameEnum, SystemInfo};

use super::create::{NO_NETWORK, VOLUME, bytes, nano};
use crate::resource::{ContainerSpec, MilliCpus};
use crate::unit::ByteSize;

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
    let mut edits = limits_edited(&host, spec, enforced);
    edits.extend(walls_edited(&host, found));
    let config = found.config.clone().unwrap_or_default();
    let mut compare = |what: &str, is: String, meant: Option<String>| {
        if let Some(meant) = meant.filter(|meant| *meant != is) {
            edits.push(format!("{what} is {is} instead of {meant}"));
        }
    };
    compare("user", config.user.unwrap_or_default(), spec.user.map(|user| user.to_string()));
    compare("image", config.image.unwrap_or_default(), spec.image.clone());
    edits
}

/// What an update from outside changed: it reaches no more than this.
fn limits_edited(host: &HostConfig, spec: &ContainerSpec, enforced: Enforced) -> Vec<String> {
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
        compare("cpus", cpus(processors(host)), cpus(spec.cpus.map(nano)));
    }
    if enforced.pids {
        compare("pids", count(number(host.pids_limit)), count(spec.pids.map(i64::from)));
    }
    let restart = host.restart_policy.as_ref().and_then(|policy| policy.name);
    let restart = restart.filter(|name| *name != RestartPolicyNameEnum::EMPTY);
    let restart = restart.unwrap_or(RestartPolicyNameEnum::NO).to_string();
    compare("restart policy", restart, RestartPolicyNameEnum::NO.to_string());
    // A container is made with none of these.
    let mut unset = |what: &str, is: Option<String>| {
        if let Some(is) = is {
            edits.push(format!("{what} is {is} instead of nothing"));
        }
    };
    for (what, is) in [
        ("cpu shares", host.cpu_shares),
        ("realtime period", host.cpu_realtime_period),
        ("realtime runtime", host.cpu_realtime_runtime),
        ("blkio weight", host.blkio_weight.map(i64::from)),
    ] {
        unset(what, number(is).map(|number| number.to_string()));
    }
    unset("reserved memory", number(host.memory_reservation).map(|number| size(Some(number))));
    for (what, is) in [("cpuset", &host.cpuset_cpus), ("memory nodes", &host.cpuset_mems)] {
        unset(what, is.clone().filter(|set| !set.is_empty()));
    }
    edits
}

/// Which walls a container has not, or not any more.
fn walls_edited(host: &HostConfig, found: &ContainerInspectResponse) -> Vec<String> {
    let mut edits = Vec::new();
    let network = host.network_mode.as_deref().unwrap_or_default();
    if network != NO_NETWORK {
        edits.push(format!("network is {network} instead of {NO_NETWORK}"));
    }
    if host.privileged.unwrap_or_default() {
        edits.push("it is privileged".to_owned());
    }
    let dropped = host.cap_drop.as_deref().unwrap_or_default();
    // Podman lists them one by one.
    if !dropped.iter().any(|name| name == "ALL") && dropped.len() < CAPABILITIES_MIN {
        edits.push(format!("only {} capabilities are dropped", dropped.len()));
    }
    if let Some(added) = host.cap_add.as_ref().filter(|added| !added.is_empty()) {
        edits.push(format!("it has the capabilities {}", added.join(", ")));
    }
    // A container can be moved into a network without a word of it in how it was made.
    let networks = found.network_settings.clone().and_then(|settings| settings.networks);
    for (network, _) in networks.into_iter().flatten().filter(|(name, _)| name != NO_NETWORK) {
        edits.push(format!("it is in the network {network}"));
    }
    // An image that was changed while the container was made may have brought one.
    for mount in found.mounts.iter().flatten() {
        if mount.typ.as_deref() == Some(VOLUME) {
            let place = mount.destination.as_deref().unwrap_or_default();
            edits.push(format!("it has a volume at {place}"));
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{
        ContainerConfig, EndpointSettings, MountPoint, NetworkSettings, RestartPolicy,
    };

    use super::super::create::tests::{made, spec};
    use super::*;
    use crate::runtime::SandboxSpec;

    const ALL: Enforced = Enforced { memory: true, swap: true, cpus: true, pids: true };

    /// A container as an engine shows it that was made from the spec.
    fn found(spec: &SandboxSpec) -> ContainerInspectResponse {
        let made = made(spec);
        ContainerInspectResponse {
            config: Some(ContainerConfig {
                user: made.user,
                image: made.image,
                ..ContainerConfig::default()
            }),
            host_config: made.host_config,
            network_settings: Some(NetworkSettings {
                networks: Some(HashMap::from([("none".into(), EndpointSettings::default())])),
                ..NetworkSettings::default()
            }),
            mounts: Some(vec![MountPoint { typ: Some("bind".into()), ..MountPoint::default() }]),
            ..ContainerInspectResponse::default()
        }
    }

    /// What is said of a container of which this was changed.
    fn edited(change: impl FnOnce(&mut ContainerInspectResponse, &mut HostConfig)) -> Vec<String> {
        let spec = spec();
        let mut found = found(&spec);
        let mut host = found.host_config.take().unwrap();
        change(&mut found, &mut host);
        found.host_config = Some(host);
        edits(&found, &spec.container, ALL)
    }

    #[test]
    fn a_container_that_was_left_alone_has_no_edits() {
        assert_eq!(edited(|_, _| {}), [""; 0]);
        // Podman writes some of it in other words.
        let podman = edited(|_, host| {
            host.cap_drop = Some((0..11).map(|number| format!("CAP_{number}")).collect());
            host.restart_policy = Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::EMPTY),
                maximum_retry_count: Some(0),
            });
            host.nano_cpus = None;
            (host.cpu_period, host.cpu_quota) = (Some(100_000), Some(50_000));
            (host.cpu_shares, host.memory_reservation) = (Some(0), Some(0));
            host.cpuset_cpus = Some(String::new());
        });
        assert_eq!(podman, [""; 0]);
    }

    #[test]
    fn whatever_an_update_changes_is_said() {
        let said = |change: fn(&mut HostConfig)| {
            let edits = edited(|_, host| change(host));
            let [edit] = &edits[..] else { panic!("{edits:?}") };
            edit.clone()
        };
        let always = said(|host| {
            host.restart_policy = Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::ALWAYS),
                maximum_retry_count: None,
            });
        });
        assert_eq!(always, "restart policy is always instead of no");
        assert_eq!(said(|h| h.memory = Some(0)), "memory is unlimited instead of 64MiB");
        let swap = "memory with swap is unlimited instead of 64MiB";
        assert_eq!(said(|h| h.memory_swap = Some(-1)), swap);
        assert_eq!(said(|h| h.nano_cpus = Some(2_000_000_000)), "cpus is 2 instead of 0.5");
        assert_eq!(said(|h| h.nano_cpus = None), "cpus is unlimited instead of 0.5");
        assert_eq!(said(|h| h.pids_limit = Some(-1)), "pids is unlimited instead of 64");
        assert_eq!(said(|h| h.cpu_shares = Some(2)), "cpu shares is 2 instead of nothing");
        assert_eq!(said(|h| h.blkio_weight = Some(10)), "blkio weight is 10 instead of nothing");
        let reserved = "reserved memory is 4MiB instead of nothing";
        assert_eq!(said(|h| h.memory_reservation = Some(4 << 20)), reserved);
        assert_eq!(said(|h| h.cpuset_cpus = Some("0".into())), "cpuset is 0 instead of nothing");
        let nodes = "memory nodes is 1 instead of nothing";
        assert_eq!(said(|h| h.cpuset_mems = Some("1".into())), nodes);
        let period = "realtime period is 5 instead of nothing";
        assert_eq!(said(|h| h.cpu_realtime_period = Some(5)), period);
        let runtime = "realtime runtime is 5 instead of nothing";
        assert_eq!(said(|h| h.cpu_realtime_runtime = Some(5)), runtime);
    }

    #[test]
    fn a_limit_that_the_engine_does_not_enforce_is_not_missed() {
        let spec = spec();
        let mut found = found(&spec);
        let host = found.host_config.as_mut().unwrap();
        (host.memory, host.memory_swap, host.nano_cpus, host.pids_limit) = (None, None, None, None);
        let none = Enforced { memory: false, swap: false, cpus: false, pids: false };
        assert_eq!(edits(&found, &spec.container, none), [""; 0]);
        assert_eq!(edits(&found, &spec.container, ALL).len(), 4);
        let info = SystemInfo { pids_limit: Some(false), ..SystemInfo::default() };
        assert_eq!(Enforced::new(&info), Enforced { pids: false, ..ALL });
    }

    #[test]
    fn a_wall_that_is_missing_is_said() {
        let network =
            |name: &str| Some(HashMap::from([(name.into(), EndpointSettings::default())]));
        let edits = edited(|found, host| {
            host.network_mode = Some("bridge".into());
            host.privileged = Some(true);
            host.cap_drop = Some(vec!["CAP_CHOWN".into()]);
            host.cap_add = Some(vec!["CAP_SYS_ADMIN".into(), "CAP_NET_RAW".into()]);
            found.network_settings.as_mut().unwrap().networks = network("bridge");
            let volume = MountPoint {
                typ: Some("volume".into()),
                destination: Some("/data".into()),
                ..MountPoint::default()
            };
            found.mounts.as_mut().unwrap().push(volume);
            let config = found.config.as_mut().unwrap();
            config.user = Some("0:0".into());
            config.image = Some("localhost/agent:2".into());
        });
        assert_eq!(
            edits,
            [
                "network is bridge instead of none",
                "it is privileged",
                "only 1 capabilities are dropped",
                "it has the capabilities CAP_SYS_ADMIN, CAP_NET_RAW",
                "it is in the network bridge",
                "it has a volume at /data",
                "user is 0:0 instead of 1000:1001",
                "image is localhost/agent:2 instead of localhost/agent:1",
            ]
        );
    }
}
