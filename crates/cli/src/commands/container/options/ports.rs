//! Published ports.

use std::net::IpAddr;

use clap::Args;
use gantry_model::Problem;
use gantry_model::spec::{PortMode, PortSpec, Protocol};

use super::wrong;

const REMEDY: &str = "write [ADDRESS:][PORT:]PORT[/udp], such as 8080:80, 127.0.0.1::80 or 8000-8003:8000-8003";

// Ports of the node that lead to the container.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Ports")]
pub struct PortOptions {
    /// Publish a port, or a range of ports
    #[arg(short, long, value_name = "[[ADDRESS:]PORT:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Publish every port that the image exposes on a free one
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Say that it listens on a port
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    expose: Vec<String>,
}

impl PortOptions {
    pub(super) const fn publish_all(&self) -> bool {
        self.publish_all
    }

    pub(super) fn specs(&self) -> Result<Vec<PortSpec>, Problem> {
        let mut all = Vec::new();
        for text in &self.publish {
            all.extend(parse("--publish", text)?);
        }
        for text in &self.expose {
            // Exposed ports mean something only together with -P.
            let exposed = parse("--expose", text)?;
            if self.publish_all {
                all.extend(exposed);
            }
        }
        Ok(all)
    }
}

fn parse(option: &str, text: &str) -> Result<Vec<PortSpec>, Problem> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.rsplit_once('/').map_or(text, |(rest, _)| rest), Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((_, other)) => {
            return Err(wrong(option, text, format!("'{other}' is neither tcp nor udp"), REMEDY));
        }
    };
    let (address, published, target) = split(option, text, rest)?;
    let targets = range(option, text, target)?;
    let published = match published {
        "" => None,
        ports => Some(range(option, text, ports)?),
    };
    let count = targets.1 - targets.0;
    if published.is_some_and(|(first, last)| last - first != count) {
        return Err(wrong(option, text, "its two ranges differ in length", REMEDY));
    }
    let spec = |offset: u16| PortSpec {
        target: targets.0 + offset,
        published: published.map(|(first, _)| first + offset),
        protocol,
        mode: PortMode::Host,
        host_ip: address,
        name: None,
    };
    Ok((0..=count).map(spec).collect())
}

/// Address, published and target ports.
fn split<'a>(option: &str, text: &str, rest: &'a str) -> Result<(Option<IpAddr>, &'a str, &'a str), Problem> {
    let (before, target) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (address, published) = if before.contains(':') || before.starts_with('[') {
        before.rsplit_once(':').unwrap_or((before, ""))
    } else {
        ("", before)
    };
    if address.is_empty() {
        return Ok((None, published, target));
    }
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    let parsed = plain.parse();
    let address = parsed.map_err(|_| wrong(option, text, format!("'{address}' is no address"), REMEDY))?;
    Ok((Some(address), published, target))
}

fn range(option: &str, text: &str, ports: &str) -> Result<(u16, u16), Problem> {
    let number = |part: &str| {
        let parsed = part.parse().ok().filter(|port: &u16| *port > 0);
        parsed.ok_or_else(|| wrong(option, text, format!("'{part}' is no port"), REMEDY))
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(wrong(option, text, format!("'{ports}' runs backwards"), REMEDY));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let specs = parse("--publish", text).expect(text);
        let address = |spec: &PortSpec| spec.host_ip.map(|address| format!("{address} ")).unwrap_or_default();
        specs.iter().map(|spec| format!("{}{spec}", address(spec))).collect()
    }

    #[test]
    fn ports_have_dockers_forms() {
        assert_eq!(shown("80"), ["auto->80/tcp"]);
        assert_eq!(shown("8080:80"), ["8080->80/tcp"]);
        assert_eq!(shown("53:53/udp"), ["53->53/udp"]);
        assert_eq!(shown("127.0.0.1:8080:80"), ["127.0.0.1 8080->80/tcp"]);
        assert_eq!(shown("127.0.0.1::80"), ["127.0.0.1 auto->80/tcp"]);
        assert_eq!(shown("[::1]:8080:80"), ["::1 8080->80/tcp"]);
        assert_eq!(shown("8000-8001:9000-9001"), ["8000->9000/tcp", "8001->9001/tcp"]);
        for wrong in ["", "0", "x:80", "80:", "1-2:3", "9-1:9-1", "80/sctp", "host:1:2"] {
            assert!(parse("--publish", wrong).is_err(), "{wrong}");
        }
    }
}
