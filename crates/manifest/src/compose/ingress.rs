//! `x-gantry: {ingress: […]}` of a service: which HTTP requests from outside are its own.

use gantry_model::Name;
use gantry_model::spec::{
    HostPattern, INGRESS_RETRIES, INGRESS_RETRIES_MAX, INGRESS_TIMEOUT, IngressRedirect, IngressRule, IngressTls,
    PathPattern, SecretRef, ServiceSpec, UpstreamProtocol,
};

use super::scalar::{boolean, integer, name, parsed, scalar};
use super::{Context, data, keys, traefik};
use crate::yaml::cursor::Cursor;

const PROTOCOLS: &[(&str, UpstreamProtocol)] = &[
    ("http", UpstreamProtocol::Http),
    ("h2c", UpstreamProtocol::H2c),
    ("grpc", UpstreamProtocol::H2c),
];

/// Adds the rules of a service: its own, or where it has none those of labels that it was written with.
pub(crate) fn extend(service: &Cursor<'_>, own: &Name, spec: &mut ServiceSpec, context: &Context<'_>) {
    let rules = service.read("x-gantry", |extension| {
        extension.read("ingress", |at| Some(rules(at, own, spec, context)))
    });
    match rules {
        Some(rules) => spec.ingress = rules,
        None => spec.ingress = traefik::rules(service, own, spec),
    }
    let job = spec.mode.is_job() && !spec.ingress.is_empty();
    if job {
        service.error_with("a job serves no requests", "remove its ingress rules");
    }
}

fn rules(at: &Cursor<'_>, own: &Name, spec: &ServiceSpec, context: &Context<'_>) -> Vec<IngressRule> {
    let mut rules: Vec<IngressRule> = Vec::new();
    let one = at.is_map().then(|| vec![*at]);
    for item in one.unwrap_or_else(|| at.items()) {
        let Some(rule) = rule(&item, own, spec, context) else {
            continue;
        };
        if rules
            .iter()
            .any(|other| other.host == rule.host && other.path == rule.path)
        {
            item.error(format!("there is a rule for {rule} already"));
        } else {
            rules.push(rule);
        }
    }
    rules
}

fn rule(at: &Cursor<'_>, own: &Name, spec: &ServiceSpec, context: &Context<'_>) -> Option<IngressRule> {
    if !at.check_keys(keys::INGRESS) {
        at.error(format!("expected a mapping, found {}", at.node.kind()));
        return None;
    }
    let Some(host) = at.get("host") else {
        at.error_with(
            "'host' is missing",
            "write `host: shop.example.com`, or `host: \"*\"` for all",
        );
        return None;
    };
    let host: HostPattern = parsed(&host)?;
    let path = at.get("path").map_or(Some(PathPattern::all()), |path| parsed(&path))?;
    let redirect = match at.get("redirect") {
        Some(redirect) => Some(redirect_of(&redirect)?),
        None => None,
    };
    let given = at.get("port").map(|port| integer(&port, 1, i64::from(u16::MAX)));
    let port = match given {
        Some(port) => Some(u16::try_from(port?).ok()?),
        None if matches!(redirect, Some(IngressRedirect::To(_))) => None,
        None => Some(only_port(at, spec)?),
    };
    let mut rule = IngressRule::new(host, path, port);
    rule.redirect = redirect;
    rule.protocol = at
        .read("protocol", |at| super::scalar::choice(at, PROTOCOLS))
        .unwrap_or_default();
    rule.tls = at.read("tls", |at| tls(at, context));
    rule.sticky = at.read("sticky", |at| sticky(at, own));
    rule.timeout = at.read("timeout", parsed).unwrap_or(INGRESS_TIMEOUT);
    let retries = at.read("retries", |at| integer(at, 0, i64::from(INGRESS_RETRIES_MAX)));
    rule.retries = retries
        .and_then(|retries| u32::try_from(retries).ok())
        .unwrap_or(INGRESS_RETRIES);
    rule.body_max = at.read("body_max", parsed);
    if rule.redirect == Some(IngressRedirect::Https) && rule.tls.is_none() {
        at.warn_with("nothing serves HTTPS for it here", "add `tls: {secret: NAME}`");
    }
    Some(rule)
}

