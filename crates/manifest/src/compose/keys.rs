//! Every key that Compose defines, and what becomes of it here: one table per mapping, to be read as documentation.
//!
//! **Invariant:** a key that is ignored changes nothing that the user would notice in the running application, and says so; a
//! key that would change it is refused until it works. A key in no table is a misspelling.

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// It has its effect.
    Read,
    /// It has no effect, and nobody would expect one here.
    Silent,
    /// It has no effect; a warning says why.
    Ignored(&'static str),
    /// It would have an effect that is not there yet; an error with what to do instead.
    Refused(&'static str),
}

use Support::{Ignored, Read, Refused, Silent};

/// A key and what becomes of it.
pub(crate) type Key = (&'static str, Support);

pub(crate) const TOP: &[Key] = &[
    ("version", Silent),
    ("name", Read),
    ("services", Read),
    ("networks", Read),
    ("volumes", Read),
    ("configs", Read),
    ("secrets", Read),
    ("include", Read),
    ("models", Refused("run the model server as a service")),
];

pub(crate) const SERVICE: &[Key] = &[
    // What runs
    ("image", Read),
    ("build", Read),
    ("pull_policy", Read),
    ("platform", Read),
    ("command", Read),
    ("entrypoint", Read),
    ("working_dir", Read),
    ("user", Read),
    ("group_add", Read),
    ("tty", Read),
    ("stdin_open", Read),
    ("init", Read),
    ("hostname", Read),
    ("domainname", Read),
    (
        "container_name",
        Ignored("the replicas of a service have names of their own"),
    ),
    ("attach", Silent),
    // With which settings
    ("environment", Read),
    ("env_file", Read),
    ("labels", Read),
    ("label_file", Read),
    ("annotations", Ignored("no runtime reads them; use labels")),
    // In which order, and which ones
    ("depends_on", Read),
    ("profiles", Read),
    ("extends", Read),
    ("scale", Read),
    ("links", Read),
    (
        "external_links",
        Refused("attach both services to one external network"),
    ),
    ("volumes_from", Refused("mount the same named volumes in both services")),
    (
        "provider",
        Refused("run the resource as a service, or refer to it from outside"),
    ),
    (
        "models",
        Refused("run the model server as a service and give its address in 'environment'"),
    ),
    // From start to stop
    ("restart", Read),
    ("stop_signal", Read),
    ("stop_grace_period", Read),
    ("healthcheck", Read),
    (
        "post_start",
        Refused("start it from the entrypoint, or make it a service with depends_on"),
    ),
    ("pre_stop", Refused("handle the stop signal in the container")),
    // Network
    ("networks", Read),
    ("network_mode", Read),
    ("ports", Read),
    ("expose", Read),
    ("dns", Read),
    ("dns_opt", Read),
    ("dns_search", Read),
    ("extra_hosts", Read),
    ("mac_address", Refused("addresses come from the cluster; remove it")),
    // Namespaces and control groups
    ("ipc", Read),
    ("pid", Read),
    ("uts", Read),
    ("userns_mode", Read),
    ("cgroup", Read),
    ("cgroup_parent", Refused("use deploy.resources to set limits")),
    ("isolation", Read),
    ("runtime", Refused("containers are run by Gantry itself; remove it")),
    (
        "use_api_socket",
        Refused("there is no Docker Engine underneath; remove it"),
    ),
    // Resources
    ("cpus", Read),
    (
        "cpu_count",
        Refused("it is for Windows; use deploy.resources.limits.cpus"),
    ),
    (
        "cpu_percent",
        Refused("it is for Windows; use deploy.resources.limits.cpus"),
    ),
    ("cpu_shares", Read),
    ("cpu_quota", Read),
    ("cpu_period", Read),
    ("cpu_rt_period", Read),
    ("cpu_rt_runtime", Read),
    ("cpuset", Read),
    ("mem_limit", Read),
    ("mem_reservation", Read),
    ("mem_swappiness", Read),
    ("memswap_limit", Read),
    ("oom_kill_disable", Read),
    ("oom_score_adj", Read),
    ("pids_limit", Read),
    ("shm_size", Read),
    ("ulimits", Read),
    ("sysctls", Read),
    ("blkio_config", Read),
    ("storage_opt", Refused("the size of the root is not limited; remove it")),
    // Security and devices
    ("cap_add", Read),
    ("cap_drop", Read),
    ("privileged", Read),
    ("read_only", Read),
    ("security_opt", Read),
    ("credential_spec", Refused("it is for Windows; remove it")),
    ("device_cgroup_rules", Read),
    ("devices", Read),
    ("gpus", Read),
    // Files
    ("volumes", Read),
    ("tmpfs", Read),
    ("configs", Read),
    ("secrets", Read),
    // Around it
    (
        "logging",
        Ignored("output is kept on the node and read by 'gantry logs'"),
    ),
    ("develop", Ignored("it is for 'docker compose watch'")),
    ("deploy", Read),
];

pub(crate) const BUILD: &[Key] = &[
    ("context", Read),
    ("dockerfile", Read),
    ("dockerfile_inline", Read),
    ("args", Read),
    ("target", Read),
    ("labels", Read),
    ("tags", Read),
    ("platforms", Read),
    ("network", Read),
    ("pull", Read),
    ("no_cache", Read),
    ("no_cache_filter", Ignored("use no_cache for all stages")),
    ("cache_from", Read),
    ("cache_to", Read),
    ("additional_contexts", Read),
    ("secrets", Read),
    ("ssh", Read),
    ("entitlements", Read),
    ("privileged", Read),
    ("provenance", Read),
    ("sbom", Read),
    ("shm_size", Read),
    ("ulimits", Read),
    ("extra_hosts", Read),
    ("isolation", Ignored("it is for Windows")),
];

pub(crate) const DEPLOY: &[Key] = &[
    ("mode", Read),
    ("endpoint_mode", Read),
    ("replicas", Read),
    ("labels", Read),
    ("placement", Read),
    ("resources", Read),
    ("restart_policy", Read),
    ("update_config", Read),
    ("rollback_config", Read),
];

pub(crate) const PLACEMENT: &[Key] = &[
    ("constraints", Read),
    ("preferences", Read),
    ("max_replicas_per_node", Read),
];
pub(crate) const PREFERENCE: &[Key] = &[("spread", Read)];
pub(crate) const RESOURCES: &[Key] = &[("limits", Read), ("reservations", Read)];
pub(crate) const LIMITS: &[Key] = &[("cpus", Read), ("memory", Read), ("pids", Read)];
pub(crate) const RESERVATIONS: &[Key] = &[
    ("cpus", Read),
    ("memory", Read),
    ("generic_resources", Read),
    ("devices", Read),
];
pub(crate) const GENERIC_RESOURCE: &[Key] = &[("discrete_resource_spec", Read)];
pub(crate) const DISCRETE_RESOURCE: &[Key] = &[("kind", Read), ("value", Read)];
pub(crate) const RESTART_POLICY: &[Key] = &[
    ("condition", Read),
    ("delay", Read),
    ("max_attempts", Read),
    ("window", Read),
];
pub(crate) const UPDATE_CONFIG: &[Key] = &[
    ("parallelism", Read),
    ("delay", Read),
    ("failure_action", Read),
    ("monitor", Read),
    ("max_failure_ratio", Read),
    ("order", Read),
];

pub(crate) const PORT: &[Key] = &[
    ("name", Read),
    ("mode", Read),
    ("host_ip", Read),
    ("target", Read),
    ("published", Read),
    ("protocol", Read),
    ("app_protocol", Silent),
];

pub(crate) const MOUNT: &[Key] = &[
    ("type", Read),
    ("source", Read),
    ("target", Read),
    ("read_only", Read),
    ("consistency", Silent),
    ("bind", Read),
    ("volume", Read),
    ("tmpfs", Read),
    (
        "image",
        Refused("mount a named volume, or copy the files into the service's image"),
    ),
];
pub(crate) const MOUNT_BIND: &[Key] = &[
    ("propagation", Read),
    ("create_host_path", Read),
    ("recursive", Read),
    ("selinux", Ignored("files are not relabelled")),
];
pub(crate) const MOUNT_VOLUME: &[Key] = &[
    ("nocopy", Read),
    ("subpath", Read),
    ("labels", Ignored("give labels to the volume at the top level")),
];
pub(crate) const MOUNT_TMPFS: &[Key] = &[("size", Read), ("mode", Read)];

pub(crate) const ATTACHMENT: &[Key] = &[
    ("aliases", Read),
    (
        "interface_name",
        Refused("a replica has one interface, eth0, for all its networks; remove it"),
    ),
    (
        "ipv4_address",
        Refused("replicas get addresses from the cluster; use the service's name or an alias"),
    ),
    (
        "ipv6_address",
        Refused("replicas get addresses from the cluster; use the service's name or an alias"),
    ),
    (
        "link_local_ips",
        Refused("replicas get addresses from the cluster; use the service's name or an alias"),
    ),
    ("mac_address", Refused("addresses come from the cluster; remove it")),
    ("driver_opts", Ignored("networks have one driver, the cluster's own")),
    ("priority", Ignored("a replica has one interface for all its networks")),
    ("gw_priority", Ignored("all networks share one way out")),
];

pub(crate) const HEALTHCHECK: &[Key] = &[
    ("test", Read),
    ("interval", Read),
    ("timeout", Read),
    ("retries", Read),
    ("start_period", Read),
    ("start_interval", Read),
    ("disable", Read),
];

pub(crate) const DEPENDENCY: &[Key] = &[("condition", Read), ("restart", Read), ("required", Read)];
pub(crate) const EXTENDS: &[Key] = &[("service", Read), ("file", Read)];
pub(crate) const ENV_FILE: &[Key] = &[("path", Read), ("required", Read), ("format", Read)];
pub(crate) const ULIMIT: &[Key] = &[("soft", Read), ("hard", Read)];
pub(crate) const DATA_MOUNT: &[Key] = &[
    ("source", Read),
    ("target", Read),
    ("uid", Read),
    ("gid", Read),
    ("mode", Read),
];

pub(crate) const NETWORK: &[Key] = &[
    ("name", Read),
    ("external", Read),
    ("internal", Read),
    ("labels", Read),
    ("driver", Read),
    ("driver_opts", Read),
    ("ipam", Ignored("subnets come from the cluster's pool")),
    ("attachable", Read),
    ("enable_ipv4", Read),
    ("enable_ipv6", Ignored("networks have IPv4 addresses only")),
];

pub(crate) const VOLUME: &[Key] = &[
    ("name", Read),
    ("external", Read),
    ("labels", Read),
    ("driver", Read),
    (
        "driver_opts",
        Refused("volumes are folders of the node; mount the file system there and use a bind mount"),
    ),
];

pub(crate) const INCLUDE: &[Key] = &[("path", Read), ("project_directory", Read), ("env_file", Read)];
pub(crate) const BLKIO: &[Key] = &[
    ("weight", Read),
    ("weight_device", Read),
    ("device_read_bps", Read),
    ("device_write_bps", Read),
    ("device_read_iops", Read),
    ("device_write_iops", Read),
];
pub(crate) const BLKIO_DEVICE: &[Key] = &[("path", Read), ("rate", Read), ("weight", Read)];
pub(crate) const DEVICE: &[Key] = &[("source", Read), ("target", Read), ("permissions", Read)];
pub(crate) const DEVICE_REQUEST: &[Key] = &[
    ("capabilities", Read),
    ("driver", Read),
    ("count", Read),
    ("device_ids", Read),
    (
        "options",
        Ignored("the CDI files of the node say how a device is given"),
    ),
];
pub(crate) const EXTERNAL: &[Key] = &[("name", Read)];

pub(crate) const CONFIG: &[Key] = &[
    ("name", Read),
    ("external", Read),
    ("file", Read),
    ("content", Read),
    ("environment", Read),
    ("labels", Read),
    (
        "template_driver",
        Refused("templates in configs are not expanded; use environment variables in 'content'"),
    ),
];

pub(crate) const SECRET: &[Key] = &[
    ("name", Read),
    ("external", Read),
    ("file", Read),
    ("content", Read),
    ("environment", Read),
    ("labels", Read),
    ("driver", Refused("secrets are kept by the cluster; remove it")),
    ("driver_opts", Refused("secrets are kept by the cluster; remove it")),
    ("template_driver", Refused("templates in secrets are not expanded")),
];

/// `x-gantry` of a service: what Compose has no word for.
pub(crate) const X_GANTRY: &[Key] = &[
    ("placement", Read),
    ("reserve", Read),
    ("disruption", Read),
    ("rollout", Read),
    ("job", Read),
    ("cron", Read),
    ("stateful", Read),
    ("policy", Read),
    ("autoscale", Read),
    ("ingress", Read),
];
pub(crate) const INGRESS: &[Key] = &[
    ("host", Read),
    ("path", Read),
    ("port", Read),
    ("protocol", Read),
    ("tls", Read),
    ("sticky", Read),
    ("timeout", Read),
    ("retries", Read),
    ("redirect", Read),
    ("body_max", Read),
];
pub(crate) const INGRESS_TLS: &[Key] = &[("secret", Read), ("key", Read)];
pub(crate) const INGRESS_STICKY: &[Key] = &[("cookie", Read)];
pub(crate) const AUTOSCALE: &[Key] = &[
    ("min", Read),
    ("max", Read),
    ("cpu", Read),
    ("memory", Read),
    ("schedule", Read),
];
pub(crate) const AUTOSCALE_SCHEDULE: &[Key] = &[("from", Read), ("time_zone", Read), ("min", Read), ("max", Read)];
pub(crate) const ROLLOUT: &[Key] = &[
    ("batch", Read),
    ("progress_deadline", Read),
    ("canary", Read),
    ("blue_green", Read),
];
pub(crate) const CANARY_STEP: &[Key] = &[("percent", Read), ("hold", Read)];
pub(crate) const BLUE_GREEN: &[Key] = &[("hold", Read)];
pub(crate) const JOB: &[Key] = &[
    ("completions", Read),
    ("parallelism", Read),
    ("indexed", Read),
    ("backoff_limit", Read),
    ("deadline", Read),
    ("ttl", Read),
];
pub(crate) const CRON: &[Key] = &[
    ("schedule", Read),
    ("time_zone", Read),
    ("concurrency", Read),
    ("starting_deadline", Read),
    ("history", Read),
    ("suspend", Read),
];
pub(crate) const CRON_HISTORY: &[Key] = &[("succeeded", Read), ("failed", Read)];
pub(crate) const STATEFUL: &[Key] = &[("start", Read), ("exclusive", Read)];
/// `x-gantry` of a network at the top level.
pub(crate) const X_GANTRY_NETWORK: &[Key] = &[("policy", Read)];
pub(crate) const POLICY_RULE: &[Key] = &[("from", Read), ("ports", Read)];
/// `x-gantry` of a volume at the top level.
pub(crate) const X_GANTRY_VOLUME: &[Key] = &[("per_slot", Read)];
pub(crate) const DISRUPTION: &[Key] = &[("max_unavailable", Read)];
/// `x-gantry` at the top level.
pub(crate) const X_GANTRY_TOP: &[Key] = &[("placement", Read)];
pub(crate) const X_GANTRY_TOP_PLACEMENT: &[Key] = &[("strategy", Read)];
pub(crate) const X_GANTRY_PLACEMENT: &[Key] = &[
    ("strategy", Read),
    ("constraints", Read),
    ("affinities", Read),
    ("spread", Read),
    ("neighbours", Read),
    ("tolerations", Read),
    ("priority", Read),
    ("volumes", Read),
];
pub(crate) const AFFINITY: &[Key] = &[("constraint", Read), ("weight", Read)];
pub(crate) const SPREAD: &[Key] = &[("by", Read), ("max_skew", Read)];
pub(crate) const NEIGHBOUR: &[Key] = &[("service", Read), ("within", Read), ("rule", Read), ("weight", Read)];
pub(crate) const TOLERATION: &[Key] = &[("key", Read), ("value", Read), ("effect", Read)];

#[cfg(test)]
mod tests {
    use super::*;

    /// The field lists of the Compose specification.
    const SPECIFIED: &[(&[&[Key]], &str)] = &[
        (
            &[SERVICE],
            "image build pull_policy platform command entrypoint working_dir user group_add tty stdin_open init hostname \
             domainname container_name environment env_file labels label_file annotations depends_on profiles extends scale \
             links external_links volumes_from restart stop_signal stop_grace_period healthcheck post_start pre_stop networks \
             network_mode ports expose dns dns_opt dns_search extra_hosts mac_address ipc pid uts userns_mode cgroup \
             cgroup_parent isolation runtime cpus cpu_count cpu_percent cpu_shares cpu_quota cpu_period cpu_rt_period \
             cpu_rt_runtime cpuset mem_limit mem_reservation mem_swappiness memswap_limit oom_kill_disable oom_score_adj \
             pids_limit shm_size ulimits sysctls blkio_config storage_opt cap_add cap_drop privileged read_only security_opt \
             credential_spec device_cgroup_rules devices gpus volumes tmpfs configs secrets models logging develop deploy \
             attach provider use_api_socket",
        ),
        (
            &[DEPLOY],
            "mode endpoint_mode replicas labels placement resources restart_policy update_config rollback_config",
        ),
        (
            &[PLACEMENT, PREFERENCE],
            "constraints preferences max_replicas_per_node spread",
        ),
        (
            &[RESOURCES, LIMITS, RESERVATIONS],
            "limits reservations cpus memory pids generic_resources devices",
        ),
        (&[RESTART_POLICY], "condition delay max_attempts window"),
        (
            &[UPDATE_CONFIG],
            "parallelism delay failure_action monitor max_failure_ratio order",
        ),
        (
            &[BUILD],
            "context dockerfile dockerfile_inline args target labels tags platforms network pull no_cache cache_from cache_to \
             additional_contexts secrets ssh entitlements privileged provenance sbom shm_size ulimits extra_hosts",
        ),
        (&[PORT], "name mode host_ip target published protocol app_protocol"),
        (
            &[MOUNT],
            "type source target read_only bind volume tmpfs image consistency",
        ),
        (&[MOUNT_BIND], "propagation create_host_path recursive selinux"),
        (&[MOUNT_VOLUME], "nocopy subpath labels"),
        (&[MOUNT_TMPFS], "size mode"),
        (
            &[ATTACHMENT],
            "aliases interface_name ipv4_address ipv6_address mac_address priority gw_priority link_local_ips driver_opts",
        ),
        (
            &[HEALTHCHECK],
            "test interval timeout retries start_period start_interval disable",
        ),
        (
            &[TOP],
            "version name include services networks volumes secrets configs models",
        ),
        (
            &[NETWORK],
            "name external internal labels driver driver_opts ipam attachable enable_ipv4 enable_ipv6",
        ),
        (&[VOLUME], "name external labels driver driver_opts"),
        (&[CONFIG], "name external file content environment"),
        (&[SECRET], "name external file environment"),
    ];

    #[test]
    fn every_specified_key_is_decided() {
        for (tables, keys) in SPECIFIED {
            for key in keys.split_whitespace() {
                let found = tables.iter().any(|table| table.iter().any(|(name, _)| *name == key));
                assert!(found, "'{key}' is in no table");
            }
        }
    }

    #[test]
    fn no_key_is_decided_twice() {
        for (tables, _) in SPECIFIED {
            for table in *tables {
                let mut names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
                names.sort_unstable();
                let count = names.len();
                names.dedup();
                assert_eq!(names.len(), count, "{names:?}");
            }
        }
    }
}
