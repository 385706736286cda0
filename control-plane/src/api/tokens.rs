//! Join tokens, and tokens of the registry.

use std::collections::BTreeSet;

use gantry_api::v1::{CreateRegistryTokenRequest, CreateTokenReply, CreateTokenRequest, RevokeTokensRequest};
use gantry_model::object::{RegistryAction, RegistryToken, RepositoryPattern, Role, TokenRecord};
use gantry_model::{Class, DurationMs, Problem};
use gantry_pki::{Authority, RegistrySecret, Token};
use gantry_state::{Key, Object, Op, Precondition, RegistryKey, RegistryObject, Transaction};

use crate::context::Context;
use gantry_leader::admission::Decision;

/// Lifetime of a token without one of its own. Swarm's live for ever; a day is long enough to set up machines.
pub const TOKEN_TTL_DEFAULT: DurationMs = DurationMs::secs(24 * 3600);

/// Makes a token; its secret is in the answer only.
///
/// # Errors
/// An unknown role, or a failed write.
pub async fn create(context: &Context, request: &CreateTokenRequest) -> Result<CreateTokenReply, Problem> {
    let role: Role = request
        .role
        .parse()
        .map_err(|reason: String| Problem::new(Class::Invalid, format!("role {}", request.role), reason))?;
    let ttl = if request.ttl_ms == 0 {
        TOKEN_TTL_DEFAULT
    } else {
        DurationMs(request.ttl_ms)
    };
    let state = context.raft.linearizable().await?;
    let authority = Authority::load(&context.cluster(&state)?.root)?;
    let (token, record) = Token::create(role, authority.digest(), ttl, context.env.as_ref());
    let expires_at_ms = record.expires_at.0;
    let stored = record.clone();
    context
        .commit(|_| {
            Ok(Decision {
                transaction: Transaction::new(
                    context.env.now(),
                    vec![Op::Put(Box::new(Object::Token(stored.clone())))],
                )
                .requiring(Precondition::Absent(Key::Token(stored.id))),
                changes: Vec::new(),
            })
        })
        .await?;
    Ok(CreateTokenReply {
        token: token.to_string(),
        expires_at_ms,
    })
}

/// Ends the tokens of a role, or one; returns how many.
///
/// # Errors
/// When no token fits, or the write fails.
pub async fn revoke(context: &Context, request: &RevokeTokensRequest) -> Result<u32, Problem> {
    let mut revoked = 0;
    context
        .commit(|state| {
            let fits = |token: &&TokenRecord| {
                (request.role.is_empty() || token.role.as_str() == request.role)
                    && (request.id.is_empty() || token.id.to_string() == request.id)
            };
            let ops: Vec<Op> = state
                .tokens()
                .filter(fits)
                .map(|token| Op::Delete(Key::Token(token.id)))
                .collect();
            revoked = u32::try_from(ops.len()).unwrap_or(u32::MAX);
            if ops.is_empty() {
                let object = format!("token {}{}", request.role, request.id);
                return Err(Problem::new(Class::NotFound, object, "there is no such token"));
            }
            Ok(Decision {
                transaction: Transaction::new(context.env.now(), ops),
                changes: Vec::new(),
            })
        })
        .await?;
    Ok(revoked)
}

/// Makes a token of the registry; its secret is in the answer only.
///
/// # Errors
/// An unknown action, no action or repository, or a failed write.
pub async fn create_for_registry(
    context: &Context,
    request: &CreateRegistryTokenRequest,
) -> Result<CreateTokenReply, Problem> {
    let object = || format!("registry token {}", request.name);
    let invalid = |reason: String| Problem::new(Class::Invalid, object(), reason);
    let actions = request.actions.iter().map(|action| action.parse().map_err(invalid));
    let actions: BTreeSet<RegistryAction> = actions.collect::<Result<_, _>>()?;
    if actions.is_empty() || request.repositories.is_empty() {
        return Err(invalid("must allow something somewhere".to_string()));
    }
    let now = context.env.now();
    let secret = RegistrySecret::create(context.env.as_ref());
    let token = RegistryToken {
        id: secret.id,
        name: request.name.clone(),
        secret_sha256: secret.sha256(),
        actions,
        repositories: RepositoryPattern(request.repositories.clone()),
        created_at: now,
        expires_at: (request.ttl_ms > 0).then(|| now.after(DurationMs(request.ttl_ms))),
    };
    let expires_at_ms = token.expires_at.map_or(0, |end| end.0);
    let key = Key::Registry(RegistryKey::Token(token.id));
    let object = Object::Registry(RegistryObject::Token(token));
    context
        .commit(|_| {
            let put = Op::Put(Box::new(object.clone()));
            Ok(Decision {
                transaction: Transaction::new(now, vec![put]).requiring(Precondition::Absent(key.clone())),
                changes: Vec::new(),
            })
        })
        .await?;
    Ok(CreateTokenReply {
        token: secret.to_string(),
        expires_at_ms,
    })
}

/// Ends a token of the registry, by id or name; returns how many.
///
/// # Errors
/// When no token fits, or the write fails.
pub async fn revoke_of_registry(context: &Context, wanted: &str) -> Result<u32, Problem> {
    let mut revoked = 0;
    context
        .commit(|state| {
            let fits = |token: &&RegistryToken| token.id.to_string() == wanted || token.name == wanted;
            let keys = state
                .registry_tokens()
                .filter(fits)
                .map(|token| RegistryKey::Token(token.id));
            let ops: Vec<Op> = keys.map(|key| Op::Delete(Key::Registry(key))).collect();
            revoked = u32::try_from(ops.len()).unwrap_or(u32::MAX);
            if ops.is_empty() || wanted.is_empty() {
                let object = format!("registry token {wanted}");
                return Err(Problem::new(Class::NotFound, object, "does not exist")
                    .remedy("`gantry registry token ls` lists what does"));
            }
            Ok(Decision {
                transaction: Transaction::new(context.env.now(), ops),
                changes: Vec::new(),
            })
        })
        .await?;
    Ok(revoked)
}
