//! Uploads: in one piece, in several, resumed, mounted from another repository, given up.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use gantry_model::Digest;
use gantry_model::object::RegistryAction;

use crate::backend::{Backend, ByteStream, Piece, Repository};
use crate::manifests::CONTENT_DIGEST;
use crate::path::digest;
use crate::serve::{Asked, empty, set};
use crate::{Code, Refusal};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

pub(crate) async fn begin<B: Backend>(
    backend: &B,
    (asked, body): (Asked, Body),
    repository: &Repository,
) -> Result<Response, Refusal> {
    if let Some(wanted) = asked.parameter("mount") {
        let wanted = digest(wanted)?;
        // Without a source, or with one that may not be read, it is an upload like any other.
        let from = asked.parameter("from").and_then(|from| Repository::parse(from).ok());
        let from = from.filter(|from| asked.access.allows(&from.familiar, RegistryAction::Pull));
        if let Some(from) = from
            && backend.mount(repository, wanted, &from).await?
        {
            return Ok(created(repository, wanted));
        }
    }
    let finish = asked.parameter("digest").map(digest).transpose()?;
    let upload = backend.begin_upload(repository).await?;
    let Some(finish) = finish else {
        return Ok(progress(StatusCode::ACCEPTED, repository, &upload, 0));
    };
    let piece = Piece {
        offset: Some(0),
        bytes: stream(body),
        finish: Some(finish),
    };
    backend.write_upload(repository, &upload, piece).await?;
    Ok(created(repository, finish))
}

pub(crate) async fn status<B: Backend>(
    backend: &B,
    repository: &Repository,
    upload: &str,
) -> Result<Response, Refusal> {
    let size = backend.upload_size(repository, upload).await?;
    Ok(progress(StatusCode::NO_CONTENT, repository, upload, size))
}

pub(crate) async fn patch<B: Backend>(
    backend: &B,
    (asked, body): (Asked, Body),
    repository: &Repository,
    upload: &str,
) -> Result<Response, Refusal> {
    let piece = Piece {
        offset: offset(&asked.headers)?,
        bytes: stream(body),
        finish: None,
    };
    let size = backend.write_upload(repository, upload, piece).await?;
    Ok(progress(StatusCode::ACCEPTED, repository, upload, size))
}

pub(crate) async fn finish<B: Backend>(
    backend: &B,
    (asked, body): (Asked, Body),
    repository: &Repository,
    upload: &str,
) -> Result<Response, Refusal> {
    let wanted = asked.parameter("digest").ok_or_else(|| {
        let message = "an upload ends with the digest of its content: ?digest=sha256:…";
        Refusal::new(Code::DigestInvalid, message)
    })?;
    let wanted = digest(wanted)?;
    let piece = Piece {
        offset: offset(&asked.headers)?,
        bytes: stream(body),
        finish: Some(wanted),
    };
    backend.write_upload(repository, upload, piece).await?;
    Ok(created(repository, wanted))
}

fn stream(body: Body) -> ByteStream {
    Box::pin(
        body.into_data_stream()
            .map(|piece| piece.map_err(std::io::Error::other)),
    )
}

/// Where a piece begins: `Content-Range: 100-199`, as the specification writes it, or `bytes 100-199/*`, as others do.
fn offset(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let invalid = || Refusal::new(Code::BlobUploadInvalid, "the Content-Range is none: write START-END");
    let text = value.to_str().map_err(|_| invalid())?;
    let text = text.trim_start_matches("bytes").trim_start_matches([' ', '=']);
    let (start, end) = text.split_once('-').ok_or_else(invalid)?;
    let end = end.split('/').next().unwrap_or_default();
    let (start, end): (u64, u64) = (
        start.trim().parse().map_err(|_| invalid())?,
        end.trim().parse().map_err(|_| invalid())?,
    );
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if end < start.saturating_sub(1) || length.is_some_and(|length| start.checked_add(length) != end.checked_add(1)) {
        return Err(Refusal::new(
            Code::SizeInvalid,
            "Content-Range and Content-Length contradict each other",
        ));
    }
    Ok(Some(start))
}

fn created(repository: &Repository, digest: Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let location = format!("/v2/{}/blobs/{digest}", repository.written);
    set(&mut response, header::LOCATION, location);
    set(&mut response, CONTENT_DIGEST, digest.to_string());
    response
}

/// How far an upload is. The range names the last byte; of none there is no better word than `0-0`.
fn progress(status: StatusCode, repository: &Repository, upload: &str, size: u64) -> Response {
    let mut response = empty(status);
    let location = format!("/v2/{}/blobs/uploads/{upload}", repository.written);
    set(&mut response, header::LOCATION, location);
    set(&mut response, header::RANGE, format!("0-{}", size.saturating_sub(1)));
    set(&mut response, UPLOAD_UUID, upload.to_string());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(range: &str, length: &str) -> HeaderMap {
        HeaderMap::from_iter([
            (header::CONTENT_RANGE, range.parse().expect("a header")),
            (header::CONTENT_LENGTH, length.parse().expect("a header")),
        ])
    }

    #[test]
    fn pieces_say_where_they_begin() {
        assert_eq!(offset(&HeaderMap::new()), Ok(None));
        for range in ["100-199", "bytes 100-199/*", "bytes=100-199"] {
            assert_eq!(offset(&headers(range, "100")), Ok(Some(100)), "{range}");
        }
        for (range, length, code) in [
            ("100-199", "99", Code::SizeInvalid),
            ("199-100", "1", Code::SizeInvalid),
            ("x-1", "1", Code::BlobUploadInvalid),
            ("7", "1", Code::BlobUploadInvalid),
        ] {
            assert_eq!(offset(&headers(range, length)).expect_err(range).code, code, "{range}");
        }
    }
}
