//! `ports` and `expose`, short and long.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use gantry_model::spec::{PortMode, PortSpec, Protocol};

use super::keys;
use super::scalar::{choice, parsed, scalar, some_text};
use crate::diagnostic::Site;
use crate::limits::PORTS_PER_SERVICE_MAX;
use crate::yaml::cursor::Cursor;

const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const PORT_WORDS: &str = "a port from 1 to 65535 or a range of them";
const SHORT_HELP: &str = "write [ADDRESS:][PUBLISHED:]TARGET[/tcp|udp], such as 8080:80";

/// All published ports, each with the place it comes from.
pub(crate) fn ports(service: &Cursor<'_>) -> Vec<(PortSpec, Site)> {
    let Some(list) = service.get("ports") else {
        return Vec::new();
    };
    let mut ports = Vec::new();
    for item in list.items() {
        let found = if item.is_map() { long(&item) } else { short(&item) };
        let site = item.site();
        ports.extend(found.unwrap_or_default().into_iter().map(|port| (port, site.clone())));
        if ports.len() > PORTS_PER_SERVICE_MAX {
            item.error(format!("the service publishes more than {PORTS_PER_SERVICE_MAX} ports"));
            break;
        }
    }
    ports
}

/// Ports for information: numbers or ranges, with an optional protocol.
pub(crate) fn expose(service: &Cursor<'_>) -> Vec<String> {
    let Some(list) = service.get("expose") else {
        return Vec::new();
    };
    let valid = |item: &Cursor<'_>| {
        let text = some_text(item)?;
        let (range_text, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        if range(range_text).is_none() || !PROTOCOLS.iter().any(|(word, _)| *word == protocol) {
            item.error_with(
                format!("'{text}' is not a port"),
                "write a number from 1 to 65535, or 3000-3005",
            );
            return None;
        }
        Some(text)
    };
    list.items().iter().filter_map(valid).collect()
}

/// `[ADDRESS:][PUBLISHED:]TARGET[/PROTOCOL]`, where both ports may be ranges.
fn short(at: &Cursor<'_>) -> Option<Vec<PortSpec>> {
    let text = scalar(at)?.text.trim();
    match split_short(text) {
        Ok((target, published, template)) => paired(at, target, published, &template),
        Err(reason) => {
            at.error_with(reason, SHORT_HELP);
            None
        }
    }
}

type PortRange = RangeInclusive<u16>;

/// The target, the published ports, and everything else; or why the text is no port.
fn split_short(text: &str) -> Result<(PortRange, Option<PortRange>, PortSpec), String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, word)) => {
            let known = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
            let (_, protocol) = known.ok_or_else(|| format!("'{word}' is not a supported protocol"))?;
            (rest, *protocol)
        }
    };
    let (front, target) = match rest.rsplit_once(':') {
        Some((front, target)) => (front, target),
        None => ("", rest),
    };
    let (host_ip, published) = match front.rsplit_once(':') {
        Some((host_ip, published)) => (Some(address(host_ip)?), published),
        None => match front.parse::<Ipv4Addr>() {
            Ok(host_ip) => (Some(host_ip.into()), ""),
            Err(_) => (None, front),
        },
    };
    let bad_range = |text: &str| format!("'{text}' is not {PORT_WORDS}");
    let target = range(target).ok_or_else(|| bad_range(target))?;
    let published = match published {
        "" => None,
        _ => Some(range(published).ok_or_else(|| bad_range(published))?),
    };
    let template = PortSpec {
        target: *target.start(),
        published: None,
        protocol,
        mode: PortMode::Ingress,
        host_ip,
        name: None,
    };
    Ok((target, published, template))
}

/// One port per member of the ranges, which must be of one length.
fn paired(
    at: &Cursor<'_>,
    target: PortRange,
    published: Option<PortRange>,
    template: &PortSpec,
) -> Option<Vec<PortSpec>> {
    let port = |target: u16, published: Option<u16>| PortSpec {
        target,
        published,
        ..template.clone()
    };
    let Some(published) = published else {
        return Some(target.map(|target| port(target, None)).collect());
    };
    if published.len() != target.len() {
        at.error_with(
            format!(
                "{} published ports do not fit {} target ports",
                published.len(),
                target.len()
            ),
            "give ranges of one length: which port of a longer range is taken would be left to chance",
        );
        return None;
    }
    let pairs = target.zip(published);
    Some(pairs.map(|(target, published)| port(target, Some(published))).collect())
}

fn long(at: &Cursor<'_>) -> Option<Vec<PortSpec>> {
    at.check_keys(keys::PORT);
    let Some(target) = at.get("target") else {
        at.error("'target' is missing");
        return None;
    };
    let target = port_range(&target)?;
    let template = PortSpec {
        target: *target.start(),
        published: None,
        protocol: at.read("protocol", |at| choice(at, PROTOCOLS)).unwrap_or(Protocol::Tcp),
        mode: at.read("mode", mode).unwrap_or_default(),
        host_ip: at.read("host_ip", parsed::<IpAddr>),
        name: at.read("name", some_text),
    };
    let published = match at.get("published") {
        Some(published) if !scalar(&published)?.text.is_empty() => Some(port_range(&published)?),
        Some(_) | None => None,
    };
    paired(at, target, published, &template)
}

fn mode(at: &Cursor<'_>) -> Option<PortMode> {
    choice(at, &[("ingress", PortMode::Ingress), ("host", PortMode::Host)])
}

fn port_range(at: &Cursor<'_>) -> Option<PortRange> {
    let text = scalar(at)?.text.trim();
    let range = range(text);
    if range.is_none() {
        at.error(format!("'{text}' is not {PORT_WORDS}"));
    }
    range
}

/// `80` or `3000-3005`; port 0 is none.
fn range(text: &str) -> Option<PortRange> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse().map_err(|_| format!("'{text}' is not an IP address"))
}
