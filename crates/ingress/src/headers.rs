//! What of a message's headers goes on, and what is added.
//!
//! **Invariant:** whatever is about one connection stays there (RFC 9110, 7.6.1), and what a client claims about where it comes
//! from is believed only of proxies that the configuration names.

use std::net::IpAddr;

use gantry_model::net::Ipv4Net;
use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What is known of the client's connection.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: IpAddr,
    pub(crate) is_https: bool,
    /// A proxy whose word about its own client counts.
    pub(crate) is_trusted: bool,
    address_text: HeaderValue,
}

impl Origin {
    pub(crate) fn new(address: IpAddr, is_https: bool, trusted: &[Ipv4Net]) -> Self {
        let address = address.to_canonical();
        let is_trusted = match address {
            IpAddr::V4(address) => trusted.iter().any(|net| net.contains(address)),
            IpAddr::V6(_) => false,
        };
        Self {
            address,
            is_https,
            is_trusted,
            address_text: HeaderValue::from_str(&address.to_string()).expect("an address is plain text"),
        }
    }

    pub(crate) const fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }
}

/// What a request wants its connection to become, such as `websocket`.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let asked = headers.get_all(CONNECTION).iter().any(named);
    headers.get(UPGRADE).filter(|_| asked).cloned()
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

/// Takes away what is about the connection that the message came by.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| token.parse().ok())
            // Whoever names these means to confuse.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        PROXY_AUTHENTICATE,
    ] {
        headers.remove(name);
    }
}

/// Makes a request's headers those that a replica gets.
pub(crate) fn to_replica(headers: &mut HeaderMap, origin: &Origin, host: &HeaderValue) {
    // gRPC needs it, and it is the only word that may pass (RFC 9113, 8.2.2).
    let trailers = headers
        .get_all(TE)
        .iter()
        .any(|te| tokens(te).any(|token| token == "trailers"));
    strip(headers);
    headers.remove(TE);
    headers.remove(PROXY_AUTHORIZATION);
    // Answered here.
    headers.remove(EXPECT);
    // Written anew from what the parser made of it.
    headers.remove(CONTENT_LENGTH);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // HTTP/2 clients may send it in pieces (RFC 9113, 8.2.3).
    join_cookies(headers);
    let before = if origin.is_trusted { headers.remove(FOR) } else { None };
    let clients = before.and_then(|before| {
        let text = format!("{}, {}", before.to_str().ok()?, origin.address);
        HeaderValue::from_str(&text).ok()
    });
    headers.insert(FOR, clients.unwrap_or_else(|| origin.address_text.clone()));
    if origin.is_trusted && headers.contains_key(PROTO) {
        return;
    }
    headers.insert(REAL_IP, origin.address_text.clone());
    headers.insert(PROTO, HeaderValue::from_static(origin.scheme()));
    headers.insert(FORWARDED_HOST, host.clone());
    let host = host.to_str().unwrap_or_default();
    let forwarded = match origin.address {
        IpAddr::V4(address) => format!("for={address};host=\"{host}\";proto={}", origin.scheme()),
        IpAddr::V6(address) => format!("for=\"[{address}]\";host=\"{host}\";proto={}", origin.scheme()),
    };
    match HeaderValue::from_str(&forwarded) {
        Ok(value) => drop(headers.insert(FORWARDED, value)),
        Err(_) => drop(headers.remove(FORWARDED)),
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The value of a cookie of the request.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn origin(trusted: &[Ipv4Net]) -> Origin {
        Origin::new([192, 0, 2, 7].into(), true, trusted)
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_replica_sees_who_asks_and_nothing_of_the_connection() {
        let mut sent = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "x"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "ftp"),
            ("forwarded", "for=10.0.0.1"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("accept", "*/*"),
        ]);
        to_replica(&mut sent, &origin(&[]), &HeaderValue::from_static("shop:8443"));
        assert_eq!(
            shown(&sent),
            [
                "accept: */*",
                "cookie: a=1; b=2",
                "forwarded: for=192.0.2.7;host=\"shop:8443\";proto=https",
                "te: trailers",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop:8443",
                "x-forwarded-proto: https",
                "x-real-ip: 192.0.2.7",
            ]
        );
        assert_eq!((cookie(&sent, "b"), cookie(&sent, "c")), (Some("2"), None));
    }

    #[test]
    fn only_a_named_proxy_is_believed() {
        let mut sent = headers(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http")]);
        let trusted = "192.0.2.0/24".parse().expect("a network");
        to_replica(&mut sent, &origin(&[trusted]), &HeaderValue::from_static("a"));
        assert_eq!(
            shown(&sent),
            ["x-forwarded-for: 10.0.0.1, 192.0.2.7", "x-forwarded-proto: http"]
        );
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&headers(&[("connection", "x, Upgrade"), ("upgrade", "websocket")])).is_some());
    }

    #[test]
    fn a_connection_header_cannot_take_the_host_away() {
        let mut sent = headers(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
        ]);
        strip(&mut sent);
        assert_eq!(shown(&sent), ["content-length: 3", "host: a"]);
    }
}
