//! Where a registry is: its address, those of its mirrors, and how much protection the connection must have.

use url::Url;

use crate::error::{Asked, Cause, Result};
use crate::options::{Options, registry_key};

/// Docker Hub's address.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// How much protection a connection must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protection {
    /// TLS with a certificate that is valid for the host.
    Verified,
    /// TLS with any certificate, or none at all.
    Any,
    /// Plain HTTP.
    Plain,
}

/// One address at which a registry's content can be had.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `host[:port]`, the name for credentials, certificates and people.
    pub(crate) name: String,
    /// With the path before `/v2/`, if any; the scheme is the first one to try.
    pub(crate) base: Url,
    pub(crate) protection: Protection,
    /// Asked in another registry's place.
    pub(crate) is_mirror: bool,
}

impl Endpoint {
    /// The registry itself.
    pub(crate) fn origin(registry: &str, options: &Options) -> Result<Self> {
        let name = registry_key(registry);
        let host = if name == "docker.io" {
            DOCKER_HOST
        } else {
            name.as_str()
        };
        let protection = protection_of(&name, options);
        let asked = Asked::new(registry, "", "the address");
        Self::new(name.clone(), host, protection, false).map_err(|cause| cause.at(&asked))
    }

    /// The mirrors of a registry, then the registry itself.
    pub(crate) fn for_pull(registry: &str, options: &Options) -> Result<Vec<Self>> {
        let mut endpoints = Vec::new();
        for address in options.mirrors.get(&registry_key(registry)).into_iter().flatten() {
            let asked = Asked::new(registry, "", format!("mirror {address}"));
            endpoints.push(Self::mirror(address, options).map_err(|cause| cause.at(&asked))?);
        }
        endpoints.push(Self::origin(registry, options)?);
        Ok(endpoints)
    }

    fn mirror(address: &str, options: &Options) -> Result<Self, Cause> {
        let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
        let name = bare.split('/').next().unwrap_or(bare).to_string();
        let protection = match address.split_once("://").map(|(scheme, _)| scheme) {
            // Written out, so asked for.
            Some("http") => Protection::Plain,
            Some("https") | None => protection_of(&name, options),
            Some(scheme) => {
                return Err(Cause::Configuration {
                    what: format!("mirror {address}"),
                    reason: format!("scheme {scheme}, where http or https was expected"),
                });
            }
        };
        Self::new(name, bare.trim_end_matches('/'), protection, true)
    }

    fn new(name: String, address: &str, protection: Protection, is_mirror: bool) -> Result<Self, Cause> {
        let scheme = match protection {
            Protection::Plain => "http",
            Protection::Verified | Protection::Any => "https",
        };
        let base = Url::parse(&format!("{scheme}://{address}/"));
        let base = base.map_err(|error| Cause::Configuration {
            what: format!("address {address}"),
            reason: error.to_string(),
        })?;
        Ok(Self {
            name,
            base,
            protection,
            is_mirror,
        })
    }

    /// An address below `/v2/`. `path` is made of names and digests that were parsed before, so it needs no escapes.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}v2/{path}", self.base.path()));
        url
    }
}

/// By what was configured, and Docker's exception for loopback.
pub(crate) fn protection_of(name: &str, options: &Options) -> Protection {
    if options.plain_http.contains(name) {
        return Protection::Plain;
    }
    let has_authority = !options.ca_files.is_empty() || options.certs_dirs.iter().any(|dir| dir.join(name).is_dir());
    if options.insecure.contains(name) || (is_loopback(name) && !has_authority) {
        return Protection::Any;
    }
    Protection::Verified
}

/// Docker looks names up and compares addresses; we take only names that cannot lead off this machine.
fn is_loopback(name: &str) -> bool {
    let Ok(url) = Url::parse(&format!("https://{name}/")) else {
        return false;
    };
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(domain)) => domain == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(registry: &str, options: &Options) -> (String, Protection) {
        let endpoint = Endpoint::origin(registry, options).expect(registry);
        (endpoint.url("a/b/manifests/c").to_string(), endpoint.protection)
    }

    #[test]
    fn registries_have_addresses() {
        let options = Options::default();
        for (registry, address, protection) in [
            (
                "docker.io",
                "https://registry-1.docker.io/v2/a/b/manifests/c",
                Protection::Verified,
            ),
            ("ghcr.io", "https://ghcr.io/v2/a/b/manifests/c", Protection::Verified),
            ("h:5000", "https://h:5000/v2/a/b/manifests/c", Protection::Verified),
            (
                "localhost:5000",
                "https://localhost:5000/v2/a/b/manifests/c",
                Protection::Any,
            ),
            ("127.9.9.9:1", "https://127.9.9.9:1/v2/a/b/manifests/c", Protection::Any),
            ("[::1]:5000", "https://[::1]:5000/v2/a/b/manifests/c", Protection::Any),
            (
                "127.0.0.1.example",
                "https://127.0.0.1.example/v2/a/b/manifests/c",
                Protection::Verified,
            ),
        ] {
            assert_eq!(
                origin(registry, &options),
                (address.to_string(), protection),
                "{registry}"
            );
        }
    }

    #[test]
    fn exceptions_are_made_only_where_asked() {
        let options = Options {
            insecure: ["old:5000".to_string()].into(),
            plain_http: ["plain:5000".to_string()].into(),
            ca_files: vec!["/ca.pem".into()],
            ..Options::default()
        };
        assert_eq!(origin("old:5000", &options).1, Protection::Any);
        assert_eq!(origin("old:5001", &options).1, Protection::Verified);
        assert_eq!(origin("plain:5000", &options).0, "http://plain:5000/v2/a/b/manifests/c");
        // With an authority at hand there is no reason for loopback's exception.
        assert_eq!(origin("localhost:5000", &options).1, Protection::Verified);
    }

    #[test]
    fn mirrors_come_first_and_in_order() {
        let mut options = Options::default();
        let mirrors = vec![
            "http://m1:5000".to_string(),
            "m2".to_string(),
            "https://m3/hub/".to_string(),
        ];
        options.mirrors.insert("docker.io".into(), mirrors);
        let endpoints = Endpoint::for_pull("docker.io", &options).expect("valid addresses");
        let shown: Vec<_> = endpoints.iter().map(|endpoint| endpoint.url("x").to_string()).collect();
        assert_eq!(
            shown,
            [
                "http://m1:5000/v2/x",
                "https://m2/v2/x",
                "https://m3/hub/v2/x",
                "https://registry-1.docker.io/v2/x"
            ]
        );
        options.mirrors.insert("docker.io".into(), vec!["ftp://m".to_string()]);
        assert!(Endpoint::for_pull("docker.io", &options).is_err());
    }
}
