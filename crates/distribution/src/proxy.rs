//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, as curl, Go and so Docker understand them.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Host, Url};

/// Bytes of a proxy's answer; it is a status line and a few headers.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Which proxy stands before which hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    /// The host itself and those below it.
    Domain(String),
    Network(IpAddr, u8),
}

impl Proxies {
    /// As the environment says; an address that is none is passed over with a warning.
    pub(crate) fn from_env() -> Self {
        let get = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| std::env::var(name).ok());
            found.filter(|value| !value.is_empty())
        };
        Self::new(
            get(["HTTP_PROXY", "http_proxy"]).as_deref(),
            get(["HTTPS_PROXY", "https_proxy"]).as_deref(),
            get(["NO_PROXY", "no_proxy"]).as_deref(),
        )
    }

    fn new(http: Option<&str>, https: Option<&str>, exceptions: Option<&str>) -> Self {
        Self {
            http: http.and_then(Proxy::parse),
            https: https.and_then(Proxy::parse),
            exceptions: exceptions
                .unwrap_or_default()
                .split(',')
                .filter_map(Exception::parse)
                .collect(),
        }
    }

    /// The proxy before a host. This machine is never behind one.
    pub(crate) fn before(&self, is_tls: bool, host: &str) -> Option<&Proxy> {
        let proxy = if is_tls { &self.https } else { &self.http };
        let address = host.parse::<IpAddr>().ok();
        let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_excepted = self.exceptions.iter().any(|exception| exception.holds(host, address));
        proxy.as_ref().filter(|_| !is_here && !is_excepted)
    }
}

impl Proxy {
    fn parse(text: &str) -> Option<Self> {
        let whole = if text.contains("://") {
            text.to_string()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&whole).ok().filter(|url| url.scheme() == "http");
        let Some(url) = url else {
            tracing::warn!("a proxy of the environment is passed over: its address is not http://host:port");
            return None;
        };
        let host = match url.host()? {
            Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        };
        let user = percent_decoded(url.username());
        let password = percent_decoded(url.password().unwrap_or_default());
        let authorization =
            (!user.is_empty()).then(|| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        Some(Self {
            host,
            port: url.port_or_known_default().unwrap_or(80),
            authorization,
        })
    }

    /// The request for a tunnel to a host.
    pub(crate) fn connect_request(&self, host: &str, port: u16) -> String {
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        request
    }
}

/// Whether the proxy's answer is complete, and then whether it opened the tunnel.
pub(crate) fn tunnel_opened(answer: &[u8]) -> Option<Result<(), String>> {
    if !answer.ends_with(b"\r\n\r\n") {
        return (answer.len() >= ANSWER_BYTES_MAX).then(|| Err("an answer without end".to_string()));
    }
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default();
    let status = line.split_whitespace().nth(1).unwrap_or_default();
    Some(if status.starts_with('2') {
        Ok(())
    } else {
        Err(line.to_string())
    })
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "*" {
            return Some(Self::All);
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(whole), |bits| bits.parse().ok())?;
            return (bits <= whole).then_some(Self::Network(address, bits));
        }
        let domain = text.trim_start_matches("*.").trim_start_matches('.');
        (!domain.is_empty()).then(|| Self::Domain(domain.to_ascii_lowercase()))
    }

    fn holds(&self, host: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Domain(domain) => {
                let host = host.to_ascii_lowercase();
                host.strip_suffix(domain.as_str())
                    .is_some_and(|front| front.is_empty() || front.ends_with('.'))
            }
            Self::Network(network, bits) => match (network, address) {
                (IpAddr::V4(network), Some(IpAddr::V4(address))) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                    network.to_bits() & mask == address.to_bits() & mask
                }
                (IpAddr::V6(network), Some(IpAddr::V6(address))) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                    network.to_bits() & mask == address.to_bits() & mask
                }
                _ => false,
            },
        }
    }
}

fn percent_decoded(text: &str) -> String {
    // The form decoder reads '+' as a space, which an address does not.
    let form = format!("v={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(form.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(proxies: &Proxies, host: &str) -> bool {
        proxies.before(true, host).is_some()
    }

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        let proxies = Proxies::new(
            None,
            Some("proxy:3128"),
            Some("corp.example, .lan,10.0.0.0/8,fd00::/8,192.168.1.5"),
        );
        for host in [
            "corp.example",
            "a.corp.example",
            "nas.lan",
            "10.9.8.7",
            "fd12::1",
            "192.168.1.5",
        ] {
            assert!(!before(&proxies, host), "{host}");
        }
        for host in ["notcorp.example", "11.0.0.1", "fe80::1", "192.168.1.6", "ghcr.io"] {
            assert!(before(&proxies, host), "{host}");
        }
        assert!(!before(&proxies, "localhost") && !before(&proxies, "127.0.0.2") && !before(&proxies, "::1"));
        assert!(proxies.before(false, "ghcr.io").is_none(), "for TLS alone");
        assert!(!before(&Proxies::new(None, Some("proxy"), Some("*")), "ghcr.io"));
    }

    #[test]
    fn a_tunnel_is_asked_for_with_credentials() {
        let proxies = Proxies::new(None, Some("http://us%40er:p+w@proxy.example"), None);
        let proxy = proxies.before(true, "ghcr.io").expect("a proxy");
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 80));
        let request = proxy.connect_request("ghcr.io", 443);
        assert!(
            request.starts_with("CONNECT ghcr.io:443 HTTP/1.1\r\nHost: ghcr.io:443\r\n"),
            "{request}"
        );
        let expected = format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode("us@er:p+w"));
        assert!(request.contains(&expected), "{request}");
        assert!(proxy.connect_request("::1", 1).starts_with("CONNECT [::1]:1 "));
    }

    #[test]
    fn a_proxys_answer_is_read() {
        assert_eq!(tunnel_opened(b"HTTP/1.1 200 Connection established\r\n"), None);
        assert_eq!(tunnel_opened(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"), Some(Ok(())));
        let refused = tunnel_opened(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        assert_eq!(
            refused,
            Some(Err("HTTP/1.1 407 Proxy Authentication Required".to_string()))
        );
        assert!(matches!(tunnel_opened(&[b'x'; ANSWER_BYTES_MAX]), Some(Err(_))));
    }
}
