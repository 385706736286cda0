//! The token service: a login becomes a token that works for a while, for what was asked for and is allowed.

use axum::http::StatusCode;
use axum::response::Response;
use gantry_model::object::RegistryAction;
use serde_json::json;

use crate::backend::{Backend, Repository};
use crate::serve::{Asked, document};
use crate::{Refusal, Scope};

pub(crate) async fn issue<B: Backend>(backend: &B, asked: &Asked) -> Result<Response, Refusal> {
    let scopes = asked.query.iter().filter(|(key, _)| key == "scope");
    let scopes: Vec<Scope> = scopes.flat_map(|(_, text)| parse_scopes(text)).collect();
    let issued = backend.issue(asked.access.narrowed(&scopes)).await?;
    let answer = json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in_s,
    });
    Ok(document(StatusCode::OK, &answer))
}

/// Reads `repository:web:pull,push`, several of them separated by spaces. What is not understood is not asked for.
#[must_use]
pub fn parse_scopes(text: &str) -> Vec<Scope> {
    let scope = |text: &str| {
        let (name, actions) = text.strip_prefix("repository:")?.rsplit_once(':')?;
        let repository = Repository::parse(name).ok()?;
        Some(Scope {
            repository: repository.familiar,
            actions: actions.split(',').flat_map(actions_of).collect(),
        })
    };
    text.split(' ').filter_map(scope).collect()
}

/// `*` is what older clients say for deleting.
fn actions_of(word: &str) -> Vec<RegistryAction> {
    match word {
        "*" => RegistryAction::ALL.to_vec(),
        word => word.parse().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_others_left_out() {
        use RegistryAction::{Delete, Pull, Push};
        let scopes =
            parse_scopes("repository:library/web:pull,push repository:a/b:* registry:catalog:* repository:X:pull");
        let expected = [
            Scope {
                repository: "web".to_string(),
                actions: [Pull, Push].into(),
            },
            Scope {
                repository: "a/b".to_string(),
                actions: [Pull, Push, Delete].into(),
            },
        ];
        assert_eq!(scopes, expected);
    }
}