/// The port, where a service has but one.
pub(crate) fn only_port(at: &Cursor<'_>, spec: &ServiceSpec) -> Option<u16> {
    let exposed = spec
        .expose
        .iter()
        .filter_map(|text| text.split('/').next()?.parse::<u16>().ok());
    let mut ports: Vec<u16> = spec.ports.iter().map(|port| port.target).chain(exposed).collect();
    ports.sort_unstable();
    ports.dedup();
    if let [port] = ports[..] {
        return Some(port);
    }
    let known = if ports.is_empty() { "none" } else { "several" };
    at.error_with(
        format!("'port' is missing, and the service exposes {known}"),
        "write the port that the program listens on inside the container",
    );
    None
}

/// `https`, or an origin such as `https://www.example.com`.
fn redirect_of(at: &Cursor<'_>) -> Option<IngressRedirect> {
    let text = scalar(at)?.text.trim();
    if text == "https" {
        return Some(IngressRedirect::Https);
    }
    let origin = text.strip_suffix('/').unwrap_or(text);
    let host = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"));
    let is_host = host.is_some_and(|host| {
        let (name, port) = host.split_once(':').unwrap_or((host, "80"));
        name.parse::<HostPattern>()
            .is_ok_and(|name| matches!(name, HostPattern::Exact(_)))
            && port.parse::<u16>().is_ok()
    });
    if !is_host {
        at.error_with(
            format!("'{text}' is nowhere to redirect to"),
            "write https, or an origin such as https://www.example.com",
        );
        return None;
    }
    Some(IngressRedirect::To(origin.to_string()))
}

fn tls(at: &Cursor<'_>, context: &Context<'_>) -> Option<IngressTls> {
    if !at.check_keys(keys::INGRESS_TLS) {
        at.error_with(
            format!("expected a mapping, found {}", at.node.kind()),
            "write `tls: {secret: NAME}` with a secret that holds certificate and key in PEM",
        );
        return None;
    }
    let Some(secret) = at.get("secret") else {
        at.error("'secret' is missing");
        return None;
    };
    let secret = secret_ref(&secret, context)?;
    let key = match at.get("key") {
        Some(key) => Some(secret_ref(&key, context)?),
        None => None,
    };
    Some(IngressTls { secret, key })
}

fn secret_ref(at: &Cursor<'_>, context: &Context<'_>) -> Option<SecretRef> {
    let source = name(at)?;
    let is_known = context.secrets.contains(&source);
    if !Context::declared(at, "secret", &source, is_known, context.secrets.iter()) {
        return None;
    }
    context.used.borrow_mut().insert((data::Kind::Secret, source.clone()));
    Some(SecretRef { source, id: None })
}

/// `true`, or the name of the cookie.
fn sticky(at: &Cursor<'_>, own: &Name) -> Option<String> {
    if at.is_map() {
        at.check_keys(keys::INGRESS_STICKY);
        return at.read("cookie", cookie).or_else(|| Some(cookie_of(own)));
    }
    boolean(at)?.then(|| cookie_of(own))
}

/// The cookie of a service that names none.
pub(crate) fn cookie_of(own: &Name) -> String {
    format!("gantry-{own}")
}

/// A token (RFC 6265, 4.1.1).
pub(crate) fn cookie(at: &Cursor<'_>) -> Option<String> {
    let text = scalar(at)?.text.trim();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        at.error(format!(
            "'{text}' cannot name a cookie: use up to 64 of a-z, A-Z, 0-9, '-', '_', '.'"
        ));
        return None;
    }
    Some(text.to_string())
}
