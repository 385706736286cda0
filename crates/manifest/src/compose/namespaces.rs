//! `pid`, `ipc`, `uts`, `cgroup`, `userns_mode`: what a container shares with its node.

use gantry_model::spec::{ContainerSpec, NamespaceMode, UserNamespace};

use super::scalar::{choice, some_text};
use crate::yaml::cursor::Cursor;

#[derive(Debug, Clone, Copy)]
enum Word {
    Private,
    Shareable,
    Host,
    None,
}

/// Fills in the namespaces.
pub(crate) fn namespaces(service: &Cursor<'_>, container: &mut ContainerSpec) {
    const HOST: (&str, Word) = ("host", Word::Host);
    const PRIVATE: (&str, Word) = ("private", Word::Private);
    let read = |key, words: &[(&str, Word)]| service.read(key, |at| mode(at, key, words)).unwrap_or_default();
    container.pid = read("pid", &[HOST, PRIVATE]);
    container.ipc = read(
        "ipc",
        &[PRIVATE, ("shareable", Word::Shareable), ("none", Word::None), HOST],
    );
    container.uts = read("uts", &[HOST, PRIVATE]);
    container.cgroup = read("cgroup", &[HOST, PRIVATE]);
    container.userns = service.read("userns_mode", user_namespace).unwrap_or_default();
    if let Some(at) = service.get("isolation")
        && let Some(word) = some_text(&at)
        && word != "default"
    {
        at.error_with(format!("isolation '{word}' is for Windows"), "remove it");
    }
}

/// Replicas of two services may run on different nodes, so none can join another's namespaces.
fn mode(at: &Cursor<'_>, key: &str, words: &[(&str, Word)]) -> Option<NamespaceMode> {
    let text = some_text(at)?;
    if ["service:", "container:"].iter().any(|start| text.starts_with(start)) {
        at.error_with(
            format!("{key} '{text}' is not supported: the other container may run on another node"),
            "remove it, or run both processes in one container",
        );
        return None;
    }
    Some(match choice(at, words)? {
        Word::Private => NamespaceMode::Private,
        Word::Shareable => NamespaceMode::Shareable,
        Word::Host => NamespaceMode::Host,
        Word::None => NamespaceMode::None,
    })
}

/// `host`, `auto` or `auto:size=COUNT`.
fn user_namespace(at: &Cursor<'_>) -> Option<UserNamespace> {
    let text = some_text(at)?;
    match text.split_once(":size=") {
        None if text == "host" => Some(UserNamespace::Node),
        None if text == "auto" => Some(UserNamespace::Auto { size: None }),
        Some(("auto", size)) if size.parse::<u32>().is_ok_and(|size| size > 0) => Some(UserNamespace::Auto {
            size: size.parse().ok(),
        }),
        Some(_) | None => {
            at.error_with(
                format!("'{text}' is not a mode of user namespaces"),
                "use host, auto, or auto:size=65536",
            );
            None
        }
    }
}
