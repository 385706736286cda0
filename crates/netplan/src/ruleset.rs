//! The packet rules of a node as data: one nftables table of chains, sets and verdict maps.
//!
//! What changes with endpoints is typed ([`Rule::Balance`], [`Key`]), so that a backend can encode it without parsing text; the
//! few rules that depend on the pools alone are nft expressions.
//!
//! **Invariant:** [`Ruleset::commands_from`] yields one batch that is valid as a single transaction: chains and sets exist before
//! they are used and are unused before they are deleted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use gantry_model::spec::Protocol;

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets and verdict maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A set, or a map from keys to chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Type of its keys, and whether it maps them to verdicts.
    pub kind: SetKind,
    /// Its elements; the value names the chain a packet goes to, in maps alone.
    pub elements: BTreeMap<Key, Option<String>>,
}

/// Declares a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetKind {
    /// nft's name of the key type.
    pub key_type: &'static str,
    /// A map to verdicts.
    pub verdicts: bool,
}

/// Key of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A destination address.
    Address(Ipv4Addr),
    /// A destination port.
    Port(Protocol, u16),
    /// A destination address and port.
    AddressPort(Ipv4Addr, Protocol, u16),
    /// A source and a destination address.
    Pair(Ipv4Addr, Ipv4Addr),
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where it hooks into the packet path, in nft's words; none for one that is jumped to.
    pub hook: Option<&'static str>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// An nft expression.
    Text(String),
    /// New connections go to one of these addresses, each with the same chance; the port is kept unless one is given.
    Balance {
        /// Where to; never empty, sorted.
        to: Vec<Ipv4Addr>,
        /// The port there.
        port: Option<(Protocol, u16)>,
    },
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Declares a chain.
    AddChain(String, Option<&'static str>),
    /// Declares a set or map.
    AddSet(String, SetKind),
    /// Empties a chain.
    FlushChain(String),
    /// Removes elements.
    DeleteElements(String, Vec<Key>),
    /// Adds elements.
    AddElements(String, Vec<(Key, Option<String>)>),
    /// Appends rules.
    AddRules(String, Vec<Rule>),
    /// Deletes an empty, unused chain.
    DeleteChain(String),
    /// Deletes an unused set.
    DeleteSet(String),
}

impl Ruleset {
    /// The transaction that turns `old` into this; empty when they are equal.
    #[must_use]
    pub fn commands_from(&self, old: &Self) -> Vec<Command> {
        let mut commands = self.declarations(old);
        commands.extend(self.emptied_chains(old).map(Command::FlushChain));
        commands.extend(self.deleted_elements(old));
        commands.extend(self.added_elements(old));
        commands.extend(self.added_rules(old));
        let gone_chains = old.chains.keys().filter(|name| !self.chains.contains_key(*name));
        commands.extend(gone_chains.cloned().map(Command::DeleteChain));
        let gone_sets = old.sets.keys().filter(|name| !self.sets.contains_key(*name));
        commands.extend(gone_sets.cloned().map(Command::DeleteSet));
        commands
    }

    fn declarations(&self, old: &Self) -> Vec<Command> {
        let chains = self.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name));
        let chains = chains.map(|(name, chain)| Command::AddChain(name.clone(), chain.hook));
        let sets = self.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name));
        chains
            .chain(sets.map(|(name, set)| Command::AddSet(name.clone(), set.kind)))
            .collect()
    }

    fn emptied_chains<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = String> + 'a {
        let differs =
            |(name, chain): &(&String, &Chain)| self.chains.get(*name).is_none_or(|new| new.rules != chain.rules);
        let emptied = old.chains.iter().filter(differs);
        emptied
            .filter(|(_, chain)| !chain.rules.is_empty())
            .map(|(name, _)| name.clone())
    }

    fn deleted_elements(&self, old: &Self) -> Vec<Command> {
        let mut commands = Vec::new();
        for (name, set) in &old.sets {
            let new = self.sets.get(name);
            let kept = |key: &Key, value| new.is_some_and(|new| new.elements.get(key) == Some(value));
            let gone = set.elements.iter().filter(|(key, value)| !kept(key, value));
            let keys: Vec<Key> = gone.map(|(key, _)| *key).collect();
            if !keys.is_empty() {
                commands.push(Command::DeleteElements(name.clone(), keys));
            }
        }
        commands
    }

    fn added_elements(&self, old: &Self) -> Vec<Command> {
        let mut commands = Vec::new();
        for (name, set) in &self.sets {
            let before = old.sets.get(name);
            let known = |key: &Key, value| before.is_some_and(|old| old.elements.get(key) == Some(value));
            let added = set.elements.iter().filter(|(key, value)| !known(key, value));
            let elements: Vec<_> = added.map(|(key, value)| (*key, value.clone())).collect();
            if !elements.is_empty() {
                commands.push(Command::AddElements(name.clone(), elements));
            }
        }
        commands
    }

    fn added_rules(&self, old: &Self) -> Vec<Command> {
        let changed = self.chains.iter().filter(|(name, chain)| {
            let before = old.chains.get(*name).map_or(&[][..], |chain| &chain.rules);
            before != chain.rules
        });
        let filled = changed.filter(|(_, chain)| !chain.rules.is_empty());
        filled
            .map(|(name, chain)| Command::AddRules(name.clone(), chain.rules.clone()))
            .collect()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Port(protocol, port) => write!(formatter, "{protocol} . {port}"),
            Self::AddressPort(address, protocol, port) => write!(formatter, "{address} . {protocol} . {port}"),
            Self::Pair(source, destination) => write!(formatter, "{source} . {destination}"),
        }
    }
}
