//! For which host and path a request is, or why nobody can tell.
//!
//! **Invariant:** what is ambiguous is refused, never guessed: two hosts, a host that is none, a path that climbs out of the root.

use std::borrow::Cow;

use hyper::header::HOST;
use hyper::{HeaderMap, Uri, Version};

/// What is wrong with a request's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("a request has exactly one host")]
    Hosts,
    #[error("this is no host")]
    Host,
    #[error("the path leads out of the root")]
    Path,
}

/// The host in lower case, without port and final dot; empty where HTTP/1.0 has none.
pub(crate) fn host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<String, TargetError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (header, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(TargetError::Hosts);
    }
    let header = header.map(|header| header.to_str().map_err(|_| TargetError::Host));
    let header = header.transpose()?.map(plain).transpose()?;
    match (uri.authority(), header) {
        // RFC 9112, 3.2.2: of a request in absolute form the header is not heeded; what differs is a trick all the same.
        (Some(authority), header) => {
            let authority = plain(authority.as_str())?;
            match header {
                Some(header) if header != authority => Err(TargetError::Hosts),
                _ => Ok(authority),
            }
        }
        (None, Some(header)) => Ok(header),
        (None, None) if version == Version::HTTP_10 => Ok(String::new()),
        (None, None) => Err(TargetError::Hosts),
    }
}

fn plain(text: &str) -> Result<String, TargetError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(TargetError::Host)?,
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let number = port.strip_prefix(':').unwrap_or("");
    let is_port = port.is_empty() || (port.len() <= 6 && number.bytes().all(|byte| byte.is_ascii_digit()));
    let is_address = text.starts_with('[');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || (is_address && byte == b':');
    if host.is_empty() || !is_port || !host.bytes().all(allowed) {
        return Err(TargetError::Host);
    }
    Ok(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// The path that rules are compared with: dot segments, written out or encoded, are gone (RFC 3986, 5.2.4). What is sent on is the
/// path as it came.
pub(crate) fn path(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    let may_climb = raw.contains("/.") || raw.contains("%2e") || raw.contains("%2E");
    if !may_climb {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = raw.replace("%2e", ".").replace("%2E", ".");
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in decoded.split('/').skip(1) {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop().ok_or(TargetError::Path)?;
            }
            segment => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(raw.len());
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if path.is_empty() || ends_in_folder {
        path.push('/');
    }
    Ok(Cow::Owned(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_of(version: Version, uri: &str, hosts: &[&str]) -> Result<String, TargetError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().expect("a value"));
        }
        host(version, &uri.parse().expect("a target"), &headers)
    }

    #[test]
    fn a_host_is_told_or_refused() {
        let one = Version::HTTP_11;
        for (uri, hosts, expect) in [
            ("/", &["Shop.Example.com:8080"][..], Ok("shop.example.com")),
            ("/", &["shop.example.com."], Ok("shop.example.com")),
            ("/", &["[::1]:80"], Ok("::1")),
            ("http://a.b/x", &["a.b"], Ok("a.b")),
            ("http://a.b/x", &[], Ok("a.b")),
            ("http://a.b/x", &["c.d"], Err(TargetError::Hosts)),
            ("/", &["a", "a"], Err(TargetError::Hosts)),
            ("/", &[], Err(TargetError::Hosts)),
            ("/", &["a b"], Err(TargetError::Host)),
            ("/", &["user@a"], Err(TargetError::Host)),
            ("/", &["a:port"], Err(TargetError::Host)),
            ("/", &["a/b"], Err(TargetError::Host)),
            ("/", &[""], Err(TargetError::Host)),
        ] {
            assert_eq!(host_of(one, uri, hosts), expect.map(str::to_string), "{uri} {hosts:?}");
        }
        assert_eq!(host_of(Version::HTTP_10, "/", &[]), Ok(String::new()));
    }

    #[test]
    fn dot_segments_do_not_pass_by_a_rule() {
        for (raw, expect) in [
            ("/a/b", Ok("/a/b")),
            ("/a/../b", Ok("/b")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a/./b/", Ok("/a/b/")),
            ("/a/..", Ok("/")),
            ("/a/b/..", Ok("/a/")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/..", Err(TargetError::Path)),
            ("/a/../../b", Err(TargetError::Path)),
        ] {
            assert_eq!(path(raw).map(Cow::into_owned), expect.map(str::to_string), "{raw}");
        }
    }
}
