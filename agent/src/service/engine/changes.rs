//! Changes of an image's configuration: what its container was told, and Dockerfile instructions as `docker commit --change`
//! takes them. Pure.

use gantry_image::RuntimeConfig;
use gantry_model::spec::ContainerSpec;
use gantry_model::{Class, Problem};
use serde_json::{Map, Value};

/// Instructions that change a configuration alone.
const KNOWN: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR";

/// The image runs what its container ran.
pub(super) fn container(config: &mut RuntimeConfig, container: &ContainerSpec) {
    if let Some(entrypoint) = &container.entrypoint {
        config.entrypoint = Some(entrypoint.clone());
        // The image's command only counts together with the image's own entrypoint.
        config.cmd = None;
    }
    if let Some(command) = &container.command {
        config.cmd = Some(command.clone());
    }
    for (name, value) in &container.environment {
        match value {
            Some(value) => set_variable(config, name, value),
            None => config.env.retain(|variable| variable.split('=').next() != Some(name)),
        }
    }
    if let Some(user) = &container.user {
        config.user = match &user.group {
            Some(group) => format!("{}:{group}", user.user),
            None => user.user.clone(),
        };
    }
    if let Some(folder) = &container.working_dir {
        config.working_dir.clone_from(folder);
    }
    if let Some(signal) = &container.stop_signal {
        config.stop_signal.clone_from(signal);
    }
    let labels = container.labels.iter();
    config
        .labels
        .extend(labels.map(|(key, value)| (key.clone(), value.clone())));
}

/// One instruction.
pub(super) fn apply(config: &mut RuntimeConfig, change: &str) -> Result<(), Problem> {
    let refused = |reason: String| {
        Problem::new(Class::Invalid, format!("change '{change}'"), reason).remedy(format!("use one of {KNOWN}"))
    };
    let (word, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .unwrap_or((change.trim(), ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(refused("has no value".to_string()));
    }
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command(config, rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(config, rest)),
        "USER" => config.user = rest.to_string(),
        "STOPSIGNAL" => config.stop_signal = rest.to_string(),
        "WORKDIR" if rest.starts_with('/') => config.working_dir = rest.to_string(),
        "WORKDIR" => config.working_dir = format!("{}/{rest}", config.working_dir.trim_end_matches('/')),
        "ONBUILD" => config.on_build.push(rest.to_string()),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port = if port.contains('/') {
                    port.to_string()
                } else {
                    format!("{port}/tcp")
                };
                config.exposed_ports.insert(port, Value::Object(Map::new()));
            }
        }
        "VOLUME" => {
            let folders = array(rest).unwrap_or_else(|| rest.split_whitespace().map(ToString::to_string).collect());
            config
                .volumes
                .extend(folders.into_iter().map(|folder| (folder, Value::Object(Map::new()))));
        }
        "ENV" => {
            for (name, value) in pairs(rest).map_err(refused)? {
                set_variable(config, &name, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).map_err(refused)?),
        other => return Err(refused(format!("{other} cannot be changed so"))),
    }
    Ok(())
}

fn set_variable(config: &mut RuntimeConfig, name: &str, value: &str) {
    let text = format!("{name}={value}");
    match config
        .env
        .iter_mut()
        .find(|variable| variable.split('=').next() == Some(name))
    {
        Some(variable) => *variable = text,
        None => config.env.push(text),
    }
}

fn array(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// The exec form, or a line for the image's shell.
fn command(config: &RuntimeConfig, text: &str) -> Vec<String> {
    array(text).unwrap_or_else(|| {
        let mut shell = config.shell.clone();
        if shell.is_empty() {
            shell = vec!["/bin/sh".to_string(), "-c".to_string()];
        }
        shell.push(text.to_string());
        shell
    })
}

/// `KEY=VALUE …` with quotes, or the old form `KEY VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    let first = words.first().ok_or("has no value")?;
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or("has no value")?;
        return Ok(vec![(key.to_string(), value.trim().to_string())]);
    }
    let pair = |word: String| {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("'{word}' is not KEY=VALUE"))?;
        Ok((key.to_string(), value.to_string()))
    };
    words.into_iter().map(pair).collect()
}

/// Words apart by blanks; quotes keep blanks, a backslash keeps anything.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote, mut is_open) = (Vec::new(), String::new(), None, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None | Some('"'), '\\') => word.extend(characters.next()),
            (None, '"' | '\'') => (quote, is_open) = (Some(character), true),
            (Some(open), character) if open == character => quote = None,
            (None, character) if character.is_whitespace() => {
                if is_open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                is_open = false;
            }
            (_, character) => word.push(character),
        }
    }
    if quote.is_some() {
        return Err("has a quote that is not closed".to_string());
    }
    if is_open || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_what_they_name() {
        let mut config = RuntimeConfig {
            env: vec!["A=1".into()],
            working_dir: "/srv".into(),
            ..RuntimeConfig::default()
        };
        for change in [
            r#"CMD ["/bin/web", "--port", "80"]"#,
            "entrypoint run me",
            r#"ENV A=2 B="two words" C=x\ y"#,
            "ENV OLD old form",
            "EXPOSE 80 53/udp",
            "LABEL tier=front",
            "VOLUME /data",
            "WORKDIR app",
            "USER www",
        ] {
            apply(&mut config, change).expect(change);
        }
        assert_eq!(
            config.cmd.as_deref(),
            Some(&["/bin/web".to_string(), "--port".into(), "80".into()][..])
        );
        assert_eq!(
            config.entrypoint.as_deref(),
            Some(&["/bin/sh".to_string(), "-c".into(), "run me".into()][..])
        );
        assert_eq!(config.env, ["A=2", "B=two words", "C=x y", "OLD=old form"]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/srv/app", "www"));
        for wrong in ["RUN true", "CMD", "ENV A=\"open", "FROM x"] {
            assert!(apply(&mut config, wrong).is_err(), "{wrong}");
        }
    }
}
