//! Who asks, and what they may do.

use std::collections::BTreeSet;

use gantry_model::object::{RegistryAction, RepositoryPattern};
use serde::{Deserialize, Serialize};

/// How a client shows who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password; the name says nothing.
    Basic {
        /// Whatever the person typed.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token that this registry issued.
    Bearer(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { user, .. } => write!(formatter, "Basic({user})"),
            Self::Bearer(_) => formatter.write_str("Bearer(..)"),
        }
    }
}

/// Actions in some repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Where.
    pub repositories: RepositoryPattern,
    /// What.
    pub actions: BTreeSet<RegistryAction>,
}

/// What a known caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Who, for logs.
    pub who: String,
    /// All that is allowed.
    pub allowed: Vec<Allowed>,
}

impl Access {
    /// Everything.
    #[must_use]
    pub fn full(who: impl Into<String>) -> Self {
        Self::of(who, RegistryAction::ALL)
    }

    /// Some actions in all repositories.
    #[must_use]
    pub fn of(who: impl Into<String>, actions: impl IntoIterator<Item = RegistryAction>) -> Self {
        Self {
            who: who.into(),
            allowed: vec![Allowed {
                repositories: RepositoryPattern("*".to_string()),
                actions: actions.into_iter().collect(),
            }],
        }
    }

    /// Whether the caller may do this in the repository, as people write its name.
    #[must_use]
    pub fn allows(&self, repository: &str, action: RegistryAction) -> bool {
        let mut allowed = self.allowed.iter();
        allowed.any(|one| one.actions.contains(&action) && one.repositories.matches(repository))
    }

    /// What is allowed of what somebody asks for.
    #[must_use]
    pub fn narrowed(&self, scopes: &[Scope]) -> Self {
        let allowed = scopes.iter().map(|scope| Allowed {
            repositories: RepositoryPattern(scope.repository.clone()),
            actions: scope
                .actions
                .iter()
                .copied()
                .filter(|action| self.allows(&scope.repository, *action))
                .collect(),
        });
        Self {
            who: self.who.clone(),
            allowed: allowed.filter(|allowed| !allowed.actions.is_empty()).collect(),
        }
    }
}

/// What a client asks a token for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// A repository, as people write its name.
    pub repository: String,
    /// What it wants to do there.
    pub actions: BTreeSet<RegistryAction>,
}
