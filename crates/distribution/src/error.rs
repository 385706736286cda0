//! What can go wrong between this machine and a registry, and how a person reads it.

use std::fmt;

use gantry_image::ImageError;
use gantry_model::{ByteSize, Class, Digest, Problem};
use hyper::StatusCode;

/// Result of an operation on a registry.
pub type Result<T, E = DistributionError> = std::result::Result<T, E>;

/// What was asked of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Host and port as the reference has them, or those of a mirror.
    pub registry: String,
    /// Empty where it is about the registry as a whole.
    pub repository: String,
    /// Such as `manifest v1` or `blob sha256:…`.
    pub what: String,
}

impl Asked {
    pub(crate) fn new(registry: &str, repository: &str, what: impl Into<String>) -> Self {
        Self {
            registry: registry.to_string(),
            repository: repository.to_string(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.repository.is_empty() {
            return write!(formatter, "{} at registry {}", self.what, self.registry);
        }
        write!(formatter, "{} of {}/{}", self.what, self.registry, self.repository)
    }
}

/// A failed operation on a registry.
#[derive(Debug, thiserror::Error)]
#[error("{asked}: {cause}")]
pub struct DistributionError {
    /// What was asked of whom.
    pub asked: Box<Asked>,
    /// Why it failed.
    pub cause: Cause,
}

/// Why an operation on a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// There is no connection to the host.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// The resolver's or the kernel's reason.
        reason: String,
    },
    /// The host's certificate is not to be trusted, or it wants one of ours.
    #[error("the TLS connection to {host} failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// The TLS library's reason.
        reason: String,
    },
    /// The host speaks plain HTTP where TLS was expected.
    #[error("{host} answers with plain HTTP instead of TLS")]
    PlainHttp {
        /// Host and port.
        host: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// No byte moved for too long.
    #[error("no byte moved for {seconds} s")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// The registry refuses this caller.
    #[error("access denied ({status}{})", shown(.message))]
    Denied {
        /// 401 or 403.
        status: StatusCode,
        /// The registry's words.
        message: String,
        /// Whether credentials were sent.
        logged_in: bool,
    },
    /// The registry does not have it.
    #[error("not found ({status}{})", shown(.message))]
    NotFound {
        /// 404.
        status: StatusCode,
        /// The registry's words.
        message: String,
    },
    /// Too many requests.
    #[error("the registry limits requests ({status}{}){}", shown(.message), after(.wait_seconds))]
    RateLimited {
        /// 429, or 503 with `Retry-After`.
        status: StatusCode,
        /// The registry's words.
        message: String,
        /// What the registry asks to wait.
        wait_seconds: Option<u64>,
    },
    /// The registry answers with another error.
    #[error("the registry answered {status}{}", shown(.message))]
    Status {
        /// The status.
        status: StatusCode,
        /// The registry's words.
        message: String,
    },
    /// An answer that no registry gives, such as the page of a proxy or a login portal.
    #[error("the answer ({status}) is not a registry's: {media_type}{}", shown(.start))]
    NotARegistry {
        /// The status.
        status: StatusCode,
        /// Its `Content-Type`.
        media_type: String,
        /// How its text begins.
        start: String,
    },
    /// An answer that breaks the specification.
    #[error("the answer breaks the specification: {reason}")]
    Malformed {
        /// How.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error("the content has the digest {found}, not {expected}")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Content has another length than was announced.
    #[error("{found} bytes came or were announced, {expected} were expected")]
    WrongSize {
        /// From the descriptor or the header.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A document that is too large to be held in memory.
    #[error("larger than {}", ByteSize(*.limit))]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// Redirects without end.
    #[error("redirected {count} times without an end, last to {to}")]
    RedirectLoop {
        /// How many.
        count: usize,
        /// Scheme and host of the last one.
        to: String,
    },
    /// A redirect or token service that would leave TLS.
    #[error("the registry sends us to {to}, which would leave the protection of TLS")]
    UnsafeRedirect {
        /// Scheme and host.
        to: String,
    },
    /// A helper program for credentials failed.
    #[error("credential helper {helper} failed: {reason}")]
    Helper {
        /// Name of the program.
        helper: String,
        /// Its words.
        reason: String,
    },
    /// The configuration for this registry cannot be used.
    #[error("{what}: {reason}")]
    Configuration {
        /// Which file or setting.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The image is not made for the platform.
    #[error("no image for {wanted}; there are: {available}")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The image store of this node refused.
    #[error(transparent)]
    Store(#[from] Box<ImageError>),
}

fn shown(message: &str) -> String {
    if message.is_empty() {
        return String::new();
    }
    format!(": {message}")
}

fn after(seconds: &Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!("; it asks to wait {seconds} s"))
}

impl Cause {
    pub(crate) fn at(self, asked: &Asked) -> DistributionError {
        DistributionError {
            asked: Box::new(asked.clone()),
            cause: self,
        }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    /// Whether the same request may go well a little later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Broken(_)
            | Self::Stalled { .. }
            | Self::RateLimited { .. }
            | Self::WrongSize { .. } => true,
            Self::Status { status, .. } => is_transient(*status),
            // A proxy in front of a registry that restarts answers with its own page.
            Self::NotARegistry { status, .. } => is_transient(*status),
            Self::Tls { .. }
            | Self::PlainHttp { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Malformed { .. }
            | Self::WrongDigest { .. }
            | Self::TooLarge { .. }
            | Self::RedirectLoop { .. }
            | Self::UnsafeRedirect { .. }
            | Self::Helper { .. }
            | Self::Configuration { .. }
            | Self::NoPlatform { .. }
            | Self::Store(_) => false,
        }
    }

    /// The class of failure.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Connect { .. } | Self::Broken(_) | Self::RedirectLoop { .. } => Class::Unavailable,
            Self::Status { status, .. } if status.is_server_error() => Class::Unavailable,
            Self::Stalled { .. } => Class::Timeout,
            Self::Denied { .. } | Self::Helper { .. } => Class::Denied,
            Self::NotFound { .. } | Self::NoPlatform { .. } => Class::NotFound,
            Self::RateLimited { .. } => Class::Exhausted,
            Self::Status { .. }
            | Self::Tls { .. }
            | Self::PlainHttp { .. }
            | Self::NotARegistry { .. }
            | Self::Malformed { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::TooLarge { .. }
            | Self::UnsafeRedirect { .. }
            | Self::Configuration { .. } => Class::Invalid,
            Self::Store(error) => error.class(),
        }
    }

    fn remedy(&self, asked: &Asked) -> String {
        let registry = &asked.registry;
        match self {
            Self::Connect { .. } => {
                "check the registry's name, its port and the network from this node, then try again".to_string()
            }
            Self::Tls { host, .. } => format!(
                "if {host} has a private authority, put its certificate into /etc/docker/certs.d/{host}/ca.crt or \
                 /etc/gantry/certs.d/{host}/ca.crt"
            ),
            Self::PlainHttp { .. } => {
                "use --plain-http if that is meant; passwords and images then cross the network in the clear"
                    .to_string()
            }
            Self::Broken(_) | Self::Stalled { .. } => {
                "try again; what has come is kept and only the rest is fetched".to_string()
            }
            Self::Denied { logged_in: true, .. } => {
                format!("check that the account may do this, or log in as another one: gantry login {registry}")
            }
            Self::Denied { logged_in: false, .. } => {
                format!("check the name; if it is private: gantry login {registry}")
            }
            Self::NotFound { .. } => "check the name and the tag".to_string(),
            Self::RateLimited { .. } => {
                format!("wait, log in for a higher limit (gantry login {registry}), or use a mirror")
            }
            Self::Status { status, .. } if status.is_server_error() => {
                "the registry has a fault; its operator's log says more, and trying again later may help".to_string()
            }
            Self::NotARegistry { .. } => {
                format!("check that {registry} is a registry and that no proxy or login page stands in between")
            }
            Self::WrongDigest { .. } | Self::WrongSize { .. } => {
                "the registry or a proxy in between damages content; push the image again or use another mirror"
                    .to_string()
            }
            Self::RedirectLoop { .. } | Self::Malformed { .. } | Self::Status { .. } => {
                format!("report it to the operator of {registry}")
            }
            Self::UnsafeRedirect { .. } => {
                "let the operator serve it over TLS, or list the registry as insecure if its network is trusted"
                    .to_string()
            }
            Self::TooLarge { .. } => "a manifest of this size is not an image's; check the name".to_string(),
            Self::Helper { .. } => format!("repair the helper, or log in again: gantry login {registry}"),
            Self::Configuration { .. } => "correct it".to_string(),
            Self::NoPlatform { .. } => {
                "choose one of these with --platform, or build the image for this one".to_string()
            }
            Self::Store(_) => String::new(),
        }
    }
}

/// Statuses that say "not now".
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

impl DistributionError {
    /// For people.
    #[must_use]
    pub fn problem(&self) -> Problem {
        if let Cause::Store(error) = &self.cause {
            return error.problem();
        }
        Problem::new(self.cause.class(), self.asked.to_string(), self.cause.to_string())
            .remedy(self.cause.remedy(&self.asked))
    }
}

impl From<DistributionError> for Problem {
    fn from(error: DistributionError) -> Self {
        error.problem()
    }
}
