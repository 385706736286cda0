//! Blobs, whole or a range of them.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use gantry_model::Digest;

use crate::backend::{Backend, Repository};
use crate::manifests::CONTENT_DIGEST;
use crate::serve::{Asked, set};
use crate::{Code, Refusal};

pub(crate) async fn get<B: Backend>(
    backend: &B,
    asked: &Asked,
    repository: &Repository,
    digest: Digest,
) -> Result<Response, Refusal> {
    let size = backend.blob_size(repository, digest).await?;
    let range = match range(&asked.headers, size) {
        Wanted::All => None,
        Wanted::Part(start, end) => Some((start, end)),
        Wanted::Nothing => return Ok(outside(size)),
    };
    let (start, end) = range.unwrap_or((0, size));
    let body = if asked.method == "HEAD" {
        Body::empty()
    } else {
        Body::from_stream(backend.read_blob(digest, start, end).await?)
    };
    let mut response = Response::new(body);
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let content_range = format!("bytes {start}-{}/{size}", end - 1);
        set(&mut response, header::CONTENT_RANGE, content_range);
    }
    set(&mut response, header::CONTENT_LENGTH, (end - start).to_string());
    set(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream".to_string(),
    );
    set(&mut response, header::ACCEPT_RANGES, "bytes".to_string());
    set(&mut response, header::ETAG, format!("\"{digest}\""));
    set(&mut response, CONTENT_DIGEST, digest.to_string());
    Ok(response)
}

fn outside(size: u64) -> Response {
    let errors = serde_json::json!({ "errors": [{
        "code": Code::RangeInvalid.as_str(),
        "message": format!("the blob has {size} bytes"),
    }] });
    let mut response = crate::serve::document(StatusCode::RANGE_NOT_SATISFIABLE, &errors);
    set(&mut response, header::CONTENT_RANGE, format!("bytes */{size}"));
    response
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// From the first up to, not including, the second.
    Part(u64, u64),
    Nothing,
}

/// One range (RFC 9110, 14.1.2); several, and what is not understood, are answered with the whole.
fn range(headers: &HeaderMap, size: u64) -> Wanted {
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(spec) = value.and_then(|value| value.strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Wanted::All;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(0) => Wanted::Nothing,
            Some(count) if size > 0 => Wanted::Part(size.saturating_sub(count), size),
            Some(_) => Wanted::Nothing,
            None => Wanted::All,
        },
        (first, last) => {
            let end = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match (number(first), end) {
                (Some(start), _) if start >= size => Wanted::Nothing,
                (Some(start), Some(end)) if start <= end => Wanted::Part(start, end.saturating_add(1).min(size)),
                _ => Wanted::All,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, wanted) in [
            ("bytes=0-9", Wanted::Part(0, 10)),
            ("bytes=5-", Wanted::Part(5, 100)),
            ("bytes=99-200", Wanted::Part(99, 100)),
            ("bytes=-10", Wanted::Part(90, 100)),
            ("bytes=-200", Wanted::Part(0, 100)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=9-5", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, text.parse().expect("a header"))]);
            assert_eq!(range(&headers, 100), wanted, "{text}");
        }
        assert_eq!(range(&HeaderMap::new(), 100), Wanted::All);
    }
}
