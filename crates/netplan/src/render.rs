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
            for rule in rules {
                let _ = writeln!(text, "add rule ip {table} {name} {}", expression(rule));
            }
            Ok(())
        }
        Command::DeleteChain(name) => writeln!(text, "delete chain ip {table} {name}"),
        Command::DeleteSet(name) => writeln!(text, "delete set ip {table} {name}"),
    };
}

fn expression(rule: &Rule) -> String {
    match rule {
        Rule::Text(text) => text.clone(),
        Rule::Balance { to, port } => {
            let matched = port.map_or(String::new(), |(protocol, _)| format!("meta l4proto {protocol} "));
            let (joint, suffix) = match port {
                Some((_, port)) => (format!(":{port}"), format!(" . {port}")),
                None => (String::new(), String::new()),
            };
            if let [only] = to.as_slice() {
                return format!("{matched}dnat to {only}{joint}");
            }
            let targets = to.iter().enumerate();
            let targets = join(targets.map(|(index, address)| format!("{index} : {address}{suffix}")));
            format!("{matched}dnat ip to numgen random mod {} map {{ {targets} }}", to.len())
        }
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
