//! `WWW-Authenticate` (RFC 9110, section 11.6.1): which schemes a registry takes, and their parameters.

use std::collections::BTreeMap;

/// How a registry wants callers to identify themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from the service at `realm`.
    Bearer {
        realm: String,
        service: String,
        scope: Option<String>,
        /// Why a token that was sent is not enough, such as `invalid_token` or `insufficient_scope`.
        error: Option<String>,
    },
    /// Name and password.
    Basic,
}

impl Challenge {
    /// The best of all challenges in these header values: a token service before passwords.
    pub(crate) fn best<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for (scheme, parameters) in values.into_iter().flat_map(parse) {
            match scheme.as_str() {
                "bearer" => {
                    let Some(realm) = parameters.get("realm") else { continue };
                    return Some(Self::Bearer {
                        realm: realm.clone(),
                        service: parameters.get("service").cloned().unwrap_or_default(),
                        scope: parameters.get("scope").cloned(),
                        error: parameters.get("error").cloned(),
                    });
                }
                "basic" => basic = Some(Self::Basic),
                _ => {}
            }
        }
        basic
    }
}

/// All challenges of one header value. What does not follow the grammar ends the list; nothing panics.
fn parse(value: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut challenges: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = value.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let after = after.trim_start();
        match after.strip_prefix('=') {
            // A parameter of the challenge before.
            Some(text) => {
                let (text, after) = parameter_value(text.trim_start());
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.entry(word.to_ascii_lowercase()).or_insert(text);
                }
                rest = after;
            }
            None => {
                challenges.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |character: char| character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character);
    let end = text.find(|character| !is_token(character)).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some services write addresses without quotes.
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_string(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            character => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_registries_send_is_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull,push",error="invalid_token""#;
        assert_eq!(
            Challenge::best([hub]),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: "registry.docker.io".into(),
                scope: Some("repository:library/redis:pull,push".into()),
                error: Some("invalid_token".into()),
            })
        );
        assert_eq!(
            Challenge::best([r#"Basic realm="Registry Realm""#]),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::best(["BASIC"]), Some(Challenge::Basic));
        let bare = Challenge::best(["bearer Realm=https://h/t , Service=x"]);
        assert!(
            matches!(bare, Some(Challenge::Bearer { realm, service, .. }) if realm == "https://h/t" && service == "x")
        );
    }

    #[test]
    fn a_token_service_is_preferred_among_several() {
        let both = r#"Basic realm="a, \"b\"", Bearer realm="https://t", service="s""#;
        assert!(matches!(Challenge::best([both]), Some(Challenge::Bearer { realm, .. }) if realm == "https://t"));
        let two = Challenge::best(["Negotiate", r#"Basic realm="x""#]);
        assert_eq!(two, Some(Challenge::Basic));
        assert_eq!(Challenge::best(["Negotiate abc=="]), None);
        assert_eq!(Challenge::best(["Bearer service=\"no realm\""]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~]{0,80}") {
            Challenge::best([text.as_str()]);
        }
    }
}
