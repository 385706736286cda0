//! Several files become one: maps merge, lists grow, and the exceptions that Compose makes, as a table.
//!
//! After compose-go's `override` package: a later file wins; `!reset` takes a field away and `!override` replaces it whole.

use super::tree::{Directive, Entry, Node, Scalar, Value};

/// How a field of two files becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The later one stands.
    Replace,
    /// `KEY=value` lists and maps are the same thing.
    Pairs(char),
    /// A single value is the `context` of a map.
    Context,
    /// A list of names is a map without values.
    Names,
    /// Lists grow; a later item replaces the earlier with the same identity.
    Unique(Identity),
    /// A single value is a list of one; equal values appear once.
    Values,
}

/// What makes two items of a list the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Where it is mounted: the target of a volume or device.
    MountTarget,
    /// The target of a config or secret, or its source.
    DataTarget,
    /// Target, published port, protocol and address.
    Port,
    /// The path of an env file.
    EnvFile,
}

const RULES: &[(&str, Rule)] = &[
    ("services.*.command", Rule::Replace),
    ("services.*.entrypoint", Rule::Replace),
    ("services.*.healthcheck.test", Rule::Replace),
    ("services.*.build", Rule::Context),
    ("services.*.build.args", Rule::Pairs('=')),
    ("services.*.build.labels", Rule::Pairs('=')),
    ("services.*.build.additional_contexts", Rule::Pairs('=')),
    ("services.*.build.ssh", Rule::Pairs('=')),
    ("services.*.build.extra_hosts", Rule::Pairs(':')),
    ("services.*.build.ulimits.*", Rule::Replace),
    ("services.*.logging", Rule::Replace),
    ("services.*.extends", Rule::Replace),
    ("services.*.environment", Rule::Pairs('=')),
    ("services.*.environment.*", Rule::Replace),
    ("services.*.labels", Rule::Pairs('=')),
    ("services.*.annotations", Rule::Pairs('=')),
    ("services.*.sysctls", Rule::Pairs('=')),
    ("services.*.deploy.labels", Rule::Pairs('=')),
    ("services.*.extra_hosts", Rule::Pairs(':')),
    ("services.*.ulimits.*", Rule::Replace),
    ("services.*.depends_on", Rule::Names),
    ("services.*.networks", Rule::Names),
    ("services.*.networks.*.aliases", Rule::Values),
    ("services.*.volumes", Rule::Unique(Identity::MountTarget)),
    ("services.*.devices", Rule::Unique(Identity::MountTarget)),
    ("services.*.configs", Rule::Unique(Identity::DataTarget)),
    ("services.*.secrets", Rule::Unique(Identity::DataTarget)),
    ("services.*.ports", Rule::Unique(Identity::Port)),
    ("services.*.env_file", Rule::Unique(Identity::EnvFile)),
    ("services.*.label_file", Rule::Unique(Identity::EnvFile)),
    ("services.*.cap_add", Rule::Values),
    ("services.*.cap_drop", Rule::Values),
    ("services.*.dns", Rule::Values),
    ("services.*.dns_opt", Rule::Values),
    ("services.*.dns_search", Rule::Values),
    ("services.*.expose", Rule::Values),
    ("services.*.links", Rule::Values),
    ("services.*.profiles", Rule::Values),
    ("services.*.security_opt", Rule::Values),
    ("services.*.group_add", Rule::Values),
    ("services.*.tmpfs", Rule::Values),
    ("networks.*.labels", Rule::Pairs('=')),
    ("volumes.*.labels", Rule::Pairs('=')),
    ("configs.*.labels", Rule::Pairs('=')),
    ("secrets.*.labels", Rule::Pairs('=')),
];

/// The later file over the earlier ones.
pub(crate) fn merge(base: Node, over: Node) -> Node {
    merge_at(base, over, &mut Vec::new())
}

/// One service over another, for `extends`.
pub(crate) fn merge_service(base: Node, over: Node) -> Node {
    merge_at(base, over, &mut vec!["services".to_string(), "*".to_string()])
}

/// Takes out what `!reset` marks where there is nothing (left) to reset.
pub(crate) fn drop_resets(node: &mut Node) {
    match &mut node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => {
            items.retain(|item| item.directive != Directive::Reset);
            items.iter_mut().for_each(drop_resets);
        }
        Value::Map(entries) => {
            entries.retain(|entry| entry.value.directive != Directive::Reset);
            entries.iter_mut().for_each(|entry| drop_resets(&mut entry.value));
        }
    }
}

fn merge_at(base: Node, over: Node, path: &mut Vec<String>) -> Node {
    match over.directive {
        Directive::Override | Directive::Reset => return over,
        Directive::None => {}
    }
    let rule = rule_at(path);
    let (base, over) = match rule {
        Some(Rule::Replace) => return over,
        Some(Rule::Pairs(separator)) => (pairs(base, separator), pairs(over, separator)),
        Some(Rule::Context) => (context(base), context(over)),
        Some(Rule::Names) => (names(base), names(over)),
        Some(Rule::Unique(_) | Rule::Values) => (listed(base), listed(over)),
        None => (base, over),
    };
    let (place, directive) = (over.place, base.directive);
    let value = match (base.value, over.value) {
        (base, Value::Null) => base,
        (Value::Map(base), Value::Map(over)) => Value::Map(merge_maps(base, over, path)),
        (Value::List(base), Value::List(over)) => Value::List(merge_lists(base, over, rule)),
        (_, over) => over,
    };
    Node {
        value,
        place,
        directive,
    }
}

