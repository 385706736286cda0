//! Model ⇄ document.

use std::str::FromStr;

use gantry_model::{Class, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::v1::Document;

/// A value of the model as a document of that kind.
#[must_use]
pub fn encode<T: Serialize>(kind: &str, value: &T) -> Document {
    let json = serde_json::to_vec(value).expect("types of the model have text keys and no failing serializers");
    Document {
        kind: kind.to_string(),
        json: json.into(),
    }
}

/// The value in a document.
///
/// # Errors
/// [`Class::Invalid`] when the document is of another kind, or its JSON is not of that type.
pub fn decode<T: DeserializeOwned>(document: &Document, kind: &str) -> Result<T, Problem> {
    let object = || format!("document of kind {kind}");
    if document.kind != kind {
        let reason = format!("got a document of kind '{}' instead", document.kind);
        return Err(Problem::new(Class::Invalid, object(), reason));
    }
    serde_json::from_slice(&document.json).map_err(|error| {
        Problem::new(Class::Invalid, object(), error.to_string())
            .remedy("both sides must run compatible versions of gantry: compare `gantry --version`")
    })
}

/// An id from its text; `what` names it in the error, such as `node id`.
///
/// # Errors
/// [`Class::Invalid`] when the text is not an id.
pub fn parse_id<T>(what: &str, text: &str) -> Result<T, Problem>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| Problem::new(Class::Invalid, what, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;
    use gantry_model::NodeId;
    use gantry_model::spec::UpdateConfig;

    #[test]
    fn documents_round_trip() {
        let settings = UpdateConfig::default();
        let document = encode(kind::UPDATE_CONFIG, &settings);
        assert_eq!(decode::<UpdateConfig>(&document, kind::UPDATE_CONFIG), Ok(settings));
    }

    #[test]
    fn a_foreign_kind_or_foreign_content_is_refused_by_name() {
        let document = encode(kind::NODE, &"x");
        let problem = decode::<UpdateConfig>(&document, kind::UPDATE_CONFIG).expect_err("another kind");
        assert!(problem.reason.contains("'node'"), "{problem}");
        let problem = decode::<UpdateConfig>(&document, kind::NODE).expect_err("another type");
        assert_eq!(problem.class, Class::Invalid);
        assert!(problem.remedy.contains("--version"), "{problem}");
    }

    #[test]
    fn ids_are_parsed_with_what_they_are() {
        assert_eq!(parse_id::<NodeId>("node id", &NodeId(7).to_string()), Ok(NodeId(7)));
        let problem = parse_id::<NodeId>("node id", "nope").expect_err("not an id");
        assert_eq!(problem.object, "node id");
    }
}
