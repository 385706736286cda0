//! `EXPOSE`: ports and ranges, with the protocol.

/// A port that cannot be understood, or what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    /// `8080/tcp`.
    pub ports: Vec<String>,
    /// The protocol was not in lower case.
    pub odd_casing: bool,
    /// An address or a port of the host was given.
    pub has_host: bool,
}

/// `[[ip:]host:]port[-port][/protocol]`.
pub(crate) fn parse(text: &str) -> Result<Ports, String> {
    let (host, container) = text
        .rsplit_once(':')
        .map_or((None, text), |(host, container)| (Some(host), container));
    let (range, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let lower = protocol.to_ascii_lowercase();
    let protocol_known = if protocol.is_empty() { "tcp" } else { lower.as_str() };
    if !["tcp", "udp", "sctp"].contains(&protocol_known) {
        return Err(format!("'{protocol}' is no protocol: use tcp, udp or sctp"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| -> Result<u16, String> {
        let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.ok_or_else(|| format!("'{text}' is no port: use a number up to 65535"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(format!("the range {range} ends before it begins"));
    }
    Ok(Ports {
        ports: (first..=last).map(|port| format!("{port}/{protocol_known}")).collect(),
        odd_casing: lower != protocol,
        has_host: host.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        let ports = |text: &str| parse(text).map(|ports| ports.ports.join(" "));
        assert_eq!(ports("80"), Ok("80/tcp".into()));
        assert_eq!(ports("53/UDP"), Ok("53/udp".into()));
        assert_eq!(ports("8000-8002/tcp"), Ok("8000/tcp 8001/tcp 8002/tcp".into()));
        assert_eq!(ports("127.0.0.1:80:8080"), Ok("8080/tcp".into()));
        assert!(parse("53/UDP").expect("valid").odd_casing);
        assert!(parse("1:2").expect("valid").has_host);
        for text in ["", "x", "80/http", "65536", "9-8", "-1", "80-"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