fn merge_maps(mut base: Vec<Entry>, over: Vec<Entry>, path: &mut Vec<String>) -> Vec<Entry> {
    let positions: std::collections::BTreeMap<String, usize> = base
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.key.clone(), index))
        .collect();
    for entry in over {
        let Some(position) = positions.get(&entry.key) else {
            base.push(entry);
            continue;
        };
        path.push(entry.key.clone());
        let place = base[*position].value.place;
        let earlier = std::mem::replace(&mut base[*position].value, Node::new(Value::Null, place));
        base[*position].value = merge_at(earlier, entry.value, path);
        base[*position].key_place = entry.key_place;
        path.pop();
    }
    base
}

fn merge_lists(mut base: Vec<Node>, over: Vec<Node>, rule: Option<Rule>) -> Vec<Node> {
    let mut identities: Vec<Option<String>> = match rule {
        Some(Rule::Unique(identity)) => base.iter().map(|item| identity.of(item)).collect(),
        Some(Rule::Replace | Rule::Pairs(_) | Rule::Context | Rule::Names | Rule::Values) | None => Vec::new(),
    };
    for item in over {
        let same = match rule {
            Some(Rule::Unique(identity)) => {
                let wanted = identity.of(&item);
                let same = identities.iter().position(|other| wanted.is_some() && *other == wanted);
                if same.is_none() {
                    identities.push(wanted);
                }
                same
            }
            Some(Rule::Values) => base.iter().position(|other| other.value == item.value),
            Some(Rule::Replace | Rule::Pairs(_) | Rule::Context | Rule::Names) | None => None,
        };
        match same {
            Some(position) => base[position] = item,
            None => base.push(item),
        }
    }
    base
}

fn rule_at(path: &[String]) -> Option<Rule> {
    let fits = |pattern: &str| {
        let mut parts = pattern.split('.');
        path.iter()
            .all(|step| parts.next().is_some_and(|part| part == "*" || part == step))
            && parts.next().is_none()
    };
    RULES.iter().find(|(pattern, _)| fits(pattern)).map(|(_, rule)| *rule)
}

/// `- KEY=value` as `KEY: value`; the last of equal keys stands.
fn pairs(node: Node, separator: char) -> Node {
    let Value::List(items) = node.value else { return node };
    if !items.iter().all(|item| matches!(item.value, Value::Scalar(_))) {
        return Node {
            value: Value::List(items),
            ..node
        };
    }
    let mut entries: Vec<Entry> = Vec::new();
    for item in items {
        let Value::Scalar(Scalar { text, .. }) = item.value else {
            continue;
        };
        let split_at = text.find(['=', separator]);
        let (key, value) = match split_at {
            Some(position) => (text[..position].to_string(), scalar(&text[position + 1..])),
            None => (text, Value::Null),
        };
        entries.retain(|entry| entry.key != key);
        entries.push(Entry {
            key,
            key_place: item.place,
            value: Node::new(value, item.place),
        });
    }
    Node {
        value: Value::Map(entries),
        ..node
    }
}

/// `build: FOLDER` as `build: {context: FOLDER}`.
fn context(node: Node) -> Node {
    let Value::Scalar(_) = node.value else { return node };
    let (place, directive) = (node.place, node.directive);
    let entry = Entry {
        key: "context".to_string(),
        key_place: place,
        value: node,
    };
    Node {
        value: Value::Map(vec![entry]),
        place,
        directive,
    }
}

/// `- NAME` as `NAME:` without a value.
fn names(node: Node) -> Node {
    let Value::List(items) = node.value else { return node };
    let mut entries: Vec<Entry> = Vec::new();
    for item in items {
        let Value::Scalar(Scalar { text, .. }) = item.value else {
            continue;
        };
        entries.retain(|entry| entry.key != text);
        entries.push(Entry {
            key: text,
            key_place: item.place,
            value: Node::new(Value::Null, item.place),
        });
    }
    Node {
        value: Value::Map(entries),
        ..node
    }
}

fn listed(node: Node) -> Node {
    let Node {
        value,
        place,
        directive,
    } = node;
    let value = match value {
        Value::Scalar(scalar) => Value::List(vec![Node::new(Value::Scalar(scalar), place)]),
        other @ (Value::Null | Value::List(_) | Value::Map(_)) => other,
    };
    Node {
        value,
        place,
        directive,
    }
}

fn scalar(text: &str) -> Value {
    Value::Scalar(Scalar {
        text: text.to_string(),
        plain: false,
    })
}

impl Identity {
    /// What the item is told apart by; none when it is malformed, which its reader will say.
    fn of(self, item: &Node) -> Option<String> {
        let text = |node: &Node| match &node.value {
            Value::Scalar(scalar) => Some(scalar.text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        };
        let field = |key: &str| item.get(key).and_then(text);
        let short = text(item);
        match self {
            Self::MountTarget => match short {
                Some(short) => {
                    let mut parts = short.split(':');
                    let first = parts.next().map(str::to_string);
                    parts.next().map(str::to_string).or(first)
                }
                None => field("target"),
            },
            Self::DataTarget => short.or_else(|| field("target")).or_else(|| field("source")),
            Self::EnvFile => short.or_else(|| field("path")),
            Self::Port => short.or_else(|| {
                let part = |key: &str| field(key).unwrap_or_default();
                let protocol = field("protocol").filter(|protocol| protocol != "tcp");
                let protocol = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
                let parts = [part("host_ip"), part("published"), part("target")];
                let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                Some(parts.join(":") + &protocol)
            }),
        }
    }
}
