//! Text to tree, by the events of the YAML parser: anchors, aliases, merge keys and duplicate keys are handled here.
//!
//! **Invariant:** no recursion over input depth, and nothing is copied that the budget has not been asked for, so nested
//! aliases ("a billion laughs") and deep nesting end in a located error.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::tree::{Budget, Directive, Entry, Node, Scalar, Value};
use crate::diagnostic::{Place, Sink, Site, Span};
use crate::limits::{DEPTH_MAX, DOCUMENT_BYTES_MAX, LIST_ITEMS_MAX, VALUES_MAX};

/// Why a text is not a tree.
#[derive(Debug)]
struct Fault {
    place: Place,
    message: String,
    help: Option<&'static str>,
}

/// Parses source number `source`; reports to the sink and returns nothing when the text is not one YAML document.
pub(crate) fn parse(text: &str, source: u32, budget: &mut Budget, sink: &Sink) -> Option<Node> {
    let mut builder = Builder {
        source,
        budget,
        sink,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        root: None,
        documents: 0,
    };
    match builder.run(text) {
        Ok(()) => builder.root,
        Err(fault) => {
            let site = Site {
                place: Some(fault.place),
                path: String::new(),
            };
            sink.error(&site, fault.message, fault.help.map(str::to_string));
            None
        }
    }
}

struct Builder<'b> {
    source: u32,
    budget: &'b mut Budget,
    sink: &'b Sink,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, Anchored>,
    root: Option<Node>,
    documents: usize,
}

/// A finished node that an alias may repeat.
struct Anchored {
    node: Node,
    size: usize,
    depth: usize,
}

/// A list or map that is still open.
struct Frame {
    open: Open,
    place: Place,
    anchor: usize,
    directive: Directive,
}

enum Open {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<Entry>,
    places: BTreeMap<String, Place>,
    key: Option<(Key, Place)>,
    /// Values of `<<`, nearest last.
    merged: Vec<Node>,
}

enum Key {
    Text(String),
    Merge,
}

