//! Rules for requests that are written as Traefik's labels already, as far as they mean the same here.
//!
//! `Host` and `PathPrefix` or `Path` of a router, the port, the scheme h2c and the sticky cookie of its service. Whatever else a
//! router has is warned about where it stands: requests would be served in another way than there.

use std::collections::BTreeMap;

use gantry_model::Name;
use gantry_model::spec::{HostPattern, IngressRule, PathPattern, ServiceSpec, UpstreamProtocol};

use super::ingress::{cookie_of, only_port};
use crate::yaml::cursor::Cursor;
use crate::yaml::tree::Value;

const ROUTERS: &str = "traefik.http.routers.";
const SERVICES: &str = "traefik.http.services.";

/// A label and where it stands.
struct Label<'a> {
    at: Cursor<'a>,
    key: String,
    value: String,
}

/// What the labels say of the service behind all routers.
#[derive(Default)]
struct Backend {
    port: Option<u16>,
    protocol: UpstreamProtocol,
    sticky: Option<String>,
}

/// The rules that the labels of a service mean; none unless a router has a rule.
pub(crate) fn rules(service: &Cursor<'_>, own: &Name, spec: &ServiceSpec) -> Vec<IngressRule> {
    let deploy = service.get("deploy");
    let lists = [
        service.get("labels"),
        deploy.as_ref().and_then(|deploy| deploy.get("labels")),
    ];
    let labels: Vec<Label<'_>> = lists.iter().flatten().flat_map(labels).collect();
    let is_off = labels
        .iter()
        .any(|label| label.key == "traefik.enable" && label.value == "false");
    let has_rule = labels
        .iter()
        .any(|label| label.key.starts_with(ROUTERS) && label.key.ends_with(".rule"));
    if is_off || !has_rule {
        return Vec::new();
    }
    let backend = backend(&labels, own);
    let mut rules: BTreeMap<(HostPattern, PathPattern), IngressRule> = BTreeMap::new();
    for label in labels.iter().filter(|label| label.key.starts_with(ROUTERS)) {
        let option = label.key.rsplit('.').next().unwrap_or_default();
        match option {
            "rule" => {
                let Some(patterns) = parse(&label.value) else {
                    label.warn("only Host, PathPrefix and Path, each once and joined by &&, mean the same here");
                    continue;
                };
                let Some(port) = backend.port.or_else(|| only_port(&label.at, spec)) else {
                    continue;
                };
                for (host, path) in patterns {
                    let mut rule = IngressRule::new(host.clone(), path.clone(), Some(port));
                    rule.protocol = backend.protocol;
                    rule.sticky = backend.sticky.clone();
                    rules.insert((host, path), rule);
                }
            }
            // There is one way in, and one service behind it.
            "entrypoints" | "service" => {}
            "tls" | "certresolver" => {
                label.warn("certificates come from `x-gantry: {ingress: [{…, tls: {secret: NAME}}]}`");
            }
            _ => label.warn("it has no effect here"),
        }
    }
    rules.into_values().collect()
}

fn labels<'a>(list: &'a Cursor<'a>) -> Vec<Label<'a>> {
    let text = |at: &Cursor<'_>| match &at.node.value {
        Value::Scalar(scalar) => Some(scalar.text.clone()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    };
    let of_map = |at: Cursor<'a>| {
        let value = text(&at)?;
        Some(Label {
            key: at.key().to_ascii_lowercase(),
            at,
            value,
        })
    };
    let of_list = |at: Cursor<'a>| {
        let text = text(&at)?;
        let (key, value) = text.split_once('=')?;
        Some(Label {
            at,
            key: key.to_ascii_lowercase(),
            value: value.to_string(),
        })
    };
    if list.is_map() {
        return list.all_entries().into_iter().filter_map(of_map).collect();
    }
    if list.is_list() {
        return list.items().into_iter().filter_map(of_list).collect();
    }
    Vec::new()
}

impl Label<'_> {
    fn warn(&self, why: &str) {
        self.at.warn(format!("'{}' is not taken over: {why}", self.key));
    }
}

