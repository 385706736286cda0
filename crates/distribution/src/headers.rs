//! Headers that need reading: ranges, links to the next page, `Retry-After`, and the digest a registry claims.

use std::time::{Duration, UNIX_EPOCH};

use gantry_model::{Digest, Timestamp};
use hyper::HeaderMap;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LINK, RANGE, RETRY_AFTER};

/// Digest of the manifest or blob (OCI distribution specification).
pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The media type without its parameters, in lower case; empty when there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = text(headers, CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}

/// What the registry says the digest is; a digest of another algorithm is none for us.
pub(crate) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    text(headers, DOCKER_CONTENT_DIGEST)?.parse().ok()
}

/// First byte and whole size of `Content-Range: bytes 5-9/10`.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, size) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.trim().parse().ok()?;
    Some((first, size.trim().parse().ok()))
}

/// Bytes that an upload has so far: `Range: 0-9` is 10. Registries write `0-0` for none and for one alike (Docker's writes `0-0`
/// for none), so that is taken for none: one byte is sent again at worst, which the registry then refuses with its own count.
pub(crate) fn uploaded(headers: &HeaderMap) -> Option<u64> {
    let range = text(headers, RANGE)?;
    let last: u64 = range
        .trim_start_matches("bytes=")
        .split_once('-')?
        .1
        .trim()
        .parse()
        .ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

/// The address of `Link: <address>; rel="next"`.
pub(crate) fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(split_links).find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let (key, value) = parameter.trim().split_once('=').unwrap_or_default();
            key.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        is_next.then(|| address.to_string())
    })
}

/// Splits at commas outside of `<…>`.
fn split_links(value: &str) -> Vec<&str> {
    let mut inside = false;
    value
        .split(|character| {
            match character {
                '<' => inside = true,
                '>' => inside = false,
                _ => {}
            }
            character == ',' && !inside
        })
        .collect()
}

/// Seconds to wait: a number, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let value = text(headers, RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(seconds);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let at = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(at.saturating_sub(Duration::from_millis(now.0)).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header value"))])
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range(&one(CONTENT_RANGE, "bytes 5-9/10")), Some((5, Some(10))));
        assert_eq!(content_range(&one(CONTENT_RANGE, "bytes 5-9/*")), Some((5, None)));
        assert_eq!(content_range(&one(CONTENT_RANGE, "bytes */10")), None);
        assert_eq!(uploaded(&one(RANGE, "0-9")), Some(10));
        assert_eq!(uploaded(&one(RANGE, "bytes=0-9")), Some(10));
        assert_eq!(uploaded(&one(RANGE, "0-0")), Some(0));
        assert_eq!(uploaded(&HeaderMap::new()), None);
    }

    #[test]
    fn the_next_page_is_found() {
        let page = |value| next_page(&one(LINK, value));
        assert_eq!(
            page(r#"</v2/a/tags/list?last=b&n=1>; rel="next""#).as_deref(),
            Some("/v2/a/tags/list?last=b&n=1")
        );
        assert_eq!(
            page(r#"<a,b>; rel=prev, <c,d>; title="x"; REL=next"#).as_deref(),
            Some("c,d")
        );
        assert_eq!(page("<a>; rel=\"last\""), None);
        assert_eq!(page("nonsense"), None);
    }

    #[test]
    fn patience_is_a_number_or_a_date() {
        let wait = |value| retry_after(&one(RETRY_AFTER, value), Timestamp(784_111_777_000));
        assert_eq!(wait("120"), Some(120));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn media_types_lose_their_parameters() {
        assert_eq!(media_type(&one(CONTENT_TYPE, "Text/HTML; charset=utf-8")), "text/html");
        assert_eq!(media_type(&HeaderMap::new()), "");
    }
}