impl Builder<'_> {
    fn run(&mut self, text: &str) -> Result<(), Fault> {
        let start = Marker::new(0, 1, 0);
        if text.len() > DOCUMENT_BYTES_MAX {
            let message = format!(
                "the file has {} MiB, at most {} MiB are read",
                text.len() >> 20,
                DOCUMENT_BYTES_MAX >> 20
            );
            return Err(self.fault(
                start,
                start,
                message,
                Some("put large content into files and refer to them"),
            ));
        }
        for event in Parser::new_from_str(text) {
            let (event, span) =
                event.map_err(|error| self.fault(*error.marker(), *error.marker(), plain_words(error.info()), None))?;
            self.event(event, self.place(span.start, span.end))?;
        }
        if self.root.is_none() {
            return Err(self.fault(start, start, "the file is empty".to_string(), None));
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), Fault> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => self.document(place),
            Event::Alias(id) => self.alias(id, place),
            Event::Scalar(text, style, anchor, tag) => {
                let directive = self.directive(tag.as_deref(), place)?;
                let plain = style == ScalarStyle::Plain && !is_string_tag(tag.as_deref());
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar(Scalar {
                        text: text.into_owned(),
                        plain,
                    }),
                };
                let mut node = Node::new(value, place);
                self.count(node.size(), place)?;
                node.directive = directive;
                self.finish(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => self.open(Open::List(Vec::new()), anchor, tag.as_deref(), place),
            Event::MappingStart(anchor, tag) => self.open(Open::Map(OpenMap::default()), anchor, tag.as_deref(), place),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn document(&mut self, place: Place) -> Result<(), Fault> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(Fault {
            place,
            message: "a second YAML document starts here, a manifest is exactly one".to_string(),
            help: Some("put it into a file of its own and give both files"),
        })
    }

    fn open(&mut self, open: Open, anchor: usize, tag: Option<&Tag>, place: Place) -> Result<(), Fault> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(place));
        }
        self.count(1, place)?;
        let directive = self.directive(tag, place)?;
        self.stack.push(Frame {
            open,
            place,
            anchor,
            directive,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        let Some(frame) = self.stack.pop() else {
            return Ok(());
        };
        let value = match frame.open {
            Open::List(items) => Value::List(items),
            Open::Map(map) => Value::Map(self.merge_keys(map)?),
        };
        let node = Node {
            value,
            place: frame.place,
            directive: frame.directive,
        };
        self.finish(node, frame.anchor)
    }

    /// A node is complete: remembers it for its aliases and hands it to the list or map around it.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor > 0 {
            let size = node.size();
            self.count(size, node.place)?;
            let depth = node.depth();
            self.anchors.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    size,
                    depth,
                },
            );
        }
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => {
                self.root = Some(node);
                Ok(())
            }
            Some(Open::List(items)) => {
                if items.len() >= LIST_ITEMS_MAX {
                    return Err(Fault {
                        place: node.place,
                        message: format!("the list has more than {LIST_ITEMS_MAX} items"),
                        help: None,
                    });
                }
                items.push(node);
                Ok(())
            }
            Some(Open::Map(map)) => map.push(node, self.sink),
        }
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<(), Fault> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(Fault {
                place,
                message: "the alias refers to a value it is part of".to_string(),
                help: None,
            });
        };
        let (size, depth) = (anchored.size, anchored.depth);
        if self.stack.len() + depth > DEPTH_MAX {
            return Err(too_deep(place));
        }
        self.count(size, place)?;
        match self.anchors.get(&id).map(|anchored| anchored.node.clone()) {
            Some(node) => self.finish(node, 0),
            None => Ok(()),
        }
    }

    /// What the map itself says wins over what `<<` brings, and an earlier merged map over a later one.
    fn merge_keys(&mut self, map: OpenMap) -> Result<Vec<Entry>, Fault> {
        let OpenMap {
            mut entries,
            mut places,
            merged,
            ..
        } = map;
        for node in merged {
            let place = node.place;
            let sources = match node.value {
                Value::Map(_) => vec![node],
                Value::List(items) => items,
                Value::Null => Vec::new(),
                Value::Scalar(_) => return Err(bad_merge(place)),
            };
            for source in sources {
                let place = source.place;
                let Value::Map(inherited) = source.value else {
                    return Err(bad_merge(place));
                };
                for entry in inherited {
                    if !places.contains_key(&entry.key) {
                        places.insert(entry.key.clone(), entry.key_place);
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(entries)
    }

    fn count(&mut self, values: usize, place: Place) -> Result<(), Fault> {
        if self.budget.take(values) {
            return Ok(());
        }
        Err(Fault {
            place,
            message: format!("the manifest has more than {VALUES_MAX} values once its aliases are expanded"),
            help: Some("aliases of aliases multiply: refer to fewer of them"),
        })
    }

    fn directive(&self, tag: Option<&Tag>, place: Place) -> Result<Directive, Fault> {
        let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) else {
            return Ok(Directive::None);
        };
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => Ok(Directive::Reset),
            ("!", "override") => Ok(Directive::Override),
            ("", "!") => Ok(Directive::None),
            _ => Err(Fault {
                place,
                message: format!("unknown tag '{tag}'"),
                help: Some("a Compose file has the tags !reset and !override"),
            }),
        }
    }

    fn place(&self, start: Marker, end: Marker) -> Place {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let span = Span {
            line: number(start.line()),
            column: number(start.col() + 1),
            end_line: number(end.line()),
            end_column: number(end.col() + 1),
        };
        Place {
            source: self.source,
            span,
        }
    }

    fn fault(&self, start: Marker, end: Marker, message: String, help: Option<&'static str>) -> Fault {
        Fault {
            place: self.place(start, end),
            message,
            help,
        }
    }
}

impl OpenMap {
    /// A key or the value of the last key, in turn.
    fn push(&mut self, node: Node, sink: &Sink) -> Result<(), Fault> {
        let Some((key, key_place)) = self.key.take() else {
            self.key = Some((read_key(&node)?, node.place));
            return Ok(());
        };
        match key {
            Key::Merge => self.merged.push(node),
            Key::Text(key) => {
                if let Some(first) = self.places.get(&key) {
                    let site = Site {
                        place: Some(key_place),
                        path: String::new(),
                    };
                    let help = format!("it is already given in line {}", first.span.line);
                    sink.error(&site, format!("duplicate key '{key}'"), Some(help));
                    return Ok(());
                }
                self.places.insert(key.clone(), key_place);
                self.entries.push(Entry {
                    key,
                    key_place,
                    value: node,
                });
            }
        }
        Ok(())
    }
}

fn read_key(node: &Node) -> Result<Key, Fault> {
    match &node.value {
        Value::Scalar(scalar) if scalar.plain && scalar.text == "<<" => Ok(Key::Merge),
        Value::Scalar(scalar) => Ok(Key::Text(scalar.text.clone())),
        Value::Null | Value::List(_) | Value::Map(_) => Err(Fault {
            place: node.place,
            message: format!("a key must be a text, this is {}", node.kind()),
            help: Some("quote it if it is meant as a text"),
        }),
    }
}

fn is_string_tag(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| {
        (tag.is_yaml_core_schema() && tag.suffix == "str") || (tag.handle.is_empty() && tag.suffix == "!")
    })
}

fn too_deep(place: Place) -> Fault {
    Fault {
        place,
        message: format!("nested deeper than {DEPTH_MAX} levels"),
        help: None,
    }
}

fn bad_merge(place: Place) -> Fault {
    Fault {
        place,
        message: "a merge key takes a mapping or a list of mappings".to_string(),
        help: Some("write `<<: *anchor`, where the anchor stands at a mapping"),
    }
}

/// The parser's own words, with the mistakes that people make most explained and its own limit of nesting named as ours.
fn plain_words(info: &str) -> String {
    let lower = info.trim_end_matches('.');
    if lower == "recursion limit exceeded" {
        return format!("nested deeper than {DEPTH_MAX} levels");
    }
    if lower.contains("tab") {
        return format!("{lower} (YAML is indented with spaces)");
    }
    if lower.contains("mapping values are not allowed") {
        return format!("{lower} (is the line indented right, or is a text with ': ' in need of quotes?)");
    }
    lower.to_string()
}
