//! Rules as the text that `nft -f` reads.
//!
//! **Invariant:** one text is one transaction; its bytes depend on the plan alone.

use std::fmt::Write as _;

use crate::{Command, Plan, Rule, Ruleset};

/// The whole table, replacing whatever a table of that name holds.
#[must_use]
pub fn render_nft(plan: &Plan, table: &str) -> String {
    // Adding before deleting makes the deletion valid when there is no table yet.
    let mut text = format!("add table ip {table}\ndelete table ip {table}\nadd table ip {table}\n");
    text.push_str(&render_commands(
        &plan.ruleset.commands_from(&Ruleset::default()),
        table,
    ));
    text
}

/// The transaction of a change; empty for no commands.
#[must_use]
pub fn render_commands(commands: &[Command], table: &str) -> String {
    let mut text = String::new();
    for command in commands {
        render(&mut text, command, table);
    }
    text
}

fn render(text: &mut String, command: &Command, table: &str) {
    // Writing to a string cannot fail.
    let _ = match command {
        Command::AddChain(name, None) => writeln!(text, "add chain ip {table} {name}"),
        Command::AddChain(name, Some(hook)) => {
            writeln!(text, "add chain ip {table} {name} {{ {hook}; policy accept; }}")
        }
        Command::AddSet(name, kind) if kind.verdicts => {
            writeln!(
                text,
                "add map ip {table} {name} {{ type {} : verdict; }}",
                kind.key_type
            )
        }
        Command::AddSet(name, kind) => writeln!(text, "add set ip {table} {name} {{ type {}; }}", kind.key_type),
        Command::FlushChain(name) => writeln!(text, "flush chain ip {table} {name}"),
        Command::DeleteElements(name, keys) => {
            let keys = join(keys.iter().map(ToString::to_string));
            writeln!(text, "delete element ip {table} {name} {{ {keys} }}")
        }
        Command::AddElements(name, elements) => {
            let elements = join(elements.iter().map(|(key, chain)| match chain {
                Some(chain) => format!("{key} : goto {chain}"),
                None => key.to_string(),
            }));
            writeln!(text, "add element ip {table} {name} {{ {elements} }}")
        }
        Command::AddRules(name, rules) => {
            for expression in rules.iter().flat_map(expressions) {
                let _ = writeln!(text, "add rule ip {table} {name} {expression}");
            }
            Ok(())
        }
        Command::DeleteChain(name) => writeln!(text, "delete chain ip {table} {name}"),
        Command::DeleteSet(name) => writeln!(text, "delete set ip {table} {name}"),
    };
}

/// What a rule is in nft's words, one or more.
fn expressions(rule: &Rule) -> Vec<String> {
    let (to, port) = match rule {
        Rule::Text(text) => return vec![text.clone()],
        Rule::Balance { to, port } => (to, port),
    };
    let matched = port.map_or(String::new(), |(protocol, _)| format!("meta l4proto {protocol} "));
    let (joint, suffix) = match port {
        Some((_, port)) => (format!(":{port}"), format!(" . {port}")),
        None => (String::new(), String::new()),
    };
    // A packet that is under way while a transaction commits still passes the former rules, but finds the elements of their map
    // gone: the kernel takes a rule's age from when the packet came, an element's from the very moment. It would leave untranslated.
    // A rule without a map has nothing to miss.
    let spare = to.first().map(|first| format!("{matched}dnat to {first}{joint}"));
    if to.len() < 2 {
        return Vec::from_iter(spare);
    }
    let targets = to.iter().enumerate();
    let targets = join(targets.map(|(index, address)| format!("{index} : {address}{suffix}")));
    let balance = format!("{matched}dnat ip to numgen random mod {} map {{ {targets} }}", to.len());
    Vec::from_iter([Some(balance), spare].into_iter().flatten())
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
