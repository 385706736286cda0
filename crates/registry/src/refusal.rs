//! Errors as registry clients know them (OCI distribution specification, "Error Codes").

use axum::http::StatusCode;
use gantry_model::{Class, Problem};

/// What is wrong, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The repository has no such blob.
    BlobUnknown,
    /// The upload cannot go on so.
    BlobUploadInvalid,
    /// There is no such upload.
    BlobUploadUnknown,
    /// The digest is none, or not that of the content.
    DigestInvalid,
    /// A manifest needs a blob or manifest that the repository does not have.
    ManifestBlobUnknown,
    /// The manifest is none.
    ManifestInvalid,
    /// The repository has no such manifest.
    ManifestUnknown,
    /// The name is none for a repository.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// The content has another length than announced.
    SizeInvalid,
    /// The caller is not known.
    Unauthorized,
    /// The caller may not do this.
    Denied,
    /// There is no such operation.
    Unsupported,
    /// Too much at once.
    TooManyRequests,
    /// A piece does not begin where the last one ended, or a range is outside of the content.
    RangeInvalid,
    /// The content is too large.
    TooLarge,
    /// Not now; trying again may help.
    Unavailable,
    /// Something broke here.
    Internal,
}

impl Code {
    /// Its word in error documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid | Self::RangeInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid | Self::TooLarge => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "UNKNOWN",
        }
    }

    /// The status that it goes with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid => StatusCode::BAD_REQUEST,
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestBlobUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal in these words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<Problem> for Refusal {
    /// For failures that have nothing to do with what the client asked for; others are translated where they occur.
    fn from(problem: Problem) -> Self {
        let code = match problem.class {
            Class::Unavailable | Class::Timeout | Class::Conflict => Code::Unavailable,
            Class::Exhausted => Code::TooManyRequests,
            Class::Denied => Code::Denied,
            Class::Invalid | Class::NotFound | Class::Internal => Code::Internal,
        };
        Self::new(code, problem.to_string())
    }
}