fn backend(labels: &[Label<'_>], own: &Name) -> Backend {
    let mut backend = Backend::default();
    for label in labels {
        let Some(option) = label.key.strip_prefix(SERVICES).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        match option.1 {
            "loadbalancer.server.port" => match label.value.trim().parse() {
                Ok(port) if port > 0 => backend.port = Some(port),
                Ok(_) | Err(_) => label.at.error(format!("'{}' is not a port", label.value)),
            },
            "loadbalancer.server.scheme" if label.value == "h2c" => backend.protocol = UpstreamProtocol::H2c,
            "loadbalancer.server.scheme" if label.value == "http" => {}
            "loadbalancer.sticky.cookie" | "loadbalancer.sticky" if label.value == "true" => {
                backend.sticky.get_or_insert_with(|| cookie_of(own));
            }
            "loadbalancer.sticky.cookie.name" => backend.sticky = Some(label.value.clone()),
            "loadbalancer.passhostheader" if label.value == "true" => {}
            _ => label.warn("it has no effect here"),
        }
    }
    backend
}

/// The pairs that a rule means, or none when it means more than pairs.
fn parse(rule: &str) -> Option<Vec<(HostPattern, PathPattern)>> {
    let (mut hosts, mut paths) = (None, None);
    for term in rule.split("&&") {
        let (kind, values) = alternatives(term.trim())?;
        match kind {
            "Host" if hosts.is_none() => hosts = Some(all::<HostPattern>(&values, "")?),
            "PathPrefix" if paths.is_none() => paths = Some(all::<PathPattern>(&values, "")?),
            "Path" if paths.is_none() => paths = Some(all::<PathPattern>(&values, "=")?),
            _ => return None,
        }
    }
    let hosts = hosts.unwrap_or_else(|| vec![HostPattern::Any]);
    let paths = paths.unwrap_or_else(|| vec![PathPattern::all()]);
    let pairs = hosts
        .iter()
        .flat_map(|host| paths.iter().map(move |path| (host.clone(), path.clone())));
    Some(pairs.collect())
}

fn all<T: std::str::FromStr>(values: &[&str], prefix: &str) -> Option<Vec<T>> {
    values
        .iter()
        .map(|value| format!("{prefix}{value}").parse().ok())
        .collect()
}

/// ``Host(`a`, `b`)``, or ``(Host(`a`) || Host(`b`))``, as one matcher with its values.
fn alternatives(term: &str) -> Option<(&str, Vec<&str>)> {
    let is_group = term.starts_with('(') && term.ends_with(')');
    let term = if is_group { term.get(1..term.len() - 1)? } else { term };
    let (mut kind, mut values) = (None, Vec::new());
    for matcher in term.split("||") {
        let (name, rest) = matcher.trim().split_once('(')?;
        if kind.is_some_and(|kind| kind != name) {
            return None;
        }
        kind = Some(name);
        for value in rest.strip_suffix(')')?.split(',') {
            let value = value.trim();
            let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
            values.push(quoted('`').or_else(|| quoted('"'))?);
        }
    }
    Some((kind?, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_are_pairs_are_read_and_others_are_not() {
        for (rule, expect) in [
            ("Host(`a.b`)", Some("a.b/")),
            ("Host(`a.b`) && PathPrefix(`/api`)", Some("a.b/api")),
            ("Host(\"a.b\") && Path(`/x`)", Some("a.b=/x")),
            ("Host(`a`, `b`)", Some("a/ b/")),
            (
                "(Host(`a`) || Host(`b`)) && PathPrefix(`/x`, `/y`)",
                Some("a/x a/y b/x b/y"),
            ),
            ("PathPrefix(`/`)", Some("*/")),
            ("Host(`a`) || PathPrefix(`/x`)", None),
            ("HostRegexp(`.*`)", None),
            ("!Host(`a`)", None),
            ("Host(`a`) && Headers(`x`, `y`)", None),
            ("Host(a)", None),
            ("", None),
            ("(", None),
        ] {
            let shown = parse(rule).map(|pairs| {
                let shown: Vec<String> = pairs.iter().map(|(host, path)| format!("{host}{path}")).collect();
                shown.join(" ")
            });
            assert_eq!(shown.as_deref(), expect, "{rule}");
        }
    }
}
