//! Who may do what: certificates of members, tokens of the registry, and the short-lived ones that clients make of them.
//!
//! A short-lived token is signed with a key that every server derives from the authority's, so any of them knows it; it ends
//! with the token that it was made of.

use axum::http::Extensions;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gantry_model::object::{RegistryAction, RegistryToken, Role};
use gantry_model::{DurationMs, Timestamp, TokenId};
use gantry_pki::RegistrySecret;
use gantry_registry::{Access, Allowed, IssuedToken, Login, Refusal};
use gantry_rpc::Caller;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::context::Context;

/// Clients ask for a new one in time; five minutes are what other registries give.
const BEARER_TTL: DurationMs = DurationMs::secs(300);

/// Longest token that is looked at.
const BEARER_BYTES_MAX: usize = 64 << 10;

/// What a short-lived token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    access: Access,
    expires_at: Timestamp,
}

/// What a connection's certificate allows: agents read, people and servers do everything.
pub(super) fn certified(extensions: &Extensions) -> Option<Access> {
    let peer = extensions.get::<Caller>()?.peer.as_ref()?;
    Some(match peer.role {
        Role::Admin | Role::Server => Access::full(peer.object()),
        Role::Agent => Access::of(peer.object(), [RegistryAction::Pull]),
    })
}

/// What a login allows.
pub(super) fn login(context: &Context, login: &Login) -> Result<Option<Access>, Refusal> {
    let state = context.raft.state();
    let now = context.env.now();
    match login {
        Login::Basic { password, .. } => {
            let Ok(secret) = password.parse::<RegistrySecret>() else {
                return Ok(None);
            };
            let token = state.registry_token(secret.id);
            let token = token.filter(|token| secret.is_of(&token.secret_sha256) && token.is_valid(now));
            Ok(token.map(access))
        }
        Login::Bearer(text) => {
            let Some(claims) = read(&key(context)?, text).filter(|claims| now < claims.expires_at) else {
                return Ok(None);
            };
            // One made of a token that was revoked meanwhile ends with it; what a certificate was given ends by itself.
            let maker: Option<TokenId> = claims.access.who.strip_prefix(TOKEN_WHO).and_then(|id| id.parse().ok());
            let lives = maker.is_none_or(|id| state.registry_token(id).is_some_and(|token| token.is_valid(now)));
            Ok(lives.then_some(claims.access))
        }
    }
}

/// How a caller with a token is called.
const TOKEN_WHO: &str = "registry token ";

fn access(token: &RegistryToken) -> Access {
    Access {
        who: format!("{TOKEN_WHO}{}", token.id),
        allowed: vec![Allowed {
            repositories: token.repositories.clone(),
            actions: token.actions.clone(),
        }],
    }
}

/// A token that allows this for a while.
pub(super) fn issue(context: &Context, access: Access) -> Result<IssuedToken, Refusal> {
    let claims = Claims {
        access,
        expires_at: context.env.now().after(BEARER_TTL),
    };
    Ok(IssuedToken {
        token: write(&key(context)?, &claims),
        expires_in_s: BEARER_TTL.0 / 1000,
    })
}

fn key(context: &Context) -> Result<[u8; 32], Refusal> {
    let state = context.raft.state();
    let cluster = context.cluster(&state).map_err(Refusal::from)?;
    Ok(Sha256::new()
        .chain_update(b"gantry registry bearer\0")
        .chain_update(&cluster.root.key_pem)
        .finalize()
        .into())
}

fn write(key: &[u8; 32], claims: &Claims) -> String {
    let body = serde_json::to_vec(claims).expect("claims have text keys");
    let body = BASE64_URL_SAFE_NO_PAD.encode(body);
    let seal = BASE64_URL_SAFE_NO_PAD.encode(hmac(key, body.as_bytes()));
    format!("{body}.{seal}")
}

fn read(key: &[u8; 32], text: &str) -> Option<Claims> {
    let (body, seal) = text.split_once('.').filter(|_| text.len() <= BEARER_BYTES_MAX)?;
    let seal = BASE64_URL_SAFE_NO_PAD.decode(seal).ok()?;
    let is_ours: bool = hmac(key, body.as_bytes()).as_slice().ct_eq(&seal).into();
    if !is_ours {
        return None;
    }
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

/// HMAC-SHA256 (RFC 2104) with a key shorter than a block.
fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    const BLOCK_BYTES: usize = 64;
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK_BYTES];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_a_changed_one_is_not() {
        let claims = Claims {
            access: Access::full("x"),
            expires_at: Timestamp(7),
        };
        let text = write(&[1; 32], &claims);
        let back = read(&[1; 32], &text).expect("its own");
        assert_eq!((back.access, back.expires_at), (claims.access, Timestamp(7)));
        assert!(read(&[2; 32], &text).is_none());
        for at in [0, text.len() / 2, text.len() - 1] {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(read(&[1; 32], &changed).is_none(), "{at}");
        }
        assert!(read(&[1; 32], "").is_none() && read(&[1; 32], "a.b").is_none());
    }

    /// RFC 4231, test case with a key of 32 bytes would be none of its own, so: case 1 with its key of 20 bytes, zeros after it.
    #[test]
    fn the_seal_is_hmac_sha256() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let seal = hmac(&key, b"Hi There");
        let hex: String = seal.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }
}
