//! What users ask for. An [`Application`] is one Compose file, resolved: nothing in it depends on the client's machine any more.

mod application;
mod autoscale;
mod build;
mod build_cache;
mod container;
mod cron;
mod health;
mod ingress;
mod job;
mod mount;
mod placement;
mod policy;
mod port;
mod restart;
mod rollout;
mod service;
mod stateful;

pub use application::{Application, DataKind, DataSpec, NetworkSpec, VolumeSpec};
pub use autoscale::{Autoscale, ScaleTarget, ScheduledBounds, Usage};
pub use build::{BuildSecret, BuildSpec};
pub use build_cache::{BuildCache, BuildCacheError};
pub use container::{ContainerSpec, DeviceSpec, NamespaceMode, Ulimit, User, UserNamespace};
pub use cron::{Concurrency, CronError, CronSchedule, CronSpec};
pub use health::{HealthCheck, HealthTest};
pub use ingress::{
    HOST_LENGTH_MAX, HostPattern, INGRESS_RETRIES, INGRESS_RETRIES_MAX, INGRESS_TIMEOUT, IngressRedirect, IngressRule,
    IngressTls, PathPattern, PatternError, SecretRef, UpstreamProtocol,
};
pub use job::JobSpec;
pub use mount::{DataMount, Mount, MountKind, Propagation};
pub use placement::{
    Affinity, Amount, Bound, Constraint, ConstraintKey, ConstraintOp, Neighbour, NeighbourRule, PREFERENCES_MAX,
    PRIORITY_MAX, Placement, PlacementError, Preference, Strategy, Taint, TaintEffect, Toleration, VolumeRule,
    WEIGHT_MAX, version_parts,
};
pub use policy::{PolicyError, PolicyPeer, PolicyPorts, PolicyRule};
pub use port::{PORT_AUTO_MAX, PORT_AUTO_MIN, PortMode, PortSpec, Protocol};
pub use restart::{RestartCondition, RestartPolicy};
pub use rollout::{CanaryStep, FailureAction, PROGRESS_DEADLINE, RolloutStrategy, UpdateConfig, UpdateOrder};
pub use service::{
    BlockIo, Dependency, DependencyCondition, EndpointMode, GenericResource, MEMORY_LIMIT_MIN, Mode, NetworkAttachment,
    Resources, ServiceSpec, SwapLimit,
};
pub use stateful::{StartOrder, Stateful};
