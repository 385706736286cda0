//! A request from beginning to end: which operation, who asks, may they, and the answer.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::any;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gantry_model::object::RegistryAction;
use serde_json::{Value, json};

use crate::backend::{Backend, Repository};
use crate::path::Object;
use crate::{Access, Code, Login, Refusal, blobs, lists, manifests, token, uploads};

/// Tells old clients from pages that happen to answer at the path.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The registry's routes, below `/v2`.
pub fn router<B: Backend>(backend: B) -> Router {
    Router::new()
        .route("/v2", any(serve::<B>))
        .route("/v2/", any(serve::<B>))
        .route("/v2/{*rest}", any(serve::<B>))
        .with_state(backend)
}

/// A request with everything that operations need of it.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) access: Access,
}

impl Asked {
    /// The first parameter of that name.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut query = self.query.iter();
        query.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

async fn serve<B: Backend>(State(backend): State<B>, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let host = host(&request);
    let mut response = match answer(&backend, request).await {
        Ok(response) => response,
        Err(failure) => failed(&failure, &host),
    };
    if head {
        // The length stays: it says what a GET would give.
        *response.body_mut() = Body::empty();
    }
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(API_VERSION, version);
    response
}

/// Why there is no answer, and what a login would have to allow.
pub(crate) struct Failure {
    refusal: Refusal,
    scope: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, scope: None }
    }
}

async fn answer<B: Backend>(backend: &B, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let object = Object::parse(parts.uri.path());
    let query: Vec<(String, String)> = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
        .into_owned()
        .collect();
    let needs = object.as_ref().ok().and_then(|object| object.needs(&parts.method));
    let scope = needs.map(|(repository, action)| scope(repository, action));
    let login = login(&parts.headers);
    let is_bearer = matches!(login, Some(Login::Bearer(_)));
    let access = match backend.certified(&parts.extensions) {
        Some(access) => Some(access),
        None => match login {
            Some(login) => backend.login(login).await?,
            None => None,
        },
    };
    let unknown = || Failure {
        refusal: Refusal::new(
            Code::Unauthorized,
            "log in with a token of `gantry registry token create` as the password",
        ),
        scope: scope.clone(),
    };
    let access = access.ok_or_else(unknown)?;
    if let Some((repository, action)) = needs
        && !access.allows(&repository.familiar, action)
    {
        let message = format!("this token may not {action} in {}", repository.familiar);
        // A bearer token may have been asked for too little.
        let code = if is_bearer { Code::Unauthorized } else { Code::Denied };
        return Err(Failure {
            refusal: Refusal::new(code, message),
            scope,
        });
    }
    let asked = Asked {
        method: parts.method,
        headers: parts.headers,
        query,
        access,
    };
    Ok(dispatch(backend, object?, asked, body).await?)
}

async fn dispatch<B: Backend>(backend: &B, object: Object, asked: Asked, body: Body) -> Result<Response, Refusal> {
    let method = asked.method.clone();
    match (object, method.as_str()) {
        (Object::Base, "GET" | "HEAD") => Ok(document(StatusCode::OK, &json!({}))),
        (Object::Token, "GET") => token::issue(backend, &asked).await,
        (Object::Catalog, "GET" | "HEAD") => lists::catalog(backend, &asked).await,
        (Object::Tags(repository), "GET" | "HEAD") => lists::tags(backend, &asked, &repository).await,
        (Object::Referrers(repository, digest), "GET" | "HEAD") => {
            lists::referrers(backend, &asked, &repository, digest).await
        }
        (Object::Manifest(repository, target), "GET" | "HEAD") => manifests::get(backend, &repository, &target).await,
        (Object::Manifest(repository, target), "PUT") => {
            manifests::put(backend, (asked, body), &repository, &target).await
        }
        (Object::Manifest(repository, target), "DELETE") => {
            backend.delete_manifest(&repository, &target).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        (Object::Blob(repository, digest), "GET" | "HEAD") => blobs::get(backend, &asked, &repository, digest).await,
        (Object::Blob(repository, digest), "DELETE") => {
            backend.delete_blob(&repository, digest).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        (Object::Uploads(repository), "POST") => uploads::begin(backend, (asked, body), &repository).await,
        (Object::Upload(repository, upload), "GET" | "HEAD") => uploads::status(backend, &repository, &upload).await,
        (Object::Upload(repository, upload), "PATCH") => {
            uploads::patch(backend, (asked, body), &repository, &upload).await
        }
        (Object::Upload(repository, upload), "PUT") => {
            uploads::finish(backend, (asked, body), &repository, &upload).await
        }
        (Object::Upload(repository, upload), "DELETE") => {
            backend.cancel_upload(&repository, &upload).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (_, method) => Err(Refusal::new(
            Code::Unsupported,
            format!("{method} is not possible here"),
        )),
    }
}

/// Whom the client thinks it speaks with, for links that lead back here.
fn host(request: &Request) -> String {
    let authority = request.uri().authority().map(|authority| authority.to_string());
    let header = || Some(request.headers().get(header::HOST)?.to_str().ok()?.to_string());
    let host = authority.or_else(header).unwrap_or_default();
    let is_host = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    if is_host { host } else { String::new() }
}

fn login(headers: &HeaderMap) -> Option<Login> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Login::Bearer(rest.trim().to_string()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login::Basic {
        user: user.to_string(),
        password: password.to_string(),
    })
}

/// As clients ask the token service for it.
fn scope(repository: &Repository, action: RegistryAction) -> String {
    let actions = match action {
        RegistryAction::Pull => "pull",
        RegistryAction::Push => "pull,push",
        RegistryAction::Delete => "delete",
    };
    format!("repository:{}:{actions}", repository.written)
}

fn failed(failure: &Failure, host: &str) -> Response {
    let Refusal { code, message } = &failure.refusal;
    let errors = json!({ "errors": [{ "code": code.as_str(), "message": message, "detail": Value::Null }] });
    let mut response = document(code.status(), &errors);
    if *code == Code::Unauthorized {
        let scope = failure.scope.as_ref().map(|scope| format!(",scope=\"{scope}\""));
        let challenge = format!(
            "Bearer realm=\"https://{host}/v2/token\",service=\"{host}\"{}",
            scope.unwrap_or_default()
        );
        // Everything in it was checked to be printable.
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
    }
    response
}

/// A JSON document.
pub(crate) fn document(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(value.to_string().len()));
    response
}

/// An answer without content.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        let none = HeaderValue::from_static("0");
        response.headers_mut().insert(header::CONTENT_LENGTH, none);
    }
    response
}

/// Sets a header whose value is made of digests, numbers and checked names.
pub(crate) fn set(response: &mut Response, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}
